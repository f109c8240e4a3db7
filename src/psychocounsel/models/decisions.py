"""Decision endpoints: typed questions in, a probability per level out, nothing to parse.

Two wire forms are spoken: System One (`POST /v1/systemone`: a `state` and a map of questions) and OpenAI Decisions
(`POST /v1/decisions`: an `input` and a list of questions). Both are checked here; a server's word is not taken for it.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from psychocounsel.models.chat import Completion, Request

Wire = Literal["systemone", "decisions"]
WIRES: tuple[Wire, ...] = ("systemone", "decisions")
SUM_TOLERANCE = 0.02  # servers round their probabilities


def decision_body(wire: Wire, model: str, request: Request) -> dict[str, Any]:
    """The JSON body that asks `request.questions` about its messages."""
    rules = [message["content"] for message in request.messages if message["role"] == "system"]
    text = "\n\n".join(message["content"] for message in request.messages if message["role"] != "system")
    if wire == "systemone":
        questions: Any = {
            name: {"type": "score", "instructions": question["instructions"], "criteria": question["levels"]}
            for name, question in request.questions.items()
        }
        return {"model": model, "state": "\n\n".join([*rules, text]), "questions": questions}
    questions = [
        {
            "type": "score",
            "name": name,
            "instructions": question["instructions"],
            "levels": [{"label": level} for level in question["levels"]],
        }
        for name, question in request.questions.items()
    ]
    messages = [{"role": "system", "content": rule} for rule in rules] + [{"role": "user", "content": text}]
    return {"model": model, "input": messages, "questions": questions}


def read_decision(raw: str) -> Completion:
    """Probabilities by question, lowest level first. Raises ValueError for anything that is not a distribution.

    A question the model declined is left out; when all are, the completion is a refusal.
    """
    body = json.loads(raw)
    answers = body["answers"]
    named = answers.items() if isinstance(answers, dict) else [(answer["name"], answer) for answer in answers]
    levels = {name: _distribution(answer) for name, answer in named if answer.get("type") != "refusal"}
    if not all(isinstance(name, str) for name in levels):
        raise ValueError("an answer without the name of its question")
    usage = body.get("usage") or {}
    return Completion(
        text="",
        finish="stop" if levels else "refused",
        levels=levels,
        tokens_in=int(usage.get("input_tokens") or 0),
        tokens_out=int(usage.get("output_tokens") or 0),
    )


def _distribution(answer: dict[str, Any]) -> tuple[float, ...]:
    """Probabilities in the order of the levels, from a list, a list of {value, probability}, or a map by number."""
    found = answer["probabilities"]
    if isinstance(found, dict):
        found = [found[key] for key in sorted(found, key=float)]
    elif found and isinstance(found[0], dict):
        found = [entry["probability"] for entry in sorted(found, key=lambda entry: float(entry["value"]))]
    numbers = tuple(float(value) for value in found)
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in numbers) or not numbers:
        raise ValueError("probabilities outside 0 to 1")
    total = sum(numbers)
    if abs(total - 1) > SUM_TOLERANCE:
        raise ValueError("probabilities that do not add up to 1")
    return tuple(round(value / total, 6) for value in numbers)
