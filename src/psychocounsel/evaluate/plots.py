"""Plots as inline SVG: readable on a phone, the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

WIDTH = 4.8  # inches: about as many points as a phone has pixels, so that letters keep their size there
INK, MUTED, ACCENT, SECOND = "#1f2d3a", "#8a97a3", "#1b7f79", "#c8643c"
STYLE: dict[str, Any] = {
    "svg.hashsalt": "psychocounsel",
    "svg.fonttype": "none",
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
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight", transparent=True
    )
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    prefix = re.sub(r"\W+", "-", label.lower())
    text = re.sub(r'id="', f'id="{prefix}-', text)  # ids of several plots must not meet on one page
    text = text.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def forest(rows: Sequence[tuple[str, Mapping[str, Any]]], label: str, centre: float = 0.5) -> str:
    """Estimates with 95 % intervals, one row each, around a line of no difference."""
    rows = [(name, figure) for name, figure in rows if figure["value"] is not None]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 0.5 + 0.5 * max(len(rows), 1)))
        for place, (name, estimate) in enumerate(reversed(rows)):
            low = estimate["low"] if estimate["low"] is not None else estimate["value"]
            high = estimate["high"] if estimate["high"] is not None else estimate["value"]
            colour = ACCENT if low > centre else SECOND if high < centre else MUTED
            axes.plot([low, high], [place, place], color=colour, linewidth=2.5, solid_capstyle="round")
            axes.plot(estimate["value"], place, "o", color=colour, markersize=7)
            label_box = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # the dotted line stays behind the words
            axes.text(0, place + 0.28, f"{name} (n={estimate['n']})", fontsize=9, va="bottom", bbox=label_box)
        axes.axvline(centre, color=INK, linewidth=0.8, linestyle=":", zorder=0)
        axes.set_yticks([])
        axes.set_ylim(-0.5, max(len(rows), 1) - 0.1)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
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
            axes.plot(
                x,
                y,
                color=SECOND if dev else ACCENT,
                marker="o" if dev else None,
                markersize=4,
                linewidth=1.5,
                label=name,
            )
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(axis)
        if len(series) > 1:
            axes.legend(frameon=False)
        return _svg(figure, label)
