"""The forms in which others publish preferences, told apart by their columns, and how a row of each is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.preference import RATED
from psychocounsel.rows import Row, columns_of

Messages = list[dict[str, str]]
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
PROMPTS = ("prompt", "question", "context")  # what a set may call the prompt, the first that is there
ANSWERS = (("response_1", "response_2"), ("response1", "response2"))  # HelpSteer2's preferences, HelpSteer3
STRENGTHS = ("preference_strength", "overall_preference")
SCORES = (  # of the chosen and of the rejected reply: UltraFeedback and TRL, RLHFlow, two of Argilla's sets
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
RATINGS = tuple((name, f"chosen_{name}_rating", f"rejected_{name}_rating") for name in RATED)
# how conversations are written into one text: in HelpSteer2's prompts (which begin without a mark), and in hh-rlhf
STEER = re.compile(r"\s*<extra_id_1>(User|Assistant)\n")
ANTHROPIC = re.compile(r"\n\n(Human|Assistant):")


class Unusable(Exception):
    """A row that cannot be trained on; its text is the reason under which the row is counted."""


@dataclass(frozen=True)
class Compared:
    """Two replies to a prompt, the better one first; `differences` by principle where the set has such ratings."""

    messages: Messages
    chosen: str
    rejected: str
    gap: float = 1.0
    differences: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rated:
    """One rated reply to a prompt; pairs come of the replies to one prompt that are not rated alike."""

    messages: Messages
    reply: str
    rating: float


@dataclass(frozen=True)
class Format:
    """A form of preference sets: how its columns are told to people, which it reads, and how."""

    columns: str
    reads: tuple[str, ...]
    known_by: Callable[[Collection[str]], bool]
    read: Callable[[Row], Compared | Rated]


def find_format(columns: Collection[str], place: str) -> Format:
    """The format of a set with these columns. Raises UserError that lists the columns and the known formats."""
    for known in FORMATS:
        if known.known_by(columns):
            return known
    forms = "; ".join(known.columns for known in FORMATS)
    raise UserError(
        f"{place}: no preference set that is known; its columns are {columns_of(dict.fromkeys(columns))}. "
        f"Rename them to one of: {forms}"
    )


def read_released(row: Row) -> Compared:
    """The released schema: the gap is the mean of the differences by principle."""
    differences = {}
    for name, chosen, rejected in RATINGS:
        better, worse = number(row.get(chosen)), number(row.get(rejected))
        if better is not None and worse is not None:
            differences[name] = better - worse
    if not differences:
        raise Unusable("no rating")
    gap = sum(differences.values()) / len(differences)
    return _compared(_prompt(row), text(row["chosen"]), text(row["rejected"]), round(gap, 6), differences)


def read_strength(row: Row) -> Compared:
    """HelpSteer's preferences: a strength below 0 says that the first reply is better, 0 that they are alike."""
    strength = number(next(row[name] for name in STRENGTHS if name in row))
    if strength is None:
        raise Unusable("no rating")
    if strength == 0:
        raise Unusable("tie")
    first, second = (text(row[name]) for name in next(pair for pair in ANSWERS if pair[0] in row))
    better, worse = (first, second) if strength < 0 else (second, first)
    return _compared(_prompt(row), better, worse, abs(strength))


def read_rating(row: Row) -> Rated:
    """HelpSteer's ratings: one reply a row, rated for helpfulness."""
    rating = number(row["helpfulness"])
    if rating is None:
        raise Unusable("no rating")
    messages = _prompt(row)
    _check_prompt(messages)
    return Rated(messages, _reply(text(row["response"])), rating)


