"""The file of `eval gate`: which metrics of a candidate must not fall behind a baseline's, or keep a bound."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from psychocounsel.errors import UserError
from psychocounsel.recipe import Table, explain, read_toml

Kind = Literal["non-inferior", "at-most", "at-least", "within"]
By = Literal["value", "low", "high"]
MOST_STARS = 4  # more of them say nothing more, and take a pattern ever longer to be tried
DEFAULT_BY: dict[Kind, By] = {"non-inferior": "low", "at-most": "high", "at-least": "low", "within": "high"}


class Rule(Table):
    """One rule. `metric` may hold `*`; `against` is the metric's name in the baseline where it has another one."""

    metric: str = Field(min_length=1, max_length=300)
    against: str = Field(default="", max_length=300)
    kind: Kind = "non-inferior"
    margin: Annotated[float, Field(ge=0)] | None = None
    bound: float | None = None
    by: By | None = None
    better: Literal["higher", "lower"] = "higher"
    hard: bool = False
    optional: bool = False

    @property
    def end(self) -> By:
        """Which number is held to the bound: the value, or the end of its interval that is nearer to failing."""
        return self.by or DEFAULT_BY[self.kind]


class Gate(Table):
    """A gate file. `alpha` is the chance of passing a candidate that is worse by the whole margin."""

    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    correction: Literal["holm", "none"] = "holm"
    common: Annotated[float, Field(gt=0, le=1)] = 0.95
    allow_dependent: bool = False
    rule: list[Rule] = Field(min_length=1)


def read_gate(path: Path) -> Gate:
    """Read and check a gate file. Raises UserError with file, rule and remedy."""
    try:
        gate = Gate.model_validate(read_toml(path, "gate file"))
    except ValidationError as error:
        raise explain(error, str(path), Gate) from None
    seen: dict[Rule, int] = {}
    for number, rule in enumerate(gate.rule, 1):
        where = f"{path}: rule {number} ('{printable(rule.metric)}')"
        if fault := _fault(rule):
            raise UserError(f"{where}: {fault}")
        same = rule.model_copy(update={"margin": None, "bound": None, "hard": False, "optional": False})
        if same in seen:
            raise UserError(f"{where} says of the same metric what rule {seen[same]} says; leave one of them out")
        seen[same] = number
    return gate


def _fault(rule: Rule) -> str:
    """What in a rule does not go together; '' when all does."""
    relative = rule.kind == "non-inferior"
    needed, other = ("margin", "bound") if relative else ("bound", "margin")
    stars = rule.metric.count("*")
    if getattr(rule, needed) is None:
        return f"kind '{rule.kind}' needs a {needed}, for example {needed} = 0.02"
    if getattr(rule, other) is not None:
        return f"{other} has no meaning for kind '{rule.kind}'; it needs a {needed}"
    if rule.against and not relative:
        return f"against has no meaning for kind '{rule.kind}', which looks at the candidate alone"
    if rule.better == "lower" and not relative:
        return f"better has no meaning for kind '{rule.kind}'; choose between at-most and at-least"
    if relative and rule.by == "high":
        return "by = 'high' has no meaning for kind 'non-inferior'; leave it out, or write by = 'value'"
    if rule.kind == "within" and (rule.by == "low" or (rule.bound or 0) < 0):
        return "kind 'within' needs a bound of 0 or more, and by = 'value' or 'high' (both ends of the interval)"
    if max(stars, rule.against.count("*")) > MOST_STARS:
        return f"more than {MOST_STARS} '*' in a name; write more of the name"
    if rule.against.count("*") not in (0, stars):
        return f"against has {rule.against.count('*')} '*' and metric {stars}; give it as many, or none"
    return ""


def printable(text: str) -> str:
    """A name from a stranger's file without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def pattern(name: str) -> re.Pattern[str]:
    """A name with `*` for any text, dots included: names of models hold dots."""
    return re.compile("(.*)".join(map(re.escape, name.split("*"))), re.DOTALL)


def select(rule: Rule, candidate: set[str], baseline: set[str]) -> dict[str, str]:
    """The metrics a rule is about: their names in the candidate and in the baseline.

    A metric that only one of the two has is among them: what is no longer measured must not pass unseen.
    """
    wanted, other = pattern(rule.metric), pattern(rule.against or rule.metric)
    found = {}
    for name in candidate:
        if match := wanted.fullmatch(name):
            found[name] = _filled(rule.against, match.groups()) if rule.against else name
    for name in baseline - set(found.values()):
        match = other.fullmatch(name)
        if match and (not rule.against or "*" in rule.against):
            found.setdefault(_filled(rule.metric, match.groups()), name)
    return dict(sorted(found.items()))


def without_parts(selected: dict[str, str]) -> tuple[dict[str, str], set[str]]:
    """Leave out the parts of a metric that is selected too, and name them.

    `winrate.*` means the win rates. Those by judge and by principle (`winrate.a_vs_b.empathy`) lie beneath them and
    need a rule that names them.
    """
    kept = {
        name: other
        for name, other in selected.items()
        if not any(name[:place] in selected for place, letter in enumerate(name) if letter == ".")
    }
    return kept, selected.keys() - kept.keys()


def _filled(name: str, parts: tuple[str, ...]) -> str:
    """A name with its `*` filled in, from left to right."""
    pieces = name.split("*")
    return name if len(pieces) == 1 else "".join(map("".join, zip(pieces, (*parts, ""), strict=True)))
