"""Whoever labels may not grade: judges of one family with the labels, the base, the candidate or the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from psychocounsel.errors import UserError
from psychocounsel.models.families import families_of

PEOPLE = "human:"  # raters who are people; they belong to no model family
EMBEDDED = "embedded"
IN_SAMPLE = (
    "the embedded judge was fitted on ratings of the same kind as the labels, among them all rated "
    "MentalChat16K replies: a run on those is in-sample for it"
)


class Named(Protocol):
    """A judge, as far as this rule looks at it."""

    name: str
    family: str


class Party(NamedTuple):
    """Somebody a judge must be independent of: `role` as sentences name it, and the name the family is read from."""

    role: str
    name: str


def parties(
    *,
    labellers: Sequence[str] = (),
    base: str = "",
    candidates: Sequence[str] = (),
    baselines: Sequence[str] = (),
) -> list[Party]:
    """Everybody a judge must be independent of, each once: who labelled, what was trained, what is compared."""
    found = [Party("labeller", name) for name in labellers]
    found += [Party("base model", base)] if base else []
    found += [Party("candidate", name) for name in candidates] + [Party("baseline", name) for name in baselines]
    return list(dict.fromkeys(found))


def dependence_reasons(
    judges: Sequence[Named], others: Sequence[Party], families: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    """Why each judge is not independent, by judge name; judges without a reason are not in it.

    A judge depends on another with the same name or any family in common. An unknown family, of a judge or of another,
    is a reason as well: nobody can say that the two are apart. `families` declares whose a name is.
    """
    found: dict[str, list[str]] = {}
    for judge in judges:
        if judge.family == EMBEDDED:
            reasons = [IN_SAMPLE]
        else:
            mine = families_of(judge.name, families) or ((judge.family,) if judge.family else ())
            reasons = [reason for other in others if (reason := _akin(judge.name, mine, other, families))]
            reasons += [] if mine else [_unknown("judge", judge.name)]
            reasons += [_unknown(*other) for other in others if not _known(other, families)]
        if reasons:
            found[judge.name] = list(dict.fromkeys(reasons))
    return found


def check_independence(reasons: Mapping[str, Sequence[str]], allowed: bool, where: str, remedy: str) -> list[str]:
    """All reasons as one list. Raises UserError for the first of them unless they are `allowed`.

    `where` begins the error, `remedy` says how a dependent judge is allowed there.
    """
    told = list(dict.fromkeys(reason for found in reasons.values() for reason in found))
    if told and not allowed:
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        raise UserError(f"{where}: whoever labels may not grade: {told[0]}{more}; name another judge, or {remedy}")
    return told


def _akin(judge: str, mine: Sequence[str], other: Party, families: Mapping[str, str] | None) -> str:
    if judge == other.name:
        return f"{judge} is {other.role} and judge at once, of one family"
    theirs = families_of(other.name, families)
    shared = next((family for family in mine if family in theirs), "")
    return f"{judge} and {other.role} {other.name} are of one family ({shared})" if shared else ""


def _known(other: Party, families: Mapping[str, str] | None) -> bool:
    """People are of no model's family, and the embedded base has nobody's weights."""
    return other.name.startswith(PEOPLE) or other.name == EMBEDDED or bool(families_of(other.name, families))


def _unknown(role: str, name: str) -> str:
    return (
        f"the family of {role} {name} is unknown, so nobody can say that it is independent "
        f"(say whose it is: --family '{name}=FAMILY', in a recipe evaluate.families)"
    )