def read_chosen(row: Row) -> Compared:
    """Chosen and rejected: texts or a turn after a prompt, or whole conversations that differ in their last turn."""
    gap = 1.0
    for names in SCORES:
        better, worse = (number(row.get(name)) for name in names)
        if better is not None and worse is not None:
            gap = better - worse
            break
    prompted = any(row.get(name) is not None for name in PROMPTS)
    chosen, rejected = row["chosen"], row["rejected"]
    if prompted and isinstance(chosen, str):
        return _compared(_prompt(row), chosen, text(rejected), gap)
    chosen, rejected = _turns(chosen), _turns(rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise Unusable("no common prompt")
    if not chosen or not rejected:
        raise Unusable("empty reply")
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise Unusable("reply not by the assistant")
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("no common prompt")
    messages = chosen[:-1]
    if prompted:
        prompt = _prompt(row)
        if not messages:
            messages = prompt
        elif isinstance(row.get("prompt"), list) and messages != prompt:
            raise Unusable("more than one turn in a reply")
    return _compared(messages, chosen[-1]["content"], rejected[-1]["content"], gap)


def _compared(
    messages: Messages, chosen: str, rejected: str, gap: float, differences: dict[str, float] | None = None
) -> Compared:
    _check_prompt(messages)
    if _reply(chosen) == _reply(rejected):
        raise Unusable("chosen equals rejected")
    if gap == 0:
        raise Unusable("tie")
    if gap < 0:
        raise Unusable("rated the other way round")
    return Compared(messages, chosen, rejected, gap, differences or {})


def _check_prompt(messages: Messages) -> None:
    if not messages or messages[-1]["role"] != "user":
        raise Unusable("prompt not ending with the user")
    if not messages[-1]["content"].strip():
        raise Unusable("empty prompt")


def _reply(reply: str) -> str:
    if not reply.strip():
        raise Unusable("empty reply")
    return reply


def _prompt(row: Row) -> Messages:
    found = next((row[name] for name in PROMPTS if row.get(name) is not None), None)
    turns = _turns(found)
    messages = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
    system = row.get("system")  # a column of its own in some sets of plain texts
    if isinstance(system, str) and system.strip() and messages and messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    return messages


def _turns(value: Any) -> str | Messages:
    """A plain text as it is; a list of messages, or a text that holds several turns, as role and content."""
    if isinstance(value, str):
        return _written_turns(value)
    if not isinstance(value, list):
        raise Unusable("wrong type")
    return [_message(item) for item in value]


def _message(item: Any) -> dict[str, str]:
    if not isinstance(item, dict):
        raise Unusable("wrong type")
    role = item.get("role") or item.get("from")
    if not isinstance(role, str):
        raise Unusable("wrong type")
    if role.lower() not in ROLES:
        raise Unusable("unknown role")
    content = item.get("content")
    return {"role": ROLES[role.lower()], "content": text(item.get("value") if content is None else content)}


def _written_turns(value: str) -> str | Messages:
    if value.startswith("\n\nHuman:"):
        parts = ANTHROPIC.split(value)[1:]
        if not parts[-1].strip():  # "\n\nAssistant:" at the end of a prompt opens the reply
            parts = parts[:-2]
    elif STEER.search(value):
        parts = STEER.split(value)
        parts = parts[1:] if not parts[0].strip() else ["User", *parts]
    else:
        return value
    roles = {"Human": "user", "User": "user", "Assistant": "assistant"}
    return [{"role": roles[role], "content": said.strip()} for role, said in zip(parts[::2], parts[1::2], strict=True)]


def text(value: Any) -> str:
    """A text. Raises Unusable for anything else."""
    if not isinstance(value, str):
        raise Unusable("wrong type")
    return value


def number(value: Any) -> float | None:
    """A finite number; None for a missing one and for NaN, which is how tables write a missing one."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unusable("wrong type")
    return float(value) if math.isfinite(value) else None


FORMATS = (
    Format(
        "question, chosen, rejected, chosen_X_rating, rejected_X_rating",
        (*PROMPTS, "chosen", "rejected", *(column for names in RATINGS for column in names[1:])),
        lambda columns: (
            {"chosen", "rejected"} <= set(columns)
            and any({chosen, rejected} <= set(columns) for _, chosen, rejected in RATINGS)
            and any(name in columns for name in PROMPTS)
        ),
        read_released,
    ),
    Format(
        "prompt or context, response_1, response_2, preference_strength or overall_preference",
        (*PROMPTS, "system", *(name for pair in ANSWERS for name in pair), *STRENGTHS),
        lambda columns: (
            any(set(pair) <= set(columns) for pair in ANSWERS)
            and any(name in columns for name in STRENGTHS)
            and any(name in columns for name in PROMPTS)
        ),
        read_strength,
    ),
    Format(
        "prompt, response, helpfulness",
        (*PROMPTS, "system", "response", "helpfulness"),
        lambda columns: {"response", "helpfulness"} <= set(columns) and any(name in columns for name in PROMPTS),
        read_rating,
    ),
    Format(
        "chosen, rejected and prompt (texts or lists of messages), or chosen and rejected as whole conversations",
        (*PROMPTS, "system", "chosen", "rejected", *(name for pair in SCORES for name in pair)),
        lambda columns: {"chosen", "rejected"} <= set(columns),
        read_chosen,
    ),
)
