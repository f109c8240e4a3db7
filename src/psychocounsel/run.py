"""The run folder: one folder per stage, the manifest written last, so that a stage is complete or absent."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from psychocounsel import __version__
from psychocounsel.errors import UserError
from psychocounsel.records import SECONDS, Record, content_id, file_hash, write_text

STAGES = ("speeches", "responses", "ratings", "pairs", "supervised", "reward", "policy", "evaluate", "publish")
LEFTOVERS = ("checkpoint", "checkpoint.*", "best", "best.*", "*.part", "*.arrow", "stopped.jsonl")  # of training
STARTED = "started.json"  # in a stage folder until its manifest stands: the settings it was begun with
LIBRARIES = ("numpy", "pyarrow", "scikit-learn", "torch", "transformers", "tokenizers", "accelerate")


class Manifest(Record):
    """What a finished stage was made of and what it made. `outputs` maps files to hashes of their bytes."""

    stage: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    counts: dict[str, Any]
    versions: dict[str, str]
    git: str
    seconds: float

    @property
    def identity(self) -> str:
        """A hash of all outputs: what later stages name as their input."""
        return content_id(dict(sorted(self.outputs.items())))


class RunFolder:
    """`runs/NAME`: frozen recipe, stage folders, call store, results."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stage(self, name: str) -> Path:
        """The folder of a stage, for example `4-pairs`."""
        return self.path / f"{STAGES.index(name) + 1}-{name}"

    def manifest(self, name: str) -> Manifest | None:
        """The manifest of a finished stage, or None."""
        path = self.stage(name) / "manifest.json"
        if not path.is_file():
            return None
        try:
            return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: damaged manifest; rerun with --redo {name}") from error

    def finish(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: dict[str, str],
        counts: dict[str, Any],
        seconds: float,
    ) -> Manifest:
        """Hash everything the stage made, but how long it took, and write its manifest, last and atomically."""
        folder = self.stage(name)
        outputs = {
            str(file.relative_to(folder)): file_hash(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name not in ("manifest.json", STARTED, SECONDS)
        }
        manifest = Manifest(
            stage=name, settings=settings, inputs=inputs, outputs=outputs, counts=counts, versions=library_versions(),
            git=git_state(), seconds=round(seconds, 2),
        )  # fmt: skip
        write_text(
            folder / "manifest.json",
            json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False),
        )
        return manifest

    def discard(self, name: str) -> None:
        """Remove a stage's folder, its manifest first: what is half removed is not finished."""
        (self.stage(name) / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(self.stage(name), ignore_errors=True)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Which settings differ, as 'key: old -> new'."""
    changed = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changed += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            changed.append(f"{prefix}{key}: {json.dumps(before)[:60]} -> {json.dumps(after)[:60]}")
    return changed


def sweep(folder: Path) -> None:
    """Remove what a training needed on its way, everywhere in a folder."""
    for leftover in [path for pattern in LEFTOVERS for path in folder.rglob(pattern)]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def library_versions() -> dict[str, str]:
    """Versions of what shaped the outputs."""
    found = {"python": platform.python_version(), "psychocounsel": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state() -> str:
    """The commit the code runs from, '+changes' when the tree is dirty, '' outside a repository."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")
