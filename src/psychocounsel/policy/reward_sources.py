"""Sources of rewards on this machine: reward models in a folder or on the hub, judges, and a function of the user."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from statistics import stdev
from typing import Any

from psychocounsel.errors import UserError, nearest
from psychocounsel.models.store import CallStore
from psychocounsel.policy.rewards import NO_SPREAD, NOT_A_NUMBER, Reading, Rewards, check_heads
from psychocounsel.principles import Principle, load_principles, overall_score
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.progress import progress
from psychocounsel.ratings import open_judges
from psychocounsel.ratings.judge import Item, Judge, rate_all
from psychocounsel.recipe import Recipe
from psychocounsel.recipe.functions import load_function
from psychocounsel.records import Response, Speech

REWARD = "reward"  # what the recipe calls the model of the reward stage
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
FORMS = (
    "write reward, a folder, a hub id (OWNER/NAME), http://HOST/classify#MODEL, http://HOST/get_reward#MODEL, "
    "judge:NAME, or package.module:object"
)
EXAMPLE = "The rent went up again, and I lie awake doing sums."
REPLIES = ("Which of the sums keeps coming back at night?", "Move somewhere cheaper.")
Scored = list[list[Reading]]
Asked = Sequence[tuple[Speech, Sequence[str]]]


def kind_of(name: str) -> str:
    """'model', 'server', 'judge' or 'function', from a recipe's string. Raises UserError for anything else."""
    if name.startswith(("http://", "https://")):
        return "server"
    if name.startswith("judge:"):
        return "judge"
    if name == REWARD or Path(name).expanduser().is_dir():
        return "model"
    if FUNCTION.fullmatch(name) and "." in name.partition(":")[0]:
        return "function"
    if ":" in name or not name.strip():
        word = nearest(name.partition(":")[0], ["judge", "http", "https"])
        raise UserError(f"policy.online.rewards: '{name}' names no source of rewards{word or ';'} {FORMS}")
    if name.startswith((".", "~", "/")) or name.count("/") > 1:
        raise UserError(f"policy.online.rewards: there is no folder {name}; {FORMS}")
    return "model"


def check_settings(recipe: Recipe, reward: str | None) -> None:
    """Raise UserError when a source cannot give what pessimism and principles need of it."""
    online = recipe.policy.online
    for name in online.rewards:
        kind = kind_of(name)
        heads, guiding, found = _heads_of(name, reward, recipe) if kind == "model" else ([], 0, True)
        if online.principles and kind != "model":
            raise UserError(
                f"policy.online.principles: {name} is a {kind} and gives one number for a reply; only a reward model "
                "on this machine has a head for each principle"
            )
        if online.principles and found:
            check_heads(name, online.principles, heads[:guiding])
        if online.pessimism and len(online.rewards) == 1 and len(heads) - guiding < 2 and found:
            raise UserError(NO_SPREAD.format(name))


def _heads_of(name: str, reward: str | None, recipe: Recipe) -> tuple[list[str], int, bool]:
    """(heads, how many of them are principles, whether that is known). A hub id has none that anybody loads."""
    from psychocounsel.reward.checks import read_heads

    if name != REWARD:
        return *read_heads(Path(name).expanduser()), True
    if reward is not None:
        return *read_heads(Path(reward)), Path(reward).is_dir()
    names = [p.id for p in load_principles(recipe.principles)] if recipe.reward.principles else []
    return [*names, *(f"resample {number + 1}" for number in range(recipe.reward.bootstrap))], len(names), True


def open_source(
    name: str, reward: str | None, recipe: Recipe, principles: tuple[Principle, ...] | None, store: CallStore | None
) -> Rewards:
    """One source of a recipe, by its string. Raises UserError for one that cannot be used."""
    kind = kind_of(name)
    if kind == "model":
        return LocalRewards(name, reward if name == REWARD else name, recipe.policy.max_length)
    if kind == "function":
        return FunctionRewards(name)
    if store is None:
        raise UserError(f"policy.online.rewards: {name} is asked through a call store, and none is open")
    if kind == "server":
        from psychocounsel.policy.reward_servers import ServedRewards

        return ServedRewards(name, recipe.policy.max_length, store, recipe.models)
    return JudgeRewards(name, recipe, load_principles(recipe.principles) if principles is None else principles, store)


