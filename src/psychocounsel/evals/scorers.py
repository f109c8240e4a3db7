"""Who scores replies: reward models and judges behind one form, each under a short name of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from psychocounsel.errors import UserError
from psychocounsel.evaluate.human.scoring import ROLES, Asked, Messages, Scorer, reward_scorer
from psychocounsel.models.store import CallStore
from psychocounsel.models.weights import require_training
from psychocounsel.principles import Principle, overall_score
from psychocounsel.progress import progress
from psychocounsel.ratings import described, open_judges
from psychocounsel.ratings.judge import Item, Judge, rate_all
from psychocounsel.records import Response, Speech, Turn

if TYPE_CHECKING:
    from psychocounsel.reward.score import RewardModel

GENERIC = re.compile(r"model|adapter|best|\d+-(reward|policy|supervised)|reward|checkpoint.*")


@dataclass(frozen=True)
class Named:
    """A scorer as figures name it. `logits`: its differences are log odds, as a reward model's are; `told` is its line
    on pages. `counts` grows as it scores: replies that were cut or got no number."""

    name: str
    source: str
    score: Scorer
    logits: bool
    told: str
    judge: Judge | None = None
    counts: Counter[str] = field(default_factory=Counter)


def check_scorers(models: Sequence[str], judges: Sequence[str]) -> None:
    """Whether all can score, as far as it can be known without asking them: before an evaluation's folder is made.

    Raises UserError for none at all, one named twice, a model without a trained head, an unknown judge."""
    if not models and not judges:
        raise UserError("name a reward model, or a judge with --judge")
    if twice := sorted({name for name in models if models.count(name) > 1}):
        raise UserError(f"{twice[0]}: is named twice; name different models")
    if models:
        require_training()
    for model in models:
        if not _served(model):
            from psychocounsel.reward.checks import check_scorer

            check_scorer(model)
    names = [*short_names(models), *(plain_name(judge.name) for judge in open_judges(judges))]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two scorers are called {twice[0]}; move one model to a folder of another name")


def open_scorers(
    models: Sequence[str],
    judges: Sequence[str],
    principles: tuple[Principle, ...],
    store: CallStore,
    max_length: int = 2048,
) -> list[Named]:
    """Reward models (folders, hub ids or servers) and judges that were checked, in this order.

    Weights are loaded when a model is first asked, one model at a time."""
    found: list[Named] = []
    loaded = _Loaded(max_length)
    for name, model in zip(short_names(models), models, strict=True):
        counts: Counter[str] = Counter()
        if _served(model):
            score, told = served_scorer(model, max_length, store, counts), f"{name} (reward model, served)"
        else:
            score, told = loaded.scorer(model, name, counts), f"{name} (reward model)"
        found.append(Named(name, model, score, True, told, counts=counts))
    for judge in open_judges(judges):
        name = plain_name(judge.name)
        found.append(Named(name, judge.name, judge_scorer(judge, principles, store), False, described(judge), judge))
    return found


def _served(model: str) -> bool:
    return model.startswith(("http://", "https://"))


class _Loaded:
    """The one reward model in memory: two large ones would not fit side by side."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.folder = ""
        self.model: RewardModel | None = None

    def scorer(self, folder: str, name: str, counts: Counter[str]) -> Scorer:
        """The model of a folder as a scorer that loads it when asked."""

        def score(asked: Sequence[Asked]) -> Sequence[Sequence[float | None]]:
            from psychocounsel.reward.score import RewardModel

            if self.model is None or self.folder != folder:
                self.model = None  # let go of the last one first
                self.folder, self.model = folder, RewardModel(folder, self.max_length)
            return reward_scorer(self.model, name, counts)(asked)

        return score


def served_scorer(place: str, max_length: int, store: CallStore, counts: Counter[str]) -> Scorer:
    """A reward model behind HTTP (`http://HOST/classify#MODEL`, `/get_reward#MODEL`), asked through the call store."""
    from psychocounsel.policy.reward_servers import ServedRewards

    server = ServedRewards(place, max_length, store)
    server.check()

    def score(asked: Sequence[Asked]) -> list[list[float | None]]:
        read = server.score([(_speech(messages), replies) for messages, replies in asked], f"rewards {place}")
        counts.update(f"without a number ({one.why})" for row in read for one in row if one.reward is None)
        return [[one.reward for one in row] for row in read]

    return score


def judge_scorer(judge: Judge, principles: tuple[Principle, ...], store: CallStore) -> Scorer:
    """A judge as a scorer: its gated overall score of a reply, None where it gives no usable rating."""

    def score(asked: Sequence[Asked]) -> list[list[float | None]]:
        items = []
        for messages, replies in asked:
            speech = _speech(messages)
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


def _speech(messages: Messages) -> Speech:
    turns = tuple(Turn.model_validate({"role": ROLES[m["role"]], "text": m["content"]}) for m in messages)
    return Speech(turns=turns, source="eval")


def short_names(places: Sequence[str]) -> list[str]:
    """A name for each folder or id, as short as tells them apart: parts that say nothing ('6-reward/model') are left
    out. Of a server its model counts."""
    places = [place.partition("#")[2] or place for place in places]
    parts = [[part for part in Path(place).parts if not GENERIC.fullmatch(part)] or [place] for place in places]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = [plain_name("/".join(row[-depth:])) for row in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{plain_name(row[-1])}_{number}" for number, row in enumerate(parts, 1)]


def plain_name(name: str) -> str:
    """A name as metrics carry it: no dot, which parts the names of metrics, and nothing a shell would read."""
    return re.sub(r"[^\w-]+", "_", name).strip("_")
