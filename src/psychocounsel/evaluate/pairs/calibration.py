"""How well rewards (or a judge's scores) order replies, how sure they may be, and how much of it is length.

Figures of one model on held-out pairs. Sides are drawn by content hash first (`reward.calibrate.draw_sides`): with the
chosen reply always first, AUC and calibration error would say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import (
    FEWEST,
    TINY,
    Array,
    Clusters,
    Interval,
    clusters_of,
    mean_draws,
    numbers,
    of_draws,
)
from psychocounsel.evaluate.contest.judges import slope
from psychocounsel.evaluate.human.resampling import Draws, auc
from psychocounsel.evaluate.human.resampling import figure as drawn_figure
from psychocounsel.evaluate.logit import fit_logit
from psychocounsel.evaluate.statistics import Figure, cluster_mean, figure
from psychocounsel.records import Record
from psychocounsel.reward.calibrate import Sides, fit_temperature
from psychocounsel.reward.figures import BINS, Figures, calibration_figures, equal_mass_bins

ALIKE = 0.10  # lengths within a tenth of the longer one count as equal
MOST_DRAWS = 2_000  # behind areas under the curve, which are slow to draw
MOST_APART = 0.05  # between accuracy where the chosen reply is longer and where it is shorter


class Bin(Record):
    """One of 15 bins of equal mass: mean probability `said`, share `won`, and the 95 % band of that share."""

    said: float
    won: float
    low: float | None
    high: float | None
    n: int


class Held(Record):
    """Figures on test pairs at temperature 1 and at the one fitted on `fitted` other pairs, with the curve at the
    latter."""

    temperature: float
    fitted: int = 0
    note: str
    before: Figures
    after: Figures
    curve: tuple[Bin, ...]


class LengthProbes(Record):
    """Accuracy where the chosen reply is longer, shorter, or within a tenth; and what length alone would do.

    `apart` is accuracy where it is longer minus where it is shorter, and `passes` whether its value is within 5 points
    either way (None where one of them has no pair). `per_log_length` is by how much the reward difference grows with
    the difference in log length. `length_only` is the accuracy of a logistic regression on that alone, fitted on
    other pairs; None without any.
    """

    longer: Figure
    shorter: Figure
    within: Figure
    apart: Figure
    passes: bool | None
    per_log_length: Figure
    length_only: Figure


def best_of(
    scores: ArrayLike,
    best: Sequence[int],
    clusters: Sequence[str],
    *,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> Figure:
    """Share of speeches whose best reply has the highest score; `scores` (speeches, replies), `best` its column.

    Where it shares the highest score with others, k in all, it earns 1/k: what drawing lots would give. NaN marks a
    reply that is not there. Raises UserError where the best reply has no score.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not len(table) == len(best) == len(clusters):
        raise UserError("evaluate: best-of needs a row of scores, the best reply and a cluster for each speech")
    if len(table) and (min(best) < 0 or max(best) >= table.shape[1]):
        raise UserError("evaluate: best-of names a reply beyond the row of scores; count replies from 0")
    own = table[np.arange(len(table)), np.asarray(best, dtype=np.int64)]
    if np.isnan(own).any():
        raise UserError(f"evaluate: in {int(np.isnan(own).sum())} speeches the best reply has no score; score it first")
    behind = np.where(np.isnan(table), False, table > own[:, None]).any(axis=1)
    credit = np.where(behind, 0.0, 1 / np.maximum((table == own[:, None]).sum(axis=1), 1))
    return cluster_mean(credit.tolist(), clusters, "share of speeches", bootstrap=bootstrap, seed=seed)


