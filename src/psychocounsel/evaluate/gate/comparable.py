"""Can two evaluations be compared by a metric? What is undefined, invalid, damaged, or the same on both sides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from psychocounsel.evaluate.contest.verdicts import MOST_MISSING
from psychocounsel.evaluate.gate.noninferiority import Items
from psychocounsel.evaluate.results import ItemValue, Results
from psychocounsel.evaluate.statistics import Figure

MISSING = {"missing_verdicts.": "verdicts are missing", "missing_speeches.": "speeches have no verdict in both orders"}
ROUNDED = 1e-3  # results are rounded, and so may items be


@dataclass(frozen=True)
class Side:
    """One of the two evaluations."""

    results: Results
    items: Mapping[str, Mapping[str, ItemValue]]


def fault(side: Side, name: str, who: str, end: str = "value") -> str:
    """Why a figure that is there cannot be used; '' when it can."""
    figure = side.results.metrics.get(name)
    if figure is None:
        return ""
    if figure.value is None:
        return f"undefined in {who} (n = {figure.n})"
    if not all(math.isfinite(number) for number in (figure.value, figure.low, figure.high) if number is not None):
        return f"is not a number in {who}; the folder is damaged, evaluate again"
    if end != "value" and getattr(figure, end) is None:
        return f"has no interval in {who}; only by = 'value' can be held to a bound"
    for key, share in side.results.metrics.items():
        what = next((prefix for prefix in MISSING if key.startswith(prefix)), "")
        contest, asked = key.removeprefix(what), name.partition(".")[2]
        meant = what and (asked == contest or asked.startswith(f"{contest}."))
        missing = 1.0 if share.value is None else share.value
        if meant and not missing <= MOST_MISSING:  # nor is NaN
            return f"invalid in {who}: {missing:.1%} of {MISSING[what]}"
    return ""


def mismatch(figure: Figure | None, items: Items) -> str:
    """Items whose mean is not the figure belong to something else, or were changed."""
    mean = math.fsum(item.value for item in items.values()) / len(items)
    if figure is None or figure.value is None or abs(mean - figure.value) <= ROUNDED:
        return ""
    return f"results.json says {figure.value:g} and the items give {mean:.4f}; evaluate again"


def same(first: Items, second: Items, common: Iterable[str], lengths: bool) -> bool:
    """Whether nothing that the comparison reads differs on the items both have."""
    return all(
        first[item].value == second[item].value and (not lengths or first[item].known == second[item].known)
        for item in common
    )


def alike(candidate: Side, baseline: Side) -> bool:
    return candidate.results.metrics == baseline.results.metrics and candidate.items == baseline.items
