"""When a judge may stand in for a person: McNemar's test, Fleiss' kappa, and the alternative annotator test.

Kappas of two raters, Krippendorff's alpha, Gwet's AC1 and AC2 and the ICCs are in `ratings.reliability`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import TINY, Array, clusters_of, numbers
from psychocounsel.ratings.reliability import resample
from psychocounsel.records import Record

COST_BENEFIT = 0.2  # for experts; .15 for trained raters, .1 for crowd workers (section 3.3 of the paper)
FALSE_DISCOVERY = 0.05
FEWEST_ITEMS = 30  # of one person; under it the t-test's normality cannot be assumed
PASSES = 0.5  # winning rate from which the judge may replace a person


class McNemar(Record):
    """Of items on which two raters are right or wrong: how often only the first was right, only the second, and p."""

    only_first: int
    only_second: int
    p: float


class Replaced(Record):
    """One person left out: how often the `judge` and the `person` were at least as close to the others as the other.

    `p` is for the null that the person is better by at least epsilon; `won` says that it is rejected.
    """

    rater: str
    n: int
    judge: float
    person: float
    p: float
    won: bool


class AlternativeTest(Record):
    """Winning rate and mean advantage probability of a judge over the people who could be tested.

    `left_out` gives the reason for people without enough items, `items` how many items had two people and the judge,
    and `unused` how many had not.
    """

    winning_rate: float
    advantage: float
    passes: bool
    epsilon: float
    raters: tuple[Replaced, ...]
    left_out: dict[str, str]
    items: int
    unused: int


def mcnemar_exact(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Are two raters right equally often? The exact binomial test of McNemar (1947), two-sided.

    `first` and `second` (items,) hold 1 where the rater was right (agreed with the label), 0 where not, in the same
    order. Without an item on which they differ p is 1. Raises UserError for other values and unequal lengths.
    """
    from scipy.stats import binomtest

    one, two = numbers(first, "the first rater"), numbers(second, "the second rater")
    if len(one) != len(two) or not (np.isin(one, (0, 1)).all() and np.isin(two, (0, 1)).all()):
        raise UserError("agreement: McNemar's test needs 1 (right) or 0 (wrong) of both raters for each item")
    a, b = int(((one == 1) & (two == 0)).sum()), int(((one == 0) & (two == 1)).sum())
    return McNemar(only_first=a, only_second=b, p=float(binomtest(a, a + b).pvalue) if a + b else 1.0)


def fleiss_kappa(counts: ArrayLike) -> float | None:
    """Fleiss' (1971) kappa of (items, levels) counts of ratings; every item rated by equally many.

    None where all ratings are of one level: nothing varies, and chance explains all. Raises UserError for unequal
    numbers of ratings (Krippendorff's alpha takes those) and for items rated once.
    """
    value = float(fleiss_draws(counts)[0])
    return value if np.isfinite(value) else None


def fleiss_draws(
    counts: ArrayLike, units: NDArray[np.int64] | None = None, *, bootstrap: int = 0, seed: int = 0
) -> Array:
    """`fleiss_kappa` and its value in each of `bootstrap` draws of `units` (items, unless told); NaN for None."""
    table = numbers(counts, "counts of ratings")
    raters = table.sum(axis=1) if table.ndim == 2 and len(table) else np.zeros(0)
    if not raters.size or float(np.ptp(raters)) > TINY or raters[0] < 2 or table.min() < 0:
        raise UserError("agreement: Fleiss' kappa needs items with equally many ratings, two or more; use alpha")
    k = float(raters[0])
    sums = np.column_stack([np.ones(len(table)), ((table**2).sum(axis=1) - k) / (k * (k - 1)), table / k])
    draws = resample(sums, np.arange(len(table)) if units is None else units, bootstrap, seed)
    means = draws[:, 1:] / draws[:, :1]
    chance = (means[:, 1:] ** 2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(1 - chance > TINY, (means[:, 0] - chance) / (1 - chance), np.nan))


