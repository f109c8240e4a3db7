"""Dialogues in the shapes data sets have them, read into turns that end with the client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from psychocounsel.errors import nearest
from psychocounsel.records import Turn

CLIENT = ("client", "user", "human", "patient", "seeker", "help_seeker", "usr", "prompter", "caller", "questioner")
THERAPIST = (
    *("therapist", "assistant", "gpt", "counselor", "counsellor", "supporter", "sys", "bot", "model", "chatbot"),
    *("chatgpt", "psychologist", "psychiatrist", "doctor", "listener", "ai", "helper", "coach", "agent", "responder"),
)
LEFT_OUT = ("system", "developer", "tool", "function", "ipython")
ROLES = {**dict.fromkeys(CLIENT, "client"), **dict.fromkeys(THERAPIST, "therapist"), **dict.fromkeys(LEFT_OUT, "")}
ROLE_KEYS = ("role", "from", "speaker", "author", "name")
TEXT_KEYS = ("text", "content", "value", "utterance", "message", "dialog_text")
LIST_KEYS = ("turns", "messages", "conversations", "conversation", "dialogue", "dialog")
NO_CLIENT = "?"  # stands where a client's words are missing; cleaning drops it with a reason


def read_turns(value: Any) -> tuple[Turn, ...]:
    """The turns of one dialogue, up to the client's last words.

    `value` is a list of {role, text or content}, of {from, value} or the like, of [role, text] pairs, or of texts that
    alternate and begin with the client; or an object that holds such a list, or either as JSON text. System turns are
    left out, turns of one speaker in a row are joined, a therapist's last words go. A dialogue in which no client
    speaks ends with a lone '?', which cleaning drops as 'no client turn'. Raises ValueError, which names no text.
    """
    joined: list[list[str]] = []
    for role, text in _spoken(_listed(value)):
        if joined and joined[-1][0] == role:
            joined[-1][1] += f"\n\n{text}"
        else:
            joined.append([role, text])
    if not any(role == "client" for role, _ in joined):
        joined.append(["client", NO_CLIENT])
    while joined[-1][0] != "client":
        joined.pop()
    return tuple(Turn.model_validate({"role": role, "text": text}) for role, text in joined)


def ends_with_client(value: Any) -> bool:
    """Whether the last words of a dialogue, in any shape `read_turns` takes, are the client's. Raises ValueError."""
    spoken = _spoken(_listed(value))
    return bool(spoken) and spoken[-1][0] == "client"


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        if not value.strip():
            return []
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("a text that is no JSON list of turns") from None
    if isinstance(value, Mapping):
        value = next((value[key] for key in LIST_KEYS if key in value), value)
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{type(value).__name__} where a list of turns belongs")
    return list(value)


def _spoken(turns: list[Any]) -> list[tuple[str, str]]:
    """(role, text) of every turn with words. Plain texts alternate, so their places count even when they are empty."""
    spoken: list[tuple[str, str]] = []
    for place, turn in enumerate(turns):
        if isinstance(turn, str):
            role, text = ("client", "therapist")[place % 2], turn
        elif isinstance(turn, (list, tuple)) and len(turn) == 2 and all(isinstance(part, str) for part in turn):
            role, text = _role(turn[0], place), turn[1]
        elif isinstance(turn, Mapping):
            role, text = _role(_first(turn, ROLE_KEYS, place), place), _first(turn, TEXT_KEYS, place)
        else:
            raise ValueError(f"turn {place + 1} is {type(turn).__name__}; write {{'role': ..., 'text': ...}}")
        if role and text.strip():
            spoken.append((role, text.encode("utf-8", "replace").decode()))  # half characters fit into no file
    return spoken


def _first(turn: Mapping[str, Any], keys: tuple[str, ...], place: int) -> str:
    key = next((key for key in keys if key in turn), None)
    if key is None:
        raise ValueError(f"turn {place + 1} has none of the fields {', '.join(keys)}")
    if turn[key] is None:
        return ""
    if not isinstance(turn[key], str):
        raise ValueError(f"turn {place + 1}: '{key}' is {type(turn[key]).__name__}, not text")
    return str(turn[key])


def _role(name: str, place: int) -> str:
    word = name.strip().lower().replace(" ", "_").replace("-", "_")
    if word not in ROLES:
        known = f"a client is one of {', '.join(CLIENT)}, a therapist one of {', '.join(THERAPIST)}"
        raise ValueError(f"turn {place + 1}: unknown role '{word[:40]}'{nearest(word, list(ROLES)) or ';'} {known}")
    return ROLES[word]
