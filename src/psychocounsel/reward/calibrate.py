"""What a reward means: a temperature that turns differences into probabilities, and a line from reward to rating.

Needs no PyTorch but for `calibrate_model`, which reads replies with the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, ValidationError

from psychocounsel.errors import UserError
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.records import Pair, Record, Response, Speech, content_id
from psychocounsel.reward.figures import Array, Figures, finite
from psychocounsel.reward.figures import calibration_figures as calibration_figures

FILE = "calibration.json"
LOWEST, HIGHEST = 1.0, 5.0
FLATTEST = 1e-3  # smallest typical difference over temperature: P is then 0.5002, a coin
SEPARABLE = (
    "the rewards put (nearly) every pair in order, so that the likelihood grows without end; the temperature is bounded"
)
NO_BETTER = (
    "the rewards order the pairs no better than chance; the temperature is bounded and every probability near .5"
)
ALL_EQUAL = "both replies of every pair have equal rewards; the temperature is 1 and every probability .5"


class Calibration(Record):
    """What a model's rewards mean. `before` and `after` are figures at temperature 1 and at `temperature`.

    `scale` and `offset` are None, and `scale_note` says why, where no rating can be read from a reward. `rating_error`
    is the root mean square error of the line on the `rated` replies it was fitted on, before clipping.
    """

    temperature: float = Field(gt=0, allow_inf_nan=False)
    temperature_note: str = ""
    scale: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    offset: float | None = Field(default=None, allow_inf_nan=False)
    scale_note: str = ""
    rating_error: float | None = None
    rated: int = 0
    before: Figures
    after: Figures


class Line(NamedTuple):
    """rating = scale * reward + offset, with the root mean square error on the replies it was fitted on."""

    scale: float
    offset: float
    error: float


class Sides(NamedTuple):
    """Pairs with their sides drawn: `differences` r_a - r_b and `won` (1.0 where a was chosen), both (pairs,)."""

    differences: Array
    won: Array
    clusters: list[str]


def draw_sides(
    pairs: Sequence[Pair], rewards: Mapping[str, float], speeches: Mapping[str, Speech], seed: int = 0
) -> Sides:
    """Swap the sides of about half of the pairs by content hash: with the chosen reply always first, the label never
    varies, and AUC and calibration error would say nothing."""
    swapped = np.array([int(content_id([seed, pair.id]), 16) % 2 for pair in pairs], dtype=bool)
    ahead = finite([rewards[pair.chosen] - rewards[pair.rejected] for pair in pairs], "reward")
    clusters = [speeches[pair.speech_id].cluster for pair in pairs]
    return Sides(np.where(swapped, -ahead, ahead), (~swapped).astype(np.float64), clusters)


def fit_temperature(differences: ArrayLike, won: ArrayLike) -> tuple[float, str]:
    """T > 0 with the highest likelihood of P(a beats b) = sigma((r_a - r_b) / T), and a note where a bound was met.

    `differences` r_a - r_b and `won` (1 where a won, else 0) have shape (pairs,). Guo et al. 2017 (arXiv 1706.04599),
    section 4.2, for two classes. The likelihood is concave in 1/T, so that its only optimum is found as a root.

    Bounds are in units of the typical difference s = mean |r_a - r_b|, so that T scales with the rewards. When every
    pair is in order there is no finite optimum: T is at least s / ln(n + 1), which makes P at a typical difference at
    most (n + 1) / (n + 2), as Laplace's rule of succession would after n successes. One pair thus gives at most 2/3.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    ahead = finite(differences, "difference") * np.where(np.asarray(won) > 0.5, 1.0, -1.0)
    if not ahead.size:
        raise UserError("calibration: there are no pairs; give the dev split some speeches, or rate more responses")
    typical = float(np.abs(ahead).mean())
    if typical == 0:
        return 1.0, ALL_EQUAL
    unit = ahead / typical
    steepest = float(np.log(ahead.size + 1))

    def slope(inverse: float) -> float:
        return float((unit * expit(-inverse * unit)).mean())  # of the log-likelihood; falls as 1/T grows

    if slope(steepest) >= 0:
        return typical / steepest, SEPARABLE
    if slope(FLATTEST) <= 0:
        return typical / FLATTEST, NO_BETTER
    return typical / float(brentq(slope, FLATTEST, steepest, xtol=1e-12)), ""


