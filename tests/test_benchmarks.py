"""Every benchmark ends with one JSON object and exits 0 only when its goal is met."""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SMALL = {
    "arena": ("--speeches", "60", "--bootstrap", "200"),
    "embedded_judge": (),
    "neardup": ("--documents", "4000", "--rounds", "1"),
}


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def last_object(text):
    return json.loads(text.splitlines()[-1])


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_meets_its_goal_and_says_so_in_its_last_line(name):
    command = [sys.executable, str(FOLDER / f"{name}.py"), *SMALL[name]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    body = last_object(done.stdout)
    assert set(body) == {"benchmark", "figures", "goal", "met"}
    assert body["benchmark"] == name
    assert body["met"] is True
    assert body["figures"]
    assert body["goal"]


def test_a_judge_no_better_than_length_fails_its_benchmark(monkeypatch, capsys):
    module = load("embedded_judge")

    class Shortest:
        def score(self, speech, response):
            return {"length": -float(len(response))}

    monkeypatch.setattr(module, "EmbeddedScorer", Shortest)
    assert module.main() == 1
    assert last_object(capsys.readouterr().out)["met"] is False


@pytest.fixture(scope="module")
def planted():
    """The near-duplicate benchmark with 600 of its documents: (module, texts, planted pairs, what ours finds)."""
    module = load("neardup")
    texts, pairs = module.documents(600, random.Random(5))
    return module, texts, pairs, module.ours(texts)


def summed(module, quality, seconds=10.0, before=1.0, peer=30.0):
    full = {"ours": {**quality, "seconds": seconds, "peak_gb": 0.1}, "datasketch": {"seconds": peer}}
    full["datasketch_high_recall"] = full["datasketch"]
    return module.judged({"ours": {"seconds": before}}, full)


def test_the_documents_are_the_same_every_time_and_their_copies_lie_on_both_sides_of_the_limit(planted):
    module, texts, pairs, _ = planted
    assert module.documents(600, random.Random(5)) == (texts, pairs)
    unedited = sum(texts[later] == texts[earlier] for later, earlier in pairs.items())
    assert len(set(texts)) == len(texts) - unedited, "originals differ"
    alike = [module.similarity(module.shingles(texts[a]), module.shingles(texts[b])) for a, b in pairs.items()]
    assert 10 < sum(value >= module.DROP_AT for value in alike) < len(alike) - 10


@pytest.mark.parametrize("tool", ["datasketch", "datasketch_high_recall"])
def test_the_peer_drops_what_ours_drops_as_far_as_its_bands_find_it(planted, tool):
    module, texts, _, found = planted
    peer = module.TOOLS[tool](texts)
    assert set(peer.items()) <= set(found.items())
    assert len(peer) > (0.9 if "high" in tool else 0.5) * len(found)


def test_finding_all_in_less_time_meets_the_goal(planted):
    module, texts, pairs, found = planted
    figures, met = summed(module, module.quality(found, texts, pairs))
    assert met
    assert (figures["recall"], figures["precision"], figures["growth"]) == (1.0, 1.0, 1.0)
    assert figures["time_to_datasketch"] == pytest.approx(1 / 3, abs=1e-3)


def test_finding_no_duplicate_fails_the_benchmark(planted):
    module, texts, pairs, _ = planted
    quality = module.quality({}, texts, pairs)
    assert (quality["recall"], quality["dropped"], quality["precision"]) == (0.0, 0, None)
    assert not summed(module, quality)[1]


def test_dropping_an_unrelated_document_fails_the_benchmark(planted):
    module, texts, pairs, found = planted
    free = [place for place in range(len(texts)) if place not in found]
    quality = module.quality(found | {free[1]: free[0]}, texts, pairs)
    assert 0.9 < quality["precision"] < 1
    assert not summed(module, quality)[1]


@pytest.mark.parametrize("times", [{"before": 0.5}, {"peer": 9.0}])
def test_growing_too_fast_or_taking_longer_than_the_peer_fails_the_benchmark(planted, times):
    module, texts, pairs, found = planted
    assert not summed(module, module.quality(found, texts, pairs), **times)[1]


def test_the_stored_result_is_of_full_size_and_met_its_goal():
    stored = json.loads((FOLDER / "results" / "neardup.json").read_text(encoding="utf-8"))
    assert set(stored) == {"date", "machine", "benchmark", "figures", "goal", "met"}
    assert stored["met"] is True
    assert list(stored["figures"]["sizes"]) == ["10000", "100000"]
