"""What is asked and what comes back: Request, Completion and the ChatModel protocol."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import Field

from psychocounsel.records import Finish, Record, content_id

FAMILIES = {
    "openai": ("openai", "gpt-", "o1", "o3", "o4"),
    "anthropic": ("anthropic", "claude"),
    "google": ("google", "gemini", "gemma"),
    "meta": ("meta", "llama", "vicuna", "samantha"),
    "alibaba": ("qwen",),
    "deepseek": ("deepseek",),
    "mistral": ("mistral", "mixtral", "zephyr", "ministral"),
    "microsoft": ("microsoft", "phi-"),
}


class Request(Record):
    """One question to a model. `subject` says which records it is about; it is not sent and not part of the key."""

    messages: tuple[dict[str, str], ...]
    sampling: dict[str, Any] = Field(default_factory=dict)
    answer_schema: dict[str, Any] | None = None
    sample: int = 0
    subject: dict[str, str] = Field(default_factory=dict)

    def key(self, kind: str, model: str) -> str:
        """The call store's key: everything that decides the answer and nothing else."""
        body = [kind, model, list(self.messages), self.sampling, self.answer_schema, self.sample]
        return content_id([0, body]) + content_id([1, body])


class Completion(Record):
    """One answer. `finish` tells stops, length limits, refusals and content filters apart."""

    text: str
    finish: Finish = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    call_id: str = ""
    cached: bool = False


class ChatModel(Protocol):
    """A model that answers requests. `send` returns the raw reply body, `read` makes a Completion of it.

    The two are apart so that the raw body is stored before anything is parsed, and can be parsed again later.
    """

    name: str
    kind: str
    concurrency: int

    def can_answer(self, request: Request) -> bool: ...
    async def send(self, request: Request) -> str: ...
    def read(self, raw: str) -> Completion: ...


def family_of(name: str) -> str:
    """The model family behind a name ('openai:gpt-4o' -> 'openai'); '' when the registry does not know it."""
    text = name.lower()
    for family, marks in FAMILIES.items():
        if any(
            text.startswith(mark) or f"/{mark}" in text or f":{mark}" in text or f"#{mark}" in text for mark in marks
        ):
            return family
    return ""
