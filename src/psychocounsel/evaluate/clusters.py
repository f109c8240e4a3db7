"""Intervals over clusters: the bootstrap with multinomial weights, BCa where it is skewed, Student's t for few.

A cluster is a group of near-duplicate speeches: what is hard about one is hard about all, so a cluster is drawn whole.
Weights are made in blocks, and the last two sets are kept as small integers: 10,000 draws of 2,324 clusters need 80 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from psychocounsel.errors import UserError
from psychocounsel.ratings.reliability import wilson

Array = NDArray[np.float64]
FEWEST = 10  # under so many clusters there is too little to draw from
FEW = 300  # under so many, Student's t: the percentile interval is then a little too narrow
SKEWED = 0.5  # skewness of the draws from which neither t nor the percentiles are trusted
FEW_VALUES = 100  # a share of fewer values gets Wilson's interval
FEW_EVENTS = 10  # a share with fewer events, or fewer non-events, gets Clopper and Pearson's
BLOCK = 2**21  # weights in one block
KEPT = 2**25  # weights that are kept at most, in two bytes each: 10,000 draws of 3,355 clusters
TINY = 1e-12


class Interval(NamedTuple):
    """A 95 % interval and how it was made; None and the reason where there is none."""

    low: float | None
    high: float | None
    method: str


@dataclass(frozen=True)
class Clusters:
    """The cluster of each value, 0 to count - 1. `member` has shape (values,)."""

    member: NDArray[np.int64]
    count: int

    def totals(self, values: Array) -> Array:
        """Sums by cluster of (values,) or (values, k): (count,) or (count, k)."""
        columns = (values[:, None] if values.ndim == 1 else values).T
        sums = np.stack([np.bincount(self.member, weights=column, minlength=self.count) for column in columns], axis=1)
        return np.asarray(sums[:, 0] if values.ndim == 1 else sums, dtype=np.float64)


def clusters_of(names: Sequence[str]) -> Clusters:
    """Number the clusters by name, so that the order of the values does not matter."""
    found, member = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    return Clusters(np.asarray(member, dtype=np.int64).reshape(-1), len(found))


def numbers(values: ArrayLike, what: str) -> Array:
    """The values as floats. Raises UserError for NaN or infinity: a missing value must be left out, and counted."""
    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        wrong = int((~np.isfinite(found)).sum())
        raise UserError(f"evaluate: {what}: {wrong} of {found.size} are not numbers; leave missing ones out, and count")
    return found


def weight_blocks(count: int, draws: int, seed: int, block: int = BLOCK) -> Iterator[Array]:
    """How often each of `count` clusters is drawn: blocks of shape (some draws, count) whose rows add up to `count`.

    Multinomial weights by Philox. Equal counts and seeds give equal draws, whatever the size of a block; an evaluation
    asks for the same ones dozens of times, so the last are kept where they are few enough.
    """
    rows = max(1, block // max(count, 1))
    if count <= np.iinfo(np.uint16).max and count * draws <= KEPT:
        whole = _kept(count, draws, seed)
        for start in range(0, draws, rows):
            yield whole[start : start + rows].astype(np.float64)
        return
    yield from _drawn(count, draws, seed, rows)


@lru_cache(maxsize=2)
def _kept(count: int, draws: int, seed: int) -> NDArray[np.uint16]:
    """All weights at once, as small integers, (draws, count): none can be more than `count`."""
    whole, rows = np.empty((draws, count), dtype=np.uint16), max(1, BLOCK // (4 * max(count, 1)))
    for place, part in enumerate(_drawn(count, draws, seed, rows)):
        whole[place * rows : place * rows + len(part)] = part
    return whole


def _drawn(count: int, draws: int, seed: int, rows: int) -> Iterator[Array]:
    random = np.random.Generator(np.random.Philox(seed))
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        picked = random.integers(0, count, (size, count)) + np.arange(size)[:, None] * count
        yield np.bincount(picked.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def mean_draws(sums: Array, sizes: Array, draws: int, seed: int) -> Array:
    """Bootstrap draws of means: `sums` and `sizes` by cluster, (clusters, k), give (draws, k); NaN where nothing fell.

    All k columns see the same draws, so that differences of columns have draws of their own.
    """
    found = [np.zeros((0, sums.shape[1]))]
    with np.errstate(divide="ignore", invalid="ignore"):
        found += [(weights @ sums) / (weights @ sizes) for weights in weight_blocks(len(sums), draws, seed)]
    return np.vstack(found)


def left_out_means(sums: Array, sizes: Array) -> Array:
    """The mean without each cluster in turn (the jackknife); both by cluster, (clusters,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((sums.sum() - sums) / (sizes.sum() - sizes))


def skewness(draws: Array) -> float:
    """Third standardised moment; 0 where nothing varies."""
    centred = draws - draws.mean()
    spread = float(np.sqrt((centred**2).mean()))
    return float((centred**3).mean() / spread**3) if spread > TINY else 0.0


def percentile(draws: Array) -> Interval:
    """Efron's percentile interval of bootstrap draws."""
    low, high = (float(end) for end in np.percentile(draws, [2.5, 97.5]))
    return Interval(low, high, "percentile")


def bca(value: float, draws: Array, left_out: Array) -> Interval:
    """Bias-corrected and accelerated (Efron 1987); `left_out` are the jackknife values, one without each cluster."""
    from scipy.special import ndtr, ndtri

    bias, speed = bca_terms(value, draws, left_out)
    z = bias + ndtri(np.array([0.025, 0.975]))
    low, high = np.quantile(draws, ndtr(bias + z / (1 - speed * z)))
    return Interval(float(low), float(high), "BCa")


def bca_terms(value: float, draws: Array, left_out: Array) -> tuple[float, float]:
    """The correction for bias and the acceleration of a BCa interval."""
    from scipy.special import ndtri

    below = float((draws < value).mean() + (draws == value).mean() / 2)
    edge = 0.5 / len(draws)
    bias = float(ndtri(min(max(below, edge), 1 - edge)))
    pull = left_out.mean() - left_out
    spread = float((pull**2).sum()) ** 1.5
    return bias, float((pull**3).sum()) / (6 * spread) if spread > TINY else 0.0


def of_draws(value: float, draws: Array, left_out: Array | None = None) -> Interval:
    """Percentiles of the draws; BCa where they are skewed and the jackknife is given. Undefined draws are left out."""
    defined = draws[np.isfinite(draws)]
    if len(defined) < 2 or float(np.ptp(defined)) <= TINY:
        return Interval(None, None, "the draws do not vary")
    if left_out is not None and abs(skewness(defined)) > SKEWED:
        return bca(value, defined, left_out)
    return percentile(defined)


def cluster_t(sums: Array, sizes: Array) -> Interval:
    """Student's t of a mean with clusters - 1 degrees of freedom and the linearised variance (Cochran 1977, ch. 6)."""
    from scipy.stats import t

    count, total = len(sums), sizes.sum()
    value = float(sums.sum() / total)
    rest = sums - value * sizes
    half = float(t.ppf(0.975, count - 1) * np.sqrt(count / (count - 1) * (rest**2).sum()) / total)
    return Interval(value - half, value + half, "cluster t")


def clopper_pearson(share: float, n: float) -> Interval:
    """The exact interval of a share of n (Clopper and Pearson 1934); n and the events need not be whole numbers."""
    from scipy.stats import beta

    events = share * n
    low = 0.0 if events <= TINY else float(beta.ppf(0.025, events, n - events + 1))
    high = 1.0 if n - events <= TINY else float(beta.ppf(0.975, events + 1, n - events))
    return Interval(low, high, "Clopper-Pearson")


def mean_interval(values: Array, clusters: Clusters, *, share: bool, draws: int = 10_000, seed: int = 0) -> Interval:
    """The 95 % interval of the mean of (values,). `share`: every value lies within 0 and 1 by its nature.

    In this order: under 10 clusters or without variation, and for 0/1 shares of under 100 values, Wilson's interval
    over clusters (none where the mean is not a share); for shares with under 10 events or non-events, Clopper and
    Pearson's over clusters; where the bootstrap is skewed, BCa; under 300 clusters, Student's t; else the percentiles
    of the bootstrap.

    A share counts clusters and not values, as if each cluster had been seen once: many values of one speech say no more
    than one speech can.
    """
    sums, sizes = clusters.totals(values), clusters.totals(np.ones_like(values))
    value, count = float(sums.sum() / sizes.sum()), clusters.count
    flat = float(np.ptp(values)) <= TINY
    if share and (count < FEWEST or flat or (len(values) < FEW_VALUES and _all_or_nothing(values))):
        return Interval(*wilson(min(max(value, 0.0), 1.0), count), "Wilson")
    if count < FEWEST or flat:
        return Interval(None, None, "nothing varies" if flat else f"under {FEWEST} clusters")
    if share and min(value, 1 - value) * count < FEW_EVENTS:
        return clopper_pearson(value, count)
    means = mean_draws(sums[:, None], sizes[:, None], draws, seed)[:, 0]
    if abs(skewness(means)) > SKEWED:
        return bca(value, means, left_out_means(sums, sizes))
    found = cluster_t(sums, sizes) if count < FEW else percentile(means)
    return _within(found) if share else found


def _all_or_nothing(values: Array) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _within(found: Interval) -> Interval:
    """No share is under 0 or over 1, though t may say so."""
    if found.low is None or found.high is None:
        return found
    return Interval(max(0.0, found.low), min(1.0, found.high), found.method)
