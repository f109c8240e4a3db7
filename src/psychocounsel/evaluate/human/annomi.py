"""AnnoMI: 133 demonstrations of good and poor motivational interviewing, coded by experts (Wu et al. 2022, 2023)."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel.evaluate.human.items import Item, LabelledSet, Part, Task, recent
from psychocounsel.evaluate.human.reading import Place, choice, labelled_rows, number, text
from psychocounsel.records import Turn
from psychocounsel.rows import Row, file_origin

LICENSE = "none stated"
COLUMNS = (
    "mi_quality", "transcript_id", "topic", "utterance_id", "interlocutor", "utterance_text", "annotator_id",
    "therapist_input_exists", "therapist_input_subtype", "reflection_exists", "reflection_subtype", "question_exists",
    "question_subtype", "main_therapist_behaviour", "client_talk_type",
)  # fmt: skip
WHAT = "AnnoMI-full.csv (not AnnoMI-simple.csv), one row for each utterance and annotator"
FEWEST_WORDS = 5  # of a turn and of the client's turn before it: shorter ones are "mm-hmm" and the like
YES = {"true": True, "false": False, "n/a": False}
QUALITY = {"high": 1.0, "low": 0.0}
SPEAKERS = {"client": "client", "therapist": "therapist"}
BEHAVIOURS = ("input", "advice", "reflection", "complex", "question", "open")


MAIN = ("reflection", "question", "therapist_input", "other")


@dataclass
class _Utterance:
    """What one turn is and how each annotator coded it."""

    turn: Turn
    codes: dict[str, dict[str, bool]] = field(default_factory=dict)
    kinds: list[str] = field(default_factory=list)

    @property
    def role(self) -> str:
        return self.turn.role

    @property
    def text(self) -> str:
        return self.turn.text

    def decided(self, name: str) -> bool | None:
        """What most annotators say; None where they are tied."""
        share = self.share(name)
        return None if share == 0.5 else share > 0.5

    def share(self, name: str) -> float:
        return sum(codes[name] for codes in self.codes.values()) / len(self.codes)


@dataclass
class _Session:
    quality: float
    topic: str
    utterances: dict[float, _Utterance] = field(default_factory=dict)


def read_annomi(path: Place) -> LabelledSet:
    """AnnoMI-full.csv. Unit: the transcript. Where several annotators coded a turn, the majority counts.

    Behaviour tests take therapist turns after a client's, both of five words or more, with the last turns as context:
    reflections and open questions without any input should score above turns that only give input (or advice).
    Session tests take the mean over all therapist turns of a transcript, high quality against low.
    """
    path = Path(path)
    counts: Counter[str] = Counter()
    sessions = _sessions(path, counts)
    items: list[Item] = []
    for name, session in sessions.items():
        turns = [session.utterances[place] for place in sorted(session.utterances)]
        items += _behaviours(name, turns, counts)
        items += _whole(name, session, turns, counts)
    return LabelledSet(
        name="annomi",
        license=LICENSE,
        origin=file_origin(path),
        unit="transcript",
        items=items,
        tests=(
            Task("reflection or open question v input", "auc", "v input", counts=True),
            Task("reflection or open question v advice", "auc", "v advice", counts=True),
            Task("open v closed question", "auc", "open"),
            Task("complex v simple reflection", "auc", "complex"),
            Task("session quality", "auc", "quality", counts=True),
            Task("session quality, one topic", "auc", "quality", within=True),
        ),
        counts=counts,
        ceiling=_ceiling(sessions.values()),
    )


def _sessions(path: Path, counts: Counter[str]) -> dict[str, _Session]:
    sessions: dict[str, _Session] = {}
    for line, row in labelled_rows(path, COLUMNS, WHAT):
        counts["rows"] += 1
        where = f"{path}: row {line}"
        role, said = choice(row, "interlocutor", SPEAKERS, where), text(row, "utterance_text")
        name, annotator = text(row, "transcript_id"), text(row, "annotator_id")
        if not (name and annotator and said):
            counts["left out: no id or no text"] += 1
            continue
        fresh = _Session(choice(row, "mi_quality", QUALITY, where), text(row, "topic"))
        session = sessions.setdefault(name, fresh)
        found = session.utterances.setdefault(
            number(row, "utterance_id", where), _Utterance(Turn(role=role, text=said))
        )
        if annotator in found.codes:
            counts["left out: coded twice by one annotator"] += 1
            continue
        found.codes[annotator] = _codes(row, where)
        found.kinds.append(text(row, "main_therapist_behaviour" if role == "therapist" else "client_talk_type"))
    return sessions


def _codes(row: Row, where: str) -> dict[str, bool]:
    exists = {
        name: choice(row, f"{column}_exists", YES, where)
        for name, column in (("input", "therapist_input"), ("reflection", "reflection"), ("question", "question"))
    }
    return exists | {
        "advice": exists["input"] and text(row, "therapist_input_subtype") == "advice",
        "complex": exists["reflection"] and text(row, "reflection_subtype") == "complex",
        "open": exists["question"] and text(row, "question_subtype") == "open",
    }


def _behaviours(name: str, turns: list[_Utterance], counts: Counter[str]) -> list[Item]:
    found = []
    for place, turn in enumerate(turns):
        before = turns[place - 1] if place else None
        if turn.role != "therapist" or before is None or before.role != "client":
            continue
        if min(len(turn.text.split()), len(before.text.split())) < FEWEST_WORDS:
            counts["therapist turns left out: under five words, or after such a turn"] += 1
            continue
        counts["therapist turns that fit"] += 1
        context = recent([earlier.turn for earlier in turns[:place]])
        labels = _labels({code: turn.decided(code) for code in BEHAVIOURS}, counts) | _main(turn.kinds)
        if labels:
            found.append(Item(parts=(Part(turns=context, reply=turn.text),), unit=name, labels=labels))
    return found


def _main(kinds: list[str]) -> dict[str, float]:
    """The main behaviour that most annotators name, as questions.toml numbers them; {} where they are tied."""
    ordered = Counter(kinds).most_common(2)
    if not ordered or (len(ordered) > 1 and ordered[0][1] == ordered[1][1]) or ordered[0][0] not in MAIN:
        return {}
    return {"main": float(MAIN.index(ordered[0][0]))}


def _labels(codes: dict[str, bool | None], counts: Counter[str]) -> dict[str, float]:
    if None in codes.values():
        counts["therapist turns left out: annotators are tied"] += 1
        return {}
    labels: dict[str, float] = {}
    if (codes["reflection"] or codes["open"]) and not codes["input"]:
        labels |= {"v input": 1.0, "v advice": 1.0}
    elif codes["input"] and not codes["reflection"] and not codes["question"]:
        labels |= {"v input": 0.0} | ({"v advice": 0.0} if codes["advice"] else {})
    labels |= {"open": float(bool(codes["open"]))} if codes["question"] else {}
    return labels | ({"complex": float(bool(codes["complex"]))} if codes["reflection"] else {})


def _whole(name: str, session: _Session, turns: list[_Utterance], counts: Counter[str]) -> list[Item]:
    parts = []
    coded = [turn for turn in turns if turn.role == "therapist"]
    for place, turn in enumerate(turns):
        if turn.role == "therapist" and place and turns[place - 1].role == "client":
            parts.append(Part(turns=recent([earlier.turn for earlier in turns[:place]]), reply=turn.text))
    if not parts:
        counts["transcripts left out: no therapist turn after a client's"] += 1
        return []
    known = {
        "less input (by the annotators)": 1 - sum(turn.share("input") for turn in coded) / len(coded),
        "reflection (by the annotators)": sum(turn.share("reflection") for turn in coded) / len(coded),
    }
    labels = {"quality": session.quality}
    return [Item(parts=tuple(parts), unit=name, labels=labels, known=known, stratum=session.topic)]


def _ceiling(sessions: Any) -> dict[str, Any]:
    """Fleiss' kappa of the annotators on the turns that most of them coded, by speaker."""
    kinds: dict[str, list[list[str]]] = defaultdict(list)
    for session in sessions:
        for turn in session.utterances.values():
            kinds[turn.role].append(turn.kinds)
    found = {}
    for role, name in (("therapist", "main behaviour"), ("client", "talk type")):
        most = max((len(row) for row in kinds[role]), default=0)
        rows = [row for row in kinds[role] if len(row) == most]
        if most > 1 and (value := fleiss(rows)) is not None:
            found[f"Fleiss' kappa, {name}"] = {"value": round(value, 4), "n": len(rows), "raters": most}
    return found


def fleiss(rows: list[list[str]]) -> float | None:
    """Fleiss' (1971) kappa of rows that hold one label a rater, equally many each; None where nothing varies."""
    raters = len(rows[0])
    counts = [Counter(row) for row in rows]
    agreed = sum(sum(n * (n - 1) for n in row.values()) for row in counts) / (len(rows) * raters * (raters - 1))
    totals = sum(counts, Counter())
    chance = sum((n / (len(rows) * raters)) ** 2 for n in totals.values())
    return None if chance >= 1 else (agreed - chance) / (1 - chance)
