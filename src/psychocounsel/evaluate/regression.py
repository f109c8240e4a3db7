"""Is a new evaluation as good as an old one? Rules over metrics, judged by paired differences with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import FEWEST, TINY, Array, Clusters, clusters_of, mean_draws, weight_blocks
from psychocounsel.evaluate.length import tanh_lengths
from psychocounsel.evaluate.logit import fit_logit, refit
from psychocounsel.evaluate.results import ItemValue, Results
from psychocounsel.evaluate.significance import holm
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.records import Record

REFITS = 2_000
Items = Mapping[str, Mapping[str, ItemValue]]  # by metric and item


class Rule(Record):
    """One demand on all metrics that a pattern (* and ?) names.

    `non-inferior`: the lower bound of the one-sided 95 % interval of candidate minus baseline lies above -margin.
    `at-most` and `at-least`: a bound on the candidate alone, on its value or an end of its interval (`by`). `hard`
    rules are not corrected for their number. `optional`: a metric that is nowhere breaks nothing.
    """

    metric: str
    kind: Literal["non-inferior", "at-most", "at-least"] = "non-inferior"
    margin: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = None
    bound: Annotated[float, Field(allow_inf_nan=False)] | None = None
    by: Literal["value", "low", "high"] | None = None
    hard: bool = False
    optional: bool = False
    why: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Rule:
        if self.kind == "non-inferior" and (self.margin is None or self.bound is not None or self.by is not None):
            raise ValueError("a non-inferior rule has a margin, and neither bound nor by")
        if self.kind != "non-inferior" and (self.bound is None or self.margin is not None):
            raise ValueError(f"an {self.kind} rule has a bound, and no margin")
        return self


class Gate(Record):
    """All rules. `common`: share of items that both evaluations must have for a paired comparison."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    common: Annotated[float, Field(gt=0, le=1)] = 0.95
    allow_dependent: bool = False
    rule: list[Rule] = Field(min_length=1)


class Outcome(Record):
    """What became of one rule on one metric. `difference` is candidate minus baseline (paired where items allow it);
    `bound` is what its one-sided lower end, or the candidate's own figure, was held against."""

    rule: int
    metric: str
    kind: str
    passed: bool
    why: str
    baseline: float | None = None
    candidate: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    p: float | None = None
    adjusted: float | None = None
    paired: bool = False
    n: int = 0


class Compared(NamedTuple):
    """A difference with its two-sided 90 % interval (its lower end is the one-sided 95 % bound), and the p-value of
    'worse by the margin or more'."""

    difference: float
    low: float
    high: float
    p: float
    n: int
    how: str


