"""A file made part by part: what is made is on disk at once, by one process or several, and is never made again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from psychocounsel.errors import UserError
from psychocounsel.progress import progress
from psychocounsel.records import write_rows
from psychocounsel.training.processes import main_process, together

Content = TypeVar("Content")
Rows = list[dict[str, Any]]


def in_parts(
    path: Path, parts: Sequence[tuple[str, Content]], make: Callable[[Content], Rows], label: str, *, shared: bool
) -> None:
    """Write the rows of all parts, in their order, to `path`. A part is a name, unique for what it holds, and content.

    Every process calls it. With `shared` each of them makes every so-manieth part, otherwise the first makes all. A
    part is written as one line beside `path` when it is made; a killed run makes only those that are not there, also
    with another number of processes. `path` itself is complete or absent.
    """
    there = path.is_file()
    known = {} if there else _known(path)
    together()  # everyone has looked before anyone writes
    if there:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rank, world = _place()
    mine = parts[rank::world] if shared else parts if main_process() else []
    with _own(path, rank).open("ab") as file, progress(label, len(mine)) as advance:
        for name, content in mine:
            if name not in known:
                line = json.dumps({"part": name, "rows": make(content)}, ensure_ascii=False, allow_nan=False)
                file.write(line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            advance()
    together()
    if main_process():
        known = _known(path)
        if lost := sum(name not in known for name, _ in parts):
            raise UserError(f"{path}: {lost} of {len(parts)} parts are not there any more; run the same command again")
        write_rows(path, (row for name, _ in parts for row in known[name]))
        for leftover in _all(path):
            leftover.unlink()
    together()


def _place() -> tuple[int, int]:
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _own(path: Path, rank: int) -> Path:
    """The file of one process. A line that a kill cut off is ended, so that the next one stands alone."""
    own = path.with_name(f"{path.name}.{rank}.part")
    if own.is_file() and (content := own.read_bytes()) and not content.endswith(b"\n"):
        with own.open("ab") as file:
            file.write(b"\n")
    return own


def _all(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.*.part"))


def _known(path: Path) -> dict[str, Rows]:
    """Rows by part, of all processes; lines that a kill cut off do not count."""
    known: dict[str, Rows] = {}
    for file in _all(path):
        for line in file.read_bytes().splitlines():
            try:
                found = json.loads(line)
                known[found["part"]] = found["rows"]
            except (ValueError, TypeError, KeyError):
                continue
    return known
