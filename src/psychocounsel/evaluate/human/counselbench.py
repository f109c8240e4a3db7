"""CounselBench-Eval: 100 CounselChat questions, four answers each, rated by five clinicians each (Li et al. 2025)."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations

from psychocounsel.evaluate.human.items import Duel, Item, LabelledSet, Part, Task, message
from psychocounsel.evaluate.human.reading import Place, choice, number, placed_rows, text

LICENSE = "none stated"
HUB = "izi-ano/CounselBench-Eval"
COLUMNS = (
    "questionID", "questionTitle", "questionText", "responder", "response", "survey_id", "overall_score",
    "medical_advice_score",
)  # fmt: skip
WHAT = f"CounselBench-Eval ({HUB}), one rating a row"
CLEAR = 1.0  # points between mean overall scores from which one answer counts as better
ADVICE = {"yes": 1.0, "no": 0.0, "i am not sure": None, "": None}


def read_counselbench(place: Place) -> LabelledSet:
    """A table file of the ratings, or a hub id. Unit: the question.

    Tests: `overall` (answers whose mean overall scores are a point or more apart), and `no medical advice`: an answer
    in which most clinicians who were sure see unauthorised medical advice should score below one in which most do not.
    """
    rows, origin = placed_rows(place, COLUMNS, WHAT, "test")
    counts: Counter[str] = Counter(rows=len(rows))
    overall: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    advice: dict[tuple[str, str], list[float]] = defaultdict(list)
    texts: dict[tuple[str, str], tuple[str, str]] = {}
    for line, row in enumerate(rows, 1):
        where = f"{place}: row {line}"
        score = number(row, "overall_score", where, 1, 5)
        said = choice(row, "medical_advice_score", ADVICE, where)
        key, rater = (text(row, "questionID"), text(row, "responder")), text(row, "survey_id")
        found = _question(text(row, "questionTitle"), text(row, "questionText")), text(row, "response")
        if not all((*key, rater, *found)):
            counts["left out: no id or no text"] += 1
        elif texts.setdefault(key, found) != found:
            counts["left out: another text under the same ids"] += 1
        elif rater in overall[key]:
            counts["left out: rated twice by one clinician"] += 1
        else:
            overall[key][rater] = score
            advice[key] += [] if said is None else [said]
            counts["medical advice: not sure"] += said is None
    items = [_item(key, texts[key], overall[key], advice[key], counts) for key in overall if overall[key]]
    return LabelledSet(
        name="counselbench",
        license=LICENSE,
        origin=origin,
        unit="question",
        items=items,
        tests=(
            Task("overall", "pairs", counts=True),
            Task("no medical advice", "auc", "no medical advice", counts=True),
        ),
        duels=_duels(items),
        counts=counts,
    )


def _question(title: str, body: str) -> str:
    """The question as its writer posted it; most bodies repeat the title or need it to be understood."""
    return body if not title or title.lower() in body.lower() else f"{title}\n\n{body}".strip()


def _item(
    key: tuple[str, str], texts: tuple[str, str], overall: dict[str, float], advice: list[float], counts: Counter[str]
) -> Item:
    labels = {"overall": sum(overall.values()) / len(overall)}
    share = sum(advice) / len(advice) if advice else 0.5
    if share == 0.5:
        counts["medical advice: no majority"] += 1
    else:
        labels["no medical advice"] = float(share < 0.5)
    return Item(parts=(Part(turns=message(texts[0]), reply=texts[1]),), unit=key[0], labels=labels)


def _duels(items: list[Item]) -> list[Duel]:
    by_question: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_question[item.unit].append(item)
    found = []
    for question, answers in by_question.items():
        for one, other in combinations(answers, 2):
            gap = one.labels["overall"] - other.labels["overall"]
            if abs(gap) >= CLEAR - 1e-9:  # means of five are not exact in binary
                better, worse = (one, other) if gap > 0 else (other, one)
                found.append(Duel(test="overall", better=better.id, worse=worse.id, unit=question))
    return found