def fit_scale(rewards: ArrayLike, ratings: ArrayLike) -> Line:
    """Least squares of rating on reward, both of shape (replies,). Raises UserError where no rising line fits."""
    x, y = finite(rewards, "reward"), finite(ratings, "rating")
    if len(x) < 2 or np.ptp(x) == 0:
        raise UserError("calibration: a line from reward to rating needs rated replies with different rewards")
    centred = x - x.mean()
    scale = float(centred @ (y - y.mean()) / (centred @ centred))
    if scale <= 0:
        raise UserError(
            f"calibration: ratings do not rise with the reward (slope {scale:.3g} over {len(x)} replies), so that no "
            "rating can be read from it; check that the ratings are those the pairs were made of, or train longer"
        )
    offset = float(y.mean() - scale * x.mean())
    return Line(scale, offset, float(np.sqrt(np.mean((scale * x + offset - y) ** 2))))


def probability(calibration: Calibration, a: ArrayLike, b: ArrayLike) -> Any:
    """P(a beats b) = sigma((a - b) / T) for rewards of replies to one speech; numbers or arrays of equal shape."""
    from scipy.special import expit

    return expit((np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)) / calibration.temperature)


def rating(calibration: Calibration, reward: float) -> float:
    """The overall rating, 1 to 5, that a reward stands for on average. Raises UserError where there is no scale."""
    if calibration.scale is None or calibration.offset is None:
        raise UserError(f"calibration: no rating can be read from a reward ({calibration.scale_note})")
    return min(HIGHEST, max(LOWEST, calibration.scale * reward + calibration.offset))


def calibrate(
    sides: Sides, rewards: ArrayLike, ratings: ArrayLike, *, bootstrap: int = 2_000, seed: int = 0
) -> Calibration:
    """Temperature and figures from pairs, the line from rated replies. Where no line fits, the note says why."""
    temperature, note = fit_temperature(sides.differences, sides.won)
    found: dict[str, Any] = {
        "before": calibration_figures(*sides, bootstrap=bootstrap, seed=seed),
        "after": calibration_figures(*sides, temperature, bootstrap=bootstrap, seed=seed),
        "rated": int(np.size(rewards)),
    }
    try:
        line = fit_scale(rewards, ratings)
        found |= {"scale": line.scale, "offset": line.offset, "rating_error": round(line.error, 6)}
    except UserError as error:  # a model without a scale is still a model: training must not be lost over it
        found["scale_note"] = str(error).removeprefix("calibration: ")
    return Calibration(temperature=temperature, temperature_note=note, **found)


def calibrate_model(
    model_folder: Path | str,
    pairs: Sequence[Pair],
    ratings: Mapping[str, float],
    speeches: Mapping[str, Speech],
    responses: Mapping[str, Response],
    *,
    max_length: int = 2048,
    bootstrap: int = 2_000,
    seed: int = 0,
) -> Calibration:
    """Read the replies of held-out `pairs` and of `ratings` (overall score by response id) once each, and calibrate."""
    from psychocounsel.reward.score import RewardModel

    if not pairs:
        raise UserError("calibration: there are no pairs; give the dev split some speeches, or rate more responses")
    groups: dict[str, list[str]] = {}
    for key in dict.fromkeys([*(key for pair in pairs for key in (pair.chosen, pair.rejected)), *ratings]):
        groups.setdefault(responses[key].speech_id, []).append(key)
    items = [(chat_messages(speeches[name].turns), [responses[key].text for key in keys])
             for name, keys in groups.items()]  # fmt: skip
    model: Any = RewardModel(model_folder, max_length)
    read = model.read(items, label="calibration")
    rewards = {key: scored.reward for keys, row in zip(groups.values(), read, strict=True)
               for key, scored in zip(keys, row, strict=True)}  # fmt: skip
    rated = sorted(ratings)
    sides = draw_sides(pairs, rewards, speeches, seed)
    return calibrate(
        sides, [rewards[key] for key in rated], [ratings[key] for key in rated], bootstrap=bootstrap, seed=seed
    )


def write_calibration(model_folder: Path, calibration: Calibration) -> None:
    """Write `calibration.json` into a model's folder, where it travels with the weights."""
    part = model_folder / f"{FILE}.part"
    part.write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf-8")
    part.replace(model_folder / FILE)


def read_calibration(model_folder: Path | str) -> Calibration | None:
    """The calibration in a model's folder; None where there is none. Raises UserError for one that cannot be read."""
    path = Path(model_folder) / FILE
    if not path.is_file():
        return None
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: {where}: {first['msg']}; train the model again, or remove the file") from error
