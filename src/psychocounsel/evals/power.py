"""`eval power`: what a comparison can show, before it is paid for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from psychocounsel.errors import UserError
from psychocounsel.evaluate.power import PAIRED_SPREAD, SPREAD, Plan, plan, speeches_for, speeches_to_detect
from psychocounsel.evaluate.results import read_items
from psychocounsel.records import write_text

FEWEST = 10  # speeches of an evaluation from which a spread is taken


def show_power(
    speeches: Sequence[int],
    *,
    judges: int = 3,
    samples: int = 1,
    clusters: int | None = None,
    spread: float | None = None,
    paired_spread: float | None = None,
    alike: float = 1.0,
    power: float = 0.8,
    width: float | None = None,
    difference: float | None = None,
    source: Path | None = None,
    target: Path | None = None,
) -> None:
    """Print half-widths, detectable differences and calls for each number of speeches.

    `width` and `difference` ask the other way round: how many speeches are needed. `source` is a finished evaluation
    whose spreads are taken where none is given. Raises UserError for designs that cannot be.
    """
    if not speeches and width is None and difference is None:
        raise UserError("eval power: name --speeches, --half-width or --detect")
    found = spreads(source) if source else (None, None)
    one = spread if spread is not None else found[0] if found[0] is not None else SPREAD
    paired = paired_spread if paired_spread is not None else found[1] if found[1] is not None else PAIRED_SPREAD
    plans = [
        plan(n, judges, clusters=clusters, samples=samples, spread=one, paired_spread=paired, alike=alike, power=power)
        for n in speeches
    ]
    needed = {
        name: count
        for name, count in (
            ("half-width", speeches_for(width, one) if width is not None else None),
            ("detect", speeches_to_detect(difference, paired, power) if difference is not None else None),
        )
        if count is not None
    }
    console = Console()
    console.print(f"Spread of a speech's value {one:.3f}, of the difference of two policies {paired:.3f}.")
    if plans:
        console.print(_table(plans, power))
    if width is not None:
        console.print(f"A half-width of {100 * width:.1f} points needs {needed['half-width']} speeches.")
    if difference is not None:
        console.print(
            f"A paired difference of {100 * difference:.1f} points is found with {power:.0%} power on "
            f"{needed['detect']} speeches."
        )
    if target is not None:
        told = {"spread": one, "paired_spread": paired, "plans": [p.model_dump() for p in plans], "needed": needed}
        write_text(target, json.dumps(told, indent=1))


def spreads(folder: Path) -> tuple[float, float | None]:
    """Standard deviation of s_i over speeches, the mean over the contests of an evaluation or run, and that of paired
    differences between contests with one baseline (None where there is one contest). Raises UserError for too little.
    """
    values = {
        metric: {key: row.value for key, row in rows.items()}
        for metric, rows in read_items(folder).items()
        if metric.startswith("winrate.") and metric.count(".") == 1 and len(rows) >= FEWEST
    }
    if not values:
        raise UserError(f"{folder}: holds no contest of {FEWEST} speeches or more; leave --from out, or name another")
    one = float(np.mean([np.std(list(row.values()), ddof=1) for row in values.values()]))
    paired = []
    for (first, a), (second, b) in combinations(sorted(values.items()), 2):
        common = sorted(a.keys() & b.keys())
        if first.rpartition("_vs_")[2] == second.rpartition("_vs_")[2] and len(common) >= FEWEST:
            paired.append(float(np.std([a[key] - b[key] for key in common], ddof=1)))
    return one, float(np.mean(paired)) if paired else None


def _table(plans: Sequence[Plan], power: float) -> Table:
    table = Table(title="What a comparison can show", title_justify="left")
    for name in ("speeches", "clusters", "worth", "half-width, points", f"detectable at {power:.0%}, points", "calls"):
        table.add_column(name, justify="right")
    for one in plans:
        table.add_row(
            str(one.speeches), str(one.clusters), f"{one.effective:.0f}", f"{100 * one.half_width:.1f}",
            f"{100 * one.detectable:.1f}", str(one.calls),
        )  # fmt: skip
    return table
