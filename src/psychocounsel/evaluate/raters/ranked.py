"""Do raters put the items of one speech in the same order? Pairs ordered alike, Kendall's tau-b, Spearman's rho."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from psychocounsel.evaluate.raters.answers import Array, Codes
from psychocounsel.ratings.order import order_agreement, order_sums
from psychocounsel.ratings.reliability import estimate, resample

FEWEST = 3  # items of a speech from which a rank correlation says more than a single comparison
SHARES = ("alike", "gamma", "three_way", "three_way_kappa")


def order_between(
    pairs: Sequence[tuple[Array, Array]], among: Codes, units: Codes, *, bootstrap: int = 0, seed: int = 0
) -> dict[str, Any] | None:
    """Agreement in order over all pairs of raters, each as two columns (items,); None where no two items compete.

    `alike`: of couples of items that both raters order, the share ordered alike (ties dropped); `gamma` = 2 alike - 1;
    `three_way` counts a tie as a verdict of its own; `tau` and `spearman` are means over speeches with three or more
    items and pairs of raters; `undefined` counts those left out because a rater ties all items of the speech.
    """
    parts, rows, ranks = [], [], []
    for first, second in pairs:
        shared = np.flatnonzero(np.isfinite(first) & np.isfinite(second) & (among >= 0))
        sums, place = order_sums(first[shared], second[shared], among[shared])
        parts.append(sums)
        rows.append(shared[place])
        ranks += _correlations(first[shared], second[shared], among[shared], units[shared])
    sums, at = np.vstack(parts), np.concatenate(rows)
    if not len(sums):
        return None
    _, drawn = np.unique(units[at], return_inverse=True)
    found, _ = order_agreement(sums, drawn.astype(np.int64), bootstrap=bootstrap, seed=seed)
    return {**found, **_rank_means(ranks, bootstrap, seed)}


def _rank_means(ranks: Sequence[tuple[int, float, float]], bootstrap: int, seed: int) -> dict[str, Any]:
    table = np.array(ranks, dtype=float).reshape(-1, 3)
    known = np.isfinite(table).all(axis=1)
    used = table[known]
    sums = np.column_stack([np.ones(len(used)), used[:, 1:]])
    _, drawn = np.unique(used[:, 0], return_inverse=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = resample(sums, drawn.astype(np.int64), bootstrap, seed, max(int(drawn.max(initial=-1)) + 1, 1))
        means = draws[:, 1:] / draws[:, :1]
    made = {"tau": estimate(means[:, 0]), "spearman": estimate(means[:, 1])}
    return {**made, "rankings": int(known.sum()), "undefined": int((~known).sum())}


def _correlations(first: Array, second: Array, among: Codes, units: Codes) -> list[tuple[int, float, float]]:
    """Unit, tau-b and Spearman's rho for each speech; NaN where a rater ties all of its items."""
    from scipy.stats import kendalltau, spearmanr

    found = []
    order = np.argsort(among, kind="stable")
    _, start = np.unique(among[order], return_index=True)
    for rows in np.split(order, start[1:]):
        if len(rows) < FEWEST:
            continue
        varied = np.ptp(first[rows]) > 0 and np.ptp(second[rows]) > 0
        tau, rho = (
            (kendalltau(first[rows], second[rows]).statistic, spearmanr(first[rows], second[rows]).statistic)
            if varied
            else (np.nan, np.nan)
        )
        found.append((int(units[rows[0]]), float(tau), float(rho)))
    return found
