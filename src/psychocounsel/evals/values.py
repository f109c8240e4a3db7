"""Values as raters wrote them: which scale a question has, and each value as the number of its level."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.errors import UserError, nearest
from psychocounsel.evaluate.raters.answers import Answer, Question

SCALES = ("nominal", "ordinal", "interval")
CHOICE = ("first", "tie", "second")
NOTHING = {"", "na", "n/a", "nan", "null"}  # not "none", which is a level of many scales
MOST_LEVELS = 20  # whole numbers further apart are a measure, not levels
MOST_NAMES = 50  # different texts; more are no labels but free text
LARGEST = 1e9


@dataclass
class Raw:
    """An answer before its value is understood. `where` is the file and row, for errors."""

    where: str
    question: str
    item: str
    unit: str
    rater: str
    value: Any
    twice: tuple[Any, Any] | None = None
    among: str = ""


def missing(value: Any) -> bool:
    """Nothing, or one of the words with which tables say so."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip().lower() in NOTHING


def number(value: Any) -> float | None:
    """A finite number, also from the cell of a CSV; None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def settle(
    rows: Sequence[Raw], known: Mapping[str, Question], scale: str = "", levels: Sequence[str] = ()
) -> tuple[list[Answer], dict[str, Question]]:
    """Answers as numbers, and how each question is to be read: as told by `known`, `scale` and `levels`, else by rule.

    By rule, texts are names without order, except first, second and tie; whole numbers within 20 of each other are
    levels in order; other numbers lie on a scale. Raises UserError for a value that does not fit.
    """
    if scale and scale not in SCALES:
        raise UserError(f"--scale {scale}: there are {', '.join(SCALES)}{nearest(scale, list(SCALES))}")
    by_question: dict[str, list[Raw]] = defaultdict(list)
    for row in rows:
        by_question[row.question].append(row)
    answers: list[Answer] = []
    questions: dict[str, Question] = {}
    for name, mine in sorted(by_question.items()):
        if name in known:
            questions[name] = known[name]
            answers += [_answer(row, _told) for row in mine]
            continue
        questions[name], codes = _scale(mine, scale, [level.strip() for level in levels])
        answers += [_answer(row, codes) for row in mine]
    return answers, questions


class Codes:
    """Names of levels as their numbers, 1 for the first; without names the number itself."""

    def __init__(self, levels: Sequence[str] = ()) -> None:
        self.at = {level: float(k) for k, level in enumerate(levels, 1)}

    def __call__(self, value: Any, where: str) -> float:
        """The number of a value. Raises UserError for one that is no level, or no number."""
        if not self.at:
            return _told(value, where)
        name = _name(value)
        if name not in self.at:
            names = list(self.at)
            raise UserError(f"{where}: '{name:.40}' is none of {', '.join(names)[:200]}{nearest(name, names)}")
        return self.at[name]


def _answer(row: Raw, codes: Any) -> Answer:
    twice = None if row.twice is None else (codes(row.twice[0], row.where), codes(row.twice[1], row.where))
    return Answer(row.question, row.item, row.unit, row.rater, codes(row.value, row.where), twice, row.among)


def _told(value: Any, where: str) -> float:
    found = number(value)
    if found is None or abs(found) > LARGEST:
        raise UserError(f"{where}: '{value!s:.40}' is no number between -1e9 and 1e9")
    return found


def _scale(rows: Sequence[Raw], scale: str, levels: Sequence[str]) -> tuple[Question, Codes]:
    """The scale of a question's values, and what makes numbers of them."""
    if levels:
        if len(set(levels)) < 2 or len(set(levels)) < len(levels):
            raise UserError("--levels: name two or more different levels, lowest first")
        return Question("nominal" if scale == "nominal" else "ordinal", tuple(levels)), Codes(levels)
    values = [value for row in rows for value in (row.value, *(row.twice or ()))]
    texts = [value for value in values if number(value) is None]
    if texts and len(texts) < len(values) and scale != "nominal":
        row = next(row for row in rows if any(number(value) is None for value in (row.value, *(row.twice or ()))))
        raise UserError(
            f"{row.where}: numbers and texts are mixed on {row.question:.40} ('{texts[0]!s:.40}' among numbers); "
            "mend the value, or say --scale nominal"
        )
    if texts or scale == "nominal":
        return _named({_name(value) for value in values}, scale, rows[0])
    for row in rows:
        _told(row.value, row.where)
    numbers = [float(value) for value in values]
    low, high = min(numbers), max(numbers)
    whole = all(value.is_integer() for value in numbers) and high - low < MOST_LEVELS
    if scale == "ordinal" and not whole:
        raise UserError(f"{rows[0].where}: --scale ordinal needs whole numbers within {MOST_LEVELS}, or --levels")
    if scale == "interval" or not whole:
        return Question("interval"), Codes()
    names = [_name(float(value)) for value in range(int(low), int(high) + 1)]
    return Question("ordinal", tuple(names)), Codes(names)


def _named(names: set[str], scale: str, row: Raw) -> tuple[Question, Codes]:
    if scale in ("ordinal", "interval"):
        raise UserError(f"{row.where}: texts have no order by themselves; name them, lowest first, with --levels")
    if names <= set(CHOICE) and scale != "nominal":
        return Question("ordinal", CHOICE, tie=2.0), Codes(CHOICE)
    if len(names) > MOST_NAMES:
        raise UserError(
            f"{row.where}: {row.question:.40} has {len(names)} different texts, over {MOST_NAMES}; are these labels?"
        )
    found = sorted(names)
    return Question("nominal", tuple(found)), Codes(found)


def _name(value: Any) -> str:
    """A level's name: 4, '4' and 4.0 are one."""
    found = number(value)
    return str(value).strip() if found is None else str(int(found)) if found.is_integer() else str(found)
