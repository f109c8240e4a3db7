"""One row of a file as a reward model reads it: a dialogue that ends with the client, and the replies to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.errors import UserError, nearest
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.records import Turn
from psychocounsel.speeches.dialogues import ends_with_client, read_turns

PROMPTS = ("speech", "turns", "messages", "prompt")
REPLIES = ("response", "responses")


@dataclass(frozen=True)
class Item:
    """What one row asks for. `several`: the row holds a list of replies, and gets lists back."""

    messages: list[dict[str, str]]
    replies: tuple[str, ...]
    several: bool


def read_item(where: str, row: Mapping[str, Any]) -> Item:
    """Raises UserError, which begins with `where` and quotes no text, for a row that cannot be scored."""
    prompt, replies = _one(where, row, PROMPTS), _one(where, row, REPLIES)
    turns = _said(where, row[prompt]) if prompt == "speech" else _dialogue(where, prompt, row[prompt])
    several = replies == "responses"
    if several and not isinstance(row[replies], (list, tuple)):
        raise UserError(f"{where}: 'responses' is {_kind(row[replies])}, not a list; one reply goes into 'response'")
    texts = tuple(row[replies]) if several else (row[replies],)
    if not texts:
        raise UserError(f"{where}: 'responses' is empty; leave the row out")
    for number, text in enumerate(texts, 1):
        name = f"reply {number}" if several else "the reply"
        if not isinstance(text, str):
            more = "" if several else "; several replies go into 'responses'"
            raise UserError(f"{where}: {name} is {_kind(text)}, not text{more}")
        if not text.strip():
            raise UserError(f"{where}: {name} is empty, and nobody can score it; leave it out")
    return Item(chat_messages(turns), texts, several)


def _one(where: str, row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The one column of `names` that the row fills."""
    found = [name for name in names if row.get(name) is not None]
    if len(found) > 1:
        raise UserError(f"{where}: '{found[0]}' and '{found[1]}' are both filled; keep the one to be scored")
    if not found:
        wanted = " or ".join(f"'{name}'" for name in names)
        raise UserError(f"{where}: no column {wanted}{nearest(names[0], [name for name in row if name not in names])}")
    return found[0]


def _said(where: str, text: Any) -> tuple[Turn, ...]:
    if not isinstance(text, str):
        raise UserError(f"{where}: 'speech' is {_kind(text)}, not text; a dialogue goes into 'turns' or 'messages'")
    if not text.strip():
        raise UserError(f"{where}: the speech is empty; leave the row out")
    return (Turn(role="client", text=text),)


def _dialogue(where: str, name: str, value: Any) -> tuple[Turn, ...]:
    try:
        ends, turns = ends_with_client(value), read_turns(value)
    except ValueError as error:
        hint = "; one client message goes into 'speech'" if isinstance(value, str) else ""
        raise UserError(f"{where}: '{name}': {error}{hint}") from None
    if not ends:
        raise UserError(f"{where}: '{name}' does not end with the client's words; the reply goes into 'response'")
    return turns


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
