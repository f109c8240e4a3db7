"""Who scores replies: reward models and judges behind one form, each under a short name of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.evaluate.human.scoring import ROLES, Asked, Scorer, reward_scorer
from psychocounsel.models.store import CallStore
from psychocounsel.models.weights import require_training
from psychocounsel.principles import Principle, overall_score
from psychocounsel.progress import progress
from psychocounsel.ratings import described, open_judges
from psychocounsel.ratings.judge import Item, Judge, rate_all
from psychocounsel.records import Response, Speech, Turn

GENERIC = re.compile(r"model|adapter|best|\d+-(reward|policy|supervised)|reward|checkpoint.*")


@dataclass(frozen=True)
class Named:
    """A scorer as figures name it. `logits`: its differences are log odds, as a reward model's are; `told` is its line
    on pages."""

    name: str
    source: str
    score: Scorer
    logits: bool
    told: str
    judge: Judge | None = None


def open_scorers(
    models: Sequence[str],
    judges: Sequence[str],
    principles: tuple[Principle, ...],
    store: CallStore,
    max_length: int = 2048,
) -> list[Named]:
    """Reward models (folders or hub ids) and judges, in this order. Raises UserError for one that cannot score."""
    if not models and not judges:
        raise UserError("name a reward model, or a judge with --judge")
    if twice := sorted({name for name in models if models.count(name) > 1}):
        raise UserError(f"{twice[0]}: is named twice; name different models")
    found: list[Named] = []
    if models:
        require_training()
        from psychocounsel.reward.checks import check_scorer
        from psychocounsel.reward.score import RewardModel

        for model in models:
            check_scorer(model)
        names = short_names(models)
        for name, model in zip(names, models, strict=True):
            scorer = reward_scorer(RewardModel(model, max_length), name)
            found.append(Named(name, model, scorer, True, f"{name} (reward model)"))
    for judge in open_judges(judges):
        name = plain_name(judge.name)
        found.append(Named(name, judge.name, judge_scorer(judge, principles, store), False, described(judge), judge))
    if twice := sorted({one.name for one in found if [other.name for other in found].count(one.name) > 1}):
        raise UserError(f"two scorers are called {twice[0]}; move one model to a folder of another name")
    return found


def judge_scorer(judge: Judge, principles: tuple[Principle, ...], store: CallStore) -> Scorer:
    """A judge as a scorer: its gated overall score of a reply, None where it gives no usable rating."""

    def score(asked: Sequence[Asked]) -> list[list[float | None]]:
        items = []
        for messages, replies in asked:
            turns = tuple(Turn.model_validate({"role": ROLES[m["role"]], "text": m["content"]}) for m in messages)
            speech = Speech(turns=turns, source="eval")
            items += [Item(speech, Response(speech_id=speech.id, model="", text=reply)) for reply in replies]
        able = [item for item in items if judge.can_rate(item)]
        with progress(f"ratings {judge.name}", len(able)) as advance:
            rated = rate_all(judge, able, principles, store, advance)
        overall = {
            (item.speech.id, item.response.id): overall_score(one.scores, principles, gated=True)
            for item, (one, _) in zip(able, rated, strict=True)
            if one is not None
        }
        values = iter([overall.get((item.speech.id, item.response.id)) for item in items])
        return [[next(values) for _ in replies] for _, replies in asked]

    return score


def short_names(places: Sequence[str]) -> list[str]:
    """A name for each folder or id, as short as tells them apart: parts that say nothing ('6-reward/model') are left
    out."""
    parts = [[part for part in Path(place).parts if not GENERIC.fullmatch(part)] or [place] for place in places]
    for depth in range(1, max(len(row) for row in parts) + 1):
        names = [plain_name("/".join(row[-depth:])) for row in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{plain_name(row[-1])}_{number}" for number, row in enumerate(parts, 1)]


def plain_name(name: str) -> str:
    """A name as metrics carry it: no dot, which parts the names of metrics, and nothing a shell would read."""
    return re.sub(r"[^\w-]+", "_", name).strip("_")
