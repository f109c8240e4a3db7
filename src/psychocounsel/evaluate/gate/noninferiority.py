"""Is a candidate worse than a baseline by a margin or more? One-sided bounds and p-values of the difference.

The null hypothesis is a difference of -margin or less. It is rejected at level alpha exactly where the one-sided bound
of confidence 1 - alpha lies above -margin: bound and p-value come from the same draws or the same t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from psychocounsel.evaluate.clusters import (
    FEW,
    FEW_EVENTS,
    FEWEST,
    SKEWED,
    TINY,
    Array,
    Clusters,
    Interval,
    bca,
    bca_terms,
    cluster_t,
    clusters_of,
    left_out_means,
    mean_draws,
    mean_interval,
    percentile,
    skewness,
)
from psychocounsel.evaluate.contest.length import NEAR, controlled_draws
from psychocounsel.evaluate.results import ItemValue
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.records import Record

REFITS = 2_000  # of a regression, at most: each costs as much as many draws of a mean
Items = Mapping[str, ItemValue]


@dataclass(frozen=True)
class Question:
    """What is asked of a difference, and with how many draws. `lower` says that lower values are better."""

    margin: float
    alpha: float = 0.05
    draws: int = 10_000
    seed: int = 0
    lower: bool = False


class Evidence(Record):
    """The difference, candidate minus baseline, with its two-sided 95 % interval; the one-sided bound that is held to
    the margin (an upper one where lower is better), and p. Without a bound, `method` says why there is none."""

    value: float
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    p: float | None = None
    method: str

    def turned(self) -> Evidence:
        """The same with the sign of the difference turned."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        bound = None if self.bound is None else -self.bound
        return self.model_copy(update={"value": -self.value, "low": low, "high": high, "bound": bound})


def paired(candidate: Items, baseline: Items, test: Question) -> Evidence:
    """The mean difference over the items both have; items of near-duplicates stay together."""
    names = sorted(candidate.keys() & baseline.keys())
    first, second = (np.array([items[name].value for name in names]) for items in (candidate, baseline))
    values = second - first if test.lower else first - second
    shares = bool(min(first.min(), second.min()) >= 0 and max(first.max(), second.max()) <= 1)
    found = _of_mean(values, joined(candidate, baseline, names), shares, test)
    return found.turned() if test.lower else found


def length_controlled(candidate: Items, baseline: Items, test: Question) -> Evidence:
    """The difference of two length-controlled rates: both are fitted again for every draw of the same clusters."""
    names = sorted(candidate.keys() & baseline.keys())
    clusters = joined(candidate, baseline, names)
    fits = []
    for items in (candidate, baseline):
        if any(not {"chars_a", "chars_b"} <= items[name].known.keys() for name in names):
            return Evidence(value=0, method="no interval: the items hold no lengths (chars_a, chars_b)")
        mine, other = (np.array([items[name].known[key] for name in names]) for key in ("chars_a", "chars_b"))
        values = np.array([items[name].value for name in names])
        if values.min() < 0 or values.max() > 1:
            return Evidence(value=0, method="no interval: the items' values are not within 0 and 1")
        fit = controlled_draws(values, (mine, other), clusters, min(test.draws, REFITS), test.seed)
        if isinstance(fit, str):
            return Evidence(value=0, method=f"no interval: {fit}")
        fits.append(fit)
    (first, first_draws), (second, second_draws) = fits
    sign = -1 if test.lower else 1
    draws = sign * (first_draws - second_draws)
    found = _of_draws(sign * (first - second), draws[np.isfinite(draws)], clusters.count, test)
    return found.turned() if test.lower else found


def near_equal(items: Items) -> float:
    """Share of pairs whose lengths differ by less than half a standard deviation; 0 where lengths are not known."""
    longer = np.array([row.known.get("chars_a", np.nan) - row.known.get("chars_b", np.nan) for row in items.values()])
    return float((np.abs(longer) <= NEAR * np.std(longer)).mean())


def unpaired(candidate: Figure, baseline: Figure, test: Question) -> Evidence:
    """Two figures as if measured on different items: their intervals are combined (MOVER, Zou and Donner 2008).

    Where the items were the same the interval is too wide, and so errs on the safe side.
    """
    from scipy.stats import norm

    if test.lower:
        return unpaired(_turned(candidate), _turned(baseline), replace(test, lower=False)).turned()
    value = _number(candidate.value) - _number(baseline.value)
    if None in (candidate.low, candidate.high, baseline.low, baseline.high):
        return Evidence(value=value, method="no interval: there are no items in both, and a figure has none of its own")
    down = np.hypot(_number(candidate.value) - _number(candidate.low), _number(baseline.high) - _number(baseline.value))
    up = np.hypot(_number(candidate.high) - _number(candidate.value), _number(baseline.value) - _number(baseline.low))
    error = float(down / norm.ppf(0.975))
    if error <= TINY:
        return Evidence(value=value, method="no interval: those of both figures are empty")
    return Evidence(
        value=value,
        low=value - float(down),
        high=value + float(up),
        bound=value - float(norm.ppf(1 - test.alpha)) * error,
        p=float(norm.sf((value + test.margin) / error)),
        method="no items in both: intervals combined as if independent",
    )


