"""The rated replies the embedded judge is fitted on, from the package and from the shared data folder."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.principles import load_principles
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.ratings.embedded import PRINCIPLES
from psychocounsel.ratings.parse import parse_scores
from psychocounsel.records import Response, Speech, read_records, read_rows

PACKAGE, SHARED = "the package's replies", "MentalChat16K replies"


@dataclass(frozen=True)
class Rated:
    """One rated reply. `speech` groups replies; `writer` is the model or voice behind it."""

    source: str
    speech_id: str
    writer: str
    speech: str
    response: str
    scores: tuple[float, ...]


def package_rows(folder: Path, *, test: bool) -> list[Rated]:
    """The package's rated replies: to test speeches, or to all others. Several ratings are averaged."""
    speeches = {s.id: s for s in read_records(folder / "speeches.jsonl", Speech) if (s.split == "test") == test}
    scores: dict[str, list[list[float]]] = defaultdict(list)
    for _, row in read_rows(folder / "ratings.jsonl"):
        parsed = parse_scores(row["reply"], load_principles())
        if parsed.usable:
            scores[row["response_id"]].append(_complete(dict(parsed.scores)))
    rows = []
    for response in read_records(folder / "responses.jsonl", Response):
        if response.speech_id in speeches and response.id in scores:
            speech = speeches[response.speech_id]
            mean = tuple(float(value) for value in np.mean(scores[response.id], axis=0))
            rows.append(Rated(PACKAGE, speech.id, response.model, dialogue_text(speech.turns), response.text, mean))
    return rows


def shared_rows(root: Path) -> list[Rated]:
    """The rated MentalChat16K replies of the shared data; none where the folder is absent."""
    if not (root / "ratings" / "ratings.jsonl").is_file():
        return []
    questions = {row["question_id"]: row["turns"][0] for _, row in read_rows(root / "mentalchat16k" / "question.jsonl")}
    scores: dict[tuple[int, str], list[list[float]]] = defaultdict(list)
    for _, row in read_rows(root / "ratings" / "ratings.jsonl"):
        scores[row["question_id"], row["model"]].append(_complete(row["scores"]))
    rows = []
    for model in sorted({model for _, model in scores}):
        answers: dict[int, str] = {}
        for _, row in read_rows(root / "mentalchat16k" / "responses" / f"{model}.jsonl"):
            answers.setdefault(row["question_id"], row["choices"][0]["turns"][0])
        for (question, writer), values in sorted(scores.items()):
            if writer == model and question in answers:
                mean = tuple(float(value) for value in np.mean(values, axis=0))
                rows.append(Rated(SHARED, f"q{question}", model, questions[question], answers[question], mean))
    return rows


def _complete(scores: dict[str, Any]) -> list[float]:
    """Seven numbers: a principle without basis takes the mean of the others, moving no comparison."""
    known = [float(scores[name]) for name in PRINCIPLES if scores.get(name) is not None]
    middle = sum(known) / len(known)
    return [middle if scores.get(name) is None else float(scores[name]) for name in PRINCIPLES]
