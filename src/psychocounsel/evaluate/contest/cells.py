"""Win rates of topics, pulled towards the common one by as much as chance alone would have parted them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import TINY, Array, clusters_of, numbers
from psychocounsel.records import Record

LOOSEST = 1e-2  # fewest prior trials
FEWEST_CELLS = 5  # under so many, nobody can tell how far topics differ: Jeffreys' prior, which hardly pulls


class Cell(Record):
    """One topic: `value` as measured, `shrunk` with the 95 % interval `low` to `high` of its posterior.

    `weight` is how far the topic's own figure counts, 0 (all from the others) to 1.
    """

    cell: str
    n: int
    clusters: int
    value: float
    shrunk: float
    low: float
    high: float
    weight: float


class Prior(NamedTuple):
    """The beta distribution of the topics' rates: its mean, and how many trials it is worth."""

    mean: float
    trials: float


def shrunk_cells(values: Sequence[float], clusters: Sequence[str], cells: Sequence[str]) -> list[Cell]:
    """Empirical Bayes over cells: rates are beta distributed, the values of a cell binomial around its rate.

    `values` (n,) lie within 0 and 1, with their cluster and cell. Means over judges and orders vary less than coins,
    and near-duplicates say the same twice: a value therefore counts as many trials as make the binomial variance equal
    to the variance between clusters within cells. The prior is the beta-binomial of the highest likelihood (Skellam
    1948; Efron and Morris 1975). Intervals take it as known, and so are somewhat narrow for a handful of cells.

    Raises UserError for no values, values outside 0 to 1, and lists of unequal length.
    """
    from scipy.stats import beta

    column = numbers(values, "the topics")
    if not column.size or len(column) != len(clusters) or len(column) != len(cells):
        raise UserError("evaluate: topics need values, and a cluster and a topic for each; leave nothing out")
    if column.min() < 0 or column.max() > 1:
        raise UserError("evaluate: a value of a topic lies outside 0 to 1; give shares, not scores")
    names = sorted(set(cells))
    groups = clusters_of(cells)
    n, total = groups.totals(np.ones_like(column)), groups.totals(column)
    both = clusters_of([f"{cell}\x00{cluster}" for cell, cluster in zip(cells, clusters, strict=True)])
    rest = both.totals(column - (total / n)[groups.member])
    scale = _trials(n, total, float((rest**2).sum()))
    prior = fit_prior(total * scale, n * scale)
    a, b = prior.mean * prior.trials + total * scale, (1 - prior.mean) * prior.trials + (n - total) * scale
    low, high = beta.ppf(0.025, a, b), beta.ppf(0.975, a, b)
    held = [len({c for c, cell in zip(clusters, cells, strict=True) if cell == name}) for name in names]
    return [
        Cell(
            cell=name, n=int(n[k]), clusters=held[k], value=round(float(total[k] / n[k]), 4),
            shrunk=round(float(a[k] / (a[k] + b[k])), 4), low=round(float(low[k]), 4), high=round(float(high[k]), 4),
            weight=round(float(n[k] * scale / (n[k] * scale + prior.trials)), 4),
        )
        for k, name in enumerate(names)
    ]  # fmt: skip


def fit_prior(wins: Array, trials: Array) -> Prior:
    """The beta-binomial of highest likelihood for (cells,) wins of (cells,) trials, which need not be whole numbers.

    It is worth at most as many trials as were made: nobody knows the common rate better than that.
    """
    from scipy.optimize import minimize
    from scipy.special import betaln, expit

    if len(wins) < FEWEST_CELLS:
        return Prior(0.5, 1.0)
    start = float(np.clip((wins.sum() + 0.5) / (trials.sum() + 1), 1e-6, 1 - 1e-6))

    def loss(at: Array) -> float:
        mean, worth = float(expit(at[0])), float(np.exp(at[1]))
        a, b = mean * worth, (1 - mean) * worth
        return -float((betaln(a + wins, b + trials - wins) - betaln(a, b)).sum())

    bounds = [(-14.0, 14.0), (np.log(LOOSEST), np.log(max(float(trials.sum()), 1.0)))]
    centre = np.log(start / (1 - start))
    tries = [minimize(loss, [centre, np.log(worth)], method="L-BFGS-B", bounds=bounds) for worth in (1.0, 30.0, 1e3)]
    best = min(tries, key=lambda found: float(found.fun))
    return Prior(float(expit(best.x[0])), float(np.exp(best.x[1])))


def _trials(n: Array, total: Array, rest: float) -> float:
    """Binomial trials one value is worth: 1 for independent 0/1 values, more for means, less for near-duplicates."""
    coin = float((total * (1 - total / n)).sum())
    return coin / rest if rest > TINY and coin > TINY else 1.0
