"""Judges: anything that can rate one reply and compare two. Here the protocol and the transparent scorer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

from psychocounsel.models.calls import together
from psychocounsel.models.store import CallStore
from psychocounsel.principles import Principle, overall_score
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.records import Rating, Response, Speech

RECENT = 256  # replies whose scores a scoring judge remembers
Status = Literal["rated", "repaired", "partly refused", "unreadable", "refused", "filtered"]


@dataclass(frozen=True)
class Item:
    """A response together with the speech it answers."""

    speech: Speech
    response: Response


@dataclass(frozen=True)
class Comparison:
    """`value`: 1 when the first reply wins outright, 0 when the second does; None without a verdict."""

    value: float | None
    principles: dict[str, float]
    call_id: str = ""


class Scorer(Protocol):
    """Anything that scores a reply on every principle, 1 to 5, without a call."""

    def score(self, speech: str, response: str) -> dict[str, float]: ...


class Judge(Protocol):
    """Rates single replies and compares two. `family` decides whether it may grade what it labelled.

    `reversed` gives the same judge with the levels of its rubric shown from 5 down to 1, for the scale-order probe.
    """

    name: str
    family: str
    concurrency: int

    def can_rate(self, item: Item) -> bool: ...
    def reversed(self) -> Judge: ...
    async def rate(
        self, item: Item, principles: tuple[Principle, ...], store: CallStore
    ) -> tuple[Rating | None, Status]: ...
    async def compare(
        self, speech: Speech, first: str, second: str, principles: tuple[Principle, ...], store: CallStore
    ) -> Comparison: ...


class ScoringJudge:
    """A transparent scorer as a judge. Comparing means scoring both; closer than `tie` is a tie."""

    concurrency = 1

    def __init__(self, name: str, scorer: Scorer, tie: float = 0.05) -> None:
        self.name, self.scorer, self.tie = name, scorer, tie
        self.family = name
        self._scored = lru_cache(maxsize=RECENT)(scorer.score)  # both orders of a pair, and a reply that meets several

    def can_rate(self, item: Item) -> bool:
        return True

    def reversed(self) -> ScoringJudge:
        return self  # it reads no rubric

    async def rate(
        self, item: Item, principles: tuple[Principle, ...], store: CallStore
    ) -> tuple[Rating | None, Status]:
        scores = self._scores(item.speech, item.response.text, principles)
        return Rating(response_id=item.response.id, judge=self.name, scores=scores), "rated"

    async def compare(
        self, speech: Speech, first: str, second: str, principles: tuple[Principle, ...], store: CallStore
    ) -> Comparison:
        one, two = (self._scores(speech, text, principles) for text in (first, second))
        overall = [overall_score(scores, principles, gated=True) for scores in (one, two)]
        orders = {p.id: self._order(one[p.id], two[p.id]) for p in principles}
        by_principle = {key: order for key, order in orders.items() if order is not None}
        return Comparison(self._order(overall[0], overall[1]), by_principle)

    def _scores(self, speech: Speech, text: str, principles: Sequence[Principle]) -> dict[str, float | None]:
        found = self._scored(dialogue_text(speech.turns), text)
        return {principle.id: found.get(principle.id) for principle in principles}

    def _order(self, first: float | None, second: float | None) -> float | None:
        if first is None or second is None:
            return None  # missing is never a tie
        if abs(first - second) < self.tie:
            return 0.5
        return 1.0 if first > second else 0.0


def rate_all(
    judge: Judge,
    items: Sequence[Item],
    principles: tuple[Principle, ...],
    store: CallStore,
    advance: Callable[..., None],
) -> list[tuple[Rating | None, Status]]:
    """Rate many items at the judge's own concurrency, results in the order of the items."""

    async def one(item: Item) -> tuple[Rating | None, Status]:
        result = await judge.rate(item, principles, store)
        advance(note=store.budget.told() if store.budget else "")
        return result

    def jobs() -> Iterator[tuple[int, Coroutine[Any, Any, tuple[Rating | None, Status]]]]:
        return ((place, one(item)) for place, item in enumerate(items))

    return together([(judge.concurrency, jobs())], store, [model] if (model := getattr(judge, "model", None)) else [])
