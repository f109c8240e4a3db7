"""Agreement from published counts: a table of two raters, and what is possible when only its margins are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from psychocounsel.errors import UserError
from psychocounsel.evaluate.raters.answers import OVERALL, Answer, Question
from psychocounsel.evaluate.raters.procedures import joint_counts
from psychocounsel.ratings.reliability import coefficients, estimate

FIRST, SECOND, LABELS = "first", "second", "label"
RIGHT = "agrees_with_label"
CELLS = ((1, 1), (1, 0), (0, 1), (0, 0))
SHOWN = ("exact", "kappa", "ac1", "alpha_nominal")
MOST = 100_000  # items of a table; more are no table of two raters


def counted(cells: Sequence[int]) -> tuple[list[Answer], dict[str, Question]]:
    """Answers that give these counts: both raters agree with the label, only the first, only the second, neither.

    Two questions: whether each agrees with the label, as the counts tell; and what they chose, `overall`, where the
    label is the one reply as often as the other, as after a random order. Raises UserError for other than four counts.
    """
    if len(cells) != len(CELLS) or min(cells) < 0 or not 0 < sum(cells) <= MOST:
        raise UserError(
            f"counts: four whole numbers of 1 to {MOST} items in all are needed: both raters agree with the label, "
            "only the first, only the second, neither"
        )
    rows = []
    for (first, second), many in zip(CELLS, cells, strict=True):
        for number in range(many):
            item = f"{first}{second}-{number:06}"
            side = number % 2  # the label's side, half and half within each cell
            for rater, right in ((FIRST, first), (SECOND, second), (LABELS, 1)):
                if rater != LABELS:
                    rows.append(Answer(RIGHT, item, item, rater, right + 1.0))
                rows.append(Answer(OVERALL, item, item, rater, 1.0 + (side if right else 1 - side)))
    return rows, {
        RIGHT: Question("ordinal", ("differs", "agrees")),
        OVERALL: Question("ordinal", ("first reply", "second reply")),
    }


def possible(items: int, first: int, second: int, alike: int | None = None) -> dict[str, Any]:
    """All joint tables that fit published margins, and the range of each coefficient over them.

    `first` and `second` are how often each rater agreed with the label, `alike`, if told, how often with each other.
    The margins fix what chance explains, so every coefficient grows with `alike`: the ends are those of the first and
    the last table. Raises UserError when no table fits, because the counts contradict each other.
    """
    if not 0 < items <= MOST or not 0 <= first <= items or not 0 <= second <= items:
        raise UserError(f"margins: {first} and {second} must be from 0 to the number of items, {items}, 1 to {MOST}")
    told = range(items + 1) if alike is None else [alike]
    tables = [table for number in told for table in joint_counts(items, first, second, number)]
    if not tables:
        raise UserError(f"margins: no table of {items} items has {first} and {second} right and {alike} alike")
    least, most = (_coefficients(table) for table in (tables[0], tables[-1]))
    return {
        "items": items, "first": first, "second": second, "alike": alike, "tables": len(tables),
        "least": list(tables[0]), "most": list(tables[-1]),
        "ranges": {name: [least[name], most[name]] for name in SHOWN},
    }  # fmt: skip


def _coefficients(cells: Sequence[int]) -> dict[str, float | None]:
    table = np.repeat(np.array(CELLS, dtype=float) + 1, cells, axis=0)
    (found,) = coefficients([table], np.arange(len(table)), raters=2, levels=(1, 2))
    return {name: estimate(found[name])["value"] for name in SHOWN}
