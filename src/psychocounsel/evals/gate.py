"""`psychocounsel eval gate`: two folders and a gate file in; a table, Markdown, JUnit XML and an answer out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from psychocounsel.errors import UserError
from psychocounsel.evaluate.gate.comparable import Side
from psychocounsel.evaluate.gate.regression import Outcome, hold
from psychocounsel.evaluate.gate.rules import printable, read_gate
from psychocounsel.evaluate.gate.text import HEADS, headline, junit, markdown, rows, sentences
from psychocounsel.evaluate.results import read_items, read_results
from psychocounsel.records import write_text

WIDTH = 160  # at least: a table made narrower would cut numbers
RIGHT = ("held", "p", "corrected p")
WHOLE = ("held", "to", "p", "result")
STYLES = {"pass": "green", "FAIL": "bold red", "skipped": "yellow"}


@dataclass(frozen=True)
class Written:
    """Where the outcome is written besides the terminal; None: nowhere."""

    junit: Path | None = None
    markdown: Path | None = None


def run_gate(
    file: Path, candidate: Path, baseline: Path, written: Written, bootstrap: int = 10_000, seed: int = 0
) -> bool:
    """Print how the candidate stands against the baseline by the rules of `file`. Returns whether it passed.

    Raises UserError for a file or folder that cannot be read.
    """
    for option, path in (("--junit", written.junit), ("--markdown", written.markdown)):
        if path is not None and (path.is_dir() or not path.name):
            raise UserError(f"{option} {path}: is a folder; name a file")
    gate = read_gate(file)
    sides = [Side(read_results(folder), read_items(folder)) for folder in (candidate, baseline)]
    outcome = hold(gate, *sides, draws=bootstrap, seed=seed)
    names = [f"{side.results.name} ({folder})" for side, folder in zip(sides, (candidate, baseline), strict=True)]
    show(outcome, names)
    for path, make in ((written.junit, junit), (written.markdown, markdown)):
        if path is not None:
            write_text(path, make(outcome, names))
    return outcome.passed


def show(outcome: Outcome, names: list[str]) -> None:
    """The table of all checks, the reason of each, how to read it, and the answer."""
    console = Console(width=max(WIDTH, Console().width))
    heads = HEADS[:-1]  # reasons are sentences: they stand beneath
    columns = [
        Column(head, justify="right" if head in RIGHT else "left", overflow="fold", no_wrap=head in WHOLE)
        for head in heads
    ]
    title = Text(printable(f"{names[0]} against {names[1]}"))
    table = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    told = rows(outcome)
    for row in told:
        table.add_row(*(Text(printable(cell), style=STYLES.get(cell, "")) for cell in row[:-1]))
    console.print(table, highlight=False)
    for row in told:
        console.print(Text(printable(f"{row[-2]} {row[0]} {row[1]}: {row[-1]}")), highlight=False)
    console.print()
    for line in sentences(outcome):
        console.print(Text(printable(line)), highlight=False)
    console.print(Text(headline(outcome), style="green" if outcome.passed else "bold red"), highlight=False)
