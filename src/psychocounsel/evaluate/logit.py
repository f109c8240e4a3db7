"""Fractional logit by Newton's method, for many sets of weights at once: what a bootstrap of a regression needs.

A separated sample has no finite optimum. Its fit is penalised by 1e-3 / 2 * |beta|^2 per unit of weight; no other is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psychocounsel.evaluate.clusters import Array

RIDGE = 1e-3
STEPS = 30
FARTHEST = 15.0  # a linear predictor beyond it (a chance of 3e-7) tells of separation, not of data
CLOSE = 1e-10
EXACT = 1e-6  # residuals below it: the columns tell every value, and there is no error to measure by


class Fits(NamedTuple):
    """Coefficients (draws, columns), and which of them needed the penalty, (draws,)."""

    beta: Array
    penalised: NDArray[np.bool_]


def fit_logit(values: Array, columns: Array, weights: Array, start: Array | None = None) -> Fits:
    """Maximise sum_i w_i (y_i log mu_i + (1 - y_i) log(1 - mu_i)), mu = sigma(X beta), for each row of weights.

    `values` y (n,) within 0 and 1, `columns` X (n, p) with the constant among them, `weights` (draws, n) >= 0. The
    estimating equations are those of the quasi-likelihood of Papke and Wooldridge (1996); `start` (p,) saves steps.
    """
    products = np.einsum("np,nq->npq", columns, columns).reshape(len(columns), -1)
    first = np.zeros(columns.shape[1]) if start is None else start
    beta, settled = _newton(values, columns, products, weights, first, 0.0)
    separated = ~settled | ~np.isfinite(beta).all(axis=1)
    separated |= np.abs(np.where(np.isfinite(beta), beta, 0.0) @ columns.T).max(axis=1) > FARTHEST
    if separated.any():
        rows = weights[separated]
        beta[separated], _ = _newton(values, columns, products, rows, np.zeros(columns.shape[1]), RIDGE)
    return Fits(beta, np.asarray(separated, dtype=bool))


def exact(values: Array, columns: Array, beta: Array) -> bool:
    """Whether coefficients (p,) tell every value without an error; an interval of them would have no width at all."""
    return bool(np.abs(values - 1 / (1 + np.exp(-np.clip(columns @ beta, -30, 30)))).max() < EXACT)


def refit(values: Array, columns: Array, blocks: Iterable[Array], start: Array) -> Fits:
    """`fit_logit` for blocks of weights of shape (some draws, n), one after another, so that memory stays bounded."""
    found = [fit_logit(values, columns, block, start) for block in blocks]
    return Fits(np.vstack([part.beta for part in found]), np.concatenate([part.penalised for part in found]))


def _newton(
    values: Array, columns: Array, products: Array, weights: Array, start: Array, ridge: float
) -> tuple[Array, NDArray[np.bool_]]:
    """Newton steps until all gradients vanish; those that are done are left alone. (draws, p), and which settled."""
    p = columns.shape[1]
    beta = np.tile(start, (len(weights), 1))
    settled = np.zeros(len(weights), dtype=bool)
    mass = weights.sum(axis=1)
    for _ in range(STEPS):
        rows = np.flatnonzero(~settled)
        w, at = weights[rows], beta[rows]
        mu = 1 / (1 + np.exp(-np.clip(at @ columns.T, -30, 30)))
        penalty = ridge * mass[rows]
        slope = (w * (values - mu)) @ columns - penalty[:, None] * at
        curve = ((w * mu * (1 - mu)) @ products).reshape(-1, p, p)
        curve += (penalty + 1e-12 * mass[rows])[:, None, None] * np.eye(p)
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        beta[rows] = at + np.clip(step, -5, 5)  # a longer step leaves the region where the curve tells anything
        settled[rows] = (np.abs(slope).max(axis=1) <= CLOSE * mass[rows]) & (np.abs(step).max(axis=1) < 1e-6)
        if settled.all():
            break
    return beta, settled
