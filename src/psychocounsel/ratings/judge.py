"""Judges: a model that follows the rubric, or a transparent scorer. `rate` one reply, `compare` two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from psychocounsel.models.chat import ChatModel, Completion, Request, family_of
from psychocounsel.models.store import CallStore, ask, together
from psychocounsel.principles import Principle, overall_score
from psychocounsel.principles.prompts import compare_prompt, dialogue_text, judge_prompt, judge_schema, quoted
from psychocounsel.ratings.parse import parse_comparison, parse_scores
from psychocounsel.records import Rating, Response, Speech, content_id

Status = Literal["rated", "repaired", "unreadable", "refused"]
REFUSALS = ("refused", "filtered")


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
    """Rates single replies and compares two. `family` decides whether it may grade what it labelled."""

    name: str
    family: str
    concurrency: int

    def can_rate(self, item: Item) -> bool: ...
    async def rate(
        self, item: Item, principles: tuple[Principle, ...], store: CallStore
    ) -> tuple[Rating | None, Status]: ...
    async def compare(
        self, speech: Speech, first: str, second: str, principles: tuple[Principle, ...], store: CallStore
    ) -> Comparison: ...


class ModelJudge:
    """A chat model (remote, local, recorded) as a judge: strict schema asked for, reply always checked here."""

    def __init__(self, model: ChatModel, max_tokens: int = 1200) -> None:
        self.model = model
        self.name = model.name
        self.family = family_of(model.name)
        self.concurrency = model.concurrency
        self.max_tokens = max_tokens

    def can_rate(self, item: Item) -> bool:
        return self.model.can_answer(Request(messages=(), subject=_subject(item)))

    async def rate(
        self, item: Item, principles: tuple[Principle, ...], store: CallStore
    ) -> tuple[Rating | None, Status]:
        """A Rating, or None with the reason: a refusal is not a low score, and noise is not a rating."""
        system = judge_prompt(principles)
        request = Request(
            messages=(
                {"role": "system", "content": system},
                {
                    "role": "user",
                    "content": quoted("CLIENT", dialogue_text(item.speech.turns))
                    + "\n"
                    + quoted("REPLY", item.response.text),
                },
            ),
            sampling={"temperature": 0.0, "max_tokens": self.max_tokens},
            answer_schema=judge_schema(principles),
            subject=_subject(item),
        )
        answer = await ask(self.model, request, store)
        status: Status = "rated"
        if answer.finish in REFUSALS:
            return None, "refused"
        parsed = parse_scores(answer.text, principles)
        if parsed.problems and not self.model.kind.startswith("recorded"):  # a recording has nothing else to say
            second = await self._repair(request, answer, parsed.problems, store)
            again = parse_scores(second.text, principles)
            better = (again.usable, -len(again.problems)) > (parsed.usable, -len(parsed.problems))
            if second.finish not in REFUSALS and better:
                answer, parsed, status = second, again, "repaired"
            elif second.finish in REFUSALS and not parsed.usable:
                return None, "refused"
        if not parsed.usable:
            return None, "unreadable"
        rating = Rating(
            response_id=item.response.id,
            judge=self.name,
            scores=dict(parsed.scores),
            reasons=parsed.reasons,
            stage=parsed.stage,
            risk=parsed.risk,
            prompt_id=content_id(system),
            call_id=answer.call_id,
        )
        return rating, status

    async def _repair(
        self, request: Request, answer: Completion, problems: Sequence[str], store: CallStore
    ) -> Completion:
        """One more try, with the faults named. Once: blind retries only cost money."""
        faults = "; ".join(problems[:5])
        again = f"Your answer could not be used: {faults}. Answer again with the complete JSON object only."
        messages = (
            *request.messages,
            {"role": "assistant", "content": answer.text or "(empty)"},
            {"role": "user", "content": again},
        )
        return await ask(self.model, request.model_copy(update={"messages": messages}), store)

    async def compare(
        self, speech: Speech, first: str, second: str, principles: tuple[Principle, ...], store: CallStore
    ) -> Comparison:
        texts = (
            quoted("CLIENT", dialogue_text(speech.turns)),
            quoted("REPLY A", first),
            quoted("REPLY B", second),
        )
        request = Request(
            messages=(
                {"role": "system", "content": compare_prompt(principles)},
                {"role": "user", "content": "\n".join(texts)},
            ),
            sampling={"temperature": 0.0, "max_tokens": self.max_tokens},
            subject={"speech_id": speech.id},
        )
        answer = await ask(self.model, request, store)
        if answer.finish in REFUSALS:
            return Comparison(None, {}, answer.call_id)
        value, by_principle = parse_comparison(answer.text, principles)
        return Comparison(value, by_principle, answer.call_id)


class ScoringJudge:
    """A transparent scorer as a judge. Comparing means scoring both; closer than `tie` is a tie."""

    concurrency = 1

    def __init__(self, name: str, scorer: Scorer, tie: float = 0.05) -> None:
        self.name, self.scorer, self.tie = name, scorer, tie
        self.family = name

    def can_rate(self, item: Item) -> bool:
        return True

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
        found = self.scorer.score(dialogue_text(speech.turns), text)
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
    gate = asyncio.Semaphore(judge.concurrency)

    async def one(item: Item) -> tuple[Rating | None, Status]:
        async with gate:
            result = await judge.rate(item, principles, store)
        advance()
        return result

    return together([one(item) for item in items], store)


def _subject(item: Item) -> dict[str, str]:
    return {
        "speech_id": item.speech.id,
        "source_id": item.speech.source_id,
        "response_id": item.response.id,
        "model": item.response.model,
    }
