"""Replaying a run: every answer comes from its call store, nothing is sent and nothing is written. No key is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.chat import ChatModel, Request
from psychocounsel.models.store import CallStore, Statement

_REPLAYING: ContextVar[bool] = ContextVar("replaying", default=False)


def replaying() -> bool:
    """Whether models are opened only to read what they answered earlier: without keys, weights or installed engines."""
    return _REPLAYING.get()


@contextmanager
def replay() -> Iterator[None]:
    """Within this, models open without what only asking them would need."""
    token = _REPLAYING.set(True)
    try:
        yield
    finally:
        _REPLAYING.reset(token)


class SealedStore(CallStore):
    """A call store that is only read. A call that it does not hold raises a UserError that names it.

    Recorded models may answer anew: their replies are files of the user, not calls.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, read_only=True)

    def begin(self, call_id: str, model: ChatModel, request: Request) -> None:
        if not model.kind.startswith("recorded"):
            about = ", ".join(
                f"{key} {value}" for key, value in request.subject.items() if key.endswith("_id") and value
            )
            raise UserError(
                f"{self.path}: no answer of {model.name} to call {call_id}{f' ({about})' if about else ''}; "
                "this stage cannot be made again from the store"
            )

    def endpoint(self, name: str) -> dict[str, Any] | None:
        found = super().endpoint(name)
        if found is None:
            raise UserError(f"{self.path}: nothing is known of the endpoint {name}, and nothing is sent to find out")
        return found

    def _take(self) -> list[Statement]:
        return []