def joined(candidate: Items, baseline: Items, names: list[str]) -> Clusters:
    """Clusters of the items: two belong together where either evaluation says so."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = (clusters_of([items[name].cluster for name in names]) for items in (candidate, baseline))
    size = first.count + second.count
    links = coo_array((np.ones(len(names)), (first.member, first.count + second.member)), shape=(size, size))
    count, label = connected_components(links, directed=False)
    return Clusters(np.asarray(label, dtype=np.int64)[first.member], int(count))


def _of_mean(values: Array, clusters: Clusters, shares: bool, test: Question) -> Evidence:
    """Exact where few clusters differ; else BCa where the draws are skewed, t under 300 clusters, percentiles."""
    sums, sizes = clusters.totals(values), clusters.totals(np.ones_like(values))
    value, count = float(values.mean()), clusters.count
    differing = int((clusters.totals(np.abs(values)) > TINY).sum())
    if shares and differing < FEW_EVENTS:
        return _exact(value, values, clusters, sums, sizes, test)
    if count < FEWEST or float(np.ptp(values)) <= TINY:
        why = f"under {FEWEST} clusters" if count < FEWEST else "every item differs by the same amount"
        return Evidence(value=value, method=f"no interval: {why}")
    draws = mean_draws(sums[:, None], sizes[:, None], test.draws, test.seed)[:, 0]
    if abs(skewness(draws)) > SKEWED:
        return _skewed(value, draws, left_out_means(sums, sizes), test)
    return _of_draws(value, draws, count, test, cluster_t(sums, sizes))


def _exact(value: float, values: Array, clusters: Clusters, sums: Array, sizes: Array, test: Question) -> Evidence:
    """Clopper and Pearson's bound of the share that is worse: each item of a worse cluster by 1, the others by nothing.

    Clusters of unequal size are worth 1 / sum of squared shares of equal ones (Kish 1965), so that a large one that is
    worse is not a rare event.
    """
    from scipy.stats import beta

    shares = sizes / sizes.sum()
    count = float(1 / (shares**2).sum())
    worse = float(shares[sums < -TINY].sum()) * count
    most, p = 1.0, 1.0
    if count - worse > TINY:
        most = float(beta.ppf(1 - test.alpha, worse + 1, count - worse))
        p = float(beta.sf(min(test.margin, 1.0), worse + 1, count - worse))
    low, high, _ = mean_interval(values, clusters, share=False, draws=test.draws, seed=test.seed)
    return Evidence(value=value, low=low, high=high, bound=-most, p=p, method="paired, exact: few items differ")


def _skewed(value: float, draws: Array, left_out: Array, test: Question) -> Evidence:
    """BCa: its one-sided bound, and the level at which that bound would be -margin."""
    from scipy.special import ndtr, ndtri

    bias, speed = bca_terms(value, draws, left_out)
    u = bias + float(ndtri(test.alpha))
    bound = float(np.quantile(draws, ndtr(bias + u / (1 - speed * u))))
    w = float(ndtri(_share_below(draws, -test.margin))) - bias
    p = float(ndtr(w / (1 + speed * w) - bias)) if 1 + speed * w > 0 else 1.0  # beyond: no level reaches so far
    low, high, method = bca(value, draws, left_out)
    return Evidence(value=value, low=low, high=high, bound=bound, p=p, method=f"paired, {method}")


def _of_draws(value: float, draws: Array, count: int, test: Question, interval: Interval | None = None) -> Evidence:
    """Student's t under 300 clusters (by `interval`, or the spread of the draws); percentiles else, or where skewed."""
    from scipy.stats import t

    if count < FEWEST or len(draws) < 2 or float(np.ptp(draws)) <= TINY:
        why = f"under {FEWEST} clusters" if count < FEWEST else "the draws do not vary"
        return Evidence(value=value, method=f"no interval: {why}")
    if count >= FEW or abs(skewness(draws)) > SKEWED:
        low, high, method = percentile(draws)
        bound, p = float(np.quantile(draws, test.alpha)), _share_below(draws, -test.margin)
        return Evidence(value=value, low=low, high=high, bound=bound, p=p, method=f"paired, {method}")
    far = float(t.ppf(0.975, count - 1))
    half = float(draws.std()) * far if interval is None else _number(interval.high) - value
    error = half / far
    return Evidence(
        value=value,
        low=value - half,
        high=value + half,
        bound=value - float(t.ppf(1 - test.alpha, count - 1)) * error,
        p=float(t.sf((value + test.margin) / error, count - 1)),
        method="paired, cluster t",
    )


def _share_below(draws: Array, bound: float) -> float:
    """Share of draws at or under the bound, the observed sample among them, so that it is never 0 (nor 1)."""
    return (int((draws <= bound).sum()) + 1) / (len(draws) + 2)


def _turned(figure: Figure) -> Figure:
    value, low, high = (None if end is None else -end for end in (figure.value, figure.high, figure.low))
    return Figure(value=value, low=low, high=high, n=figure.n, unit=figure.unit)


def _number(value: float | None) -> float:
    """A value that was looked at before: undefined figures are not compared."""
    assert value is not None
    return value
