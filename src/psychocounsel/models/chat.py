"""What is asked and what comes back: Request, Completion and the ChatModel protocol."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from pydantic import Field

from psychocounsel.records import Finish, Record, canonical_json, short_hash

Form = Literal["text", "json", "decision"]
Answer = Literal["decision", "schema", "json", "text"]  # strictest first


class Request(Record):
    """One question to a model. `subject` says which records it is about; it is not sent and not part of the key.

    `form` is how the answer is demanded: as text (JSON after `answer_schema` where there is one), as any JSON object,
    or as decisions: a probability per level of each of `questions` ({name: {"instructions", "levels": [lowest, ...]}}).
    """

    messages: tuple[dict[str, str], ...]
    sampling: dict[str, Any] = Field(default_factory=dict)
    form: Form = "text"
    answer_schema: dict[str, Any] | None = None
    questions: dict[str, Any] = Field(default_factory=dict)
    sample: int = 0
    subject: dict[str, str] = Field(default_factory=dict)

    def key(self, kind: str, model: str) -> str:
        """The call store's key: everything that decides the answer and nothing else."""
        body = [kind, model, list(self.messages), self.sampling, self.answer_schema, self.sample]
        if self.form != "text" or self.questions:
            body += [self.form, self.questions]
        text = canonical_json(body)
        return short_hash(f"[0,{text}]") + short_hash(f"[1,{text}]")


class Completion(Record):
    """One answer. `finish` tells stops, length limits, refusals and content filters apart.

    `levels` are a decision's probabilities by question, lowest level first.
    """

    text: str
    finish: Finish = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    levels: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    call_id: str = ""
    cached: bool = False


class TryAgain(Exception):
    """One attempt failed in a way that passes. `limited`: the endpoint asked for fewer calls; `wait` in seconds."""

    def __init__(self, why: str, wait: float = 0.0, *, limited: bool = False) -> None:
        super().__init__(why)
        self.why, self.wait, self.limited = why, wait, limited


class ChatModel(Protocol):
    """A model that answers requests. `send` makes one attempt and returns the raw reply body, `read` makes a
    Completion of it.

    The two are apart so that the raw body is stored before anything is parsed, and can be parsed again later.
    `send` raises TryAgain for what passes and UserError for what does not.
    """

    name: str
    kind: str
    concurrency: int

    def can_answer(self, request: Request) -> bool: ...
    async def send(self, request: Request) -> str: ...
    def read(self, raw: str) -> Completion: ...