def held_calibration(validation: Sides, test: Sides, *, bootstrap: int = 2_000, seed: int = 0) -> Held:
    """Fit the temperature on validation pairs, and measure on test pairs before and after.

    Raises UserError for no pairs, a difference that is not a number, and pairs of test clusters in validation: the
    temperature would then have seen near-duplicates of what it is measured on.
    """
    shared = set(validation.clusters) & set(test.clusters)
    if shared:
        raise UserError(
            f"calibration: {len(shared)} clusters of speeches are in validation and in test; split by cluster"
        )
    if not len(test.differences):
        raise UserError(
            "calibration: there are no test pairs; give the test split some speeches, or rate more responses"
        )
    temperature, note = fit_temperature(validation.differences, validation.won)
    return Held(
        temperature=round(temperature, 6),
        fitted=len(validation.differences),
        note=note,
        before=calibration_figures(*test, bootstrap=bootstrap, seed=seed),
        after=calibration_figures(*test, temperature, bootstrap=bootstrap, seed=seed),
        curve=reliability_curve(test, temperature, bootstrap=bootstrap, seed=seed),
    )


def reliability_curve(
    sides: Sides, temperature: float = 1.0, *, bootstrap: int = 2_000, seed: int = 0
) -> tuple[Bin, ...]:
    """Said against won in 15 bins of equal mass; equal probabilities share a bin, and empty bins are left out.

    The band is a percentile bootstrap over clusters of speeches with the bins as they are; None where a bin has one
    cluster, or does not vary.
    """
    from scipy.special import expit

    d, won = numbers(sides.differences, "reward differences"), numbers(sides.won, "labels")
    p = np.asarray(expit(d / temperature))
    bins = equal_mass_bins(p)
    clusters = clusters_of(sides.clusters)
    inside = (bins[:, None] == np.arange(BINS)).astype(np.float64)
    sizes, sums = clusters.totals(inside), clusters.totals(inside * won[:, None])
    draws = mean_draws(sums, sizes, bootstrap, seed)
    found = []
    for k in np.unique(bins):
        rows, drawn = bins == k, draws[np.isfinite(draws[:, k]), k]
        several = int((sizes[:, k] > 0).sum()) > 1 and len(drawn) > 1 and float(np.ptp(drawn)) > TINY
        low, high = (round(float(end), 6) for end in np.percentile(drawn, [2.5, 97.5])) if several else (None, None)
        said, share = round(float(p[rows].mean()), 6), round(float(won[rows].mean()), 6)
        found.append(Bin(said=said, won=share, low=low, high=high, n=int(rows.sum())))
    return tuple(found)


def side_auc(sides: Sides, *, bootstrap: int = 2_000, seed: int = 0) -> Figure:
    """Share of couples of a pair that was won and one that was lost with the larger difference on the first; no
    temperature changes it. The interval resamples clusters."""
    d, won = numbers(sides.differences, "reward differences"), numbers(sides.won, "labels")
    draws = Draws(sides.clusters, min(bootstrap, MOST_DRAWS), seed)
    return drawn_figure(auc(d, won, sides.clusters, draws), len(d), "AUC")


def margin_auc(
    differences: ArrayLike, agreed: ArrayLike, clusters: Sequence[str], *, bootstrap: int = 2_000, seed: int = 0
) -> Figure:
    """Share of (agreed, not agreed) couples of pairs with the larger |difference| on the first, ties one half.

    Does a reward model differ more where experts agree with each other? `agreed` (pairs,) is 1 where they do; there is
    no value where all or none do. The interval resamples clusters.
    """
    margin, yes = np.abs(numbers(differences, "reward differences")), numbers(agreed, "agreement of experts") > 0.5
    if not len(margin) == len(yes) == len(clusters):
        raise UserError("evaluate: each pair needs a reward difference, a cluster, and whether experts agree on it")
    draws = Draws(clusters, min(bootstrap, MOST_DRAWS), seed)
    if not len(yes):
        return Figure(value=None, n=0, unit="AUC")
    return drawn_figure(auc(margin, yes.astype(np.float64), clusters, draws), len(yes), "AUC")


