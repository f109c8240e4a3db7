"""Has a candidate fallen behind a baseline? The rules of a gate file, applied to what two evaluations measured."""

from __future__ import annotations

from psychocounsel.errors import nearest
from psychocounsel.evaluate.contest.length import LEAST_NEAR
from psychocounsel.evaluate.gate.comparable import Side, alike, fault, mismatch, same
from psychocounsel.evaluate.gate.noninferiority import (
    Evidence,
    Items,
    Question,
    length_controlled,
    near_equal,
    paired,
    unpaired,
)
from psychocounsel.evaluate.gate.rules import Gate, Rule, select, without_parts
from psychocounsel.evaluate.results import Results
from psychocounsel.evaluate.significance import holm
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.records import Record

CONTROLLED, RAW = "winrate_lc.", "winrate."  # the first is made of the items of the second
REFITTED = 0.005  # a difference beyond it is told
SAME = "every shared item has the same value in both"


class Check(Record):
    """One rule applied to one metric. `limit` is the number that was held to `bound`; `notes` say what to know.

    `passed` is None where the rule is optional and the metric is not there.
    """

    rule: int
    metric: str
    kind: str
    hard: bool
    better: str
    candidate: Figure | None
    baseline: Figure | None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    bound: float
    p: float | None = None
    adjusted: float | None = None
    shared: int | None = None
    passed: bool | None
    why: str
    notes: tuple[str, ...] = ()


class Outcome(Record):
    """All checks of a gate. `parts` counts the metrics beneath a selected one that no rule names; `panels` says that
    the two evaluations name different judges."""

    checks: tuple[Check, ...]
    dependent: tuple[str, ...]
    allowed: bool
    alpha: float
    correction: str
    tests: int
    parts: int
    panels: bool

    @property
    def passed(self) -> bool:
        held = [check.passed for check in self.checks if check.passed is not None]
        return self.independent and bool(held) and all(held)

    @property
    def independent(self) -> bool:
        """Whether the judges of both evaluations are independent, or the gate lets them not be."""
        return self.allowed or not self.dependent


def hold(gate: Gate, candidate: Side, baseline: Side, *, draws: int = 10_000, seed: int = 0) -> Outcome:
    """Apply every rule to every metric it names. A metric that cannot be compared fails, and says why."""
    checks: list[Check] = []
    named: set[str] = set()
    parts: set[str] = set()
    for number, rule in enumerate(gate.rule, 1):
        question = Question(rule.margin or 0.0, gate.alpha, draws, seed, rule.better == "lower")
        selected = select(rule, set(candidate.results.metrics), set(baseline.results.metrics))
        selected, left = without_parts(selected)
        named |= selected.keys()
        parts |= left
        checks += (
            [_check(rule, number, names, candidate, baseline, gate, question) for names in selected.items()]
            if selected
            else [_nothing(rule, number, candidate.results)]
        )
    checks = _corrected(checks, gate)
    dependent = dict.fromkeys((*candidate.results.dependent, *baseline.results.dependent))
    judges = [set(side.results.judges) for side in (candidate, baseline)]
    return Outcome(
        checks=tuple(checks), dependent=tuple(dependent), allowed=gate.allow_dependent, alpha=gate.alpha,
        correction=gate.correction, tests=sum(map(_in_family, checks)), parts=len(parts - named),
        panels=judges[0] != judges[1],
    )  # fmt: skip


def _check(
    rule: Rule, number: int, names: tuple[str, str], candidate: Side, baseline: Side, gate: Gate, question: Question
) -> Check:
    name, other = names
    first, second = candidate.results.metrics.get(name), baseline.results.metrics.get(other)
    made = _blank(rule, number, name, first, second)
    if other != name:
        made = made.model_copy(update={"notes": (f"the baseline's is {other}",)})
    if rule.kind != "non-inferior":
        return _absolute(rule, made, fault(candidate, name, "the candidate", rule.end))
    if first is None or second is None:
        lacking = f"the baseline does not have {other}" if first else f"the candidate does not have {name}"
        return _failed(made, lacking, None if rule.optional else False)
    if why := fault(candidate, name, "the candidate") or fault(baseline, other, "the baseline"):
        return _failed(made, why)
    if first.unit != second.unit:
        return _failed(made, f"is measured in '{first.unit}' here and in '{second.unit}' in the baseline")
    return _relative(rule, made, names, (candidate, baseline), gate, question)


def _relative(
    rule: Rule, made: Check, names: tuple[str, str], sides: tuple[Side, Side], gate: Gate, question: Question
) -> Check:
    """Non-inferiority by the items where both sides have some, else by the figures alone."""
    assert made.candidate is not None and made.baseline is not None
    controlled = [name.startswith(CONTROLLED) for name in names]
    sources = [RAW + name.removeprefix(CONTROLLED) if all(controlled) else name for name in names]
    mine, theirs = (side.items.get(source, {}) for side, source in zip(sides, sources, strict=True))
    if not mine or not theirs:
        if alike(*sides) and names[0] == names[1]:
            return made.model_copy(update={"passed": True, "value": 0.0, "why": "both are the same evaluation"})
        return _judged(rule, made, unpaired(made.candidate, made.baseline, question), ())
    for side, source, items in zip(sides, sources, (mine, theirs), strict=True):
        if why := mismatch(side.results.metrics.get(source), items):
            return _failed(made, why)
    common = mine.keys() & theirs.keys()
    made = made.model_copy(update={"shared": len(common)})
    if len(common) < gate.common * max(len(mine), len(theirs)) or not common:
        return _failed(
            made,
            f"the evaluations share {len(common)} of {max(len(mine), len(theirs))} items, under {gate.common:.0%}; "
            "evaluate both on the same",
        )
    left = len(mine.keys() | theirs.keys()) - len(common)
    notes: tuple[str, ...] = (f"{left} items that only one evaluation has are left out",) if left else ()
    if same(mine, theirs, common, all(controlled)):
        return made.model_copy(update={"passed": True, "value": 0.0, "why": SAME, "notes": made.notes + notes})
    evidence = (length_controlled if all(controlled) else paired)(mine, theirs, question)
    if all(controlled):
        notes += _length_notes(made, evidence, mine, theirs)
    return _judged(rule, made, evidence, notes)


