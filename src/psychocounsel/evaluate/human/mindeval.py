"""MindEval's human set: psychologists score conversations, three systems for each profile (Pombal et al. 2025).

Its loader takes JSON Lines with one rating a line: `profile`, `system`, `rater` (names), `interaction` (chat messages;
`user` is the person who seeks support) and `scores` (criterion to number).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluate.human.items import Duel, Item, LabelledSet, Part, Task, recent
from psychocounsel.evaluate.human.reading import Place, labelled_rows, text
from psychocounsel.records import Turn
from psychocounsel.rows import Row, file_origin

LICENSE = "none stated"
COLUMNS = ("profile", "system", "rater", "interaction", "scores")
WHAT = "JSON Lines with profile, system, rater, interaction and scores in every line (docs/human-labels.md)"
ROLES = {"user": "client", "assistant": "therapist"}
Key = tuple[str, str]  # profile, system


def read_mindeval(path: Place) -> LabelledSet:
    """Pairs of systems within a profile, by the mean of scores that were made z within each rater. Unit: the profile.

    A conversation's score is the mean over the counsellor's messages. Raters who score all alike are left out.
    """
    path = Path(path)
    counts: Counter[str] = Counter()
    parts: dict[Key, tuple[Part, ...]] = {}
    by_rater: dict[str, dict[Key, float]] = defaultdict(dict)
    for line, row in labelled_rows(path, COLUMNS, WHAT):
        counts["rows"] += 1
        where = f"{path}: row {line}"
        key, rater = (text(row, "profile"), text(row, "system")), text(row, "rater")
        if not all((*key, rater)):
            counts["left out: no profile, system or rater"] += 1
        elif key in by_rater[rater]:
            counts["left out: rated twice by one rater"] += 1
        else:
            parts.setdefault(key, _parts(row, where))
            by_rater[rater][key] = _score(row, where)
    scaled = _scaled(by_rater, counts)
    items = _items(parts, scaled, counts)
    return LabelledSet(
        name="mindeval",
        license=LICENSE,
        origin=file_origin(path),
        unit="profile",
        items=list(items.values()),
        tests=(Task("preferred system", "pairs", counts=True),),
        duels=_duels(items, counts),
        counts=counts,
        ceiling=_ceiling(scaled),
    )


def _parts(row: Row, where: str) -> tuple[Part, ...]:
    said: list[Turn] = []
    found: list[Part] = []
    messages = row["interaction"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UserError(f"{where}: 'interaction' is no list of chat messages; write role and content for each")
    for message in messages:
        role, content = ROLES.get(str(message.get("role"))), str(message.get("content") or "").strip()
        if role is None or not content:  # a system text, or nothing said
            continue
        if role == "therapist" and said and said[-1].role == "client":
            found.append(Part(turns=recent(said), reply=content))
        said.append(Turn.model_validate({"role": role, "text": content}))
    if not found:
        raise UserError(f"{where}: 'interaction' holds no assistant message after one of the user; mend or take it out")
    return tuple(found)


def _score(row: Row, where: str) -> float:
    scores = row["scores"]
    values = list(scores.values()) if isinstance(scores, dict) else []
    if not values or not all(isinstance(v, int | float) and not isinstance(v, bool) and v == v for v in values):
        raise UserError(f"{where}: 'scores' is no object of criteria and numbers; mend the row or take it out")
    return fmean(values)


def _scaled(by_rater: dict[str, dict[Key, float]], counts: Counter[str]) -> dict[str, dict[Key, float]]:
    """Scores as standard deviations from the rater's own mean: some raters are milder than others."""
    found = {}
    for rater, scores in by_rater.items():
        mean, spread = (fmean(scores.values()), pstdev(scores.values())) if scores else (0.0, 0.0)
        if not spread:
            counts["ratings left out: the rater scores all alike"] += len(scores)
            continue
        found[rater] = {key: (value - mean) / spread for key, value in scores.items()}
    return found


def _items(
    parts: dict[Key, tuple[Part, ...]], scaled: dict[str, dict[Key, float]], counts: Counter[str]
) -> dict[Key, Item]:
    found = {}
    for key, part in parts.items():
        scores = [by_key[key] for by_key in scaled.values() if key in by_key]
        if not scores:
            counts["conversations left out: no rating"] += 1
            continue
        found[key] = Item(parts=part, unit=key[0], labels={"score": fmean(scores)}, stratum=key[1])
    return found


def _duels(items: dict[Key, Item], counts: Counter[str]) -> list[Duel]:
    found = []
    for one, other in combinations(items.values(), 2):
        if one.unit != other.unit:
            continue
        gap = one.labels["score"] - other.labels["score"]
        if abs(gap) < 1e-9:
            counts["pairs left out: equal means"] += 1
            continue
        better, worse = (one, other) if gap > 0 else (other, one)
        found.append(Duel(test="preferred system", better=better.id, worse=worse.id, unit=one.unit))
    return found


def _ceiling(scaled: dict[str, dict[Key, float]]) -> dict[str, Any]:
    """How often a rater orders two conversations of a profile as the mean of the other raters does; ties count half."""
    credit: list[float] = []
    for rater, own in scaled.items():
        others: dict[Key, list[float]] = defaultdict(list)
        for other, scores in scaled.items():
            for key in scores if other != rater else ():
                others[key].append(scores[key])
        shared = [key for key in own if key in others]
        for one, two in combinations(shared, 2):
            gap = fmean(others[one]) - fmean(others[two])
            if one[0] == two[0] and abs(gap) >= 1e-9:
                mine = own[one] - own[two]
                credit.append(0.5 if mine == 0 else float((mine > 0) == (gap > 0)))
    return {"a rater against the others": {"value": round(fmean(credit), 4), "n": len(credit)}} if credit else {}
