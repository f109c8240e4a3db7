"""What raters said, in one shape for ratings, choices, verdicts and rankings, and the same as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psychocounsel.errors import UserError

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Kind = Literal["nominal", "ordinal", "interval", "ranked"]
OVERALL = "overall"
HUMAN, JUDGE, LABEL = "human", "judge", "label"


class Answer(NamedTuple):
    """What one rater said of one item on one question.

    `unit` is what intervals draw (a speech's cluster), `among` what items are ranked within (a speech; '' where items
    stand alone), `twice` two answers of the same rater to the same item (a repeat, or both orders), None without.
    """

    question: str
    item: str
    unit: str
    rater: str
    value: float
    twice: tuple[float, float] | None = None
    among: str = ""


class Question(NamedTuple):
    """How a question's values are to be read. `levels` are names of the values 1, 2, ... of nominal and ordinal ones;
    `tie` is the value that prefers neither side, None where there is none."""

    kind: Kind
    levels: tuple[str, ...] = ()
    tie: float | None = None


class Roles(NamedTuple):
    """Who is a person and who is a label; everybody else is a judge."""

    humans: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()

    def of(self, rater: str) -> str:
        return HUMAN if rater in self.humans else LABEL if rater in self.labels else JUDGE


@dataclass(frozen=True)
class Answers:
    """All answers as arrays: `values` holds a table (items, raters) for each question, NaN for no answer, and `twice`
    one of (items, raters, 2).

    `unit` and `among` are codes of each item; `among` is -1 for items that stand alone. `units` names the units.
    """

    questions: Mapping[str, Question]
    raters: tuple[str, ...]
    items: tuple[str, ...]
    units: tuple[str, ...]
    unit: Codes
    among: Codes
    values: Mapping[str, Array]
    twice: Mapping[str, Array]

    def role(self, roles: Roles, *wanted: str) -> list[int]:
        """The raters of these roles."""
        return [k for k, rater in enumerate(self.raters) if roles.of(rater) in wanted]


def arrays(answers: Iterable[Answer], questions: Mapping[str, Question]) -> Answers:
    """Answers as arrays, sorted by name: the order in which they come does not count.

    Raises UserError where nobody answered, where an item belongs to two units, and where a rater gave one item two
    first answers to a question.
    """
    rows = list(answers)
    if not rows:
        raise UserError("agree: there is no answer of anybody")
    items, raters = sorted({row.item for row in rows}), sorted({row.rater for row in rows})
    at, column = {item: k for k, item in enumerate(items)}, {rater: k for k, rater in enumerate(raters)}
    names, shape = sorted({row.question for row in rows}), (len(items), len(raters))
    values = {name: np.full(shape, np.nan) for name in names}
    twice = {name: np.full((*shape, 2), np.nan) for name in names}
    unit_of: dict[str, str] = {}
    among_of: dict[str, str] = {}
    for row in rows:
        place = at[row.item], column[row.rater]
        if unit_of.setdefault(row.item, row.unit) != row.unit:
            raise UserError(f"agree: item {row.item:.60} belongs to two units, {unit_of[row.item]:.40}, {row.unit:.40}")
        if np.isfinite(values[row.question][place]):
            raise UserError(f"agree: {row.rater:.40} gave item {row.item:.60} two first answers on {row.question:.40}")
        among_of[row.item] = row.among
        values[row.question][place] = row.value
        twice[row.question][place] = (np.nan, np.nan) if row.twice is None else row.twice
    units, unit = np.unique([unit_of[item] for item in items], return_inverse=True)
    among = np.unique([among_of[item] for item in items], return_inverse=True)[1].astype(np.int64)
    alone = np.array([not among_of[item] for item in items])
    return Answers(
        questions={name: questions[name] for name in values}, raters=tuple(raters), items=tuple(items),
        units=tuple(str(name) for name in units), unit=unit.astype(np.int64), among=np.where(alone, -1, among),
        values=values, twice=twice,
    )  # fmt: skip


def levels_of(values: Array) -> Array:
    """Values between two levels as the nearest one, a half goes up: what coefficients over levels see."""
    return np.asarray(np.floor(values + 0.5))
