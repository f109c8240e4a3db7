"""How well rewards (or a judge's scores) order replies, how sure they may be, and how much of it is length.

Figures of one model on held-out pairs. Sides are drawn by content hash first (`reward.calibrate.draw_sides`): with the
chosen reply always first, AUC and calibration error would say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import TINY, Array, clusters_of, mean_draws, numbers
from psychocounsel.evaluate.contest.judges import slope
from psychocounsel.evaluate.logit import fit_logit
from psychocounsel.evaluate.statistics import Figure, cluster_mean, figure
from psychocounsel.records import Record
from psychocounsel.reward.calibrate import Sides, fit_temperature
from psychocounsel.reward.figures import BINS, Figures, calibration_figures, equal_mass_bins

ALIKE = 0.10  # lengths within a tenth of the longer one count as equal
MOST_APART = 0.05  # between accuracy where the chosen reply is longer and where it is shorter


class Bin(Record):
    """One of 15 bins of equal mass: mean probability `said`, share `won`, and the 95 % band of that share."""

    said: float
    won: float
    low: float | None
    high: float | None
    n: int


class Held(Record):
    """Figures on test pairs at temperature 1 and at the one fitted on other pairs, with the curve at the latter."""

    temperature: float
    note: str
    before: Figures
    after: Figures
    curve: tuple[Bin, ...]


class LengthProbes(Record):
    """Accuracy where the chosen reply is longer, shorter, or within a tenth; and what length alone would do.

    `apart` is accuracy where it is longer minus where it is shorter, and `passes` whether that is within 5 points
    either way (None where one of them has no pair). `per_log_length` is by how much the reward difference grows with
    the difference in log length. `length_only` is the accuracy of a logistic regression on that alone, fitted on
    other pairs; None without any.
    """

    longer: Figure
    shorter: Figure
    within: Figure
    apart: float | None
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


def margin_auc(differences: ArrayLike, agreed: ArrayLike) -> float | None:
    """Share of (agreed, not agreed) couples of pairs with the larger |difference| on the first, ties one half.

    Does a reward model differ more where experts agree with each other? `agreed` (pairs,) is 1 where they do; None
    where all or none do.
    """
    from scipy.stats import rankdata

    margin, yes = np.abs(numbers(differences, "reward differences")), numbers(agreed, "agreement of experts") > 0.5
    if len(margin) != len(yes):
        raise UserError("evaluate: each pair needs a reward difference and whether experts agree on it")
    ones = int(yes.sum())
    if not ones or ones == len(yes):
        return None
    return round(float((rankdata(margin)[yes].sum() - ones * (ones + 1) / 2) / (ones * (len(yes) - ones))), 6)


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
    apart = None if longer.value is None or shorter.value is None else round(longer.value - shorter.value, 4)
    # either reply may stand first: without both signs the line would have to explain why the chosen one is ahead
    both, twice = np.concatenate([long, -long]), clusters_of([*clusters, *clusters])
    line = slope(both, np.concatenate([r, -r]), twice, draws=bootstrap, seed=seed)
    alone = None if fitted_on is None else _length_only(_log_ratio(*fitted_on), long)
    return LengthProbes(
        longer=longer,
        shorter=shorter,
        within=accuracy(near),
        apart=apart,
        passes=None if apart is None else abs(apart) <= MOST_APART + TINY,
        per_log_length=Figure(value=None, n=len(r), unit="reward per log length")
        if line is None
        else figure(line.slope, line.interval, len(r), "reward per log length"),
        length_only=Figure(value=None, n=0, unit="share of pairs")
        if alone is None
        else accuracy(np.ones(len(r), dtype=bool), alone),
    )


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
