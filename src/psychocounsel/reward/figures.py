"""How well a reward model's probabilities agree with the labels of pairs, with intervals by speech cluster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from psychocounsel.errors import UserError
from psychocounsel.ratings.reliability import estimate, resample
from psychocounsel.records import Record

BINS = 15
Array = NDArray[np.float64]


class Measured(Record):
    """A figure with its 95 % interval; None where it is undefined or there is too little to draw from."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Figures(Record):
    """How well probabilities agree with the labels of `n` pairs in `clusters` clusters of speeches."""

    n: int
    clusters: int
    accuracy: Measured
    nll: Measured
    brier: Measured
    ece: Measured
    auc: Measured


def calibration_figures(
    differences: ArrayLike,
    won: ArrayLike,
    clusters: Sequence[str],
    temperature: float = 1.0,
    *,
    bootstrap: int = 2_000,
    seed: int = 0,
) -> Figures:
    """Figures of P = sigma(differences / temperature) against `won`; both (pairs,), `clusters` one name per pair.

    - accuracy: share of pairs whose winner has the higher reward; equal rewards count one half
    - nll: mean of -ln P(winner); brier: mean of (P - won)^2
    - ece: sum over 15 bins of equal mass of (share of pairs in the bin) * |mean P - mean won| (Guo et al. 2017, with
      bins by rank; equal P share a bin, so that the order of the pairs cannot matter)
    - auc: share of (won, lost) couples of pairs whose won one has the higher P, ties one half (Hanley, McNeil 1982)

    Intervals of accuracy, nll, brier and ece resample clusters. A draw adds noise, and noise only raises the ece; its
    draws are therefore moved down by their mean excess. Bins stay those of the whole sample.
    """
    from scipy.special import expit

    d, y = finite(differences, "difference"), np.asarray(won, dtype=np.float64)
    ahead = np.where(y > 0.5, d, -d)
    p = np.asarray(expit(d / temperature))
    loss = np.logaddexp(0, -ahead / temperature)
    parts = [np.ones_like(d), np.where(ahead == 0, 0.5, ahead > 0), loss, (p - y) ** 2]
    bins = equal_mass_bins(p)
    excess = np.zeros((len(d), BINS))
    excess[np.arange(len(d)), bins] = p - y
    units = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)[1].astype(np.int64)
    draws = resample(np.column_stack([*parts, excess]), units, bootstrap, seed)
    count, means = draws[:, 0], draws[:, 1:4] / draws[:, :1]
    ece = np.abs(draws[:, 4:]).sum(axis=1) / count
    if len(ece) > 1:
        ece[1:] = np.maximum(0, ece[1:] - (ece[1:].mean() - ece[0]))
    names = len(set(clusters))
    return Figures(
        n=len(d),
        clusters=names,
        accuracy=Measured(**estimate(means[:, 0], names)),
        nll=Measured(**estimate(means[:, 1])),
        ece=Measured(**estimate(ece)),
        brier=Measured(**estimate(means[:, 2])),
        auc=Measured(value=_auc(p, y)),
    )


def equal_mass_bins(p: Array) -> NDArray[np.int64]:
    """The bin, 0 to 14, of each of (pairs,) probabilities: by rank, equal ones together."""
    from scipy.stats import rankdata

    return np.asarray((rankdata(p, method="min") - 1) * BINS // len(p), dtype=np.int64)


def _auc(p: Array, y: Array) -> float | None:
    """Mann and Whitney's U over the number of couples; None where all pairs have one label."""
    from scipy.stats import rankdata

    ones = int((y > 0.5).sum())
    couples = ones * (len(y) - ones)
    if not couples:
        return None
    return round(float((rankdata(p)[y > 0.5].sum() - ones * (ones + 1) / 2) / couples), 6)


def finite(values: ArrayLike, what: str) -> Array:
    """The values as an array. Raises UserError for one that is not a number."""
    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise UserError(f"calibration: a {what} is not a number; retrain the model with a lower rate")
    return found
