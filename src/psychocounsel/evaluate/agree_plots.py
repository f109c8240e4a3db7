"""The plots of `eval agree`, as SVG text by name, from its tables as JSON holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psychocounsel.evaluate import plots
from psychocounsel.evaluate.contest_plots import short


def draw_agreement(tables: Mapping[str, Any]) -> dict[str, str]:
    """Rater by rater for each question, and the groups side by side."""
    drawn = {}
    name = "kappa_quadratic" if tables["ordered"] else "kappa"
    for number, (question, one) in enumerate(tables["questions"].items()):
        raters = list(one["raters"])
        found = {tuple(row["raters"]): row for row in one["pairs"]}
        grid: list[list[tuple[float | None, str]]] = []
        for a in raters:
            row = []
            for b in raters:
                pair = found.get((a, b)) or found.get((b, a))
                value = pair[name]["value"] if pair else None
                text = "" if a == b or not pair else f"{'–' if value is None else format(value, '.2f')}\n{pair['n']}"
                row.append((value, text))
            grid.append(row)
        names = [short(rater) for rater in raters]
        drawn[f"raters-{number}"] = plots.heat_map(names, names, grid, f"Agreement of raters, {question}", low=-1.0)
        rows = [(group, {**row[name], "n": row["n"]}) for group, row in one["groups"].items()]
        if any(row["value"] is not None for _, row in rows):
            drawn[f"groups-{number}"] = plots.forest(rows, f"Groups of raters, {question}", 0.0, shares=False)
    return drawn
