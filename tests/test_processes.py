"""Two processes give what one gives: replicated (DDP) and sharded (FSDP2) under torchrun on gloo, and by command."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import copy_run, environment, write_recipe
from tiny_training import table
from two_processes import pair_groups

from psychocounsel.errors import UserError
from psychocounsel.pipeline import Options, run_recipe, workers
from psychocounsel.recipe import load_recipe
from psychocounsel.training.packs import bins
from psychocounsel.training.processes import open_accelerator

SCRIPT = Path(__file__).parent / "two_processes.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(kind, folder, steps=20, launcher=None):
    folder.mkdir(exist_ok=True)
    launcher = launcher or ([sys.executable] if kind == "one" else TORCHRUN)
    variables = environment(SCRIPT.parent) | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launcher, str(SCRIPT), kind, str(folder), str(steps)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("processes")
    return {kind: start(kind, place / kind) for kind in ("one", "ddp", "sharded")}


def figures(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return torch.load(folder / "weights.pt", weights_only=True)


@pytest.mark.parametrize("kind", ["ddp", "sharded"])
def test_two_processes_give_the_losses_and_weights_of_one(runs, kind):
    one, two = figures(runs["one"]), figures(runs[kind])
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for alone, shared in zip(one, two, strict=True):
        assert alone.keys() == shared.keys()
        for name in alone:
            assert shared[name] == pytest.approx(alone[name], abs=5e-5), (alone["step"], name)
    expected, found = weights(runs["one"]), weights(runs[kind])
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0, msg=name)
    start_ = make_start()
    assert max((expected[name] - start_[name]).abs().max() for name in expected) > 1e-2, "training changed nothing"


def make_start():
    from tiny_training import make_model

    return make_model().state_dict()


@pytest.mark.parametrize("kind", ["ddp", "sharded"])
def test_reference_log_probabilities_do_not_depend_on_who_computes_them(runs, kind):
    one, two = (json.loads((runs[name] / "state.json").read_text())["references"] for name in ("one", kind))
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("kind", ["ddp", "sharded"])
def test_a_checkpoint_of_two_processes_goes_on_in_one(runs, tmp_path, kind):
    folder = shutil.copytree(runs[kind], tmp_path / kind)
    assert len(list((folder / "checkpoint").glob("*.distcp"))) == 2, "each process wrote its part"
    (folder / "weights.pt").unlink()
    start("one", folder)
    assert [row["step"] for row in figures(folder)] == [row["step"] for row in figures(runs["one"])]
    for name, value in weights(folder).items():
        torch.testing.assert_close(value, weights(runs["one"])[name], atol=1e-5, rtol=0, msg=name)


def test_every_process_gets_as_many_packs_and_all_groups_are_dealt_out_once():
    sizes = [group.tokens for group in pair_groups(5)]
    for parts in (1, 2, 3, 8):
        dealt = bins(sizes, 40, parts)
        assert len(dealt) % parts == 0
        assert sorted(item for part in dealt for item in part) == list(range(5))


def test_processes_that_training_cannot_see_are_named(monkeypatch):
    open_accelerator(table())  # accelerate finds itself alone here, and keeps to it
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"2 processes were started, but training sees 1.*ACCELERATE_USE_CPU=true"):
        open_accelerator(table())


def test_only_training_is_shared(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    recipe = load_recipe(write_recipe(tmp_path))
    with pytest.raises(UserError, match=r"2 processes were started, and speeches, responses.* in one process"):
        run_recipe(recipe, tmp_path / "runs", Options())
    assert workers.JOINED == ("supervised", "reward", "policy")


def test_two_processes_train_a_stage_of_a_recipe_as_one_does(finished, tmp_path):
    """The stages before are there; both processes join in reward, one writes, and the figures are those of one."""
    copied = copy_run(finished, tmp_path / "runs", "supervised")
    alone = figures(finished / "6-reward")
    recipe = write_recipe(tmp_path)
    words = ["-m", "psychocounsel.cli", "reward", str(recipe), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(
        [*TORCHRUN, *words], env=environment() | {"ACCELERATE_USE_CPU": "true"}, cwd=tmp_path, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("reward: pairs") == 1, done.stderr
    manifest = copied.manifest("reward")
    assert manifest is not None and manifest.counts["pairs"] > 0
    shared = figures(copied.stage("reward"))
    assert [row["step"] for row in shared] == [row["step"] for row in alone]
    for one, two in zip(alone, shared, strict=True):
        assert two == pytest.approx(one, abs=5e-5)
    assert not {"checkpoint", "best", "train.arrow"} & {path.name for path in copied.stage("reward").iterdir()}
