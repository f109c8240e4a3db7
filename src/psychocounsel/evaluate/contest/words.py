"""What the figures of a contest allow to be said, in sentences; never more than the intervals carry."""

from __future__ import annotations

from psychocounsel.evaluate.contest.length import STYLES, LengthControlled
from psychocounsel.evaluate.contest.tables import ContestTable, PolicyDifference
from psychocounsel.evaluate.statistics import Figure

ALPHA = 0.05


def conclusion(table: ContestTable) -> str:
    """One sentence about who is better."""
    rate = table.headline.win_rate
    pair = f"{table.a} against {table.b}"
    if table.headline.invalid:
        return f"{pair}: no conclusion, the comparison is invalid ({table.headline.invalid})."
    if rate.value is None:
        return f"{pair}: no conclusion, no judge gave a usable verdict."
    if rate.low is None or rate.high is None:
        return f"{pair}: no conclusion, there are too few speeches for an interval."
    side = "beats" if rate.low > 0.5 else "loses to" if rate.high < 0.5 else "cannot be told apart from"
    corrected = ""
    if side != "cannot be told apart from" and table.adjusted is not None and table.adjusted > ALPHA:
        corrected = f", but not after correction for all contests (p = {p_text(table.adjusted)})"
    return f"{table.a} {side} {table.b}{corrected}."


def marks(table: ContestTable) -> list[str]:
    """In a word or two each: why the first sentence may not be believed. Empty is good."""
    length = table.length
    found = {
        "DEPENDENT": dependent_headline(table),
        "invalid": bool(table.headline.invalid),
        "judge-dependent": bool(table.dependence and table.dependence.stamp),
        "hangs on length": bool(length and opposite(table.headline.win_rate, length)),
        "extrapolated": bool(length and length.extrapolated),
    }
    return [mark for mark, holds in found.items() if holds]


def dependent_headline(table: ContestTable) -> bool:
    """Whether the headline is that of judges who are not independent, because nobody else judged."""
    return bool(table.headline.judges) and set(table.headline.judges) <= set(table.dependent)


def cautions(table: ContestTable) -> list[str]:
    """What a reader has to know before believing the first sentence."""
    told = []
    if table.dependent:
        whose = "the headline is theirs" if dependent_headline(table) else "not in the headline"
        told.append(f"Not independent: {', '.join(table.dependent)} ({whose}).")
    told += [f"Left out of the headline: {judge} ({why})." for judge, why in table.headline.excluded.items()]
    if table.headline.missing:
        told.append(f"{table.headline.missing} speeches have no verdict in both orders and are missing, not ties.")
    if table.headline.missing_verdicts:
        told.append(f"{table.headline.missing_verdicts:.1%} of all verdicts are missing.")
    if table.dependence and table.dependence.stamp:
        told.append(f"{table.dependence.stamp[0].upper()}{table.dependence.stamp[1:]}.")
    told += [f"Length: {note}." for note in (table.length.notes if table.length else ())]
    if table.length and (moved := opposite(table.headline.win_rate, table.length)):
        told.append(moved)
    noted = (*(table.length.notes if table.length else ()), *STYLES)  # an uncontrolled style is no warning
    told += [
        f"Length and style: {note}."
        for note in (table.style.notes if table.style else ())
        if note not in noted and note.partition(":")[0] not in noted
    ]
    return told


def opposite(raw: Figure, length: LengthControlled) -> str:
    """A sentence when length control changes what can be said; '' when it does not."""
    sides = [_side(figure) for figure in (raw, length.controlled)]
    if None in sides or sides[0] == sides[1]:
        return ""
    return "At equal length the conclusion is another one: what is said above hangs on how long the replies are."


def difference_sentence(row: PolicyDifference) -> str:
    """One sentence about two candidates that met the same baseline."""
    found = row.difference
    if found.low is None or found.high is None:
        return f"{row.a} and {row.b}: too few speeches to compare."
    side = "does better than" if found.low > 0 else "does worse than" if found.high < 0 else "cannot be told apart from"
    return f"{row.a} {side} {row.b}, both against the same baseline."


def p_text(p: float | None) -> str:
    """A p-value as people read it."""
    return "undefined" if p is None else "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0")


def _side(figure: Figure) -> int | None:
    if figure.low is None or figure.high is None:
        return None
    return int(figure.low > 0.5) - int(figure.high < 0.5)
