"""Plots as inline SVG: readable on a phone, the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

WIDTH = 4.8  # inches: about as many points as a phone has pixels, so that letters keep their size there
INK, MUTED, ACCENT, SECOND = "#1f2d3a", "#6f7d89", "#1b7f79", "#c8643c"
LINE = 48  # characters of a label in one line: longer ones would make the plot wider, and its letters smaller
STYLE: dict[str, Any] = {
    "svg.hashsalt": "psychocounsel",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with two dollar signs is a name
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element that scales with the page and carries a text alternative."""
    buffer, nobody = io.StringIO(), {"Date": None, "Creator": None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")  # letters are drawn by the reader's fonts, not by ours
        figure.savefig(buffer, format="svg", metadata=nobody, bbox_inches="tight", transparent=True)
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    prefix = re.sub(r"\W+", "-", label.lower())
    text = re.sub(r'id="', f'id="{prefix}-', text)  # ids of several plots must not meet on one page
    text = text.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def forest(
    rows: Sequence[tuple[str, Mapping[str, Any]]], label: str, centre: float = 0.5, *, shares: bool = True
) -> str:
    """Estimates with 95 % intervals, one row each, around a line of no difference. Not `shares`: of any size."""
    known = [(name, figure) for name, figure in rows if figure["value"] is not None]
    shown = [(figure, textwrap.wrap(f"{name} (n={figure['n']})", LINE)) for name, figure in known]
    heights = [1 + 0.4 * (len(lines) - 1) for _, lines in shown]
    total = sum(heights) or 1.0
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 0.5 + 0.5 * total))
        top = total
        for (estimate, lines), height in zip(shown, heights, strict=True):
            top -= height
            low = estimate["low"] if estimate["low"] is not None else estimate["value"]
            high = estimate["high"] if estimate["high"] is not None else estimate["value"]
            colour = ACCENT if low > centre else SECOND if high < centre else MUTED
            axes.plot([low, high], [top, top], color=colour, linewidth=2.5, solid_capstyle="round")
            axes.plot(estimate["value"], top, "o", color=colour, markersize=7)
            label_box = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # the dotted line stays behind the words
            start = axes.get_yaxis_transform()  # from the left edge, whatever the scale
            words = "\n".join(lines)
            axes.text(0, top + 0.28, words, fontsize=9, va="bottom", linespacing=1.0, bbox=label_box, transform=start)
        axes.axvline(centre, color=INK, linewidth=0.8, linestyle=":", zorder=0)
        axes.set_yticks([])
        axes.set_ylim(-0.5, total - 0.1)
        if shares:
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        else:
            axes.locator_params(axis="x", nbins=5)
        axes.spines["left"].set_visible(False)
        return _svg(figure, label)


def score_bars(scores: Mapping[str, Sequence[float]], label: str) -> str:
    """How often each principle was scored 1 to 5, as stacked shares."""
    colours = ["#b5462f", "#e0a184", "#d9dde0", "#8cc3bd", "#1b7f79"]
    names = list(scores)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 0.8 + 0.36 * len(names)))
        left = [0.0] * len(names)
        for level in range(1, 6):
            share = [sum(round(s) == level for s in scores[name]) / max(len(scores[name]), 1) for name in names]
            axes.barh(range(len(names)), share, left=left, color=colours[level - 1], label=str(level), height=0.72)
            left = [start + width for start, width in zip(left, share, strict=True)]
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        axes.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, handlelength=1.2)
        axes.spines["left"].set_visible(False)
        return _svg(figure, label)


def histogram(values: Sequence[float], label: str, axis: str, bins: int = 24) -> str:
    """A plain histogram."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 2.5))
        axes.hist(values, bins=bins, color=ACCENT, edgecolor="white", linewidth=0.6)
        axes.set_xlabel(axis)
        axes.set_ylabel("count")
        return _svg(figure, label)


def two_histograms(chosen: Sequence[float], rejected: Sequence[float], label: str, axis: str) -> str:
    """Scores of chosen and rejected replies over each other."""
    low, high = min([*chosen, *rejected], default=0.0), max([*chosen, *rejected], default=1.0)
    edges = [low + (high - low or 1.0) * i / 20 for i in range(21)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 2.6))
        axes.hist(rejected, bins=edges, color=SECOND, alpha=0.65, label="rejected")
        axes.hist(chosen, bins=edges, color=ACCENT, alpha=0.65, label="chosen")
        axes.set_xlabel(axis)
        axes.set_ylabel("replies")
        axes.legend(frameon=False)
        return _svg(figure, label)


def bars(values: Mapping[str, float], label: str, axis: str) -> str:
    """Horizontal bars, in the given order."""
    names = list(values)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 0.7 + 0.2 * len(names)))
        axes.barh(range(len(names)), list(values.values()), color=ACCENT, height=0.7)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel(axis)
        axes.margins(y=0.01)
        return _svg(figure, label)


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str, axis: str) -> str:
    """Lines over steps; a series whose name starts with 'dev' gets the second colour and points."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 2.5))
        for name, (x, y) in series.items():
            dev = name.startswith("dev")
            look: dict[str, Any] = {"color": SECOND, "marker": "o"} if dev else {"color": ACCENT}
            axes.plot(x, y, markersize=4, linewidth=1.5, label=name, **look)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(axis)
        if len(series) > 1:
            axes.legend(frameon=False)
        return _svg(figure, label)


Points = Sequence[tuple[float, Mapping[str, Any]]]  # place on the axis, figure with value, low, high


