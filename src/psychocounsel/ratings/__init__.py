"""Stage 3: ratings. Every judge scores every response by the principles; a human rater is a judge with another name."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from psychocounsel.errors import UserError
from psychocounsel.models import open_models
from psychocounsel.models.chat import ChatModel, Request
from psychocounsel.models.remote import Remote
from psychocounsel.models.store import CallStore
from psychocounsel.principles import Principle
from psychocounsel.progress import progress
from psychocounsel.ratings.judge import Item, Judge, ScoringJudge, Status, rate_all
from psychocounsel.ratings.model_judge import ModelJudge
from psychocounsel.recipe import ModelsTable, RatingsTable
from psychocounsel.records import Rating, Record, Response, Speech

SCORERS = ("embedded",)


class Unrated(Record):
    """A reply that a judge did not rate, and why. In this domain it is the crisis speeches that get filtered."""

    response_id: str
    judge: str
    status: Status
    topic: str
    model: str


@dataclass
class RatingsOutcome:
    """Ratings by the opened judges, the replies each left unrated, and how many came out which way, by judge."""

    ratings: list[Rating]
    judges: list[Judge] = field(default_factory=list)
    unrated: list[Unrated] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def refused_by(self, what: Literal["topic", "model"]) -> dict[str, int]:
        """Refused and filtered ratings by the speech's topic or the model that wrote the reply."""
        lost = (getattr(row, what) for row in self.unrated if row.status in ("refused", "filtered"))
        return dict(sorted(Counter(lost).items()))


def open_judges(
    names: Sequence[str], table: RatingsTable | None = None, models: ModelsTable | None = None, tie: float = 0.05
) -> list[Judge]:
    """Judges from recipe strings: 'embedded' (the transparent scorer) or any model string. Raises UserError."""
    judges: list[Judge] = []
    for name in names:
        if name in SCORERS:
            from psychocounsel.ratings.embedded import EmbeddedScorer

            judges.append(ScoringJudge(name, EmbeddedScorer(), tie))
        else:
            judges += [ModelJudge(model, table) for model in open_models(name, "ratings", models)]
    return judges


def rate_responses(
    speeches: Iterable[Speech],
    responses: Sequence[Response],
    principles: tuple[Principle, ...],
    table: RatingsTable,
    store: CallStore,
    models: ModelsTable | None = None,
) -> RatingsOutcome:
    """Rate all responses by all judges of the recipe. Refusals are kept and counted, never dropped silently.

    Raises UserError when not a single usable rating comes back.
    """
    by_id = {speech.id: speech for speech in speeches}
    items = [Item(by_id[response.speech_id], response) for response in responses if response.text]
    outcome = RatingsOutcome([], open_judges(table.judges, table, models))
    for judge in outcome.judges:
        if (line := described(judge)) != judge.name:
            print(line, file=sys.stderr)
        able = [item for item in items if judge.can_rate(item)]
        if len(able) < len(items):
            left = len(items) - len(able)
            print(f"ratings: {judge.name} cannot rate {left} of {len(items)} replies; it has no record of them",
                  file=sys.stderr)  # fmt: skip
        with progress(f"ratings {judge.name}", len(able)) as advance:
            results = rate_all(judge, able, principles, store, advance)
        outcome.ratings += [rating for rating, _ in results if rating is not None]
        outcome.unrated += [
            _unrated(item, judge, status)
            for item, (rating, status) in zip(able, results, strict=True)
            if rating is None
        ]
        outcome.counts[judge.name] = dict(sorted(Counter(status for _, status in results).items()))
    if not outcome.ratings:
        raise UserError(
            f"ratings: no usable rating of {len(items)} responses: {outcome.counts}; check [ratings] judges"
        )
    return outcome


def plan_ratings(
    speeches: Iterable[Speech],
    responses: Sequence[Response],
    principles: tuple[Principle, ...],
    table: RatingsTable,
    models: ModelsTable | None = None,
) -> Iterator[tuple[ChatModel, Request]]:
    """The first question of every rating by a remote judge; which ones get a second is only known afterwards.

    Raises UserError when `table.answer` is 'auto': what an endpoint honours is found out by asking it.
    """
    by_id = {speech.id: speech for speech in speeches}
    for judge in open_judges(table.judges, table, models):
        if isinstance(judge, ModelJudge) and isinstance(judge.model, Remote):
            form = table.answer
            if form == "auto":
                raise UserError(
                    "ratings.answer = 'auto' asks the endpoint first; name a form: --set ratings.answer=schema"
                )
            for response in responses:
                if response.text:
                    item = Item(by_id[response.speech_id], response)
                    for group in judge.groups(principles, form):
                        yield judge.model, judge.request(item, group, form)


def _unrated(item: Item, judge: Judge, status: Status) -> Unrated:
    topic, model = item.speech.topic or "unknown", item.response.model
    return Unrated(response_id=item.response.id, judge=judge.name, status=status, topic=topic, model=model)


def described(judge: Judge) -> str:
    """A judge's name, or for a scorer its own line with its measured agreement, to be printed wherever it is used."""
    describe = getattr(getattr(judge, "scorer", None), "describe", None)
    return str(describe()) if describe else judge.name
