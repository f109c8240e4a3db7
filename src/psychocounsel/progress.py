"""Live progress for long work: a bar with counts and time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]
PLAIN_SECONDS = 20.0
_shown = False


@contextmanager
def progress(label: str, total: int) -> Iterator[Advance]:
    """Yield `advance(count=1, note="")`. Shows counts, time left and the latest note on standard error.

    Work inside work that is shown already is not shown: a terminal has room for one moving line.
    """
    global _shown
    if _shown:
        yield lambda count=1, note="": None
        return
    _shown = True
    try:
        yield from _bar(label, total) if sys.stderr.isatty() else _lines(label, total)
    finally:
        _shown = False


def _bar(label: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("  {task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, note="")
        yield lambda count=1, note="": bar.update(task, advance=count, note=note)


def _lines(label: str, total: int) -> Iterator[Advance]:
    start = last = time.monotonic()
    done = 0

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= PLAIN_SECONDS and done:
            last = now
            left = (now - start) / done * max(total - done, 0)
            print(
                f"  {label}: {done}/{total}, about {left:.0f} s left {note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )

    yield advance
