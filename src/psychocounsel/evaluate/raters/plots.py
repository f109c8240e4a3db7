"""The plots of `eval agree`, as SVG text by name, from its tables as JSON holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psychocounsel.evaluate import plots
from psychocounsel.evaluate.contest.plots import short
from psychocounsel.evaluate.raters.facing import HEADLINE

MOST_RATERS = 16  # of a grid; more do not fit on a page, and the table below holds all pairs
GROUPS = {
    "human_human": "people with each other", "human_judge": "people with judges",
    "judge_judge": "judges with each other", "human_label": "people with labels",
    "judge_label": "judges with labels", "label_label": "labels with each other",
}  # fmt: skip


def draw_agreement(tables: Mapping[str, Any]) -> dict[str, str]:
    """For each question the groups side by side, and a grid of raters where there are three or more."""
    drawn = {}
    for number, (question, one) in enumerate(tables["questions"].items()):
        name = HEADLINE[one["kind"]]
        rows = [(GROUPS[group], row[name]) for group, row in one["groups"].items() if name in row]
        if any(figure["value"] is not None for _, figure in rows):
            drawn[f"groups-{number}"] = plots.forest(rows, f"Groups of raters, {short(question)}", 0.0, shares=False)
        if 2 < len(tables["raters"]) <= MOST_RATERS and one["pairs"]:
            drawn[f"raters-{number}"] = _grid(list(tables["raters"]), one["pairs"], name, question)
    rows = [
        (GROUPS[group], row["kappa_quadratic"]) for group, row in tables["mean"].items() if "kappa_quadratic" in row
    ]
    if any(figure["value"] is not None for _, figure in rows):
        drawn["mean"] = plots.forest(rows, "Mean quadratic kappa over questions", 0.0, shares=False)
    return drawn


def _grid(raters: list[str], pairs: list[Mapping[str, Any]], name: str, question: str) -> str:
    found = {frozenset(row["raters"]): row for row in pairs}
    grid: list[list[tuple[float | None, str]]] = []
    for a in raters:
        row: list[tuple[float | None, str]] = []
        for b in raters:
            figure = found.get(frozenset((a, b)), {}).get(name) if a != b else None
            value = figure["value"] if figure else None
            row.append((value, f"{'–' if value is None else f'{value:.2f}'}\n{figure['n']}" if figure else ""))
        grid.append(row)
    names = [short(rater) for rater in raters]
    return plots.heat_map(names, names, grid, f"Raters with each other, {short(question)}", low=-1.0)