class LocalRewards:
    """A reward model of ours or from elsewhere, on this machine. `place` None: it is not made yet, and cannot score."""

    shared = True

    def __init__(self, name: str, place: str | None, max_length: int) -> None:
        from psychocounsel.models.weights import require_training

        require_training()
        from psychocounsel.reward.checks import check_scorer

        if name == REWARD and place is not None and not Path(place).is_dir():
            raise UserError(f"{place}: no reward model there; run the reward stage first, or name another reward")
        self.name, self.place, self.max_length = name, place, max_length
        self._checked = place is not None and check_scorer(place)
        self._model: Any = None

    def check(self) -> None:
        """Nothing more: opening has looked at all that is here."""

    def score(self, items: Asked, label: str) -> Scored:
        """Rewards with what the model's further heads say. Replies without numbers are missing, the others stay."""
        model = self._loaded()
        asked = [(chat_messages(speech.turns), texts) for speech, texts in items]
        return [[_reading(scored) for scored in row] for row in model.read(asked, label, finite=False)]

    def close(self) -> None:
        """Free the weights: training follows."""
        if self._model is not None:
            from psychocounsel.policy.generate import free_memory

            self._model = None
            free_memory()

    def _loaded(self) -> Any:
        if self._model is None:
            from psychocounsel.reward.checks import check_scorer
            from psychocounsel.reward.score import RewardModel

            if self.place is None:
                raise UserError(f"policy.online.rewards: {self.name} is not trained yet; run the reward stage first")
            self._model = RewardModel(self.place, self.max_length)
            if not self._checked:  # a hub id that has just come: transformers draws a head where there is none
                self._checked = check_scorer(self.place)
        return self._model


def _reading(scored: Any) -> Reading:
    if not scored.finite:
        return Reading(None, why=NOT_A_NUMBER)
    spread = stdev(scored.resamples) if len(scored.resamples) > 1 else None
    return Reading(scored.reward, spread, scored.principles)


class JudgeRewards:
    """`judge:NAME`: the overall score of a judge's rating, by the weights and gates of the principles.

    A refusal is missing, not a low score. Ratings go through the call store.
    """

    shared = False

    def __init__(self, name: str, recipe: Recipe, principles: tuple[Principle, ...], store: CallStore) -> None:
        self.name, self.recipe, self.principles, self.store = name, recipe, principles, store
        self._judge: Judge | None = self._opened()

    def _opened(self) -> Judge:
        opened = open_judges([self.name.removeprefix("judge:")], self.recipe.ratings, self.recipe.models)
        kinds = [getattr(getattr(judge, "model", None), "kind", "") for judge in opened]
        if len(opened) != 1 or kinds[0].startswith("recorded"):
            raise UserError(f"policy.online.rewards: {self.name} is a recording, and has nothing to say of new replies")
        return opened[0]

    def check(self) -> None:
        """Nothing more: a judge is asked when there is something to judge."""

    def score(self, items: Asked, label: str) -> Scored:
        """Overall scores from 1 to 5."""
        asked = [
            Item(speech, Response(speech_id=speech.id, model="candidate", text=text))
            for speech, texts in items
            for text in texts
        ]
        self._judge = self._judge or self._opened()
        with progress(label, len(asked)) as advance:
            rated = iter(rate_all(self._judge, asked, self.principles, self.store, advance))
        found: Scored = []
        for _, texts in items:
            row = []
            for _ in texts:
                rating, status = next(rated)
                value = None if rating is None else overall_score(rating.scores, self.principles, gated=True)
                row.append(Reading(value, why="" if value is not None else status if rating is None else "no score"))
            found.append(row)
        return found

    def close(self) -> None:
        """Free the weights of a judge on this machine; it is opened again when it is asked."""
        self._judge = None
        gc.collect()


class FunctionRewards:
    """`package.module:object`: a function of (chat messages, replies) that gives one number for each reply.

    None is a reply it does not reward. It is tried on an invented example when it is opened.
    """

    shared = False

    def __init__(self, name: str) -> None:
        self.name = name
        self._function: Callable[[list[dict[str, str]], list[str]], Any] = load_function(
            "policy.online.rewards", name, "a function of (messages, replies)"
        )
        self._readings([{"role": "user", "content": EXAMPLE}], REPLIES)

    def check(self) -> None:
        """Nothing more: opening has tried it."""

    def score(self, items: Asked, label: str) -> Scored:
        """What the function gives, checked. Raises UserError when it fails or gives no list of numbers."""
        found = []
        with progress(label, sum(len(texts) for _, texts in items)) as advance:
            for speech, texts in items:
                found.append(self._readings(chat_messages(speech.turns), texts))
                advance(len(texts))
        return found

    def close(self) -> None:
        """Nothing is held."""

    def _readings(self, messages: list[dict[str, str]], texts: Sequence[str]) -> list[Reading]:
        try:
            given = list(self._function([dict(message) for message in messages], list(texts)))
        except Exception as error:  # its words may repeat the client's
            raise UserError(
                f"policy.online.rewards '{self.name}': failed on {len(texts)} replies to a speech "
                f"({type(error).__name__}); call it yourself with (messages, replies) to see why"
            ) from error
        if len(given) != len(texts):
            raise UserError(
                f"policy.online.rewards '{self.name}': gave {len(given)} numbers for {len(texts)} replies; one for "
                "each in their order, or None, is needed"
            )
        return [self._one(value) for value in given]

    def _one(self, value: Any) -> Reading:
        if value is None:
            return Reading(None, why="the function gave none")
        if isinstance(value, bool) or not isinstance(value, Real):
            raise UserError(
                f"policy.online.rewards '{self.name}': gave a {type(value).__name__} for a reply; a number (float), or "
                "None, is needed"
            )
        number = float(value)
        return Reading(number) if abs(number) < float("inf") else Reading(None, why=NOT_A_NUMBER)
