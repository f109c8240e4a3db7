"""Estimates with intervals. The unit is the near-duplicate cluster of speeches, never the single judgement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from psychocounsel.ratings.reliability import wilson
from psychocounsel.records import Record


class Figure(Record):
    """A number of results.json. `low` and `high` bound the 95 % interval (None where there is none)."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    unit: str


def cluster_mean(
    values: Sequence[float], clusters: Sequence[str], unit: str, *, bootstrap: int = 10_000, seed: int = 0
) -> Figure:
    """Mean of values with a percentile bootstrap over clusters (Philox, multinomial weights); n counts the values.

    Under 10 clusters, or when all values are equal, the bootstrap has too little to resample: a Wilson interval over
    clusters is given instead (for a mean within 0..1).
    """
    if not values:
        return Figure(value=None, n=0, unit=unit)
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(member, weights=np.asarray(values, dtype=float))
    sizes = np.bincount(member)
    mean = float(sums.sum() / sizes.sum())
    if len(names) < 10 or float(np.ptp(np.asarray(values, dtype=float))) == 0:
        low, high = wilson(mean, len(names)) if 0 <= mean <= 1 else (None, None)
    else:
        random = np.random.Generator(np.random.Philox(seed))
        weights = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=bootstrap)
        means = (weights @ sums) / (weights @ sizes)
        low, high = (float(value) for value in np.percentile(means, [2.5, 97.5]))
    rounded: dict[str, Any] = {"value": mean, "low": low, "high": high}
    return Figure(
        **{key: None if value is None else round(value, 4) for key, value in rounded.items()},
        n=len(values),
        unit=unit,
    )


def count(value: float, unit: str, n: int = 1) -> Figure:
    """A figure without an interval: a count or a duration."""
    return Figure(value=round(value, 4), n=n, unit=unit)
