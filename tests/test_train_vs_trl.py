"""Our training beside TRL's: a smallest real run, what rounds amount to, continuing, and the limit of time."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SMALL = ("--pairs", "6", "--batch", "2", "--epochs", "2", "--rounds", "1", "--source", "embedded",
         "--precision", "fp32", "--hidden", "32", "--layers", "2", "--heads", "2", "--intermediate", "64")  # fmt: skip


@pytest.fixture(scope="module")
def benchmarks():
    """The modules by name; benchmarks import each other as scripts of one folder do."""
    sys.path.insert(0, str(FOLDER))
    names = ("side_by_side", "comparison", "flops", "train_vs_trl", "our_peer", "measurement", "trl_settings")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(FOLDER))


def run(speed=1.0, memory=100.0, **more):
    """What a peer measured, as far as the comparison reads it."""
    return {"pairs_per_s": speed, "pairs_per_cpu_s": speed, "pairs": 10, "epochs": 3, "whole_s": 40 / speed,
            "compile_s": 10 / speed, "reference_s": 1.0, "peak_mib": memory, "resident_before_mib": 0.0,
            "tokens_with_padding": 300, "load_before": 0.1, **more}  # fmt: skip


def ours(speed, memory=100.0):
    return run(speed, memory, encoding_s=0.3, packing_s=0.3, tokens=90)


@pytest.fixture
def runner(benchmarks, tmp_path, monkeypatch):
    """A runner whose runs are made up; `calls` has the names of those that were made."""
    made = benchmarks.side_by_side.Runner(tmp_path, budget_s=100)
    made.calls = []

    def start(plan):
        made.calls.append(plan.name)
        told = {"digest": plan.digest(made.code), "load_before": 0.0}
        return {**told, **({"error": "broken"} if "broken" in plan.name else {"found": {"pairs_per_s": 2.0}})}

    monkeypatch.setattr(made, "run", start)
    return made


def test_both_sides_train_on_the_same_pairs_and_the_last_line_says_how_they_compare(tmp_path):
    line = [sys.executable, str(FOLDER / "train_vs_trl.py"), "--folder", str(tmp_path), "--parts", "speed", *SMALL]
    line += ["--tasks", "dpo", "--shapes", "all", "--sides", "ours_uncompiled", "plain"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr  # most goals were not measured
    body = json.loads(done.stdout.splitlines()[-1])
    assert set(body) == {"benchmark", "figures", "goal", "met"}
    assert body["figures"]["runs_failed"] == []
    cell = body["figures"]["speed"]["dpo all"]
    assert set(cell["sides"]) == {"ours_uncompiled", "plain"}
    assert cell["ratios_uncompiled"]["plain"]["steady"]["median"] > 0
    state = json.loads((tmp_path / "state.json").read_text())
    found = {name: one["found"] for name, one in state.items()}
    mine, theirs = found["speed dpo all ours_uncompiled round 0"], found["speed dpo all plain round 0"]
    assert mine["pairs"] == theirs["pairs"] == 6
    assert mine["losses"][0] == pytest.approx(theirs["losses"][0], abs=1e-3)
    use = body["figures"]["utilisation"]["cells"]["dpo all"]
    assert use["tokens_needed_per_pair"] == pytest.approx(mine["tokens_each_once"] / 6, abs=0.06)
    assert use["tokens_pair_by_pair"] <= theirs["tokens"] / 12 <= use["tokens_pair_by_pair"] + 2  # a line end each
    again = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert again.stdout.splitlines() == [again.stdout.splitlines()[-1]], "nothing runs twice"
    assert json.loads(again.stdout) == body


def test_medians_and_ratios_are_taken_round_by_round(benchmarks):
    rounds = {"ours": [ours(4.0), ours(6.0), ours(10.0)], "plain": [run(2.0, 300), None, run(2.5, 200)]}
    found = benchmarks.comparison.cell(rounds)
    assert found["sides"]["ours"]["steady"] == {"median": 6.0, "low": 4.0, "high": 10.0, "n": 3}
    assert found["sides"]["plain"]["rounds"] == 2
    assert found["ratios"]["plain"]["steady"] == {"median": 3.0, "low": 2.0, "high": 4.0, "n": 2}
    assert found["ratios"]["plain"]["memory"] == {"median": 0.417, "low": 0.333, "high": 0.5, "n": 2}
    assert set(found["ratios"]) == {"plain"}


def test_a_whole_run_is_compared_without_the_seconds_of_compilation(benchmarks):
    figures = benchmarks.comparison.FIGURES
    one = run(1.0)
    assert figures["whole"](one) == 1.0
    assert figures["whole_compiling"](one) == 0.75


def test_encoding_and_packing_are_a_share_of_the_time_without_compilation(benchmarks):
    found = benchmarks.comparison.cell({"ours": [ours(1.0)]})
    assert found["sides"]["ours"]["encoding_and_packing"] == 0.02
    assert found["sides"]["ours"]["tokens_per_pair"] == 3.0
    assert benchmarks.comparison.judged_share({"dpo all": found})[0]["met"]


def cells(benchmarks, speed, memory):
    rounds = {"ours": [ours(speed, memory)], **{peer: [run(1.0, 100)] for peer in benchmarks.comparison.PEERS}}
    return {f"{task} {shape}": benchmarks.comparison.cell(rounds)
            for task in ("dpo", "reward") for shape in ("paper", "all")}  # fmt: skip


def test_goals_are_met_when_every_ratio_is_reached_and_memory_kept(benchmarks):
    judged = benchmarks.comparison.judged
    assert all(goal["met"] for goal in judged(cells(benchmarks, 10.0, 25)))
    missed = [goal for goal in judged(cells(benchmarks, 9.9, 26)) if not goal["met"]]
    assert [(goal["task"], goal["shape"], goal["figure"], goal["against"]) for goal in missed] == [
        ("dpo", "all", "steady", "plain"),
        ("dpo", "all", "memory", "tuned"),
        ("dpo", "all", "memory", "batched"),
    ]


def test_what_was_not_measured_is_not_met(benchmarks):
    found = benchmarks.comparison.judged({})
    assert found
    assert not any(goal["met"] for goal in found)
    assert not any(goal["met"] for goal in benchmarks.comparison.judged_growth([]))


@pytest.mark.parametrize(("time", "memory", "met"), [(1.1, 1.0, [True, True]), (1.3, 1.2, [False, False])])
def test_time_and_memory_that_grow_with_the_pairs_miss_the_goal(benchmarks, time, memory, met):
    rows = [{"ms_per_pair": 10.0, "memory": 100.0}, {"ms_per_pair": 10 * time, "memory": 100 * memory}]
    assert [goal["met"] for goal in benchmarks.comparison.judged_growth(rows)] == met


def test_an_ingredient_gains_what_is_lost_without_it(benchmarks):
    row = benchmarks.comparison.ablation_row([ours(4.0), ours(6.0)], [ours(2.0), ours(2.0)])
    assert row["gain"] == {"median": 2.5, "low": 2.0, "high": 3.0, "n": 2}
    assert benchmarks.comparison.ablation_row([None], [ours(1.0)]) == {}


def test_a_finished_run_is_not_made_again_unless_its_command_or_the_code_changes(benchmarks, runner, tmp_path):
    plan = benchmarks.side_by_side.Plan("one", ("x.py", "--pairs", "8"))
    assert runner.get(plan) == {"pairs_per_s": 2.0, "load_before": 0.0}
    later = benchmarks.side_by_side.Runner(tmp_path, budget_s=0)
    assert later.get(plan) == {"pairs_per_s": 2.0, "load_before": 0.0}
    assert later.get(benchmarks.side_by_side.Plan("one", ("x.py", "--pairs", "9"))) is None
    later.code = "changed"
    assert later.get(plan) is None
    assert later.skipped == ["one", "one"]


def test_a_run_that_failed_is_tried_again_and_named(benchmarks, runner):
    plan = benchmarks.side_by_side.Plan("broken", ("x.py",))
    assert [runner.get(plan), runner.get(plan)] == [None, None]
    assert runner.calls == runner.failed == ["broken", "broken"]


def test_no_run_begins_after_the_time_is_up(benchmarks, runner):
    runner.start -= 200
    assert runner.get(benchmarks.side_by_side.Plan("late", ("x.py",))) is None
    assert (runner.calls, runner.skipped) == ([], ["late"])


def test_a_run_that_takes_too_long_is_ended(benchmarks, tmp_path):
    runner = benchmarks.side_by_side.Runner(tmp_path, budget_s=100, run_s=0.01)
    found = runner.run(benchmarks.side_by_side.Plan("long", ("flops.py",)))
    assert found["error"].startswith("stopped after")


def test_only_plain_trl_gives_freed_memory_back(benchmarks, tmp_path, monkeypatch):
    keep = benchmarks.trl_settings.KEEP_MEMORY
    for name, value in keep.items():
        monkeypatch.setitem(os.environ, name, value)
    runner = benchmarks.side_by_side.Runner(tmp_path, budget_s=100)
    plan = benchmarks.side_by_side.Plan
    assert keep.items() <= runner.environment(plan("ours round 0", ())).items()
    assert not keep.keys() & runner.environment(plan("plain round 0", (), keep_memory=False)).keys()
    places = {runner.environment(plan(name, ()))["TORCHINDUCTOR_CACHE_DIR"] for name in ("a round 0", "a round 1", "b")}
    assert len(places) == 2, "compiled code is found by later rounds of the same run only"


def test_needed_operations_count_each_text_once(benchmarks):
    flops = benchmarks.flops
    need = flops.Need(pairs=2, tokens=100, reply_tokens=60, keys=1000, tokens_pair_by_pair=150)
    config = {"hidden_size": 4, "num_hidden_layers": 2, "intermediate_size": 8, "vocab_size": 16}
    body = 2 * (4 * 16 + 3 * 4 * 8)
    assert need.flops(config, head=False) == 6 * body * 100 + 12 * 2 * 4 * 1000
    assert need.flops(config, head=True) - need.flops(config, head=False) == 6 * 4 * 16 * 60
    assert flops.triangle(4) == 1 + 2 + 3 + 4


def test_steady_speed_counts_the_steps_after_the_first_epoch(benchmarks):
    moment = benchmarks.measurement.Moment
    marks = [moment(at, at) for at in (0, 50, 60, 64, 66)]
    found = benchmarks.our_peer.steady(marks, batch=2, pairs=4, epochs=2)
    assert found == {"pairs_per_s": 4 / 6, "pairs_per_cpu_s": 4 / 6}
    with pytest.raises(SystemExit, match="take more pairs or epochs"):
        benchmarks.our_peer.steady(marks, batch=2, pairs=8, epochs=1)


def test_stored_parts_stay_when_another_part_is_measured(benchmarks, tmp_path):
    target, save = tmp_path / "found.json", benchmarks.train_vs_trl.save
    body = {"benchmark": "train_vs_trl", "goal": "", "met": False}
    figures = {"settings": {"speed": {}}, "speed": {"a": 1}, "goals": [{"part": "speed", "met": False}]}
    save({**body, "figures": figures}, ["speed"], target)
    figures = {"settings": {"scaling": {}}, "scaling": [1], "goals": [{"part": "scaling", "met": True}]}
    save({**body, "figures": figures, "met": True}, ["scaling"], target)
    stored = json.loads(target.read_text())
    assert stored["figures"]["speed"] == {"a": 1}
    assert {goal["part"] for goal in stored["figures"]["goals"]} == {"speed", "scaling"}
    assert stored["met"] is False
    assert set(stored["machine"]) == {"processor", "cores", "flags"}
