"""What rewards a reply: reward models, servers of them, judges, or a function of the user; a missing one is never 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from psychocounsel.records import Speech

Key = tuple[str, int]  # a candidate: speech id, number of the sample


@dataclass(frozen=True)
class Reading:
    """What one source says of one reply. `reward` None: it said nothing usable, `why` tells; that is never a 0.

    `spread` is the standard deviation among the bootstrap heads of a reward model that has some.
    """

    reward: float | None
    spread: float | None = None
    principles: dict[str, float] = field(default_factory=dict)
    why: str = ""


class Rewards(Protocol):
    """A source of rewards. Only differences between replies to one speech mean something."""

    name: str

    def score(self, items: Sequence[tuple[Speech, Sequence[str]]], label: str) -> list[list[Reading]]: ...
    def close(self) -> None: ...
