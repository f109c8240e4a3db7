"""A training stopped anywhere ends bitwise where an undisturbed one does; a checkpoint that does not fit is named."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import (
    Stopped,
    make_groups,
    make_model,
    make_task,
    prepared,
    raise_stopped,
    run,
    stopping_task,
    table,
)

from psychocounsel.errors import UserError
from psychocounsel.training.checkpoints import save_checkpoint
from psychocounsel.training.loop import Task


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("whole"), make_model()
    state = run(model, make_task(), table(), 3, folder)
    assert state["step"] == 12
    return folder, model.state_dict(), state


def assert_same_training(folder, model, state, undisturbed):
    whole, weights, final = undisturbed
    assert state == final
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize("steps", [0, 2, 5, 6, 9, 10, 11])
def test_a_training_stopped_anywhere_ends_bitwise_as_if_undisturbed(tmp_path, undisturbed, steps):
    with pytest.raises(Stopped):
        run(make_model(), stopping_task(steps, raise_stopped), table(), 3, tmp_path)
    assert (tmp_path / "checkpoint").exists() == (steps >= 5)
    torch.manual_seed(99)  # a new process has another random state
    model = make_model(seed=7 if steps >= 5 else 0)  # from a checkpoint on, the weights come from there
    state = run(model, make_task(), table(), 3, tmp_path)
    assert_same_training(tmp_path, model, state, undisturbed)


def test_a_training_may_be_stopped_again_and_again(tmp_path, undisturbed):
    for steps in (5, 2, 5, 1):
        with pytest.raises(Stopped):
            run(make_model(), stopping_task(steps, raise_stopped), table(), 3, tmp_path)
    model = make_model()
    assert_same_training(tmp_path, model, run(model, make_task(), table(), 3, tmp_path), undisturbed)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tiny_training import make_model, run, stopping_task, table
run(make_model(), stopping_task(8, lambda: os.kill(os.getpid(), signal.SIGKILL)), table(), 3, Path(sys.argv[1]))
"""


def test_a_killed_process_is_continued(tmp_path, undisturbed):
    places = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env=os.environ | places,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # the line a kill may cut short
    model = make_model()
    assert_same_training(tmp_path, model, run(model, make_task(), table(), 3, tmp_path), undisturbed)


def interrupted(tmp_path):
    with pytest.raises(Stopped):
        run(make_model(), stopping_task(6, raise_stopped), table(), 3, tmp_path)
    return tmp_path / "checkpoint"


def test_a_half_written_checkpoint_is_ignored(tmp_path, undisturbed):
    checkpoint = interrupted(tmp_path)
    part = tmp_path / "checkpoint.part"
    part.mkdir()
    (part / "__0_0.distcp").write_bytes(b"PK\x03\x04 cut short")
    model = make_model()
    assert_same_training(tmp_path, model, run(model, make_task(), table(), 3, tmp_path), undisturbed)
    assert checkpoint.exists() and not part.exists()


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path, undisturbed):
    checkpoint = interrupted(tmp_path)
    checkpoint.rename(tmp_path / "checkpoint.old")
    model = make_model(seed=5)  # only the checkpoint can bring the right weights
    assert_same_training(tmp_path, model, run(model, make_task(), table(), 3, tmp_path), undisturbed)


