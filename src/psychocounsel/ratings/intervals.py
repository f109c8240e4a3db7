"""Means, shares, rank correlations and kappas with 95 % intervals: a percentile bootstrap that resamples clusters.

Each figure is {"value", "low", "high", "n"}. The bounds are None under 10 clusters or where nothing varies; a share
then takes Wilson's interval over clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psychocounsel.ratings.reliability import coefficients, estimate, resample

RESAMPLES = 2_000
Column = NDArray[np.float64]


def mean(values: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """The mean of values; a cluster counts by how many values it has."""
    return {**estimate(_mean_draws(values, clusters)), "n": len(values)}


def share(values: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """The mean of values within 0 and 1."""
    return {**estimate(_mean_draws(values, clusters), len(set(clusters)) or None), "n": len(values)}


def rank_correlation(first: Sequence[float], second: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """Spearman's correlation, None where one side does not vary. Ranks are those of the whole sample."""
    from scipy.stats import rankdata

    x, y = (rankdata(values) - (len(values) + 1) / 2 for values in (first, second))
    draws = resample(np.column_stack([np.ones_like(x), x, y, x * x, y * y, x * y]), _units(clusters), RESAMPLES, 0)
    n, a, b, aa, bb, ab = draws.T
    spread = (n * aa - a * a) * (n * bb - b * b)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(spread > 1e-9, (n * ab - a * b) / np.sqrt(np.maximum(spread, 1e-9)), np.nan)
    return {**estimate(value), "n": len(x)}


def kappa(pairs: Sequence[tuple[float, float]], clusters: Sequence[str]) -> dict[str, Any]:
    """Cohen's kappa with quadratic weights of two scores of the same reply."""
    table = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    (found,) = coefficients([table], _units(clusters), raters=2, bootstrap=RESAMPLES)
    return {**estimate(found["kappa_quadratic"]), "n": len(pairs)}


def _mean_draws(values: Sequence[float], clusters: Sequence[str]) -> Column:
    """The mean, then the mean of every resample; nan without values."""
    column = np.asarray(values, dtype=np.float64)
    draws = resample(np.column_stack([np.ones_like(column), column]), _units(clusters), RESAMPLES, 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(draws[:, 1] / draws[:, 0])


def _units(clusters: Sequence[str]) -> NDArray[np.int64]:
    return np.unique(np.asarray(clusters, dtype=str), return_inverse=True)[1].astype(np.int64)
