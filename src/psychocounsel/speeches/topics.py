"""Topics, risk and speaker: who gives them, a student of words as a second opinion, and a list for review."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from psychocounsel.engine import HERE, Engine
from psychocounsel.principles import load_topics
from psychocounsel.records import Speech
from psychocounsel.speeches.accuracy import Case, figures
from psychocounsel.speeches.classify import Choice, Reading
from psychocounsel.speeches.student import Guess, guess

Field = Literal["topic", "risk", "speaker"]
FIELDS: tuple[Field, ...] = ("topic", "risk", "speaker")
BY_STUDENT = "tfidf"
LEAST_CASES = 20  # labelled speeches of a source from which its accuracy is stated
ALERT = 0.5  # probability from which the student's sign of risk in an unlabelled speech goes to review


@dataclass
class Topics:
    """Speeches with topics; rows for a person to look at; the figures of topics.json."""

    speeches: list[Speech]
    review: list[dict[str, Any]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


def give_topics(
    speeches: Sequence[Speech],
    teachers: Sequence[Speech] = (),
    reading: Reading | None = None,
    accepted: Mapping[str, tuple[str, ...]] | None = None,
    engine: Engine = HERE,
) -> Topics:
    """Fill topics from a model's reading or, without one, from the student; compare all that is labelled.

    What the source said stays. Risk and speaker are filled by a model alone; the student only raises questions.
    `accepted`: every topic that counts as right, by source id.
    """
    read = [_filled(speech, reading) for speech in speeches]
    guesses = {name: guess(name, read, teachers, _label(name), engine) for name in FIELDS}
    done = read
    if reading is None:
        done = [
            speech
            if speech.topic or not guesses["topic"].get(speech.id)
            else speech.model_copy(update={"topic": next(iter(guesses["topic"][speech.id])), "topic_by": BY_STUDENT})
            for speech in read
        ]
    right = {speech.id: _accepted(speech, accepted or {}) for speech in speeches}
    review = [row for name in FIELDS for row in _review(name, speeches, read, guesses[name], reading, right)]
    review.sort(key=lambda row: (row["given_probability"] - row["probability"], row["id"], row["field"]))
    report = {
        "given": {name: _given(name, speeches, done, reading) for name in FIELDS},
        "topics": dict(sorted(Counter(speech.topic or "" for speech in done).items())),
        "model": _reading_report(reading, guesses["topic"]),
        "accuracy": _accuracies(speeches, guesses["topic"], reading, right),
        "review": {name: sum(row["field"] == name for row in review) for name in FIELDS},
    }
    for name in FIELDS[1:]:
        cases = [_case(s, (str(value),), guesses[name]) for s in read if (value := _label(name)(s))]
        report[name] = {"student": figures(cases) if len(cases) >= LEAST_CASES else {"n": len(cases)}}
    return Topics(done, review, report)


def _label(name: Field) -> Callable[[Speech], str | None]:
    return lambda speech: None if name == "topic" and speech.topic_by == BY_STUDENT else getattr(speech, name)


def _filled(speech: Speech, reading: Reading | None) -> Speech:
    choice = reading.choices.get(speech.id) if reading else None
    if reading is None or choice is None:
        return speech
    changes: dict[str, Any] = {}
    if choice.topic and not speech.topic:
        changes |= {"topic": choice.topic, "topic_by": reading.model, "secondary": choice.secondary}
    changes |= {name: getattr(choice, name) for name in FIELDS[1:] if getattr(speech, name) is None}
    return speech.model_copy(update=changes)


def _accepted(speech: Speech, accepted: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The source's topic first, then every other one that counts as right; () without a source's topic."""
    if not speech.topic or speech.topic_by != "source":
        return ()
    return tuple(dict.fromkeys([speech.topic, *speech.secondary, *accepted.get(speech.source_id, ())]))


def _review(
    name: Field,
    before: Sequence[Speech],
    read: Sequence[Speech],
    guesses: Mapping[str, Guess],
    reading: Reading | None,
    right: Mapping[str, tuple[str, ...]],
) -> list[dict[str, Any]]:
    """Rows where the answer on record is not the student's or not the model's, or the student sees a risk unread."""
    rows = []
    for raw, speech in zip(before, read, strict=True):
        found, given = guesses.get(speech.id) or {}, _label(name)(speech)
        student = next(iter(found), None)
        choice = reading.choices.get(speech.id) if reading else None
        chosen = getattr(choice, name) if choice else None
        fine = {given, *(right[speech.id] if name == "topic" else ())}
        unread_risk = name == "risk" and student not in (None, "none") and found.get(student or "", 0) >= ALERT
        differs = any(other is not None and other not in fine for other in (student, chosen)) if given else unread_risk
        if differs:
            by_source = getattr(raw, name) is not None
            rows.append(
                {
                    "id": speech.id,
                    "field": name,
                    "given": given,
                    "given_by": "" if given is None else "source" if by_source else reading.model if reading else "",
                    "model": chosen,
                    "student": student,
                    "probability": found.get(student or "", 0.0),
                    "given_probability": found.get(given or "", 0.0),
                }
            )
    return rows


def _given(name: Field, before: Sequence[Speech], after: Sequence[Speech], reading: Reading | None) -> dict[str, int]:
    """How many speeches have the field from their source, from the model, from the student, or not at all."""
    by: Counter[str] = Counter()
    for raw, speech in zip(before, after, strict=True):
        if getattr(speech, name) is None:
            by["nobody"] += 1
        elif getattr(raw, name) is not None:
            by["source"] += 1
        else:
            by[reading.model if reading else BY_STUDENT] += 1
    return dict(sorted(by.items()))


def _reading_report(reading: Reading | None, guesses: Mapping[str, Guess]) -> dict[str, Any] | None:
    """Counts of a model's answers; what it refused, by the topic that the student sees in it."""
    if reading is None:
        return None
    refused = Counter(next(iter(guesses.get(key) or {}), "") for key in reading.refused)
    return {
        "name": reading.model,
        "answers": dict(sorted(reading.counts.items())),
        "refused_by_topic": dict(sorted(refused.items())),
    }


def _accuracies(
    speeches: Sequence[Speech],
    guesses: Mapping[str, Guess],
    reading: Reading | None,
    right: Mapping[str, tuple[str, ...]],
) -> dict[str, Any]:
    """Figures by source with enough topics of its own: the student (held out), and the model where it read them."""
    coarse = {topic.id: topic.coarse for topic in load_topics().values()}
    found: dict[str, Any] = {}
    for source in sorted({speech.source for speech in speeches}):
        labelled = [speech for speech in speeches if speech.source == source and right[speech.id]]
        if len(labelled) < LEAST_CASES:
            continue
        found[source] = {"student": figures([_case(s, right[s.id], guesses) for s in labelled], coarse)}
        if reading and (asked := [s for s in labelled if s.id in reading.choices or s.id in reading.refused]):
            answers = {s.id: reading.choices.get(s.id, Choice()) for s in asked}
            found[source][reading.model] = figures(
                [
                    Case(s.cluster, right[s.id], tuple(filter(None, (answers[s.id].topic, *answers[s.id].secondary))))
                    for s in asked
                ],
                coarse,
            )
    return found


def _case(speech: Speech, accepted: tuple[str, ...], guesses: Mapping[str, Guess]) -> Case:
    return Case(speech.cluster, accepted, tuple(guesses.get(speech.id) or {}))
