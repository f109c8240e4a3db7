"""Estimates with intervals. The unit is the near-duplicate cluster of speeches, never the single judgement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from psychocounsel.evaluate.clusters import Clusters, Interval, clusters_of, mean_interval
from psychocounsel.records import Record

DIGITS = 4


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
    """Mean of values with a 95 % interval over clusters; n counts the values.

    Which interval, `clusters.mean_interval` says: Wilson's where the bootstrap has too little to resample (and the
    values lie within 0 and 1), Student's t under 300 clusters, the percentiles of a cluster bootstrap (Philox,
    multinomial weights) from there on, BCa where that is skewed.
    """
    if not len(values):
        return Figure(value=None, n=0, unit=unit)
    column = np.asarray(values, dtype=float)
    share = bool(((column >= 0) & (column <= 1)).all())
    return mean_figure(column, clusters_of(clusters), unit, share=share, bootstrap=bootstrap, seed=seed)


def mean_figure(
    values: Any, clusters: Clusters, unit: str, *, share: bool, bootstrap: int = 10_000, seed: int = 0
) -> Figure:
    """`cluster_mean` for an array and clusters already numbered; `share` says that values are within 0 and 1."""
    if not len(values):
        return Figure(value=None, n=0, unit=unit)
    found = mean_interval(values, clusters, share=share, draws=bootstrap, seed=seed)
    return figure(float(np.mean(values)), found, len(values), unit)


def figure(value: float | None, interval: Interval, n: int, unit: str) -> Figure:
    """A rounded figure; without a value there is no interval either."""
    low, high = (None, None) if value is None else interval[:2]
    rounded = [None if number is None else round(number, DIGITS) + 0.0 for number in (value, low, high)]  # no -0.0
    return Figure(value=rounded[0], low=rounded[1], high=rounded[2], n=n, unit=unit)


def count(value: float, unit: str, n: int = 1) -> Figure:
    """A figure without an interval: a count or a duration."""
    return Figure(value=round(value, DIGITS), n=n, unit=unit)
