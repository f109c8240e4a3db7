"""One reward model, or several as one: rewards, ratings, and how far those who score disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.weights import require_training
from psychocounsel.reward.calibrate import HIGHEST, LOWEST, Calibration, read_calibration
from psychocounsel.score.rows import Item

DIGITS = 6
SEVERAL = {"reward": "rewards", "rating": "ratings"}  # of a row with a list of replies; other names stay


@dataclass
class Ensemble:
    """Open models. `scales` holds the calibration of each, and is empty unless all have a line to ratings.

    `models` read chat messages and replies as RewardModel does: any scorer with such a `read` can take part.
    """

    models: Sequence[Any]
    scales: Sequence[Calibration] = ()
    notes: list[str] = field(default_factory=list)

    def score(self, items: Sequence[Item], label: str = "scores") -> list[dict[str, Any]]:
        """The new columns of each item. A prompt that stands in several items is read once, and so is a reply to it."""
        prompts: dict[tuple[str, ...], int] = {}
        asked: list[tuple[list[dict[str, str]], list[str]]] = []
        places: list[dict[str, int]] = []
        found: list[tuple[int, list[int]]] = []
        for item in items:
            key = tuple(part for message in item.messages for part in (message["role"], message["content"]))
            at = prompts.setdefault(key, len(asked))
            if at == len(asked):
                asked.append((item.messages, []))
                places.append({})
            for reply in item.replies:
                if reply not in places[at]:
                    places[at][reply] = len(asked[at][1])
                    asked[at][1].append(reply)
            found.append((at, [places[at][reply] for reply in item.replies]))
        read = [
            model.read(asked, label=f"{label}, model {number}" if len(self.models) > 1 else label)
            for number, model in enumerate(self.models, 1)
        ]
        made = [[self._columns([view[at][place] for view in read]) for place in where] for at, where in found]
        return [_lists(rows) if item.several else rows[0] for item, rows in zip(items, made, strict=True)]

    def _columns(self, views: Sequence[Any]) -> dict[str, Any]:
        """The columns of one reply from what each model said of it."""
        rewards, spread = [view.reward for view in views], list(views[0].resamples)
        on_scale = [_on_line(scale, reward) for scale, reward in zip(self.scales, rewards, strict=False)]
        if len(views) > 1:
            rewards = spread = on_scale or rewards
        row: dict[str, Any] = {"reward": round(fmean(rewards), DIGITS)}
        if on_scale:
            row["rating"] = round(min(HIGHEST, max(LOWEST, fmean(on_scale))), DIGITS)
        shared = [name for name in views[0].principles if all(name in view.principles for view in views)]
        if shared:
            row["principles"] = {name: round(fmean(v.principles[name] for v in views), DIGITS) for name in shared}
        if len(spread) > 1:
            row["uncertainty"] = round(stdev(spread), DIGITS)
        row["truncated"] = any(view.truncated for view in views)
        return row


def open_ensemble(names: Sequence[str], max_length: int) -> Ensemble:
    """Open every model and its calibration. `notes` say what the figures then mean. Raises UserError."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{twice[0]}: is named twice; a model agrees with itself, name different ones")
    require_training()
    from psychocounsel.reward.checks import check_scorer
    from psychocounsel.reward.score import RewardModel

    for name in names:
        check_scorer(name)  # a causal model would be given a score head that nothing has trained

    calibrations = [read_calibration(name) for name in names]
    scales = [found for found in calibrations if found is not None and found.scale is not None]
    notes = [_no_scale(name, found) for name, found in zip(names, calibrations, strict=True)
             if found is None or found.scale is None]  # fmt: skip
    if len(names) > 1 and notes:
        notes.append(
            "not every model has a calibration with a scale: raw rewards are averaged, so that the model with the "
            "widest rewards counts most, and 'uncertainty' holds differences of scale as well"
        )
    models = [RewardModel(name, max_length) for name in names]
    return Ensemble(models, scales if len(scales) == len(names) else (), notes)


def _no_scale(name: str, calibration: Calibration | None) -> str:
    if calibration is None:
        return f"{name}: no calibration.json, so there is no 'rating'"
    return f"{name}: no 'rating' ({calibration.scale_note})"


def _on_line(calibration: Calibration, reward: float) -> float:
    """The reward in units of the rating, not yet clipped: what several models can be averaged on."""
    assert calibration.scale is not None and calibration.offset is not None  # `scales` holds no others
    return calibration.scale * reward + calibration.offset


def _lists(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {SEVERAL.get(name, name): [row[name] for row in rows] for name in rows[0]}
