"""Figures with intervals that resample units: areas under the curve, means, correlations and agreement with levels.

Every function gives the figure as observed, then in each draw of units, shape (1 + bootstrap,): what is computed from
the same draws (a scorer and its baseline) can be subtracted draw by draw. Not a number where a draw has no figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from psychocounsel.evaluate.statistics import Figure
from psychocounsel.ratings.reliability import FEWEST_UNITS, estimate, quadratic_weights

Array = NDArray[np.float64]
CHUNK = 256  # draws handled at once


class Draws:
    """How often each unit is drawn: once as observed, then in multinomial draws of as many units (Philox).

    Under FEWEST_UNITS units there are no draws, and so no interval.
    """

    def __init__(self, units: Sequence[str], bootstrap: int, seed: int) -> None:
        self.names = sorted(set(units))
        self.place = {unit: place for place, unit in enumerate(self.names)}
        count = len(self.names)
        self.weights = np.ones((1, count), dtype=np.uint16)
        if count >= FEWEST_UNITS and bootstrap:
            random = np.random.Generator(np.random.Philox(seed))
            shares = np.full(count, 1 / count)
            drawn = [
                random.multinomial(count, shares, size=min(CHUNK, bootstrap - start)).astype(np.uint16)
                for start in range(0, bootstrap, CHUNK)
            ]
            self.weights = np.concatenate([self.weights, *drawn])

    def columns(self, units: Sequence[str]) -> NDArray[np.int64]:
        """The column of each item's unit."""
        return np.array([self.place[unit] for unit in units], dtype=np.int64)

    def chunks(self, units: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """Weights of items, (items, draws), some draws at a time; 32 bits hold halves exactly up to 8 million."""
        columns = self.columns(units)
        for start in range(0, len(self.weights), CHUNK):
            yield self.weights[start : start + CHUNK].astype(np.float32).T[columns]

    def totals(self, sums: Array, units: Sequence[str]) -> Array:
        """Column totals of (items, width) in every draw, (draws, width)."""
        grouped = np.zeros((len(self.names), sums.shape[1]))
        np.add.at(grouped, self.columns(units), sums)
        return np.asarray(self.weights.astype(np.float64) @ grouped)


def mean(values: Array, units: Sequence[str], draws: Draws, *, macro: bool = False) -> Array:
    """The mean of values; with `macro` the mean of the units' means."""
    sums = np.column_stack([np.ones_like(values), values])
    if macro:
        columns = draws.columns(units)
        sizes = np.bincount(columns, minlength=len(draws.names))[columns]
        sums = sums / sizes[:, None]
    totals = draws.totals(sums, units)
    return _divided(totals[:, 1], totals[:, 0])


def auc(scores: Array, labels: Array, units: Sequence[str], draws: Draws, strata: Sequence[str] = ()) -> Array:
    """P(an item with label 1 scores above one with label 0), equal scores one half; with `strata` of one stratum only.

    A unit drawn twice counts twice, so a pair of items counts by the product of how often both were drawn.
    """
    names = np.asarray(strata if len(strata) else [""] * len(scores))
    won, pairs = np.zeros(len(draws.weights)), np.zeros(len(draws.weights))
    for name in np.unique(names):
        inside = np.flatnonzero(names == name)
        order = inside[np.argsort(scores[inside], kind="stable")]
        starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)  # where a run of equal scores begins
        positive, at = labels[order] == 1, 0
        for weights in draws.chunks([units[place] for place in order]):
            up = np.add.reduceat(np.where(positive[:, None], weights, 0), starts, axis=0)
            down = np.add.reduceat(np.where(positive[:, None], 0, weights), starts, axis=0)
            below = np.cumsum(down, axis=0) - down / 2
            here = slice(at, at := at + weights.shape[1])
            won[here] += np.einsum("ij,ij->j", up, below, dtype=np.float64)
            pairs[here] += up.sum(axis=0, dtype=np.float64) * down.sum(axis=0, dtype=np.float64)
    return _divided(won, pairs)


def rank_correlation(scores: Array, labels: Array, units: Sequence[str], draws: Draws) -> Array:
    """Spearman's correlation; ranks are those of the whole sample."""
    from scipy.stats import rankdata

    x, y = (rankdata(values) - (len(values) + 1) / 2 for values in (scores, labels))
    totals = draws.totals(np.column_stack([np.ones_like(x), x, y, x * x, y * y, x * y]), units)
    n, a, b, aa, bb, ab = totals.T
    spread = (n * aa - a * a) * (n * bb - b * b)
    return _divided(n * ab - a * b, np.sqrt(np.where(spread > 1e-9, spread, np.nan)))


def level_agreement(
    found: Array, labels: Array, units: Sequence[str], draws: Draws, levels: Array | None = None
) -> dict[str, Array]:
    """Accuracy, macro-F1 and quadratically weighted kappa of found levels with labels.

    `levels` are all there can be, in order; without it those of the labels, and all found ones are among them.

    A level that a draw holds neither as label nor as found has no F1 there and is left out of the mean.
    """
    levels = np.unique(labels) if levels is None else levels
    k = len(levels)
    cells = np.searchsorted(levels, found) * k + np.searchsorted(levels, labels)
    table = draws.totals(np.eye(k * k)[cells], units).reshape(-1, k, k)
    hit = np.diagonal(table, axis1=1, axis2=2)
    said, true, n = table.sum(axis=2), table.sum(axis=1), table.sum(axis=(1, 2))
    present = said + true > 0
    f1 = 2 * hit / np.where(present, said + true, 1)
    weights = 1 - quadratic_weights(k)
    chance = _divided((said[:, :, None] * true[:, None, :] * weights).sum(axis=(1, 2)), n)
    return {
        "accuracy": _divided(hit.sum(axis=1), n),
        "macro-F1": _divided(f1.sum(axis=1), present.sum(axis=1)),
        "quadratic kappa": 1 - _divided((table * weights).sum(axis=(1, 2)), np.nan_to_num(chance)),
    }


def figure(draws: Array, n: int, unit: str) -> Figure:
    """Value and 95 % percentile interval as a figure; no interval where draws are too few or nothing varies."""
    rounded = {key: None if end is None else round(end, 4) for key, end in estimate(draws).items()}
    return Figure(value=rounded["value"], low=rounded["low"], high=rounded["high"], n=n, unit=unit)


def _divided(top: Array, bottom: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(bottom > 0, top / bottom, np.nan))
