"""A disk that fills up at any moment: one clear line, nothing finished is lost, and the same command continues."""

import os
import shutil
import subprocess

import pytest
from tiny_run import copy_run, output_hashes, write_recipe

from psychocounsel.errors import UserError
from psychocounsel.run import STAGES, RunFolder


@pytest.fixture
def disk(tmp_path):
    """A mounted file system, and `leave(kib)`, which makes it as small as it is full, but for so many KiB."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")

    def leave(kib):
        mount(f"remount,size={shutil.disk_usage(place).used // 1024 + kib}k")

    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount("size=64m")
    yield place, leave
    subprocess.run(["umount", "-l", place], capture_output=True, check=False)


CHECKPOINT = "checkpoint: cannot be written"
REFERENCE = ".reference.sqlite: cannot keep reference log-probabilities"
FULL = ": No space left on device; free some space"
CASES = [  # the last stage that is finished, free KiB, where it hurts; kernels count a little differently
    (None, 16, "calls.sqlite: cannot be used as a call store"),
    (None, 200, FULL),
    ("speeches", 600, "calls.sqlite: cannot write"),
    ("pairs", 60, CHECKPOINT),
    ("pairs", 400, CHECKPOINT),
    ("supervised", 100, (FULL, CHECKPOINT)),
    ("supervised", 400, CHECKPOINT),
    ("reward", 40, (FULL, REFERENCE, CHECKPOINT)),
    ("reward", 120, (FULL, REFERENCE, CHECKPOINT)),
    ("reward", 400, CHECKPOINT),
    ("policy", 60, FULL),
]


@pytest.mark.parametrize(("keep", "kib", "says"), CASES)
def test_a_full_disk_loses_nothing_and_the_same_command_continues(finished, disk, tmp_path, cli, keep, kib, says):
    place, leave = disk
    recipe, folder, whole = write_recipe(tmp_path), RunFolder(place / "tiny"), RunFolder(finished)
    if keep:
        copy_run(finished, place, keep)
    if keep == "speeches":
        (folder.path / "calls.sqlite").unlink()
    leave(kib)
    code, _, err = cli("run", recipe, "--runs", place)
    lines = err.splitlines()
    assert code == 2, err
    assert "Traceback" not in err
    assert [line for line in lines if line.startswith("psychocounsel: ")] == lines[-1:]
    assert f"psychocounsel: {place}" in lines[-1]
    assert any(words in lines[-1] for words in ([says] if isinstance(says, str) else says))
    kept, expected = output_hashes(folder), output_hashes(whole)
    assert kept == {name: expected[name] for name in kept}
    assert set(STAGES[: STAGES.index(keep) + 1] if keep else ()) <= set(kept)
    leave(20_000)
    stop = max(STAGES.index(keep) + 1 if keep else 1, 1)
    code, _, err = cli("run", recipe, "--runs", place, "--to", STAGES[stop])
    assert code == 0, err
    assert all(f"{name}: done before" in err for name in kept)
    assert output_hashes(folder) == {name: expected[name] for name in STAGES[: stop + 1]}


@pytest.mark.parametrize("part", ["model.safetensors", "tokenizer.json"])
def test_a_model_is_saved_whole_or_not_at_all(finished, disk, part):
    from psychocounsel.models.weights import load_causal, load_tokenizer
    from psychocounsel.training.checkpoints import save_model

    place, leave = disk
    source = finished / "5-supervised" / "model"
    model, tokenizer = load_causal(str(source)), load_tokenizer(str(source))
    order = ["config.json", "model.safetensors", "tokenizer.json"]
    sizes = [(source / name).stat().st_size for name in order]
    before = order.index(part)
    leave((sum(sizes[:before]) + sizes[before] // 2) // 1024 + 8)
    with pytest.raises((UserError, OSError), match=r"[Nn]o space|free some disk space"):
        save_model(place / "model", model, tokenizer)
    assert not (place / "model").exists()
    leave(20_000)
    save_model(place / "model", model, tokenizer)
    assert (place / "model" / part).read_bytes() == (source / part).read_bytes()
