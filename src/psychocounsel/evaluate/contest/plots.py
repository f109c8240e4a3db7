"""The plots of a contest, as SVG text by name, from its table as JSON holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from psychocounsel.evaluate import plots
from psychocounsel.evaluate.contest.verdicts import UNIT
from psychocounsel.evaluate.statistics import cluster_mean
from psychocounsel.evaluate.wording import topic_text

POINTS = 800  # of the scatter at most, evenly thinned: more are a blot, and a megabyte
PARTS, PER_PART = 8, 20  # of the scatter, by length: means of fewer speeches than this say nothing about a line
MEANS_FROM = 3 * PER_PART  # speeches: two means would fit any line
DRAWS = 1_000  # for the interval of such a mean
SHORT = 26  # characters of a label beside a grid


def draw_contests(tables: Mapping[str, Any]) -> dict[str, str]:
    """All plots of all contests: KIND-NUMBER."""
    drawn: dict[str, str] = {}
    names = {one["id"]: one["name"] for one in tables.get("principles", ())}
    for number, table in enumerate(tables["contests"]):
        drawn |= {f"{kind}-{number}": text for kind, text in draw_contest(table, names).items()}
    if len(tables["contests"]) > 1:
        rows = [(f"{table['a']} against {table['b']}", table["headline"]["win_rate"]) for table in tables["contests"]]
        drawn["overview"] = plots.forest(rows, "Win rates of all contests")
    if tables.get("differences"):
        rows = [(f"{row['a']} minus {row['b']}", row["difference"]) for row in tables["differences"]]
        drawn["differences"] = plots.forest(rows, "Candidates against each other", 0.0, shares=False)
    return drawn


def draw_contest(table: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """The plots of one contest by kind; a kind that has nothing to show is left out. `names` are the principles'."""
    pair = f"{table['a']} against {table['b']}"
    drawn = {"main": plots.forest(main_rows(table), f"Win rates of {pair}")}
    if table["length"] and len(table["speeches"]) > 1 and table["length"]["slope"]["value"] is not None:
        drawn["length"] = _length(table, pair)
    if table["principles"]:
        rows = [(row["name"], row["win_rate"]) for row in table["principles"]]
        drawn["principles"] = plots.forest(rows, f"Win rates by principle of {pair}")
        if weights := [(row["name"], row["weight"]) for row in table["principles"] if row["weight"]]:
            drawn["weights"] = plots.forest(weights, f"Implied weights of principles, {pair}", 0.0, shares=False)
    if len(table["topics"]) > 1:
        rows = [
            (topic_text(row["cell"]), {"value": row["shrunk"], "low": row["low"], "high": row["high"], "n": row["n"]})
            for row in table["topics"]
        ]
        drawn["topics"] = plots.forest(rows, f"Win rates by topic of {pair}, shrunk")
    if table["topic_principle"]:
        drawn["grid"] = _grid(table["topic_principle"], names, pair)
    if orders := [(row["judge"], row["order_effect"]) for row in table["standings"]]:
        drawn["order"] = plots.forest(orders, f"Effect of the order of presentation, {pair}", 0.0, shares=False)
    if table["agreement"]:
        drawn["judges"] = _judges(table["agreement"], pair)
    return drawn


def main_rows(table: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Headline, length and style control, compliance, and every judge, each with what is odd about it."""
    rows = [("Headline", table["headline"]["win_rate"])]
    rows += [
        (text, table[key]["controlled"])
        for key, text in (("length", "At equal length"), ("style", "At equal length and style"))
        if table[key]
    ]
    if table["compliance"]:
        rows.append(("Replies within the asked length", table["compliance"]["win_rate"]))
    for row in table["standings"]:
        odd = ", DEPENDENT" if row["judge"] in table["dependent"] else ""
        odd += f", left out: {row['excluded']}" if row["excluded"] else ""
        rows.append((f"Judge {row['judge']}{odd}", row["win_rate"]))
    return rows


def _length(table: Mapping[str, Any], pair: str) -> str:
    length, speeches = table["length"], table["speeches"]
    spread = length["spread"] or 1.0
    points = [((row["chars_a"] - row["chars_b"]) / spread, row["value"]) for row in speeches]
    step = max(1, math.ceil(len(points) / POINTS))
    rate = min(max(length["controlled"]["value"], 1e-6), 1 - 1e-6)
    theta, phi = math.log(rate / (1 - rate)), length["slope"]["value"]
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    grid = [low + (high - low) * k / 60 for k in range(61)]
    line = [(x, 1 / (1 + math.exp(-(theta + phi * math.tanh(x))))) for x in grid]
    return plots.scatter_line(
        points[::step], line, f"Length and win, {pair}", "shorter  –  difference in length, SD  –  longer",
        "lost  –  value  –  won", _means(speeches, spread),
    )  # fmt: skip


def _means(speeches: Sequence[Mapping[str, Any]], spread: float) -> list[tuple[float, Mapping[str, Any]]]:
    """Mean values of speeches in parts of equal size by difference in length, which owe nothing to the fitted line."""
    if len(speeches) < MEANS_FROM:
        return []
    rows = sorted(speeches, key=lambda row: (row["chars_a"] - row["chars_b"], row["speech_id"]))
    found: list[tuple[float, Mapping[str, Any]]] = []
    for part in np.array_split(np.arange(len(rows)), min(PARTS, len(rows) // PER_PART)):
        some = [rows[k] for k in part]
        place = sum(row["chars_a"] - row["chars_b"] for row in some) / len(some) / spread
        mean = cluster_mean([row["value"] for row in some], [row["cluster"] for row in some], UNIT, bootstrap=DRAWS)
        found.append((place, mean.model_dump()))
    return found


def _grid(cells: Sequence[Mapping[str, Any]], names: Mapping[str, str], pair: str) -> str:
    topics = list(dict.fromkeys(cell["topic"] for cell in cells))
    principles = list(names) or list(dict.fromkeys(cell["principle"] for cell in cells))
    found = {(cell["topic"], cell["principle"]): cell for cell in cells}
    grid: list[list[tuple[float | None, str]]] = []
    for topic in topics:
        row = [found.get((topic, principle)) for principle in principles]
        grid.append([(None, "–") if one is None else (one["value"], f"{one['value']:.2f}\n{one['n']}") for one in row])
    return plots.heat_map(
        [short(topic_text(topic)) for topic in topics], principles, grid, f"Topics and principles, {pair}"
    )


def _judges(agreement: Mapping[str, Any], pair: str) -> str:
    """Judges have a number: names at both sides would leave no room for the cells."""
    names = agreement["judges"]
    grid: list[list[tuple[float | None, str]]] = []
    for a, row in enumerate(agreement["kappa"]):
        texts = [
            "" if a == b else "–" if value is None else f"{value:.2f}\n{agreement['n'][a][b]}"
            for b, value in enumerate(row)
        ]
        grid.append(list(zip(row, texts, strict=True)))
    rows = [f"{short(name)}  {k}" for k, name in enumerate(names, start=1)]
    columns = [str(k) for k in range(1, len(names) + 1)]
    return plots.heat_map(rows, columns, grid, f"Agreement of judges, {pair}", low=-1.0)


def short(name: str) -> str:
    """A name that fits beside a grid: its end tells more than its beginning. What cannot be printed is a '?'."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= SHORT else f"…{shown[-SHORT + 1 :]}"