def length_probes(
    ahead: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    clusters: Sequence[str],
    fitted_on: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> LengthProbes:
    """How much of the accuracy is length. `ahead` (pairs,) is the reward of the chosen reply minus the rejected one.

    Lengths are above 0, in any one unit. `fitted_on` gives the lengths (chosen, rejected) of the validation pairs on
    which the length-only baseline is fitted: which way, and whether, length tells the better reply there. Equal rewards
    earn one half. Raises UserError for no pairs, lengths of 0 or less, NaN and lists of unequal length.
    """
    r = numbers(ahead, "reward differences")
    long = _log_ratio(chosen_lengths, rejected_lengths)
    if not r.size or not len(r) == len(long) == len(clusters):
        raise UserError("evaluate: length probes need a reward difference, two lengths and a cluster for each pair")
    settings = {"bootstrap": bootstrap, "seed": seed}
    credit = np.where(np.abs(r) <= TINY, 0.5, r > 0)
    near = 1 - np.exp(-np.abs(long)) <= ALIKE + TINY
    names = np.asarray(clusters, dtype=str)

    def accuracy(rows: Any, values: Array = credit) -> Figure:
        return cluster_mean(values[rows].tolist(), names[rows].tolist(), "share of pairs", **settings)

    longer, shorter = accuracy(~near & (long > 0)), accuracy(~near & (long < 0))
    groups = np.column_stack([~near & (long > 0), ~near & (long < 0)]).astype(np.float64)
    apart = _apart(credit, groups, clusters_of(clusters), settings)
    # either reply may stand first: without both signs the line would have to explain why the chosen one is ahead
    both, twice = np.concatenate([long, -long]), clusters_of([*clusters, *clusters])
    line = slope(both, np.concatenate([r, -r]), twice, draws=bootstrap, seed=seed)
    alone = None if fitted_on is None else _length_only(_log_ratio(*fitted_on), long)
    return LengthProbes(
        longer=longer,
        shorter=shorter,
        within=accuracy(near),
        apart=apart,
        passes=None if apart.value is None else abs(apart.value) <= MOST_APART + TINY,
        per_log_length=Figure(value=None, n=len(r), unit="reward per log length")
        if line is None
        else figure(line.slope, line.interval, len(r), "reward per log length"),
        length_only=Figure(value=None, n=0, unit="share of pairs")
        if alone is None
        else accuracy(np.ones(len(r), dtype=bool), alone),
    )


def _apart(credit: Array, groups: Array, clusters: Clusters, settings: Mapping[str, int]) -> Figure:
    """Mean credit of the first group minus that of the second, (pairs, 2); drawn by cluster, so that they go together.
    No interval where a twentieth of the draws lack one of the groups."""
    sizes, sums = groups.sum(axis=0), clusters.totals(groups * credit[:, None])
    n, unit = int(sizes.sum()), "difference in share of pairs"
    if not sizes.all():
        return Figure(value=None, n=n, unit=unit)
    value = float((sums.sum(axis=0) / sizes) @ [1, -1])
    if clusters.count < FEWEST:
        return figure(value, Interval(None, None, "few clusters"), n, unit)
    draws = mean_draws(sums, clusters.totals(groups), settings["bootstrap"], settings["seed"]) @ [1, -1]
    enough = np.isfinite(draws).mean() >= 0.95
    return figure(value, of_draws(value, draws) if enough else Interval(None, None, "too few pairs"), n, unit)


def _length_only(fitted: Array, long: Array) -> Array:
    """Credit by pair of sigma(w * log ratio) with w fitted on other pairs; no intercept, since sides are arbitrary."""
    if not len(fitted):
        raise UserError("evaluate: the length baseline has no pairs to be fitted on; give validation pairs, or none")
    both = np.concatenate([fitted, -fitted])
    won = np.concatenate([np.ones(len(fitted)), np.zeros(len(fitted))])
    weight = float(fit_logit(won, both[:, None], np.ones((1, len(won)))).beta[0, 0])
    return np.where(np.abs(weight * long) <= TINY, 0.5, weight * long > 0)


def _log_ratio(chosen: ArrayLike, rejected: ArrayLike) -> Array:
    one, two = numbers(chosen, "lengths of chosen replies"), numbers(rejected, "lengths of rejected replies")
    if len(one) != len(two) or (len(one) and min(one.min(), two.min()) <= 0):
        raise UserError("evaluate: length probes need two lengths above 0 for each pair; leave empty replies out")
    return np.asarray(np.log(one / two))
