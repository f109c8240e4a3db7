"""The tiny recipe: every stage in seconds. And the real command, as a process of its own or in this one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psychocounsel
from psychocounsel.pipeline import Options
from psychocounsel.run import STAGES, RunFolder

TRAINING = """
lr = 1e-3
epochs = 0.3
batch = 8
max_length = 192
precision = "fp32"
checkpoint_steps = 1
evaluate_steps = 2
"""
TINY_RECIPE = f"""
name = "tiny"
seed = 3
[speeches]
max_chars = 1600
[responses]
limit = 30
[supervised]{TRAINING}
min_overall = 3.0
[supervised.embedded]
vocabulary = 600
hidden = 32
layers = 1
heads = 2
epochs = 0.3
[reward]{TRAINING}
[policy]{TRAINING}
[policy.online]
speeches = 6
samples = 3
max_new_tokens = 12
truncated = "keep"
[evaluate]
limit = 12
max_new_tokens = 12
bootstrap = 200
allow_dependent = true
"""
DATA_RECIPE = """
name = "tiny"
seed = 3
[speeches]
max_chars = 1600
topics = "none"
[responses]
limit = 30
[ratings]
judges = ["recorded:embedded", "embedded"]
[publish]
license = "CC-BY-4.0"
"""
JUDGED_RECIPE = TINY_RECIPE.replace("limit = 30", "limit = 3\nper_speech = 2", 1).replace(
    "[supervised]", '[ratings]\njudges = ["desk.judge:judge"]\n[supervised]', 1
)
RUN_STAGES = tuple(Options().stages)  # what `psychocounsel run` makes: all but publish
DONE_LINES = [f"{name}: done before" for name in RUN_STAGES]
SILENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120"}


def write_recipe(folder: Path, text: str = TINY_RECIPE) -> Path:
    """The tiny recipe (or another) as a file in `folder`."""
    path = folder / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path


def environment(*extra_paths: Path) -> dict[str, str]:
    """This process's environment, able to import the package and `extra_paths`; no API key."""
    places = [*map(str, extra_paths), str(Path(psychocounsel.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    inherited = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
    return {**inherited, **SILENT, "PYTHONPATH": os.pathsep.join(filter(None, places))}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "psychocounsel.cli", *map(str, arguments)]


def run_command(*arguments: object, cwd: Path, paths: tuple[Path, ...] = (), **settings) -> subprocess.CompletedProcess:
    """`psychocounsel ARGUMENTS` as a process of its own."""
    settings = {"capture_output": True, "text": True, "timeout": 300} | settings
    return subprocess.run(command(*arguments), cwd=cwd, env=environment(*paths), **settings)


def copy_run(run: Path, folder: Path, keep: str = RUN_STAGES[-1]) -> RunFolder:
    """A copy of a run in `folder`/tiny with the stages up to `keep`."""
    copied = RunFolder(folder / "tiny")
    shutil.copytree(run, copied.path)
    for name in STAGES[STAGES.index(keep) + 1 :]:
        copied.discard(name)
    if keep != RUN_STAGES[-1]:
        for leaf in ("results.json", "report.html"):
            (copied.path / leaf).unlink(missing_ok=True)
    return copied


def output_hashes(folder: RunFolder) -> dict[str, dict[str, str]]:
    """Hashes of all outputs by finished stage."""
    return {name: manifest.outputs for name in STAGES if (manifest := folder.manifest(name))}


def read_json(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def wait_for(condition, process: subprocess.Popen, what: str) -> None:
    """Wait until `condition()` holds, at most two minutes and only while `process` lives."""
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"the process ended ({process.returncode}) before {what}"
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.005)


def use_judge_module(folder: Path, monkeypatch, code: str) -> None:
    """Make `code` importable as desk.judge, whatever an earlier test imported under that name."""
    (folder / "desk").mkdir(exist_ok=True)
    (folder / "desk" / "judge.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    for name in ("desk", "desk.judge"):
        monkeypatch.delitem(sys.modules, name, raising=False)
