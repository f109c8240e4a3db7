"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def percent(value: float | None) -> str:
    """0.873 -> '87.3 %'; None -> 'undefined'."""
    return "undefined" if value is None else f"{100 * value:.1f} %"


def figure_text(figure: Mapping[str, Any]) -> str:
    """A share with its interval and n, as people read it."""
    if figure["value"] is None:
        return "undefined (n = 0)"
    interval = "" if figure["low"] is None else f" [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"
    return f"{percent(figure['value'])}{interval}, n = {figure['n']}"


def number_text(figure: Mapping[str, Any] | None) -> str:
    """A figure that is no share, with its interval; '' for one that a look does not have."""
    if not figure:
        return ""
    if figure["value"] is None:
        return "undefined"
    interval = "" if figure["low"] is None else f" [{figure['low']:.3g}, {figure['high']:.3g}]"
    return f"{figure['value']:.3g}{interval}"


def coefficient_text(figure: Mapping[str, Any] | None) -> str:
    """A coefficient of agreement with its interval. Without variation there is none, which is not perfect agreement."""
    if figure is None:
        return ""
    if figure["value"] is None:
        return f"undefined: {figure.get('why') or 'no variation'}"
    interval = "" if figure["low"] is None else f" [{figure['low']:.2f}, {figure['high']:.2f}]"
    return f"{figure['value']:.3f}{interval}"


def counts_text(counts: Mapping[str, int] | None) -> str:
    """What was left out, with the reason; reasons without a case are not named."""
    return ", ".join(f"{number} {reason}" for reason, number in (counts or {}).items() if number) or "nothing"


def listed(value: Any) -> str:
    """What was set or used, as one line: lists and tables with semicolons, empty ones as 'none'."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {listed(one)}" for key, one in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return "; ".join(listed(one) for one in value) or "none"
    if isinstance(value, bool) or value is None or value == "":
        return "yes" if value else "no" if value is False else "none"
    return str(value)


def topic_text(topic: str) -> str:
    """'risk_trauma' -> 'risk trauma'."""
    return topic.replace("_", " ")