def bands(
    panels: Mapping[str, Points], label: str, axis: str, centres: Mapping[str, float], ticks: Mapping[float, str]
) -> str:
    """Panels above each other that share their axis: points, joined, with 95 % intervals as a band.

    `centres` gives the value of no difference by panel. `ticks` names places on the axis.
    """
    with plt.rc_context(STYLE):
        figure, places = plt.subplots(
            len(panels), 1, sharex=True, squeeze=False, figsize=(WIDTH, 0.5 + 1.9 * max(len(panels), 1))
        )
        for axes, (name, points) in zip(places[:, 0], panels.items(), strict=True):
            _band(axes, points)
            if name in centres:
                axes.axhline(centres[name], color=INK, linewidth=0.8, linestyle=":", zorder=0)
            axes.set_title(name, fontsize=10, loc="left")
        last = places[-1, 0]
        if ticks:
            last.set_xticks(list(ticks), list(ticks.values()))
        last.set_xlabel(axis)
        figure.tight_layout()
        return _svg(figure, label)


def small_multiples(panels: Mapping[str, Points], label: str, axis: str, best: float) -> str:
    """Two columns of small panels with an axis of their own each; the place `best` is marked."""
    rows = (len(panels) + 1) // 2
    with plt.rc_context(STYLE):
        figure, places = plt.subplots(rows, 2, squeeze=False, figsize=(WIDTH, 0.4 + 1.35 * rows))
        flat = [axes for row in places for axes in row]
        for axes, (name, points) in zip(flat, panels.items(), strict=False):
            _band(axes, points)
            axes.axvline(best, color=SECOND, linewidth=0.8, linestyle="--", zorder=0)
            axes.set_title(name, fontsize=9, loc="left")
            axes.locator_params(axis="y", nbins=4)
            axes.set_xticks(sorted({place for place, _ in points}) if len(points) <= 8 else [])
            axes.set_xlabel(axis, fontsize=9)
        for axes in flat[len(panels) :]:
            axes.set_visible(False)
        figure.tight_layout()
        return _svg(figure, label)


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[tuple[float | None, str]]],
    label: str,
    low: float = 0.0,
    high: float = 1.0,
) -> str:
    """A grid of values with its text in every cell, so that no number hangs on a colour. `cells` are (value, text)."""
    with plt.rc_context({**STYLE, "font.size": 9}):
        figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.42 * max(len(rows), 1)))
        shades = LinearSegmentedColormap.from_list("house", [SECOND, "#ffffff", ACCENT])
        values = [[float("nan") if value is None else value for value, _ in row] for row in cells]
        axes.pcolormesh(values, cmap=shades, vmin=low, vmax=high, edgecolors="white", linewidth=1, alpha=0.75)
        for y, row in enumerate(cells):
            for x, (_, text) in enumerate(row):
                axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, color=INK)
        turn = (
            {"rotation": 35, "ha": "left", "rotation_mode": "anchor"} if max(map(len, columns), default=0) > 2 else {}
        )
        axes.set_xticks([x + 0.5 for x in range(len(columns))], columns, **turn)
        axes.set_yticks([y + 0.5 for y in range(len(rows))], rows)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.invert_yaxis()
        for side in axes.spines.values():
            side.set_visible(False)
        return _svg(figure, label)


def scatter_line(
    points: Sequence[tuple[float, float]],
    line: Sequence[tuple[float, float]],
    label: str,
    x: str,
    y: str,
    means: Sequence[tuple[float, Mapping[str, Any]]] = (),
) -> str:
    """Points, faint, and a fitted line; `means` of parts, with 95 % intervals, to hold the line against."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
        axes.plot(*zip(*points, strict=True), "o", color=MUTED, alpha=0.35, markersize=3.5, markeredgewidth=0)
        if line:
            axes.plot(*zip(*line, strict=True), color=ACCENT, linewidth=2.2)
        for place, mean in means:
            if mean["low"] is not None:
                axes.plot([place, place], [mean["low"], mean["high"]], color=INK, linewidth=1.2)
            axes.plot(place, mean["value"], "s", color=INK, markersize=4.5)
        axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        return _svg(figure, label)


def reliability(bins: Sequence[Mapping[str, Any]], label: str) -> str:
    """Predicted chance against what happened, bin by bin, with 95 % bands; the diagonal is perfect calibration.

    Each bin has `said` (mean chance), `won` (share), `low`, `high` (None without a band) and `n`.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
        xs, ys = [row["said"] for row in bins], [row["won"] for row in bins]
        for row in bins:
            if row["low"] is not None:
                axes.plot([row["said"]] * 2, [row["low"], row["high"]], color=ACCENT, linewidth=1.5, alpha=0.6)
        axes.plot(xs, ys, "o-", color=ACCENT, markersize=4, linewidth=1)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("chance that the first reply is preferred, by the model")
        axes.set_ylabel("share preferred")
        return _svg(figure, label)


def _band(axes: Any, points: Points) -> None:
    """A line through the points; where a figure has an interval, a band and an error bar (one point has no band)."""
    x, y = [place for place, _ in points], [figure["value"] for _, figure in points]
    axes.plot(x, y, color=ACCENT, marker="o", markersize=4, linewidth=1.5)
    low, high = (
        [figure["value"] if figure.get(end) is None else figure[end] for _, figure in points] for end in ("low", "high")
    )
    axes.fill_between(x, low, high, color=ACCENT, alpha=0.18, linewidth=0)
    axes.vlines(x, low, high, color=ACCENT, linewidth=1, alpha=0.6)
