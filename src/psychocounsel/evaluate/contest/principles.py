"""Win rates by principle, and what a verdict on each is worth in the overall one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from psychocounsel.evaluate.clusters import FEWEST, TINY, Array, Clusters, Interval
from psychocounsel.evaluate.contest.verdicts import UNIT, Ballots, ballots, part_of
from psychocounsel.evaluate.logit import exact, fit_logit
from psychocounsel.evaluate.significance import holm, sign_flip
from psychocounsel.evaluate.statistics import Figure, figure, mean_figure
from psychocounsel.principles import Principle
from psychocounsel.records import Record, Verdict

PER_WEIGHT = 10  # clusters for each column of the logit: with fewer, weights are noise


class PrincipleRate(Record):
    """The win rate by one principle. `adjusted` is Holm's p over all principles; `weight` the change in log odds of the
    overall verdict from a lost to a won verdict on this principle, the others held equal; None where nobody can tell.
    """

    id: str
    name: str
    win_rate: Figure
    p: float | None
    adjusted: float | None
    weight: Figure | None


def principle_values(
    verdicts: Sequence[Verdict], clusters: Mapping[str, str], principles: Sequence[Principle], judges: Sequence[str]
) -> dict[str, Array]:
    """s_i by principle id, each of shape (speeches,) in the order of `ballots`; NaN where no judge has a verdict."""
    tables = {principle.id: ballots(verdicts, clusters, principle.id) for principle in principles}
    return {key: table.by_speech(judges) for key, table in tables.items()}


def principle_rates(
    table: Ballots,
    overall: Array,
    values: Mapping[str, Array],
    principles: Sequence[Principle],
    *,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> list[PrincipleRate]:
    """One row for each principle. `overall` and `values` are s_i of the same speeches, those of `table`."""
    settings = {"bootstrap": bootstrap, "seed": seed}
    rates, tested = {}, {}
    for principle in principles:
        column = values[principle.id]
        known = np.isfinite(column)
        clusters = part_of(table.clusters, known)
        rates[principle.id] = mean_figure(column[known], clusters, UNIT, share=True, **settings)
        if known.any():
            tested[principle.id] = sign_flip(column[known] - 0.5, clusters, draws=bootstrap, seed=seed)
    family = [principle.id for principle in principles if principle.id in tested]
    adjusted = holm(tested, family) if family else {}
    weights = implied_weights(overall, values, table.clusters)
    return [
        PrincipleRate(
            id=one.id,
            name=one.name,
            win_rate=rates[one.id],
            p=round(tested[one.id], 6) if one.id in tested else None,
            adjusted=round(adjusted[one.id].adjusted, 6) if one.id in adjusted else None,
            weight=weights.get(one.id),
        )
        for one in principles
    ]


def implied_weights(overall: Array, values: Mapping[str, Array], clusters: Clusters) -> dict[str, Figure]:
    """logit E[overall] = theta + sum_p beta_p (s_p - .5), fitted together, with cluster-robust 95 % intervals.

    Only over speeches with a verdict on every principle that varies. {} where the weights cannot be told apart: too
    few clusters, principles that say the same, or an overall verdict that they decide without an error.
    """
    varied = {key: column for key, column in values.items() if _varies(column)}
    if not varied:
        return {}
    columns = np.column_stack([np.ones(len(overall)), *(column - 0.5 for column in varied.values())])
    known = np.isfinite(overall) & np.isfinite(columns).all(axis=1)
    y, x, part = overall[known], columns[known], part_of(clusters, known)
    if part.count < max(FEWEST, PER_WEIGHT * x.shape[1]) or float(np.ptp(y)) <= TINY:
        return {}
    if np.linalg.matrix_rank(x) < x.shape[1]:
        return {}
    fit = fit_logit(y, x, np.ones((1, len(y))))
    if fit.penalised[0] or exact(y, x, fit.beta[0]):
        return {}
    from scipy.stats import t
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    found = GLM(y, x, family=Binomial()).fit(cov_type="cluster", cov_kwds={"groups": part.member})
    halves = t.ppf(0.975, part.count - 1) * found.bse
    return {
        key: figure(float(value), Interval(value - half, value + half, "cluster-robust"), len(y), "log odds")
        for key, value, half in zip(varied, found.params[1:], halves[1:], strict=True)
    }


def _varies(column: Array) -> bool:
    known = column[np.isfinite(column)]
    return bool(known.size and float(np.ptp(known)) > TINY)
