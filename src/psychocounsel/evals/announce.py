"""What will be asked and what it can cost at most, said before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psychocounsel.models.chat import ChatModel, Request
from psychocounsel.models.prices import BYTES_PER_TOKEN, Budget
from psychocounsel.principles import Principle
from psychocounsel.ratings.judge import Judge
from psychocounsel.ratings.model_judge import ModelJudge
from psychocounsel.records import Speech

ORDERS = 2


def reply_line(model: ChatModel, asked: Sequence[Request], budget: Budget) -> str:
    """The line about one policy that is asked."""
    return f"{model.name}: {len(asked):,} replies{_cost(model, asked, 1, budget)}"


def verdict_line(
    judge: Judge,
    pairs: Sequence[tuple[Speech, str, str]],
    principles: tuple[Principle, ...],
    max_tokens: int,
    budget: Budget,
) -> str:
    """The line about one judge. `pairs` are speeches with both replies, '' for one that is not there yet: it is taken
    to be as long as `max_tokens` allow."""
    calls = f"{judge.name}: {ORDERS * len(pairs):,} verdicts"
    if not isinstance(judge, ModelJudge):
        return f"{calls}, without a call"
    coming = "x" * int(BYTES_PER_TOKEN * max_tokens)
    asked = (judge.comparison(speech, one or coming, two or coming, principles) for speech, one, two in pairs)
    return f"{calls}{_cost(judge.model, asked, ORDERS, budget)}"


def _cost(model: ChatModel, asked: Iterable[Request], times: int, budget: Budget) -> str:
    price = budget.prices.find(model)
    if price is None:
        return ", price unknown"
    if not price.input and not price.output:
        return ""
    return f", at most ${times * sum(budget.most(model, request) or 0.0 for request in asked):,.2f}"
