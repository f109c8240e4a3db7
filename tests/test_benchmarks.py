"""Every benchmark ends with one JSON object and exits 0 only when its goal is met."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from psychocounsel.speeches.dedup import Clusters

FOLDER = Path(__file__).parent.parent / "benchmarks"
NAMES = ("embedded_judge", "deduplication")


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def last_object(text):
    return json.loads(text.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_meets_its_goal_and_says_so_in_its_last_line(name):
    done = subprocess.run([sys.executable, str(FOLDER / f"{name}.py")], capture_output=True, text=True, timeout=300)
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


@pytest.fixture
def small(monkeypatch):
    """The de-duplication benchmark at a size for tests."""
    module = load("deduplication")
    monkeypatch.setattr(module, "ORIGINALS", 200)
    monkeypatch.setattr(module, "COPIES", 100)
    return module


def test_finding_no_duplicate_fails_the_benchmark(small, monkeypatch, capsys):
    monkeypatch.setattr(small, "near_duplicates", lambda texts, **_: Clusters(list(range(len(texts))), {}))
    assert small.main() == 1
    body = last_object(capsys.readouterr().out)
    assert (body["met"], body["figures"]["recall"], body["figures"]["found"]) == (False, 0.0, 0)


def test_dropping_an_unrelated_document_fails_the_benchmark(small, monkeypatch, capsys):
    def everything(texts, **_):
        return Clusters([0] * len(texts), dict.fromkeys(range(1, len(texts)), 0))

    monkeypatch.setattr(small, "near_duplicates", everything)
    assert small.main() == 1
    assert last_object(capsys.readouterr().out)["figures"]["precision"] < 0.1
