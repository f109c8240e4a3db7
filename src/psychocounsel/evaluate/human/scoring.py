"""Scores of items by any scorer, raw and corrected for what the client's message alone is worth."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import TYPE_CHECKING

from psychocounsel.errors import UserError
from psychocounsel.evaluate.human.items import Item
from psychocounsel.principles import Principle, overall_score
from psychocounsel.principles.prompts import chat_messages, dialogue_text
from psychocounsel.ratings.judge import Scorer as PrincipleScorer
from psychocounsel.records import Turn

if TYPE_CHECKING:
    from psychocounsel.reward.score import RewardModel

Messages = Sequence[Mapping[str, str]]
Asked = tuple[Messages, Sequence[str]]
Scorer = Callable[[Sequence[Asked]], Sequence[Sequence[float | None]]]
"""Many (chat messages that end with the user, replies) in; a score for each reply out, None where there is none."""
ROLES = {"user": "client", "assistant": "therapist"}


@cache
def neutral_replies() -> tuple[str, ...]:
    """The sixteen fixed replies of neutral.toml."""
    found = tomllib.loads(files("psychocounsel.evaluate.human").joinpath("neutral.toml").read_text(encoding="utf-8"))
    return tuple(found["replies"])


def reward_scorer(model: RewardModel, label: str = "human labels", counts: Counter[str] | None = None) -> Scorer:
    """A reward model as a scorer, None for what is no number; `counts` tells how often, and what was cut."""

    def score(asked: Sequence[Asked]) -> list[list[float | None]]:
        plain = [([dict(message) for message in messages], list(replies)) for messages, replies in asked]
        read = model.read(plain, label, finite=False)
        if counts is not None:
            every = [one for row in read for one in row]
            counts["cut to the longest length"] += sum(one.truncated for one in every)
            counts["without a number"] += sum(not math.isfinite(one.reward) for one in every)
        return [[one.reward if math.isfinite(one.reward) else None for one in row] for row in read]

    return score


def principle_scorer(scorer: PrincipleScorer, principles: tuple[Principle, ...], *, gated: bool = True) -> Scorer:
    """The embedded judge, or another transparent scorer: its overall score, None where nothing was scored."""

    def one(messages: Messages, reply: str) -> float | None:
        turns = [Turn.model_validate({"role": ROLES[m["role"]], "text": m["content"]}) for m in messages]
        found = scorer.score(dialogue_text(turns), reply)
        return overall_score({p.id: found.get(p.id) for p in principles}, principles, gated=gated)

    return lambda asked: [[one(messages, reply) for reply in replies] for messages, replies in asked]


def each(function: Callable[[Messages, Sequence[str]], Sequence[float | None]]) -> Scorer:
    """A function of one prompt (messages, replies) as a scorer of many."""
    return lambda asked: [function(messages, replies) for messages, replies in asked]


def scores_of(items: Sequence[Item], scorer: Scorer, *, corrected: bool) -> tuple[list[float | None], ...]:
    """(raw, corrected) scores, each in the order of the items; both the same list without `corrected`.

    The corrected score is r(x, y) minus the mean of r(x, neutral reply): a comparison across messages then does not
    reward the message. An item of several parts scores their mean, and None when any of them has no score. A dialogue
    is asked once for all its replies. Raises UserError for a scorer that answers in another shape, or no numbers.
    """
    replies: dict[tuple[Turn, ...], dict[str, None]] = {}
    for item in items:
        for part in item.parts:
            replies.setdefault(part.turns, {})[part.reply] = None
    neutral = neutral_replies() if corrected else ()
    asked: list[Asked] = [(chat_messages(turns), [*neutral, *texts]) for turns, texts in replies.items()]
    found: dict[tuple[Turn, ...], dict[str, float | None]] = {}
    worth: dict[tuple[Turn, ...], float | None] = {}
    for (turns, texts), row in zip(replies.items(), _answers(scorer, asked), strict=True):
        found[turns] = dict(zip(texts, row[len(neutral) :], strict=True))
        worth[turns] = _mean(row[: len(neutral)]) if corrected else 0.0

    def parts(item: Item, correct: bool) -> list[float | None]:
        values = []
        for part in item.parts:
            score, base = found[part.turns][part.reply], worth[part.turns] if correct else 0.0
            values.append(None if score is None or base is None else score - base)
        return values

    raw = [_mean(parts(item, False)) for item in items]
    return raw, [_mean(parts(item, True)) for item in items] if corrected else raw


def _answers(scorer: Scorer, asked: Sequence[Asked]) -> list[Sequence[float | None]]:
    answers = list(scorer(asked)) if asked else []
    if [len(row) for row in answers] != [len(texts) for _, texts in asked]:
        raise UserError("human labels: the scorer must give one score for each reply of each prompt, in order")
    if any(value is not None and not math.isfinite(value) for row in answers for value in row):
        raise UserError("human labels: the scorer gives scores that are not numbers; give None where there is no score")
    return answers


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present and len(present) == len(values) else None