def _judged(rule: Rule, made: Check, found: Evidence, notes: tuple[str, ...]) -> Check:
    """What the evidence says, before several tests are corrected for."""
    margin, sign = rule.margin or 0.0, -1 if rule.better == "lower" else 1
    told = {"value": found.value, "low": found.low, "high": found.high, "notes": made.notes + notes}
    if rule.end == "value":
        passed = sign * found.value >= -margin - 1e-9
        why = "the difference alone, whatever its interval"
        return made.model_copy(update=told | {"limit": found.value, "passed": passed, "why": why})
    if found.bound is None or found.p is None:
        return _failed(made.model_copy(update=told), found.method)
    return made.model_copy(update=told | {"limit": found.bound, "p": found.p, "why": found.method})


def _absolute(rule: Rule, made: Check, unusable: str) -> Check:
    """A bound on the candidate's own figure, as it stands in results.json."""
    if made.candidate is None:
        why = f"the candidate does not have {made.metric}"
        return _failed(made, why, None if rule.optional else False)
    if unusable:
        return _failed(made, unusable)
    figure, bound = made.candidate, made.bound
    ends = [getattr(figure, rule.end)]
    if rule.kind == "within" and rule.end == "high":
        ends = [figure.low, figure.high]
    held = max((end for end in ends if end is not None), key=abs)
    passed = {"at-most": held <= bound, "at-least": held >= bound, "within": abs(held) <= bound}[rule.kind]
    which = {"value": "the value", "low": "the lower end of the interval", "high": "the upper end of the interval"}
    why = "the farther end of the interval" if len(ends) > 1 else which[rule.end]
    return made.model_copy(update={"limit": held, "passed": passed, "why": why})


def _corrected(checks: list[Check], gate: Gate) -> list[Check]:
    """Decide the tests: hard ones by p, soft ones by Holm's p over all soft ones."""
    soft = {f"{place}": _number(check.p, 1.0) for place, check in enumerate(checks) if _in_family(check)}
    adjusted = holm(soft, list(soft), gate.alpha) if soft and gate.correction == "holm" else {}
    decided = []
    for place, check in enumerate(checks):
        if check.p is None:
            decided.append(check)
            continue
        final = adjusted[f"{place}"].adjusted if f"{place}" in adjusted else None
        passed = (check.p if final is None else final) <= gate.alpha
        why = check.why
        if not passed:
            alone = "not shown to be within the margin"
            why = f"{alone if check.p > gate.alpha else f'holds alone, but not as one of {len(soft)} tests'}; {why}"
        decided.append(check.model_copy(update={"adjusted": final, "passed": passed, "why": why}))
    return decided


def _in_family(check: Check) -> bool:
    """Whether Holm counts it: a soft test with a p-value, or one that failed for want of any (p = 1)."""
    untested = check.passed is False and check.limit is None
    return check.kind == "non-inferior" and not check.hard and (check.p is not None or untested)


def _blank(rule: Rule, number: int, name: str, candidate: Figure | None, baseline: Figure | None) -> Check:
    """A check that has not passed yet. `bound` is what the difference, or the figure, is held to."""
    bound = rule.bound if rule.bound is not None else rule.margin or 0.0
    if rule.kind == "non-inferior" and rule.better == "higher":
        bound = -bound
    return Check(
        rule=number, metric=name, kind=rule.kind, hard=rule.hard, better=rule.better, candidate=candidate,
        baseline=baseline, bound=bound + 0.0, passed=False, why="",
    )  # fmt: skip


def _nothing(rule: Rule, number: int, results: Results) -> Check:
    made = _blank(rule, number, rule.metric, None, None)
    why = f"no metric has this name{nearest(rule.metric, list(results.metrics))}"
    return _failed(made, why, None if rule.optional else False)


def _failed(check: Check, why: str, passed: bool | None = False) -> Check:
    return check.model_copy(update={"passed": passed, "why": why})


def _length_notes(made: Check, found: Evidence, candidate: Items, baseline: Items) -> tuple[str, ...]:
    """Where equal length is a guess, and where the fit without difficulties parts from the reported rates."""
    notes = []
    for who, items in (("candidate", candidate), ("baseline", baseline)):
        if (near := near_equal(items)) < LEAST_NEAR:
            notes.append(f"extrapolated: only {near:.0%} of the {who}'s pairs are of about equal length")
    assert made.candidate is not None and made.baseline is not None
    reported = _number(made.candidate.value, 0.0) - _number(made.baseline.value, 0.0)
    if made.shared == len(candidate) == len(baseline) and abs(reported - found.value) > REFITTED:
        notes.append(f"without the difficulty of speeches; the reported rates differ by {100 * reported:+.1f} points")
    return tuple(notes)


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
