"""A model that follows a script: for tests, and to try a recipe's wiring without spending anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from psychocounsel.models.chat import Completion, Request


class Scripted:
    """Answers from a list (in turn, then again from the start) or from a function of the request."""

    kind = "scripted"
    concurrency = 1

    def __init__(self, script: Sequence[str] | Callable[[Request], str], name: str = "scripted") -> None:
        self.name = name
        self.script = script
        self.sent: list[Request] = []

    def can_answer(self, request: Request) -> bool:
        return True

    async def send(self, request: Request) -> str:
        self.sent.append(request)
        text = self.script(request) if callable(self.script) else self.script[(len(self.sent) - 1) % len(self.script)]
        return json.dumps({"text": text})

    def read(self, raw: str) -> Completion:
        return Completion.model_validate_json(raw)
