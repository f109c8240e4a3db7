"""CounselChat: therapists' answers with readers' upvotes (Bertagnolli 2020), which follow exposure: diagnostic only."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

from psychocounsel.evaluate.human.items import Duel, Item, LabelledSet, Part, Task, message
from psychocounsel.evaluate.human.reading import Place, labelled_rows, number, text
from psychocounsel.rows import file_origin

LICENSE = "MIT"
COLUMNS = ("questionID", "questionTitle", "questionText", "therapistInfo", "answerText", "upvotes", "views")
WHAT = "counsel-chat's own CSV"
NOTE = "diagnostic only, never a gate: readers upvote what they are shown"
EXPOSURE = 2.0  # the larger number of views over the smaller, up to which two answers count as equally shown
FIRM, LIKE_LENGTH = 2, 1.25  # upvotes between, and longer over shorter in words, for the pairs of like length


def read_counselchat(path: Place) -> LabelledSet:
    """Every two answers to one question with unequal upvotes, and parts of these pairs. Unit: the question.

    Tests: `upvotes` (all pairs), `upvotes, like views`, `upvotes against views` (the upvoted answer was seen less), and
    `upvotes, like lengths` (two or more apart). None counts towards macro-OOD.
    """
    path = Path(path)
    counts: Counter[str] = Counter()
    writers: Counter[str] = Counter()
    questions: dict[str, dict[str, Item]] = {}
    for line, row in labelled_rows(path, COLUMNS, WHAT):
        counts["rows"] += 1
        where = f"{path}: row {line}"
        upvotes, views = (number(row, name, where) for name in ("upvotes", "views"))
        question, answer = text(row, "questionText") or text(row, "questionTitle"), text(row, "answerText")
        unit = text(row, "questionID")
        if not (unit and question and answer):
            counts["left out: no id or no text"] += 1
            continue
        writers[text(row, "therapistInfo")] += 1
        part = Part(turns=message(question), reply=answer)
        item = Item(parts=(part,), unit=unit, labels={"upvotes": upvotes}, known={"views": views})
        if item.id in questions.get(unit, {}):
            counts["left out: repeated"] += 1
        questions.setdefault(unit, {}).setdefault(item.id, item)
    items = [item for answers in questions.values() for item in answers.values()]
    kept = max(sum(writers.values()), 1)
    return LabelledSet(
        name="counselchat",
        license=LICENSE,
        origin=file_origin(path),
        unit="question",
        items=items,
        tests=tuple(Task(name, "pairs", macro=True) for name in TESTS),
        duels=[duel for answers in questions.values() for duel in _duels(list(answers.values()))],
        counts=counts,
        note=f"{NOTE}; five writers gave {sum(n for _, n in writers.most_common(5)) / kept:.0%} of the answers",
    )


TESTS = ("upvotes", "upvotes, like views", "upvotes against views", "upvotes, like lengths")


def _duels(answers: list[Item]) -> list[Duel]:
    found = []
    for one, other in combinations(answers, 2):
        gap = one.labels["upvotes"] - other.labels["upvotes"]
        better, worse = (one, other) if gap > 0 else (other, one)
        views = better.known["views"], worse.known["views"]
        words = sorted(len(item.parts[0].reply.split()) for item in (one, other))
        holds = (
            gap != 0,
            max(views) <= EXPOSURE * min(views),
            views[0] < views[1],
            abs(gap) >= FIRM and words[1] <= LIKE_LENGTH * words[0],
        )
        found += [
            Duel(test=test, better=better.id, worse=worse.id, unit=one.unit)
            for test, held in zip(TESTS, holds, strict=True)
            if held and gap
        ]
    return found