def judge_gate(
    gate: Gate,
    candidate: tuple[Results, Items],
    baseline: tuple[Results, Items],
    *,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> list[Outcome]:
    """Every rule on every metric it names, in their order; a rule that names nothing is an outcome of its own.

    Holm's correction holds over all soft non-inferiority rules together. What cannot be judged fails, with the reason.
    """
    found: list[Outcome] = []
    if not gate.allow_dependent:
        found += [_dependent(role, results) for role, (results, _) in (("candidate", candidate), ("baseline", baseline))
                  if results.dependent]  # fmt: skip
    for number, rule in enumerate(gate.rule, 1):
        names = sorted({*candidate[0].metrics, *baseline[0].metrics})
        named = [name for name in names if fnmatchcase(name, rule.metric)]
        if not named:
            told = "no evaluation has such a metric"
            found.append(Outcome(rule=number, metric=rule.metric, kind=rule.kind, passed=rule.optional, why=told))
        for name in named:
            if rule.kind == "non-inferior":
                found.append(_non_inferior(number, rule, name, candidate, baseline, gate.common, bootstrap, seed))
            else:
                found.append(_bounded(number, rule, name, candidate[0]))
    return _corrected(found, gate)


def _dependent(role: str, results: Results) -> Outcome:
    why = f"the {role} is DEPENDENT: {results.dependent[0]}; set allow_dependent = true to compare it all the same"
    return Outcome(rule=0, metric="independence", kind="independence", passed=False, why=why)


def _bounded(number: int, rule: Rule, name: str, results: Results) -> Outcome:
    figure = results.metrics.get(name)
    by = rule.by or "value"
    value = getattr(figure, by) if figure else None
    assert rule.bound is not None
    out = Outcome(rule=number, metric=name, kind=rule.kind, passed=False, why="", bound=rule.bound,
                  candidate=figure.value if figure else None, low=figure.low if figure else None,
                  high=figure.high if figure else None, n=figure.n if figure else 0)  # fmt: skip
    if figure is None:
        return out.model_copy(update={"why": "the candidate has no such metric", "passed": rule.optional})
    if value is None:
        what = "is undefined" if by == "value" else "has no interval"
        return out.model_copy(update={"why": f"the candidate's figure {what}"})
    kept = value <= rule.bound if rule.kind == "at-most" else value >= rule.bound
    side = "above" if rule.kind == "at-most" else "below"
    what = "its value" if by == "value" else f"the {by} end of its interval"
    told = "" if kept else f"{what}, {value:.4g}, lies {side} {rule.bound:.4g}"
    return out.model_copy(update={"passed": kept, "why": told})


def _non_inferior(
    number: int,
    rule: Rule,
    name: str,
    candidate: tuple[Results, Items],
    baseline: tuple[Results, Items],
    common: float,
    bootstrap: int,
    seed: int,
) -> Outcome:
    new, old = candidate[0].metrics.get(name), baseline[0].metrics.get(name)
    assert rule.margin is not None
    out = Outcome(rule=number, metric=name, kind=rule.kind, passed=False, why="", bound=-rule.margin,
                  baseline=old.value if old else None, candidate=new.value if new else None)  # fmt: skip
    for role, figure in (("candidate", new), ("baseline", old)):
        if figure is None:
            told = f"the {role} has no such metric"
            return out.model_copy(update={"why": told, "passed": rule.optional})
        if figure.value is None:
            return out.model_copy(update={"why": f"the {role}'s figure is undefined"})
    assert new is not None and old is not None
    try:
        found, paired = _compared(name, new, old, candidate[1], baseline[1], rule.margin, common, bootstrap, seed)
    except UserError as error:
        return out.model_copy(update={"why": str(error)})
    passed = found.low > -rule.margin
    told = "" if passed else f"may be worse by {-100 * found.low:.1f} points, more than {100 * rule.margin:.1f} allowed"
    numbers = {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p}
    rounded = {key: round(value, 6) for key, value in numbers.items()}
    return out.model_copy(
        update={**rounded, "n": found.n, "paired": paired, "passed": passed, "why": told or found.how}
    )


def _compared(
    name: str, new: Figure, old: Figure, ours: Items, theirs: Items, margin: float, common: float,
    bootstrap: int, seed: int,
) -> tuple[Compared, bool]:  # fmt: skip
    """Paired where both have items, else by the two intervals. Raises UserError for what cannot be compared."""
    controlled = name.startswith("winrate_lc.")
    behind = name.replace("winrate_lc.", "winrate.", 1) if controlled else name
    first, second = ours.get(behind, {}), theirs.get(behind, {})
    if not first or not second:
        return _apart(new, old, margin), False
    shared = sorted(first.keys() & second.keys())
    share = len(shared) / max(len(first), len(second))
    if share < common:
        raise UserError(f"only {share:.0%} of items are in both, under {common:.0%}; evaluate both on the same items")
    clusters = clusters_of([first[key].cluster for key in shared])
    rows = [[side[key] for key in shared] for side in (first, second)]
    values = [np.array([row.value for row in side]) for side in rows]
    if controlled:
        lengths = [tanh_lengths([row.known["chars_a"] for row in side], [row.known["chars_b"] for row in side])
                   for side in rows]  # fmt: skip
        return _length_controlled(values, lengths, clusters, margin, min(bootstrap, REFITS), seed), True
    return _paired(values[0] - values[1], clusters, margin, bootstrap, seed), True


def _apart(new: Figure, old: Figure, margin: float) -> Compared:
    """Without items: both intervals as if they were independent and normal. Wider than a paired one, so careful."""
    from scipy.stats import norm

    if None in (new.low, new.high, old.low, old.high):
        raise UserError("no items and no interval, so nobody can say how sure the difference is")
    assert new.value is not None and old.value is not None and new.low is not None and old.low is not None
    assert new.high is not None and old.high is not None
    error = float(np.hypot(new.high - new.low, old.high - old.low)) / (2 * norm.ppf(0.975))
    difference = new.value - old.value
    half = norm.ppf(0.95) * error
    p = float(norm.sf((difference + margin) / error)) if error > TINY else float(difference <= -margin)
    how = "not paired: the two intervals were taken as independent"
    return Compared(difference, difference - half, difference + half, p, min(new.n, old.n), how)


def _paired(differences: Array, clusters: Clusters, margin: float, bootstrap: int, seed: int) -> Compared:
    value = float(differences.mean())
    if float(np.ptp(differences)) <= TINY:  # the same everywhere: nothing to resample
        return Compared(value, value, value, float(value <= -margin), len(differences), "")
    if clusters.count < FEWEST:
        raise UserError(f"{clusters.count} clusters of items are too few for an interval; evaluate on {FEWEST} or more")
    sums, sizes = clusters.totals(differences), clusters.totals(np.ones_like(differences))
    draws = mean_draws(sums[:, None], sizes[:, None], bootstrap, seed)[:, 0]
    return _of_draws(value, draws, margin, len(differences))


def _length_controlled(
    values: Sequence[Array], lengths: Sequence[Array], clusters: Clusters, margin: float, bootstrap: int, seed: int
) -> Compared:
    """Difference of two win rates at equal length: both regressions refitted with the same cluster weights."""
    if clusters.count < FEWEST:
        raise UserError(f"{clusters.count} clusters of items are too few for an interval; evaluate on {FEWEST} or more")
    rates, refitted = [], []
    for s, d in zip(values, lengths, strict=True):
        columns = np.column_stack([np.ones(len(s)), d]) if float(np.ptp(d)) > TINY else np.ones((len(s), 1))
        whole = fit_logit(s, columns, np.ones((1, len(s))))
        block = max(1, 2**20 // len(s)) * clusters.count
        weights = (part[:, clusters.member] for part in weight_blocks(clusters.count, bootstrap, seed, block))
        drawn = refit(s, columns, weights, whole.beta[0])
        rates.append(1 / (1 + np.exp(-whole.beta[0, 0])))
        refitted.append(1 / (1 + np.exp(-np.clip(drawn.beta[:, 0], -30, 30))))
    return _of_draws(float(rates[0] - rates[1]), refitted[0] - refitted[1], margin, len(values[0]))


def _of_draws(value: float, draws: Array, margin: float, n: int) -> Compared:
    low, high = np.quantile(draws, [0.05, 0.95])
    p = (int((draws <= -margin).sum()) + 1) / (len(draws) + 1)
    return Compared(value, float(low), float(high), p, n, "")


def _corrected(found: Sequence[Outcome], gate: Gate) -> list[Outcome]:
    """Holm over soft non-inferiority: each passes only if its corrected p-value does, on top of its own bound."""
    soft = {
        str(place): out.p
        for place, out in enumerate(found)
        if out.p is not None and out.kind == "non-inferior" and not gate.rule[out.rule - 1].hard
    }
    adjusted = holm(soft, list(soft), gate.alpha) if soft else {}
    made = []
    for place, out in enumerate(found):
        if row := adjusted.get(str(place)):
            fails = out.passed and not row.significant
            why = f"non-inferior alone, not after correction for {len(soft)} rules" if fails else out.why
            out = out.model_copy(
                update={"adjusted": round(row.adjusted, 6), "passed": out.passed and row.significant, "why": why}
            )
        made.append(out)
    return made
