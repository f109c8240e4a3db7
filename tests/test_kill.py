"""Killed at any moment, a run continues and ends as if nothing had happened."""

import contextlib
import random
import signal
import subprocess

import pytest
from tiny_run import (
    RUN_STAGES,
    command,
    copy_run,
    environment,
    output_hashes,
    read_json,
    run_command,
    wait_for,
    write_recipe,
)

from psychocounsel.pipeline.interrupts import remembered
from psychocounsel.run import STAGES, RunFolder

SEED = 20260
KILLS = 5


def interrupt(folder, arguments, stage, delay, sign):
    """Start the command, send `sign` `delay` seconds after `stage` has begun; gives exit code, stdout and stderr."""
    process = subprocess.Popen(
        command(*arguments), cwd=folder.path.parent, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        wait_for(lambda: (folder.stage(stage) / "started.json").exists(), process, f"stage {stage}")
        try:
            out, err = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            process.send_signal(sign)
            out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(finished, tmp_path):
    draw = random.Random(SEED)
    recipe, folder = write_recipe(tmp_path), RunFolder(tmp_path / "tiny")
    arguments = ("run", recipe, "--runs", tmp_path)
    moments = [(stage, draw.uniform(0, 0.4)) for stage in sorted(draw.sample(RUN_STAGES, KILLS), key=STAGES.index)]
    killed = []
    for stage, delay in moments:
        if folder.manifest(stage) is None:  # a slow machine may have finished it before the last signal
            code, _, err = interrupt(folder, arguments, stage, delay, signal.SIGKILL)
            assert code == -signal.SIGKILL, err
            killed.append(stage)
    assert len(killed) >= 4
    assert not (folder.path / "results.json").exists()
    last = run_command(*arguments, cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    assert output_hashes(folder) == output_hashes(RunFolder(finished))
    results = [read_json(place / "results.json")["metrics"] for place in (folder.path, finished)]
    assert all(metrics.pop("seconds.total")["value"] > 0 for metrics in results)
    assert results[0] == results[1]


@pytest.mark.parametrize("stage", ["responses", "supervised", "policy", "evaluate"])
def test_ctrl_c_is_one_line_and_130_and_the_same_command_continues(finished, tmp_path, cli, stage):
    before, recipe = STAGES[STAGES.index(stage) - 1], write_recipe(tmp_path)
    for attempt in range(5):  # a stage of some hundredths of a second may be finished before the signal is there
        place = tmp_path / str(attempt)
        folder = copy_run(finished, place, before)
        arguments = ("run", recipe, "--runs", place, "--to", stage)
        code, out, err = interrupt(folder, arguments, stage, 0.001, signal.SIGINT)
        if folder.manifest(stage) is None:
            break
    assert (code, out) == (130, "")
    assert [line for line in err.splitlines() if not line.endswith(": done before")] == [
        f"psychocounsel: stopped; everything finished is in {folder.path}, the same command continues"
    ]
    assert folder.manifest(before) is not None
    assert folder.manifest(stage) is None
    code, _, err = cli(*arguments)
    assert code == 0
    assert f"{before}: done before" in err
    assert folder.manifest(stage).outputs == RunFolder(finished).manifest(stage).outputs


@pytest.mark.parametrize("made", [0, 2])
def test_a_training_cut_short_makes_only_the_steps_after_its_last_checkpoint(
    finished, tmp_path, monkeypatch, cli, made
):
    from psychocounsel.training import loop

    folder, recipe = copy_run(finished, tmp_path, "supervised"), write_recipe(tmp_path)
    undisturbed = RunFolder(finished).manifest("reward")
    one_step, steps = loop._one_step, []

    def cut_short(*given):
        if len(steps) == made:
            raise KeyboardInterrupt
        return counted(*given)

    def counted(*given):
        steps.append(given)
        return one_step(*given)

    arguments = ("run", recipe, "--runs", tmp_path, "--to", "reward")
    monkeypatch.setattr(loop, "_one_step", cut_short)
    assert cli(*arguments)[0] == 130
    assert (folder.stage("reward") / "checkpoint").exists() == (made > 0)
    monkeypatch.setattr(loop, "_one_step", counted)
    assert cli(*arguments)[0] == 0
    assert len(steps) == undisturbed.counts["steps"] > 2  # the tiny recipe keeps a checkpoint of every step
    assert folder.manifest("reward").outputs == undisturbed.outputs


def test_ctrl_c_that_a_library_swallows_is_remembered():
    with pytest.raises(KeyboardInterrupt), remembered() as stop_if_asked:
        stop_if_asked()  # nothing came so far
        with contextlib.suppress(BaseException):  # as a library does that tries whether another can be imported
            signal.raise_signal(signal.SIGINT)
        stop_if_asked()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_that_ctrl_c_caused_is_a_ctrl_c_and_others_are_themselves():
    with pytest.raises(KeyboardInterrupt), remembered():
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGINT)
        raise ImportError("half of a module")
    with pytest.raises(ImportError), remembered():
        raise ImportError("a module that is not there")
