"""A language model's closed choice of topic, risk and speaker: one strict JSON answer per speech, read with care."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from psychocounsel.models.calls import ask_all
from psychocounsel.models.capabilities import fitted
from psychocounsel.models.chat import ChatModel, Completion, Request
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_topics
from psychocounsel.principles.prompts import RISKS, SPEAKERS, dialogue_text, quoted, topic_prompt, topic_schema
from psychocounsel.progress import progress
from psychocounsel.records import Speech

MOST_SECONDARY = 2


@dataclass(frozen=True)
class Choice:
    """What a model answered about one speech; None where it gave no value of the taxonomy."""

    topic: str | None = None
    secondary: tuple[str, ...] = ()
    risk: str | None = None
    speaker: str | None = None


@dataclass
class Reading:
    """A model's choices by speech id, the speeches it refused, and counts of what was wrong with its answers."""

    model: str
    choices: dict[str, Choice] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def classify(
    speeches: Sequence[Speech], model: ChatModel, store: CallStore, which: Literal["missing", "all"] = "missing"
) -> Reading:
    """Let a model choose topic, risk and speaker of speeches without a topic, or of all. No answer is asked for twice.

    A refusal or a filtered answer is a result: it is kept and counted. So is what is no value of the taxonomy.
    """
    topics = load_topics()
    system, schema = topic_prompt(topics), topic_schema(topics)
    reading = Reading(model.name)
    jobs = []
    for speech in speeches:
        request = Request(
            messages=(
                {"role": "system", "content": system},
                {"role": "user", "content": quoted("CLIENT", dialogue_text(speech.turns))},
            ),
            sampling={"temperature": 0.0, "max_tokens": 120},
            answer_schema=schema,
            subject={"speech_id": speech.id, "source_id": speech.source_id},
        )
        if (which == "all" or not speech.topic) and model.can_answer(request):
            jobs.append((model, request))
    with progress("topics", len(jobs)) as advance:
        answers = ask_all(jobs, store, lambda _: advance(), fitted)
    for (_, request), answer in zip(jobs, answers, strict=True):
        _take(reading, request.subject["speech_id"], answer)
    return reading


def _take(reading: Reading, speech_id: str, answer: Completion) -> None:
    reading.counts["asked"] += 1
    if answer.finish in ("refused", "filtered"):
        reading.refused[speech_id] = answer.finish
        reading.counts[answer.finish] += 1
        return
    choice, faults = read_choice(answer.text)
    reading.counts.update(faults or ["complete"])
    if choice != Choice():
        reading.choices[speech_id] = choice


def read_choice(text: str) -> tuple[Choice, list[str]]:
    """The choice in {"topic", "secondary", "risk", "speaker"}, bare or in a fence or prose; and the faults by name.

    A bare topic id is a choice too. Words in prose are not: many ids are ordinary words.
    """
    topics = load_topics()
    answer = _last_object(text)
    if answer is None:
        bare = text.strip(" \n\t.`\"'").lower()
        if bare in topics:
            return Choice(topic=bare), ["no risk", "no speaker"]
        return Choice(), ["unreadable"]
    faults: list[str] = []
    topic = _value(answer, "topic", topics, faults)
    listed = answer.get("secondary")
    secondary = [item for item in listed if isinstance(item, str)] if isinstance(listed, list) else []
    known = [key for key in dict.fromkeys(secondary) if key in topics and key != topic]
    if any(key not in topics for key in secondary):
        faults.append("secondary outside the taxonomy")
    risk, speaker = _value(answer, "risk", RISKS, faults), _value(answer, "speaker", SPEAKERS, faults)
    return Choice(topic, tuple(known[:MOST_SECONDARY]) if topic else (), risk, speaker), faults


def _last_object(text: str) -> dict[str, Any] | None:
    """The last flat JSON object of a text; our answer has no object inside."""
    for match in reversed(re.findall(r"\{[^{}]*\}", text)):
        try:
            found = json.loads(match)
        except ValueError:
            continue
        return found if isinstance(found, dict) else None
    return None


def _value(answer: Mapping[str, Any], name: str, known: Mapping[str, Any], faults: list[str]) -> str | None:
    value = answer.get(name)
    if isinstance(value, str) and value.strip().lower() in known:
        return value.strip().lower()
    faults.append(f"no {name}" if value is None else f"{name} outside the taxonomy")
    return None
