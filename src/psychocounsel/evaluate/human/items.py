"""What a set of human labels becomes: replies in their dialogues, pairs of them, and the tests they are put to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, computed_field

from psychocounsel.records import Record, Turn, content_id

Kind = Literal["auc", "pairs", "rank", "levels", "scale"]
CONTEXT = 3  # turns of a longer dialogue that a reply is scored with


class Part(Record):
    """A reply and the dialogue before it, which ends with the client."""

    turns: tuple[Turn, ...] = Field(min_length=1)
    reply: str = Field(min_length=1)


class Item(Record):
    """What people gave a label: one reply, or all replies of a session (its score is then their mean).

    `unit` is what the interval resamples. `labels` holds a number by label name; an item without a test's label takes
    no part in that test. `known` holds further numbers for baselines (views, shares of behaviours), by name.
    """

    parts: tuple[Part, ...] = Field(min_length=1)
    unit: str
    labels: dict[str, float] = Field(default_factory=dict)
    known: dict[str, float] = Field(default_factory=dict)
    stratum: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def id(self) -> str:
        return content_id([self.unit, [part.model_dump() for part in self.parts]])

    @property
    def said(self) -> str:
        """All that the client says, each message once: what training speeches are compared with."""
        heard = [turn.text for part in self.parts for turn in part.turns if turn.role == "client"]
        return "\n\n".join(dict.fromkeys(heard))


class Duel(Record):
    """Two items of which people prefer the first, for one test."""

    test: str
    better: str
    worse: str
    unit: str


@dataclass(frozen=True)
class Task:
    """One question put to a scorer.

    `auc`: do items with label 1 score above those with label 0 (`within`: of the same stratum only)? `pairs`: does the
    preferred item score higher? `rank`: Spearman's correlation with the label. `levels`: scores cut into the levels of
    the label. `scale`: scores on the scale of the label. `counts`: the test has a part in macro-OOD. `macro`: the
    accuracy of pairs is a mean over units, so that a unit with many pairs weighs no more than another.
    """

    name: str
    kind: Kind
    label: str = ""
    counts: bool = False
    within: bool = False
    macro: bool = False


@dataclass
class LabelledSet:
    """A set of human labels as read. `counts` says what became of every row; `ceiling` what people reach themselves."""

    name: str
    license: str
    origin: str
    unit: str
    items: list[Item]
    tests: tuple[Task, ...]
    duels: list[Duel] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ceiling: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def message(text: str) -> tuple[Turn, ...]:
    """A single message of a client as a dialogue."""
    return (Turn(role="client", text=text),)


def recent(turns: Sequence[Turn], most: int = CONTEXT) -> tuple[Turn, ...]:
    """The last turns of a dialogue, from a client's one on: many chat templates accept no other beginning.

    Neighbouring turns of one speaker become one first. Empty when the client said nothing.
    """
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            turn = Turn(role=turn.role, text=f"{joined.pop().text} {turn.text}")
        joined.append(turn)
    kept = joined[-most:]
    while kept and kept[0].role != "client":
        kept = kept[1:]
    return tuple(kept)
