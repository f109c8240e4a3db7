"""How far a panel is more than one judge: what judges share, what hangs on one of them, and which way each leans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import (
    FEW,
    FEWEST,
    TINY,
    Array,
    Clusters,
    Interval,
    mean_draws,
    mean_interval,
    of_draws,
)
from psychocounsel.evaluate.contest.verdicts import Ballots, part_of
from psychocounsel.evaluate.significance import sign_flip
from psychocounsel.evaluate.statistics import Figure, figure
from psychocounsel.ratings.reliability import coefficients
from psychocounsel.records import Record

SIDES = (1, 2, 3)  # lost, tie, won


class Dependence(Record):
    """What a panel of `judges` is worth. `rho` is the mean correlation of two judges' errors, or of their verdicts.

    `of` says which: 'errors' against experts, or 'verdicts' where there are none; these share the truth as well, so
    that `effective` is then a lower bound. `effective` is J / (1 + (J - 1) rho), with a rho under 0 taken as 0, so
    that it never exceeds J; None where no pair of judges varies. `undefined` counts such pairs.

    `without` is the win rate without each judge, `low` and `high` its range. `dependent` says that without one judge
    another policy would lead, or neither; `stamp` says it in words, '' where it does not hold.
    """

    judges: int
    of: str
    rho: float | None
    undefined: int
    effective: float | None
    win_rate: float | None
    without: dict[str, float | None]
    low: float | None
    high: float | None
    dependent: bool
    stamp: str


class Agreement(Record):
    """Judge by judge, rows and columns in the order of `judges`; None where undefined. For a heat map.

    `n` counts speeches both judged, `alike` is the share with the same strict verdict (win, tie, loss), `kappa` is
    Cohen's with quadratic weights of these, `correlation` Pearson's of s_ik. The diagonal is None.
    """

    judges: tuple[str, ...]
    n: tuple[tuple[int, ...], ...]
    alike: tuple[tuple[float | None, ...], ...]
    kappa: tuple[tuple[float | None, ...], ...]
    correlation: tuple[tuple[float | None, ...], ...]


class Leaning(Record):
    """How one judge differs from the mean of the others on the same speeches, with 95 % intervals over clusters.

    `towards_a` is its value of policy a minus theirs: above 0 it favours a, as a judge of a's family might; `p` is the
    sign-flip p-value of that, to be corrected for the number of judges. `per_length` is by how much that difference
    grows from equal length to far longer replies of a (tanh of the difference in words over its standard deviation):
    above 0 it likes length more than they do.
    """

    judge: str
    n: int
    towards_a: Figure
    p: float | None
    per_length: Figure


class Line(NamedTuple):
    """Least squares through an intercept: the slope and its 95 % interval over clusters."""

    slope: float
    interval: Interval


def dependence(
    table: Ballots, judges: Sequence[str] | None = None, experts: Mapping[str, float] | None = None
) -> Dependence:
    """What the judges (all, or those named) share, and whether the result hangs on one of them.

    `experts` gives the value of policy a by people, for speeches they judged; errors are s_ik minus theirs. Raises
    UserError where no judged speech is among theirs, and for a value that is not within 0 and 1.
    """
    names = tuple(table.judges if judges is None else judges)
    rows = table.by_judge[:, table.columns(names)]
    if experts is not None:
        rows = rows - _expert_values(table, experts)[:, None]
    found = [_correlation(rows[:, a], rows[:, b]) for a, b in combinations(range(len(names)), 2)]
    defined = [value for value in found if value is not None]
    rho = float(np.mean(defined)) if defined else None
    whole = _rate(table, names)
    without = {name: _rate(table, [n for n in names if n != name]) for name in names if len(names) > 1}
    left = [value for value in without.values() if value is not None]
    stamp = _stamp(whole, without)
    return Dependence(
        judges=len(names),
        of="verdicts" if experts is None else "errors",
        rho=None if rho is None else round(rho, 4),
        undefined=len(found) - len(defined),
        effective=_effective(len(names), rho),
        win_rate=None if whole is None else round(whole, 4),
        without={name: None if value is None else round(value, 4) for name, value in without.items()},
        low=round(min(left), 4) if left else None,
        high=round(max(left), 4) if left else None,
        dependent=bool(stamp),
        stamp=stamp,
    )


def judge_agreement(table: Ballots) -> Agreement:
    """Every judge against every other on the speeches both judged in both orders."""
    rows = table.by_judge
    sides = np.where(np.isfinite(rows), 2 + np.where(np.abs(rows - 0.5) <= TINY, 0, np.sign(rows - 0.5)), np.nan)
    size = len(table.judges)
    n = [[0] * size for _ in range(size)]
    grids: dict[str, list[list[float | None]]] = {
        name: [[None] * size for _ in range(size)] for name in ("alike", "kappa", "correlation")
    }
    for a, b in combinations(range(size), 2):
        both = np.isfinite(rows[:, a]) & np.isfinite(rows[:, b])
        n[a][b] = n[b][a] = int(both.sum())
        pair = sides[both][:, [a, b]]
        (found,) = coefficients([pair], np.arange(len(pair), dtype=np.int64), raters=2, levels=SIDES)
        values = {"alike": found["exact"][0], "kappa": found["kappa_quadratic"][0]} if len(pair) else {}
        for name, value in {**values, "correlation": _correlation(rows[:, a], rows[:, b])}.items():
            shown = None if value is None or not np.isfinite(value) else round(float(value), 6)
            grids[name][a][b] = grids[name][b][a] = shown
    for k in range(size):
        n[k][k] = int(np.isfinite(rows[:, k]).sum())
    frozen = {name: tuple(tuple(row) for row in grid) for name, grid in grids.items()}
    return Agreement(judges=table.judges, n=tuple(tuple(row) for row in n), **frozen)


def leanings(table: Ballots, *, bootstrap: int = 10_000, seed: int = 0) -> list[Leaning]:
    """How each judge differs from the others. Raises UserError for a single judge, who has no others."""
    if len(table.judges) < 2:
        raise UserError(f"evaluate: {table.judges[0]} is the only judge, and leans by nobody's measure; add judges")
    return [_leaning(table, k, bootstrap, seed) for k in range(len(table.judges))]


def slope(x: ArrayLike, y: ArrayLike, clusters: Clusters, *, draws: int = 2_000, seed: int = 0) -> Line | None:
    """Least-squares slope of y on x, both (n,), by cluster bootstrap; None where x does not vary.

    Under 300 clusters the interval is widened as Student's t is wider than the normal.
    """
    from scipy.stats import t

    one, two = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(one) < 2 or float(np.ptp(one)) <= TINY:
        return None
    one, two = one - one.mean(), two - two.mean()
    sums = clusters.totals(np.column_stack([one, two, one * one, one * two]))
    sizes = np.repeat(clusters.totals(np.ones_like(one))[:, None], 4, axis=1)
    value = float((one * two).sum() / (one * one).sum())
    if clusters.count < FEWEST:
        return Line(value, Interval(None, None, f"under {FEWEST} clusters"))
    means = mean_draws(sums, sizes, draws, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (means[:, 3] - means[:, 0] * means[:, 1]) / (means[:, 2] - means[:, 0] ** 2)
    low, high, method = of_draws(value, found)
    if low is None or high is None or clusters.count >= FEW:
        return Line(value, Interval(low, high, method))
    wider = float(t.ppf(0.975, clusters.count - 1)) / 1.959964
    return Line(value, Interval(value + wider * (low - value), value + wider * (high - value), method))


def _leaning(table: Ballots, k: int, bootstrap: int, seed: int) -> Leaning:
    mine = table.by_judge[:, k]
    others = table.by_speech([name for at, name in enumerate(table.judges) if at != k])
    known = np.isfinite(mine) & np.isfinite(others)
    apart, clusters = (mine - others)[known], part_of(table.clusters, known)
    words = (table.words_a - table.words_b)[known]
    spread = float(np.std(words)) if len(words) else 0.0
    line = slope(np.tanh(words / spread), apart, clusters, draws=bootstrap, seed=seed) if spread > TINY else None
    nothing = Figure(value=None, n=len(apart), unit="value of a")
    interval = mean_interval(apart, clusters, share=False, draws=bootstrap, seed=seed) if len(apart) else None
    return Leaning(
        judge=table.judges[k],
        n=len(apart),
        towards_a=figure(float(apart.mean()), interval, len(apart), "value of a") if interval else nothing,
        p=round(sign_flip(apart, clusters, draws=bootstrap, seed=seed), 6) if len(apart) else None,
        per_length=nothing if line is None else figure(line.slope, line.interval, len(apart), "value of a"),
    )


def _expert_values(table: Ballots, experts: Mapping[str, float]) -> Array:
    values = np.array([experts.get(speech, np.nan) for speech in table.speeches], dtype=np.float64)
    known = np.isfinite(values)
    if not known.any():
        raise UserError("evaluate: none of the judged speeches is among those of the experts; do both name them alike?")
    if values[known].min() < 0 or values[known].max() > 1:
        raise UserError("evaluate: an expert's value lies outside 0 to 1; write 1 where a won, 0 where b did, .5 a tie")
    return values


def _correlation(first: Array, second: Array) -> float | None:
    """Pearson's on what both have; None where one does not vary."""
    both = np.isfinite(first) & np.isfinite(second)
    a, b = first[both], second[both]
    if len(a) < 3 or float(np.ptp(a)) <= TINY or float(np.ptp(b)) <= TINY:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _effective(judges: int, rho: float | None) -> float | None:
    if judges == 1:
        return 1.0
    return None if rho is None else round(judges / (1 + (judges - 1) * max(rho, 0.0)), 4)


def _rate(table: Ballots, judges: Sequence[str]) -> float | None:
    values = table.by_speech(judges) if judges else np.zeros(0)
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _stamp(whole: float | None, without: Mapping[str, float | None]) -> str:
    if whole is None:
        return ""
    if not without:
        return "judge-dependent: there is one judge"
    side = _lead(whole)
    turned = [name for name, value in without.items() if value is None or _lead(value) != side]
    return f"judge-dependent: the result turns without {', '.join(turned)}" if turned else ""


def _lead(rate: float) -> int:
    return 0 if abs(rate - 0.5) <= TINY else 1 if rate > 0.5 else -1
