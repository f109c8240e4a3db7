"""Nothing is made or paid for twice: taking over stages and calls, and one process at a time on a run."""

import subprocess

import pytest
from tiny_run import (
    DONE_LINES,
    JUDGED_RECIPE,
    command,
    environment,
    output_hashes,
    use_judge_module,
    wait_for,
    write_recipe,
)

from psychocounsel.models.calls import ask_all
from psychocounsel.models.chat import Request
from psychocounsel.models.scripted import Scripted
from psychocounsel.models.store import CallStore, copy_calls
from psychocounsel.pipeline import plan_stage, stage_settings
from psychocounsel.recipe import load_recipe
from psychocounsel.records import write_text
from psychocounsel.run import STAGES, RunFolder


def test_reuse_takes_over_equal_stages_and_makes_the_others(finished, tmp_path, cli):
    recipe = write_recipe(tmp_path)
    arguments = ("--runs", tmp_path, "--set", "name=b", "--set", "pairs.gap=0.5", "--to", "pairs")
    code, _, err = cli("run", recipe, *arguments, "--reuse", finished)
    assert code == 0
    lines = err.splitlines()
    assert lines[:3] == [f"{name}: taken over from {finished}" for name in STAGES[:3]]
    assert lines[3].startswith("pairs: train ")
    old, new = RunFolder(finished), RunFolder(tmp_path / "b")
    for name in STAGES[:3]:
        assert new.manifest(name) == old.manifest(name)
        assert all((new.stage(name) / file).is_file() for file in new.manifest(name).outputs)
    assert new.manifest("pairs").counts["train"] > old.manifest("pairs").counts["train"]
    code, _, err = cli("run", recipe, *arguments)  # the other run is not needed any more
    assert (code, err.splitlines()) == (0, DONE_LINES[:4])


def test_taking_over_replaces_a_half_made_stage(finished, tmp_path, cli):
    stale = RunFolder(tmp_path / "b").stage("speeches") / "speeches.jsonl.part"
    write_text(stale, "half")
    recipe = write_recipe(tmp_path)
    cli("run", recipe, "--runs", tmp_path, "--set", "name=b", "--to", "speeches", "--reuse", finished)
    assert not stale.exists()
    assert RunFolder(tmp_path / "b").manifest("speeches") == RunFolder(finished).manifest("speeches")


JUDGE = """
import asyncio, json, sys
from pathlib import Path
from psychocounsel.models.scripted import Scripted

HERE = Path(__file__).parents[1]
IDS = ("empathy", "relevance", "clarity", "safety", "exploration", "autonomy", "staging")


class Counting(Scripted):
    async def send(self, request):
        with (HERE / "sent.txt").open("a") as file:
            file.write("x")
        while (HERE / "wait").exists():
            await asyncio.sleep(0.01)
        return await super().send(request)


def judge():
    return Counting([json.dumps({name: 1 + (n + i) % 5 for i, name in enumerate(IDS)}) for n in range(5)])
"""


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """A recipe whose judge is a scripted model in a module of its own; how often it was asked stands in sent.txt."""
    use_judge_module(tmp_path, monkeypatch, JUDGE)
    return write_recipe(tmp_path, JUDGED_RECIPE)


def sent(recipe):
    return len((recipe.parent / "sent.txt").read_text())


def test_reuse_pays_for_no_call_twice(judged, tmp_path, cli):
    cli("run", judged, "--runs", tmp_path, "--to", "ratings")
    assert sent(judged) == 6
    more = ("--set", "name=b", "--set", "responses.limit=5", "--to", "ratings", "--reuse", tmp_path / "tiny")
    code, _, err = cli("run", judged, "--runs", tmp_path, *more)
    assert code == 0
    assert RunFolder(tmp_path / "b").manifest("ratings").counts["rated"] == 10
    assert sent(judged) == 10
    assert "responses: taken over" not in err


def test_redoing_ratings_asks_nobody_again(judged, tmp_path, cli):
    cli("run", judged, "--runs", tmp_path, "--to", "ratings")
    before = output_hashes(RunFolder(tmp_path / "tiny"))
    assert cli("run", judged, "--runs", tmp_path, "--to", "ratings", "--redo", "ratings")[0] == 0
    assert sent(judged) == 6
    assert output_hashes(RunFolder(tmp_path / "tiny")) == before


def test_a_second_process_on_the_same_run_gets_a_clear_error(judged, tmp_path, cli):
    (tmp_path / "wait").touch()
    first = subprocess.Popen(
        command("run", judged, "--runs", tmp_path, "--to", "ratings"),
        env=environment(tmp_path), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with first:
        wait_for((tmp_path / "sent.txt").exists, first, "the first process to reach the ratings")
        code, _, err = cli("run", judged, "--runs", tmp_path, "--to", "ratings")
        assert code == 2
        assert err.splitlines() == [
            f"psychocounsel: {tmp_path / 'tiny'}: another process is working on this run; "
            "wait for it or choose another name"
        ]
        (tmp_path / "wait").unlink()
        said = first.communicate(timeout=120)[1]
    assert first.returncode == 0, said
    assert sent(judged) == 6
    assert RunFolder(tmp_path / "tiny").manifest("ratings").counts["rated"] == 6


def test_calls_that_are_still_in_the_log_are_taken_over_too(tmp_path):
    model, request = Scripted(["yes"]), Request(messages=({"role": "user", "content": "Are you there?"},))
    with CallStore(tmp_path / "a.sqlite") as open_store:
        ask_all([(model, request)], open_store)
        copy_calls(tmp_path / "a.sqlite", tmp_path / "b.sqlite")
    with CallStore(tmp_path / "b.sqlite") as copied:
        assert copied.by_model() == [("scripted", "scripted", 1, 0)]
        assert ask_all([(model, request)], copied)[0].cached
    assert len(model.sent) == 1


def test_a_damaged_call_store_is_not_taken_over(tmp_path, cli):
    other = tmp_path / "other"
    other.mkdir()
    (other / "calls.sqlite").write_bytes(b"not a database at all" * 500)
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path, "--reuse", other, "--to", "speeches")
    assert code == 2
    assert err.startswith(f"psychocounsel: {other / 'calls.sqlite'}: cannot be copied to ")
    assert not (tmp_path / "tiny" / "calls.sqlite").exists()


@pytest.mark.parametrize(
    "change",
    ["token_budget=64", "gradient_checkpointing=true", "compile=true", "checkpoint_steps=7", 'report_to=["wandb"]'],
)
def test_what_changes_memory_and_reports_only_makes_no_stage_anew(finished, tmp_path, change):
    """Whoever ran out of memory lowers the budget and goes on from the checkpoint; a finished stage stays finished."""
    recipe = write_recipe(tmp_path)
    for stage in ("supervised", "reward", "policy"):
        changed = load_recipe(recipe, [f"{stage}.{change}"])
        assert changed != load_recipe(recipe)
        assert stage_settings(changed, stage) == stage_settings(load_recipe(recipe), stage)
        assert plan_stage(changed, RunFolder(finished), stage).action == "done"
    assert plan_stage(load_recipe(recipe, ["reward.lr=0.5"]), RunFolder(finished), "reward").action == "differs"
