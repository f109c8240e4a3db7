"""How TRL is set and measured in the training benchmark, without training anything."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def benchmarks():
    """The modules by name; benchmarks import each other as scripts of one folder do."""
    sys.path.insert(0, str(FOLDER))
    names = ("measurement", "trl_settings", "trl_peer", "tune_trl")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(FOLDER))


@pytest.fixture
def tuned(tmp_path):
    file = tmp_path / "trl_tuned.json"
    file.write_text(json.dumps({"best": {"dpo": {"checkpointing": 0, "precompute": 1, "micro_batch": 4}}}))
    return file


def test_plain_is_trl_as_it_comes_whatever_was_tuned(benchmarks, tuned):
    settings = benchmarks.trl_settings
    assert settings.chosen_settings("dpo", "plain", {}, tuned) == settings.Settings()


def test_tuned_reads_what_the_search_found_and_a_flag_goes_before_it(benchmarks, tuned):
    choose = benchmarks.trl_settings.chosen_settings
    assert choose("dpo", "tuned", {"micro_batch": None}, tuned).micro_batch == 4
    assert choose("dpo", "tuned", {"micro_batch": 2}, tuned).micro_batch == 2
    assert choose("dpo", "compact", {}, tuned).compact == 1
    assert choose("reward", "tuned", {}, tuned).precompute == 0


def test_every_setting_has_a_flag(benchmarks):
    line = ["--task", "dpo", "--data", "x", "--out", "y", "--attention", "eager", "--keep-memory", "1"]
    asked, given = benchmarks.trl_peer.parsed(line)
    assert asked.variant == "plain"
    assert {name for name, value in given.items() if value is not None} == {"attention", "keep_memory"}
    searched = {name for stage in benchmarks.tune_trl.STAGES.values() for change in stage for name in change}
    assert searched <= given.keys()


def test_steady_speed_is_the_median_epoch_after_the_first(benchmarks):
    moment = benchmarks.measurement.Moment
    marks = benchmarks.trl_peer.Marks()
    marks.epochs = [(moment(start, start), moment(end, end)) for start, end in ((0, 90), (90, 100), (100, 112))]
    assert marks.steady(24, 8) == (moment(11, 11), 24)


def test_steady_speed_of_one_epoch_leaves_out_the_warm_up(benchmarks):
    moment = benchmarks.measurement.Moment
    marks = benchmarks.trl_peer.Marks()
    marks.steps = [(moment(n, n), moment(n + 1, n + 1)) for n in (0, 10, 20, 30, 40, 50)]
    assert marks.steady(48, 8) == (moment(20, 20), 16)
    marks.steps = marks.steps[:3]
    with pytest.raises(SystemExit, match="take more pairs or epochs"):
        marks.steady(24, 8)


def test_the_peak_of_memory_is_seen_above_what_was_there(benchmarks):
    with benchmarks.measurement.PeakMemory(every_s=0.001) as memory:
        for _ in range(20):
            held = bytearray(64 << 20)
            held[::4096] = b"x" * len(held[::4096])
            memory.ended.wait(0.005)
            del held
    assert 55 < memory.above_mib < 200


def test_a_hopeless_alternative_is_not_tried_again(benchmarks, monkeypatch):
    tune, tried = benchmarks.tune_trl, []

    def run(asked, task, settings):
        tried.append(settings["micro_batch"])
        speed = {1: 1.0, 2: 0.9, 4: 0.8, 8: 0.5}[settings["micro_batch"]]
        return {"pairs_per_cpu_s": speed, "pairs_per_s": speed, "peak_mib": 1.0}

    monkeypatch.setattr(tune, "run", run)
    asked = SimpleNamespace(repeats=2, by="cpu", batch=8)
    found = tune.search_stage(asked, "dpo", "micro_batch", {})
    assert tried == [1, 2, 4, 8, 4, 2, 1]
    assert found[0]["change"] == {"micro_batch": 1}
    assert tune.summary(found[0])["runs"] == 2


def test_of_alternatives_as_fast_as_each_other_the_one_with_less_memory_wins(benchmarks):
    def tried(name, cpu, peak_mib):
        return {"change": {"attention": name}, "runs": [{"cpu": cpu, "peak_mib": peak_mib}]}

    found = [tried("eager", 1.0, 900), tried("sdpa", 0.98, 600), tried("slow", 0.9, 100)]
    assert benchmarks.tune_trl.winner(found, "cpu")["change"] == {"attention": "sdpa"}
