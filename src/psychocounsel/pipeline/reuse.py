"""Taking over what another run has: finished stages and stored calls, each complete or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from psychocounsel.models.store import copy_calls


def take_over(source: Path, target: Path) -> None:
    """Copy a finished stage, complete or not at all."""
    part = target.with_name(target.name + ".part")
    for half_made in (part, target):
        shutil.rmtree(half_made, ignore_errors=True)
    shutil.copytree(source, part)
    part.rename(target)


def take_over_calls(source: Path, target: Path) -> None:
    """Copy a call store with everything its log still holds, complete or not at all."""
    if source.exists():
        part = target.with_name(target.name + ".part")
        part.unlink(missing_ok=True)
        copy_calls(source, part)
        part.replace(target)
