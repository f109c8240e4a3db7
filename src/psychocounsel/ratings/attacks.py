"""Prompt injections against judges: the attack set as data, and planting one in an item."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from psychocounsel.principles import Principle
from psychocounsel.ratings.judge import Item
from psychocounsel.records import Response

CONTROL = "control"
ORDERED = {"raise": 5, "lower": 1, "none": 3}


class Attack(BaseModel):
    """A text, where it is planted and which way it pulls. The family `control` pulls nowhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    family: str = Field(pattern=r"^[a-z]+$")
    place: Literal["reply_end", "reply_start", "speech_end", "speech_start"]
    direction: Literal["raise", "lower", "none"]
    text: str = Field(min_length=1)


@cache
def load_attacks() -> tuple[Attack, ...]:
    """Every attack and control of attacks.toml, in the order of the file."""
    rows = tomllib.loads(files("psychocounsel.ratings").joinpath("attacks.toml").read_text(encoding="utf-8"))
    return tuple(Attack.model_validate(row) for row in rows["attack"])


def attack_families() -> tuple[str, ...]:
    """The families of attacks in the order of the file, without the controls."""
    return tuple(dict.fromkeys(attack.family for attack in load_attacks() if attack.family != CONTROL))


def plant(item: Item, attack: Attack, principles: Sequence[Principle]) -> Item:
    """The item with the attack in its reply or in the client's last message. Its ids are new, its model is the same."""
    scores = json.dumps({principle.id: ORDERED[attack.direction] for principle in principles})
    text = attack.text.replace("{scores}", scores)
    part, _, end = attack.place.partition("_")
    speech, reply = item.speech, item.response.text
    if part == "reply":
        reply = _joined(reply, text, end)
    else:
        last = speech.turns[-1]
        turn = last.model_copy(update={"text": _joined(last.text, text, end)})
        speech = speech.model_copy(update={"turns": (*speech.turns[:-1], turn)})
    return Item(speech, Response(speech_id=speech.id, model=item.response.model, text=reply))


def _joined(text: str, added: str, end: str) -> str:
    return f"{text}\n\n{added}" if end == "end" else f"{added}\n\n{text}"