def alternative_test(
    judge: Mapping[str, float],
    people: Mapping[str, Mapping[str, float]],
    *,
    clusters: Mapping[str, str] | None = None,
    measure: Literal["accuracy", "rmse"] = "accuracy",
    epsilon: float = COST_BENEFIT,
) -> AlternativeTest:
    """The alternative annotator test of Calderon, Reichart and Dror (2025, arXiv 2501.10970).

    `judge` maps items to verdicts, `people` does so for each person. Each person is left out in turn: on each item,
    whoever agrees more with the others ('accuracy': share of equal verdicts; 'rmse': less root mean square difference)
    is at least as close, both where alike. The judge wins over a person when a one-sided t-test rejects that the person
    is closer by epsilon or more, after Benjamini and Yekutieli's correction; it passes when it wins over half of them.

    With `clusters` (the cluster of each item, for near-duplicates) the test is made on means of clusters. Raises
    UserError when nobody has 30 items that another person and the judge rated too.
    """
    from scipy.stats import false_discovery_control

    if not 0 <= epsilon < 1:
        raise UserError(f"agreement: epsilon {epsilon} must be from 0 to under 1; .2 is meant for experts")
    names, items = sorted(people), sorted({item for rated in people.values() for item in rated})
    table = np.array([[people[name].get(item, np.nan) for item in items] for name in names], dtype=np.float64)
    table = table.reshape(len(names), len(items))
    own = np.array([judge.get(item, np.nan) for item in items], dtype=np.float64)
    usable = (np.isfinite(table).sum(axis=0) >= 2) & np.isfinite(own)
    left_out, tested = {}, []
    for k, name in enumerate(names):
        rows = np.flatnonzero(usable & np.isfinite(table[k]))
        group = [clusters[items[row]] if clusters else items[row] for row in rows]
        if len(set(group)) < FEWEST_ITEMS:
            left_out[name] = f"{len(set(group))} items with another person and the judge, under {FEWEST_ITEMS}"
            continue
        tested.append(_replaced(name, table[:, rows], k, own[rows], group, measure, epsilon))
    if not tested:
        raise UserError(
            f"agreement: none of {len(names)} people has {FEWEST_ITEMS} items that another person and the judge rated; "
            "rate more items twice"
        )
    adjusted = false_discovery_control([row.p for row in tested], method="by")
    rows_won = [
        row.model_copy(update={"won": bool(p <= FALSE_DISCOVERY)}) for row, p in zip(tested, adjusted, strict=True)
    ]
    rate = float(np.mean([row.won for row in rows_won]))
    return AlternativeTest(
        winning_rate=round(rate, 6), advantage=round(float(np.mean([row.judge for row in tested])), 6),
        passes=rate >= PASSES, epsilon=epsilon, raters=tuple(rows_won), left_out=left_out,
        items=int(usable.sum()), unused=int((~usable).sum()),
    )  # fmt: skip


def joint_counts(items: int, first: int, second: int, alike: int) -> list[tuple[int, int, int, int]]:
    """All joint tables of two raters that fit published counts: both right, only the first, only the second, neither.

    `first` and `second` are how often each agreed with the label, `alike` how often they agreed with each other, of
    `items` with two possible verdicts. Two verdicts leave at most one table; none means that the counts contradict
    each other. Two raters are alike where both are right and where both are wrong.
    """
    both, rest = divmod(alike - items + first + second, 2)
    cells = (both, first - both, second - both, items - first - second + both)
    return [cells] if not rest and min(cells) >= 0 else []


def _replaced(
    name: str, table: Array, k: int, judge: Array, group: list[str], measure: str, epsilon: float
) -> Replaced:
    others = np.delete(table, k, axis=0)
    mine, theirs = _closeness(judge, others, measure), _closeness(table[k], others, measure)
    judge_wins, person_wins = mine >= theirs - TINY, theirs >= mine - TINY
    return Replaced(
        rater=name, n=len(judge), judge=round(float(judge_wins.mean()), 6), person=round(float(person_wins.mean()), 6),
        p=_less(person_wins, judge_wins, group, epsilon), won=False,
    )  # fmt: skip


def _closeness(one: Array, others: Array, measure: str) -> Array:
    """How near a rater is to the others on each item (items,); the higher the nearer."""
    known = np.isfinite(others)
    apart = np.where(known, others - one, 0.0)
    far = np.abs(apart) > TINY if measure == "accuracy" else apart**2
    mean = np.asarray((far * known).sum(axis=0) / known.sum(axis=0))
    return -mean if measure == "accuracy" else -np.sqrt(mean)


def _less(person: NDArray[np.bool_], judge: NDArray[np.bool_], group: list[str], epsilon: float) -> float:
    """p of the one-sided t-test that the mean of person - judge is under epsilon, over means of clusters."""
    from scipy.stats import t

    clusters = clusters_of(group)
    sums = clusters.totals(person.astype(np.float64) - judge)
    means = sums / clusters.totals(np.ones(len(group)))
    error = float(means.std(ddof=1)) / float(np.sqrt(len(means)))
    if error <= TINY:  # every item says the same, and the test's own answer would be a division by zero
        return 0.0 if float(means.mean()) < epsilon else 1.0
    return float(t.cdf((float(means.mean()) - epsilon) / error, len(means) - 1))
