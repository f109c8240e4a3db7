"""A chat model as a judge: the strictest form of answer its endpoint honours, always checked here, repaired once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from psychocounsel.errors import UserError
from psychocounsel.models.calls import ask
from psychocounsel.models.capabilities import capabilities
from psychocounsel.models.chat import Answer, ChatModel, Completion, Request
from psychocounsel.models.families import family_of
from psychocounsel.models.openai_api import OpenAIModel
from psychocounsel.models.store import CallStore
from psychocounsel.principles import Principle
from psychocounsel.principles.prompts import (
    compare_prompt,
    dialogue_text,
    judge_prompt,
    judge_questions,
    judge_schema,
    quoted,
)
from psychocounsel.ratings.judge import Comparison, Item, Status
from psychocounsel.ratings.parse import Parsed, parse_comparison, parse_levels, parse_scores
from psychocounsel.recipe import RatingsTable
from psychocounsel.records import Rating, Speech, content_id

REFUSALS = ("refused", "filtered")
COMPARE_AGAIN = 2  # times that a comparison without a readable verdict is asked for once more


@dataclass(frozen=True)
class Rubric:
    """The fixed part of every question: made once, equal for all replies."""

    principles: tuple[Principle, ...]
    system: str
    schema: dict[str, Any]
    questions: dict[str, Any]


@dataclass
class Answered:
    """What one question of a rating brought: readable scores, or a refusal."""

    parsed: Parsed
    call: str
    status: Status = "rated"
    levels: dict[str, tuple[float, ...]] = field(default_factory=dict)


class ModelJudge:
    """A chat model (remote, local, recorded) as a judge.

    `table.answer` 'auto' asks the endpoint what it honours (a decision endpoint before a strict schema before JSON
    mode before text); `table.ask` 'each' puts one question per principle, so that no score can colour another.
    """

    def __init__(self, model: ChatModel, table: RatingsTable | None = None, *, reverse: bool = False) -> None:
        self.model, self.table, self.reverse = model, table or RatingsTable(), reverse
        self.name = model.name
        self.family = family_of(model.name)
        self.concurrency = model.concurrency
        self._rubrics: dict[int, Rubric] = {}
        self._singles: tuple[tuple[Principle, ...], list[tuple[Principle, ...]]] | None = None

    def can_rate(self, item: Item) -> bool:
        return self.model.can_answer(Request(messages=(), subject=_subject(item)))

    def reversed(self) -> ModelJudge:
        """The same judge with the levels shown from 5 down to 1; its scores mean the same."""
        return ModelJudge(self.model, self.table, reverse=not self.reverse)

    async def rate(
        self, item: Item, principles: tuple[Principle, ...], store: CallStore
    ) -> tuple[Rating | None, Status]:
        """A Rating, or None with the reason: a refusal is not a low score, and noise is not a rating."""
        form = await self._form(store)
        parts = [await self._question(item, group, form, store) for group in self.groups(principles, form)]
        parsed = _merged([part.parsed for part in parts])
        if not parsed.usable:
            refused: list[Status] = [part.status for part in parts if part.status in REFUSALS]
            return None, refused[0] if refused else "unreadable"
        rating = Rating(
            response_id=item.response.id,
            judge=self.name,
            scores=parsed.scores,
            levels={name: levels for part in parts for name, levels in part.levels.items()},
            reasons=parsed.reasons,
            stage=parsed.stage,
            risk=parsed.risk,
            prompt_id=content_id(self._rubric(principles).system),
            call_id=",".join(part.call for part in parts),
        )
        how = {part.status for part in parts}
        return rating, "partly refused" if how - {"rated", "repaired"} else "repaired" if "repaired" in how else "rated"

    def groups(self, principles: tuple[Principle, ...], form: Answer) -> list[tuple[Principle, ...]]:
        """The principles of each question: all in one, or one each. A decision's questions are separate anyway."""
        return [principles] if form == "decision" or self.table.ask == "all" else self._each(principles)

    def request(self, item: Item, principles: tuple[Principle, ...], form: Answer) -> Request:
        """The question about one reply. Equal for equal texts, whatever else the records say."""
        texts = [quoted("CLIENT", dialogue_text(item.speech.turns)), quoted("REPLY", item.response.text)]
        user = {"role": "user", "content": "\n".join(texts)}
        rubric = self._rubric(principles)
        if form == "decision":
            return Request(messages=(user,), form="decision", questions=rubric.questions, subject=_subject(item))
        return Request(
            messages=({"role": "system", "content": rubric.system}, user),
            sampling={"temperature": 0.0, "max_tokens": self.table.max_tokens},
            form="json" if form == "json" else "text",
            answer_schema=rubric.schema if form == "schema" else None,
            subject=_subject(item),
        )

    def _rubric(self, principles: tuple[Principle, ...]) -> Rubric:
        found = self._rubrics.get(id(principles))
        if found is None or found.principles is not principles:
            found = self._rubrics[id(principles)] = Rubric(
                principles,
                judge_prompt(principles, reverse=self.reverse),
                judge_schema(principles),
                judge_questions(principles, reverse=self.reverse),
            )
        return found

    def _each(self, principles: tuple[Principle, ...]) -> list[tuple[Principle, ...]]:
        if self._singles is None or self._singles[0] is not principles:
            self._singles = (principles, [(principle,) for principle in principles])
        return self._singles[1]

    async def _form(self, store: CallStore) -> Answer:
        if self.table.answer == "decision" and not isinstance(self.model, OpenAIModel):
            raise UserError(
                f"{self.name}: only openai:MODEL and http://HOST/v1#MODEL have a decision endpoint; "
                "set ratings.answer to 'auto' or 'schema'"
            )
        if self.table.answer != "auto":
            return self.table.answer
        if isinstance(self.model, OpenAIModel):
            return (await capabilities(self.model, store)).strictest
        return "schema"

    async def _question(
        self, item: Item, principles: tuple[Principle, ...], form: Answer, store: CallStore
    ) -> Answered:
        request = self.request(item, principles, form)
        answer = await ask(self.model, request, store)
        if answer.finish in REFUSALS:
            return Answered(_nothing(principles), answer.call_id, _refusal(answer))
        if form == "decision":
            parsed, levels = parse_levels(answer.levels, principles, reverse=self.reverse)
            declined = any(principle.id not in levels for principle in principles)
            return Answered(parsed, answer.call_id, "partly refused" if declined else "rated", levels)
        rated = f"{dialogue_text(item.speech.turns)}\n{item.response.text}"
        parsed = parse_scores(answer.text, principles, rated)
        if not parsed.problems or self.model.kind.startswith("recorded"):  # a recording has nothing else to say
            return Answered(parsed, answer.call_id)
        second = await self._repair(request, answer, parsed.problems, store)
        if second.finish in REFUSALS:
            return Answered(parsed, answer.call_id, "rated" if parsed.usable else _refusal(second))
        again = parse_scores(second.text, principles, rated)
        if (again.usable, -len(again.problems)) > (parsed.usable, -len(parsed.problems)):
            return Answered(again, second.call_id, "repaired")
        return Answered(parsed, answer.call_id)

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
        """Which of two replies is better, in the order they are shown; asked again where no verdict can be read."""
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
            sampling={"temperature": 0.0, "max_tokens": self.table.max_tokens},
            subject={"speech_id": speech.id},
        )
        answer = await ask(self.model, request, store)
        asked_first = answer.call_id
        for again in range(1 + COMPARE_AGAIN):
            if answer.finish in REFUSALS:  # a refusal is an answer; asking for it again would be to press
                break
            value, by_principle = parse_comparison(answer.text, principles)
            if value is not None:
                return Comparison(value, by_principle, answer.call_id)
            if again == COMPARE_AGAIN or self.model.kind.startswith("recorded"):
                break
            retry = request.model_copy(update={"sample": again + 1})
            answer = await self._repair(retry, answer, ["it holds no single verdict under 'overall'"], store)
        return Comparison(None, {}, asked_first)


def _refusal(answer: Completion) -> Literal["refused", "filtered"]:
    return "filtered" if answer.finish == "filtered" else "refused"


def _nothing(principles: Sequence[Principle]) -> Parsed:
    return Parsed(scores={principle.id: None for principle in principles})


def _merged(parts: Sequence[Parsed]) -> Parsed:
    """The answers to several questions as one."""
    merged = Parsed()
    for part in parts:
        merged.scores |= part.scores
        merged.reasons |= part.reasons
        merged.problems += part.problems
        merged.stage, merged.risk = merged.stage or part.stage, merged.risk or part.risk
    return merged


def _subject(item: Item) -> dict[str, str]:
    return {
        "speech_id": item.speech.id,
        "source_id": item.speech.source_id,
        "response_id": item.response.id,
        "model": item.response.model,
    }
