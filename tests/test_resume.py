"""A training stopped anywhere ends bitwise where an undisturbed one does; a checkpoint that does not fit is named."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import PAD, Stopped, make_model, make_task, raise_stopped, stopping_task, table

from psychocounsel.errors import UserError
from psychocounsel.training.loop import train


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("whole"), make_model()
    state = train(model, make_task(), table(), 3, folder, PAD)
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
        train(make_model(), stopping_task(steps, raise_stopped), table(), 3, tmp_path, PAD)
    assert (tmp_path / "checkpoint").exists() == (steps >= 5)
    torch.manual_seed(99)  # a new process has another random state
    model = make_model(seed=7 if steps >= 5 else 0)  # from a checkpoint on, the weights come from there
    state = train(model, make_task(), table(), 3, tmp_path, PAD)
    assert_same_training(tmp_path, model, state, undisturbed)


def test_a_training_may_be_stopped_again_and_again(tmp_path, undisturbed):
    for steps in (5, 2, 5, 1):
        with pytest.raises(Stopped):
            train(make_model(), stopping_task(steps, raise_stopped), table(), 3, tmp_path, PAD)
    model = make_model()
    assert_same_training(tmp_path, model, train(model, make_task(), table(), 3, tmp_path, PAD), undisturbed)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from psychocounsel.training.loop import train
from tiny_training import make_model, stopping_task, table
train(make_model(), stopping_task(8, lambda: os.kill(os.getpid(), signal.SIGKILL)), table(), 3, Path(sys.argv[1]), 0)
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
    assert_same_training(tmp_path, model, train(model, make_task(), table(), 3, tmp_path, PAD), undisturbed)


def interrupted(tmp_path):
    with pytest.raises(Stopped):
        train(make_model(), stopping_task(6, raise_stopped), table(), 3, tmp_path, PAD)
    return tmp_path / "checkpoint"


def test_a_half_written_checkpoint_is_ignored(tmp_path, undisturbed):
    checkpoint = interrupted(tmp_path)
    part = tmp_path / "checkpoint.part"
    part.mkdir()
    (part / "tensors.pt").write_bytes(b"PK\x03\x04 cut short")
    model = make_model()
    assert_same_training(tmp_path, model, train(model, make_task(), table(), 3, tmp_path, PAD), undisturbed)
    assert checkpoint.exists() and not part.exists()


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path, undisturbed):
    checkpoint = interrupted(tmp_path)
    checkpoint.rename(tmp_path / "checkpoint.old")
    model = make_model(seed=5)  # only the checkpoint can bring the right weights
    assert_same_training(tmp_path, model, train(model, make_task(), table(), 3, tmp_path, PAD), undisturbed)


def damage_shape(checkpoint):
    tensors = torch.load(checkpoint / "tensors.pt")
    tensors["model"] = {name: value[..., :1] for name, value in tensors["model"].items()}
    torch.save(tensors, checkpoint / "tensors.pt")


@pytest.mark.parametrize(
    "damage",
    [
        damage_shape,
        lambda c: (c / "tensors.pt").write_bytes((c / "tensors.pt").read_bytes()[:500]),
        lambda c: (c / "tensors.pt").write_bytes(b""),
        lambda c: (c / "tensors.pt").write_bytes(b"not a tensor file at all"),
        lambda c: (c / "tensors.pt").unlink(),
        lambda c: (c / "state.json").write_text('{"step": 5, "be'),
        lambda c: (c / "state.json").write_bytes(b"\xff\xfe"),
    ],
    ids=["other shape", "truncated", "empty", "no tensors", "missing", "half a state", "state not UTF-8"],
)
def test_a_checkpoint_that_does_not_fit_is_named(tmp_path, damage):
    checkpoint = interrupted(tmp_path)
    damage(checkpoint)
    with pytest.raises(UserError, match=r"does not fit.*--redo") as caught:
        train(make_model(), make_task(), table(), 3, tmp_path, PAD)
    assert str(checkpoint) in str(caught.value)