def damage_shape(checkpoint):
    """Whole, but written by a wider model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    state = json.loads((checkpoint / "state.json").read_text())
    config = LlamaConfig(**{**make_model().config.to_dict(), "hidden_size": 32})
    shutil.rmtree(checkpoint)
    save_checkpoint(checkpoint, prepared(LlamaForCausalLM(config)), state)


def tensors(checkpoint):
    (found,) = checkpoint.glob("*.distcp")
    return found


@pytest.mark.parametrize(
    "damage",
    [
        damage_shape,
        lambda c: tensors(c).write_bytes(tensors(c).read_bytes()[:500]),
        lambda c: tensors(c).write_bytes(b""),
        lambda c: tensors(c).write_bytes(b"not a tensor file at all"),
        lambda c: tensors(c).unlink(),
        lambda c: (c / ".metadata").unlink(),
        lambda c: (c / ".metadata").write_bytes((c / ".metadata").read_bytes()[:100]),
        lambda c: (c / ".metadata").write_bytes(b"no metadata"),
        lambda c: (c / "state.json").write_text('{"step": 5, "be'),
        lambda c: (c / "state.json").write_bytes(b"\xff\xfe"),
        lambda c: (c / "state.json").write_text('{"step": 5}'),
    ],
    ids=["other shape", "truncated", "empty", "no tensors", "missing", "no list of tensors", "half a list",
         "another list", "half a state", "state not UTF-8", "state of another kind"],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_named(tmp_path, damage):
    checkpoint = interrupted(tmp_path)
    damage(checkpoint)
    with pytest.raises(UserError, match=r"does not fit.*--redo") as caught:
        run(make_model(), make_task(), table(), 3, tmp_path)
    assert str(checkpoint) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "seed", "task"),
    [
        ({"lr": 2e-2}, 3, {}),
        ({"batch": 2}, 3, {}),
        ({"lora": {"rank": 2}}, 3, {}),
        ({}, 4, {}),
        ({}, 3, {"train": make_groups(15)}),
        ({}, 3, {"dev": make_groups(3, seed=1)}),
        ({}, 3, {"max_steps": 11}),
        ({}, 3, {"name": "language model"}),
    ],
    ids=["rate", "batch", "adapters", "seed", "train data", "dev data", "most steps", "stage"],
)
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, changes, seed, task):
    checkpoint = interrupted(tmp_path)
    with pytest.raises(UserError, match=r"belongs to other settings, data or another model; .*--redo") as caught:
        run(make_model(), make_task(**task), table(**changes), seed, tmp_path)
    assert str(checkpoint) in str(caught.value)


def test_settings_that_change_no_result_may_change_in_between(tmp_path, undisturbed):
    """Another budget, more checkpoints and gradient checkpointing: what memory ran out for, and its remedies."""
    interrupted(tmp_path)
    model = make_model(seed=4)
    settings = table(token_budget=25, checkpoint_steps=2, gradient_checkpointing=True)
    state = run(model, make_task(), settings, 3, tmp_path)
    assert state == {**undisturbed[2], "best": pytest.approx(undisturbed[2]["best"], abs=1e-5)}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, undisturbed[1][name], atol=1e-4, rtol=0)


def test_a_group_that_was_split_over_two_steps_is_continued_in_the_middle(tmp_path):
    def task(stop_after=None):
        found, seen = make_task(train=make_groups(7, replies=3)), []

        def compute(model, pack):
            seen.append(torch.is_grad_enabled())
            if stop_after is not None and sum(seen) > stop_after:
                raise Stopped
            return found.compute(model, pack)

        return Task(**{**found.__dict__, "compute": compute})

    settings = table(checkpoint_steps=1, token_budget=1000)  # one pack a step
    whole, model = make_model(), make_model()
    state = run(whole, task(), settings, 3, tmp_path / "whole")
    for _ in range(3):
        with pytest.raises(Stopped):
            run(model, task(stop_after=2), settings, 3, tmp_path / "parts")
    assert run(model, task(), settings, 3, tmp_path / "parts") == state
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())


def test_ctrl_c_while_a_checkpoint_is_written_is_ctrl_c_and_nothing_is_lost(tmp_path, undisturbed, monkeypatch):
    """torch wraps whatever happens there in an exception of its own."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    def stopped(*given_to):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FileSystemWriter, "write_data", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(make_model(), make_task(), table(), 3, tmp_path)
    assert not (tmp_path / "best").exists()
    model = make_model()
    assert_same_training(tmp_path, model, run(model, make_task(), table(), 3, tmp_path), undisturbed)


def test_a_checkpoint_that_cannot_be_written_is_named_with_the_reason(tmp_path, monkeypatch):
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    def full(*given_to):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    words = r"best: cannot be written \(\[Errno 28\] No space left on device\); free some disk space, then run the same"
    with pytest.raises(UserError, match=words):
        run(make_model(), make_task(), table(), 3, tmp_path)
