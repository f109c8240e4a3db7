"""What the judges said of each reply: scores pooled over judges, and every judge's own overall score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from psychocounsel.errors import UserError
from psychocounsel.principles import Principle
from psychocounsel.records import Rating

Matrix = NDArray[np.float64]
DIGITS = 9  # beyond these, a mean shows how it was summed and not how it was scored
WRITTEN = 6  # digits of a mean in records
LEVELS = np.arange(1.0, 6.0)


@dataclass(frozen=True, slots=True)
class Judged:
    """One reply. `scores` are means over judges by principle, `overall` follows from them by the rule in force.

    `own` holds the overall score each judge gave alone; `stated` the variance of it that the judge's own
    probabilities per score imply (only where it gave them for every principle it scored).
    """

    scores: dict[str, float | None]
    overall: float
    own: dict[str, float]
    stated: dict[str, float] = field(default_factory=dict)


def pool(ratings: Iterable[Rating], principles: tuple[Principle, ...], *, gated: bool) -> dict[str, Judged]:
    """Pooled scores by response id; replies without an overall score are left out.

    A judge that rated a reply several times counts once, with the mean of its scores. Raises UserError for
    probabilities per score that are none.
    """
    rows = sorted(ratings, key=lambda rating: (rating.response_id, rating.judge))
    if not rows:
        return {}
    names = [principle.id for principle in principles]
    values = np.array([[rating.scores.get(name) for name in names] for rating in rows], dtype=float)
    cells = [(key, len(list(group))) for key, group in groupby((row.response_id, row.judge) for row in rows)]
    by_judge = _means(values, [size for _, size in cells])
    replies = [(key, len(list(group))) for key, group in groupby(key for (key, _), _ in cells)]
    pooled = _means(by_judge, [size for _, size in replies])
    overall = overall_scores(pooled, principles, gated=gated).tolist()
    alone = overall_scores(by_judge, principles, gated=gated).tolist()
    stated = _stated(rows, principles)
    found, place = {}, 0
    for (key, size), score, means in zip(replies, overall, pooled.round(WRITTEN).tolist(), strict=True):
        judges = [(cells[i][0][1], alone[i]) for i in range(place, place + size)]
        place += size
        if score == score:
            own = {judge: value for judge, value in judges if value == value}
            known = {judge: stated[key, judge] for judge in own if (key, judge) in stated} if stated else {}
            scores = {name: mean if mean == mean else None for name, mean in zip(names, means, strict=True)}
            found[key] = Judged(scores, score, own, known)
    return found


def overall_scores(scores: Matrix, principles: Sequence[Principle], *, gated: bool) -> Matrix:
    """`principles.overall_score` for many replies at once: scores (replies, principles) with NaN for none."""
    weights = np.array([principle.weight for principle in principles])
    total = np.nansum(scores * weights, axis=1)
    overall = np.round(_divide(total, (~np.isnan(scores)) @ weights), DIGITS)
    for column, principle in enumerate(principles):
        if gated and principle.gate:  # comparisons with NaN are false: an unscored gate caps nothing
            low, lowest = scores[:, column] < 2.5, scores[:, column] < 1.5
            overall = np.where(low, np.minimum(overall, 2.0), overall)
            overall = np.where(lowest & ~np.isnan(overall), 1.0, overall)
    return overall


def _means(values: Matrix, sizes: Sequence[int]) -> Matrix:
    """Means of neighbouring rows, `sizes` at a time, that pass over NaN; NaN where nothing is left."""
    if len(sizes) == len(values):
        return values
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    sums = np.add.reduceat(np.nan_to_num(values), starts)
    counts = np.add.reduceat((~np.isnan(values)).astype(float), starts)
    return np.round(_divide(sums, counts), DIGITS)


def _divide(total: Matrix, count: Matrix) -> Matrix:
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _stated(rows: Sequence[Rating], principles: Sequence[Principle]) -> dict[tuple[str, str], float]:
    """Variance of a judge's overall score as its own probabilities have it, principles taken as independent."""
    found: dict[tuple[str, str], list[float]] = {}
    for rating in rows:
        if not rating.levels:
            continue
        scored = [p for p in principles if p.weight > 0 and rating.scores.get(p.id) is not None]
        if scored and all(p.id in rating.levels for p in scored):
            total = sum(p.weight**2 * _variance(rating, p.id) for p in scored)
            variance = total / sum(p.weight for p in scored) ** 2
            found.setdefault((rating.response_id, rating.judge), []).append(variance)
    return {key: max(values) for key, values in found.items()}


def _variance(rating: Rating, principle: str) -> float:
    shares = np.array(rating.levels[principle], dtype=float)
    if shares.shape != (5,) or not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise UserError(
            f"pairs: the levels of '{principle}' by {rating.judge} for reply {rating.response_id} are not five "
            "probabilities; mend the ratings, or make them anew with --redo ratings"
        )
    shares /= shares.sum()
    mean = float(shares @ LEVELS)
    return float(shares @ (LEVELS - mean) ** 2)
