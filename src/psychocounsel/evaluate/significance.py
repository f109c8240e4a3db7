"""Tests: is it more than chance, is one policy better than another, and what is left after many questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import (
    BLOCK,
    FEWEST,
    TINY,
    Array,
    Clusters,
    clusters_of,
    mean_draws,
    mean_interval,
    numbers,
)
from psychocounsel.evaluate.statistics import Figure, figure
from psychocounsel.records import Record

ALL_SIGNS = 13  # up to so many clusters every pattern of signs is tried: 8,192


class Difference(Record):
    """Value of the first policy minus that of the second, on the same speeches, with two p-values for no difference.

    `p` is that of the sign-flip test, which holds for any number of clusters; `p_bootstrap` that of the paired
    bootstrap, None where it has too little to draw from.
    """

    difference: Figure
    p: float
    p_bootstrap: float | None


class Adjusted(Record):
    """A p-value of a family, Holm's adjusted one, and whether the family's error rate allows to call it real."""

    p: float
    adjusted: float
    significant: bool


def sign_flip(values: Array, clusters: Clusters, *, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value for a mean of 0: the share of sign patterns with a mean as far from 0 as the observed one.

    `values` (n,) are differences, such as s_i - .5. A cluster keeps or turns the sign of its mean as a whole, and
    counts by how many values it has, as it does in the estimate. Up to 13 clusters all patterns are tried; beyond,
    `draws` random ones (Philox), with the observed one among them, so that p is never 0 (Phipson and Smyth 2010).

    Raises UserError without values or with one that is not a number.
    """
    found = numbers(values, "the permutation test")
    if not found.size:
        raise UserError("evaluate: the permutation test has no values; run the judges first")
    sums = clusters.totals(found)
    observed = abs(float(sums.sum())) - TINY * len(values)  # so that rounding cannot part equal sums
    count = len(sums)
    if count <= ALL_SIGNS:
        signs = 1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return float((np.abs(signs @ sums) >= observed).mean())
    random = np.random.Generator(np.random.Philox(seed))
    as_far, rows = 1, max(1, BLOCK // count)
    for start in range(0, draws, rows):
        signs = 1.0 - 2.0 * random.integers(0, 2, (min(rows, draws - start), count))
        as_far += int((np.abs(signs @ sums) >= observed).sum())
    return as_far / (draws + 1)


def paired_difference(
    first: Mapping[str, float],
    second: Mapping[str, float],
    clusters: Mapping[str, str],
    *,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Compare two policies by s_i on the same speeches: `first` and `second` give the value of each speech id.

    Raises UserError where one has speeches the other lacks: the easier half of two sets would decide.
    """
    ahead, behind = set(first) - set(second), set(second) - set(first)
    if ahead or behind:
        raise UserError(
            f"evaluate: the policies were judged on different speeches: {len(ahead)} only the first, {len(behind)} "
            f"only the second, {len(set(first) & set(second))} both; judge both on the same, or leave the others out"
        )
    names = sorted(first)
    unknown = [name for name in names if name not in clusters]
    if unknown:
        raise UserError(f"evaluate: {len(unknown)} judged speeches are not among those given, first {unknown[0]}")
    values = numbers([first[name] - second[name] for name in names], "the difference of two policies")
    if not values.size:
        raise UserError("evaluate: two policies cannot be compared on no speeches; run the judges first")
    numbered = clusters_of([clusters[name] for name in names])
    found = mean_interval(values, numbered, share=False, draws=bootstrap, seed=seed)
    enough = numbered.count >= FEWEST and float(np.ptp(values)) > TINY
    return Difference(
        difference=figure(float(values.mean()), found, len(values), "difference in share of speeches"),
        p=round(sign_flip(values, numbered, draws=bootstrap, seed=seed), 6),
        p_bootstrap=round(_bootstrap_p(values, numbered, bootstrap, seed), 6) if enough else None,
    )


def holm(p_values: Mapping[str, float], family: Sequence[str], alpha: float = 0.05) -> dict[str, Adjusted]:
    """Holm's (1979) step-down over a family of tests that was declared before they were run.

    `family` names every test; the result keeps its order. Raises UserError for an empty family or one with a name
    twice, a test without a p-value, an undeclared one, and a p-value outside 0 to 1.
    """
    from statsmodels.stats.multitest import multipletests

    if not family or len(set(family)) != len(family):
        raise UserError("evaluate: a family of tests needs names, each once; declare every test that was planned")
    missing, more = [n for n in family if n not in p_values], [n for n in p_values if n not in family]
    if missing or more:
        what = f"'{missing[0]}' has no p-value" if missing else f"'{more[0]}' was not declared"
        raise UserError(f"evaluate: of a family of {len(family)} tests, {what}; correct for all that were planned")
    found = np.array([p_values[name] for name in family], dtype=np.float64)
    if not ((found >= 0) & (found <= 1)).all():
        raise UserError(f"evaluate: the p-value of '{family[int(np.argmin((found >= 0) & (found <= 1)))]}' is not one")
    significant, adjusted, _, _ = multipletests(found, alpha=alpha, method="holm")
    return {
        name: Adjusted(p=float(p), adjusted=float(q), significant=bool(yes))
        for name, p, q, yes in zip(family, found, adjusted, significant, strict=True)
    }


def _bootstrap_p(values: Array, clusters: Clusters, bootstrap: int, seed: int) -> float:
    """Twice the smaller share of draws on either side of 0, the observed sample among them."""
    sums, sizes = clusters.totals(values), clusters.totals(np.ones_like(values))
    means = mean_draws(sums[:, None], sizes[:, None], bootstrap, seed)[:, 0]
    side = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (side + 1) / (bootstrap + 1))
