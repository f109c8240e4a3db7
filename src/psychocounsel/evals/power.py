"""`psychocounsel eval power`: what designs can show, as a table or JSON; spreads may come from an evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from psychocounsel.errors import UserError
from psychocounsel.evaluate.power import (
    CONFIDENCE,
    PAIRED_SPREAD,
    SPREAD,
    Plan,
    plan,
    speeches_for,
    speeches_to_detect,
    spreads,
)
from psychocounsel.evaluate.results import read_items, read_results

USUAL = "200,500,1000,2324"
MOST = 10**9  # speeches: beyond it a typo is likelier than a plan
FINEST = 1e-4  # a hundredth of a point: nobody plans for less


@dataclass(frozen=True)
class Design:
    """What all designs share. A spread of None is that of the evaluation named, or the protocol's."""

    judges: int = 3
    samples: int = 1
    spread: float | None = None
    paired_spread: float | None = None
    alike: float = 1.0
    power: float = 0.8


@dataclass(frozen=True)
class Wish:
    """Numbers of speeches and of clusters as typed, or the half-width and difference they are to be found for."""

    speeches: str = ""
    clusters: str = ""
    half_width: float | None = None
    detect: float | None = None


def show_plans(wish: Wish, design: Design, source: Path | None, *, as_json: bool) -> None:
    """Print a plan for each number of speeches. Raises UserError for a design that cannot be."""
    (spread, paired), notes = _spreads(design, source)
    plans = [
        plan(
            size, design.judges, clusters=groups, samples=design.samples, spread=spread, paired_spread=paired,
            alike=design.alike, power=design.power,
        )
        for size, groups in _sizes(wish, spread, paired, design.power)
    ]  # fmt: skip
    told = {"spread": round(spread, 4), "paired_spread": round(paired, 4), "alike": design.alike, "power": design.power}
    if as_json:
        body: dict[str, Any] = {**told, "notes": notes, "plans": [row.model_dump(mode="json") for row in plans]}
        print(json.dumps(body, indent=1))
    else:
        _show(plans, told, notes)


def _spreads(design: Design, source: Path | None) -> tuple[tuple[float, float], list[str]]:
    """Both spreads, and where those that were not typed come from."""
    found: tuple[float | None, float | None] = (None, None)
    if source is not None:
        read_results(source)
        found = spreads(read_items(source))
        if found[0] is None:
            raise UserError(f"{source}: its items hold no win rate that varies; name an evaluation of policies")
    chosen, notes = [], []
    for what, typed, measured, usual in (
        ("spread", design.spread, found[0], SPREAD),
        ("paired spread", design.paired_spread, found[1], PAIRED_SPREAD),
    ):
        chosen.append(next(value for value in (typed, measured, usual) if value is not None))
        if typed is None and source is not None:
            notes.append(
                f"{what} {chosen[-1]:.3f} "
                + (f"of {source}" if measured is not None else "of the protocol: no two candidates met one baseline")
            )
    return (chosen[0], chosen[1]), notes


def _sizes(wish: Wish, spread: float, paired: float, power: float) -> list[tuple[int, int | None]]:
    """Numbers of speeches, each with its clusters (None: every speech alone)."""
    if wish.half_width is None and wish.detect is None:
        sizes = _numbers("--speeches", wish.speeches or USUAL)
        groups = _numbers("--clusters", wish.clusters) if wish.clusters else [None] * len(sizes)
        if len(groups) != len(sizes):
            raise UserError(f"--clusters: {len(groups)} numbers for {len(sizes)} of --speeches; give as many")
        return list(zip(sizes, groups, strict=True))
    if wish.speeches or wish.clusters:
        raise UserError("--half-width and --detect find the number of speeches; leave out --speeches and --clusters")
    if any(wanted is not None and abs(wanted) < FINEST for wanted in (wish.half_width, wish.detect)):
        raise UserError(f"--half-width and --detect are shares, {FINEST:g} or more; 0.02 is 2 points")
    found = [] if wish.half_width is None else [speeches_for(wish.half_width, spread)]
    found += [] if wish.detect is None else [speeches_to_detect(wish.detect, paired, power)]
    return [(size, None) for size in found]


def _numbers(option: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= len(str(MOST)) for part in parts):
        raise UserError(f"{option} {text:.60}: give whole numbers with commas between, for example 500,1000")
    return [int(part) for part in parts]


def _show(plans: list[Plan], told: dict[str, float], notes: list[str]) -> None:
    heads = ("speeches", "clusters", "worth", "half-width", "detectable", "judges", "samples", "calls")
    table = Table(*(Column(head, justify="right") for head in heads), box=SIMPLE_HEAD)
    for row in plans:
        table.add_row(
            f"{row.speeches:,}", f"{row.clusters:,}", f"{row.effective:,.0f}", f"{100 * row.half_width:.1f}",
            f"{100 * row.detectable:.1f}", str(row.judges), str(row.samples), f"{row.calls:,}",
        )  # fmt: skip
    console = Console(width=max(100, Console().width))
    console.print(table, highlight=False)
    console.print(
        f"Points of 100. half-width: of the {CONFIDENCE:.0%} interval of one win rate (SD {told['spread']:g} of a "
        f"speech's value). detectable: true difference of two policies on the same speeches that is found with "
        f"{told['power']:.0%} power (SD {told['paired_spread']:g}). worth: so many speeches that stand alone. calls: "
        "verdicts for one policy against one baseline, every judge, both orders.",
        highlight=False,
    )
    for note in notes:
        console.print(note, highlight=False, markup=False)
