"""A set's tests as rows: the scorer's figure, its raw one, and those of trivial baselines on the very same items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psychocounsel.evaluate.human import baselines, resampling
from psychocounsel.evaluate.human.items import LabelledSet, Task
from psychocounsel.evaluate.human.resampling import Draws, figure
from psychocounsel.evaluate.human.scoring import Scorer, scores_of
from psychocounsel.evaluate.statistics import Figure, cluster_mean
from psychocounsel.records import content_id

Array = NDArray[np.float64]
SCORE, RAW, TFIDF = "score", "raw", "TF-IDF"
DIRECT = ("longer", "shorter", "question mark", TFIDF)  # the trivial baselines; others are only shown


@dataclass
class Row:
    """One line of the table. `gains` holds the score minus the best trivial baseline, as observed and in each draw."""

    cells: dict[str, Any]
    gains: Array | None = None


@dataclass
class Ground:
    """What the tests of a set share: scores by contender in the order of the items, counted words, and draws."""

    found: LabelledSet
    scores: dict[str, Array]
    words: baselines.Words
    draws: Draws
    bootstrap: int
    seed: int
    taught: dict[str, Array | None] = field(default_factory=dict)

    @property
    def units(self) -> NDArray[np.str_]:
        return np.array([item.unit for item in self.found.items])


def measure(found: LabelledSet, scorer: Scorer, *, bootstrap: int, seed: int) -> list[Row]:
    """Every test of a set. Scores are corrected by neutral replies where a test compares across messages."""
    if not found.items:
        return []
    corrected = any(test.kind != "pairs" for test in found.tests) or any(len(item.parts) > 1 for item in found.items)
    raw, clean = scores_of(found.items, scorer, corrected=corrected)
    scores = {SCORE: _array(clean)} | ({RAW: _array(raw)} if corrected else {}) | baselines.surface(found.items)
    for name in sorted({name for item in found.items for name in item.known}):
        scores[name] = np.array([item.known.get(name, np.nan) for item in found.items])
    own = int(content_id([seed, found.name]), 16) >> 1  # every set draws its units for itself
    words = baselines.Words(["\n".join(part.reply for part in item.parts) for item in found.items])
    draws = Draws([item.unit for item in found.items], bootstrap, own)
    ground = Ground(found, scores, words, draws, bootstrap, own)
    return [row for test in found.tests for row in KINDS[test.kind](ground, test)]


def _array(values: Sequence[float | None]) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _labelled(ground: Ground, test: Task) -> tuple[NDArray[np.int64], Array, int]:
    """(places of items with this label and a score, their labels, how many labelled items have no score)."""
    labels = np.array([item.labels.get(test.label, np.nan) for item in ground.found.items])
    has = np.isfinite(labels)
    scored = has & np.isfinite(ground.scores[SCORE])
    places = np.flatnonzero(scored)
    return places, labels[places], int(has.sum() - scored.sum())


def _taught(
    ground: Ground, key: str, places: NDArray[np.int64], fit: Callable[..., Array | None], labels: Array
) -> Array | None:
    """What TF-IDF says out of fold; learnt once for tests that ask the same of the same items."""
    if key not in ground.taught:
        fold = baselines.folds(list(ground.units[places]), ground.seed)
        ground.taught[key] = fit(ground.words, places, labels, fold)
    return ground.taught[key]


def _contenders(ground: Ground, places: NDArray[np.int64], tfidf: Array | None) -> dict[str, Array]:
    found = {name: values[places] for name, values in ground.scores.items()}
    found = {name: values for name, values in found.items() if np.isfinite(values).all()}
    return found | ({} if tfidf is None else {TFIDF: tfidf})


def _auc(ground: Ground, test: Task) -> list[Row]:
    places, labels, missing = _labelled(ground, test)
    if len(np.unique(labels)) < 2:
        return [_none(ground, test, "AUC", len(places), missing)]
    units = list(ground.units[places])
    tfidf = _taught(ground, f"label {test.label}", places, baselines.tfidf_labels, labels)
    strata = [ground.found.items[place].stratum for place in places] if test.within else []
    contenders = _contenders(ground, places, tfidf)
    contenders.pop("shorter")  # it is what is left of the longer one's area
    draws = {name: resampling.auc(scores, labels, units, ground.draws, strata) for name, scores in contenders.items()}
    draws["shorter"] = 1 - draws["longer"]
    return [_row(ground, test, "AUC", draws, units, missing, extra={"positive": int(labels.sum())})]


def _rank(ground: Ground, test: Task) -> list[Row]:
    places, labels, missing = _labelled(ground, test)
    units = list(ground.units[places])
    if len(places) < 2:
        return [_none(ground, test, "Spearman", len(places), missing)]
    tfidf = _taught(ground, f"number {test.label}", places, baselines.tfidf_numbers, labels)
    draws = {
        name: resampling.rank_correlation(scores, labels, units, ground.draws)
        for name, scores in _contenders(ground, places, tfidf).items()
    }
    return [_row(ground, test, "Spearman", draws, units, missing)]


def _levels(ground: Ground, test: Task) -> list[Row]:
    """Scores become levels by cuts that give the other folds' shares of levels; TF-IDF names levels itself."""
    places, labels, missing = _labelled(ground, test)
    units = list(ground.units[places])
    if len(np.unique(labels)) < 2:
        return [_none(ground, test, "quadratic kappa", len(places), missing)]
    fold = baselines.folds(units, ground.seed)
    tfidf = _taught(ground, f"level {test.label}", places, baselines.tfidf_levels, labels)
    cut = {name: _cut(scores, labels, fold) for name, scores in _contenders(ground, places, None).items()}
    cut |= {} if tfidf is None else {TFIDF: tfidf}
    by_name = {name: resampling.level_agreement(found, labels, units, ground.draws) for name, found in cut.items()}
    return [
        _row(ground, test, metric, {name: found[metric] for name, found in by_name.items()}, units, missing)
        for metric in ("macro-F1", "quadratic kappa", "accuracy")
    ]


def _cut(scores: Array, labels: Array, fold: NDArray[np.int64]) -> Array:
    """Levels by cuts that each leave as near as can be the share of other folds' labels below their level."""
    levels = np.unique(labels)
    found = np.empty_like(labels)
    for number in np.unique(fold):
        asked = fold == number
        taught = ~asked if (~asked).any() else asked
        known = np.sort(scores[taught])
        values = np.append(np.unique(known), np.inf)
        under = np.searchsorted(known, values) / len(known)  # items of equal scores are never parted
        wanted = [float((labels[taught] < level).mean()) for level in levels[1:]]
        cuts = np.sort([values[np.abs(under - share).argmin()] for share in wanted])
        found[asked] = levels[np.searchsorted(cuts, scores[asked], side="right")]
    return found


def _scale(ground: Ground, test: Task) -> list[Row]:
    """Scores laid on the label's scale by a line fitted on the other units: how far, and to which side, they miss."""
    places, labels, missing = _labelled(ground, test)
    units = ground.units[places]
    if len(set(units)) < 3:
        return [_none(ground, test, "sum of distances", len(places), missing)]
    laid = {
        SCORE: _line(ground.scores[SCORE][places], labels, units),
        "mean of the others": _line(np.zeros(len(places)), labels, units),
    }
    low = labels < 0
    far = {
        name: len(places) * resampling.mean(np.abs(values - labels), list(units), ground.draws)
        for name, values in laid.items()
    }
    bias = {
        name: resampling.mean((values - labels)[low], list(units[low]), ground.draws) for name, values in laid.items()
    }
    return [
        _row(ground, test, "sum of distances", far, list(units), missing),
        _row(ground, test, "bias where the label is below 0", bias, list(units[low]), missing),
    ]


def _line(scores: Array, labels: Array, units: NDArray[np.str_]) -> Array:
    found = np.empty_like(labels)
    for unit in np.unique(units):
        asked = units == unit
        x, y = scores[~asked], labels[~asked]
        spread = float(((x - x.mean()) ** 2).sum())
        slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread) if spread > 1e-12 else 0.0
        found[asked] = y.mean() + slope * (scores[asked] - x.mean())
    return found


def _pairs(ground: Ground, test: Task) -> list[Row]:
    place = {item.id: number for number, item in enumerate(ground.found.items)}
    duels = [duel for duel in ground.found.duels if duel.test == test.name]
    sides = np.array([(place[duel.better], place[duel.worse]) for duel in duels], dtype=np.int64).reshape(-1, 2)
    scored = np.asarray(np.isfinite(ground.scores[SCORE])[sides].all(axis=1))
    sides, missing = sides[scored], int((~scored).sum())
    units = [duels[number].unit for number in np.flatnonzero(scored)]
    if not units:
        return [_none(ground, test, "accuracy", 0, missing)]
    gaps = {name: values[sides[:, 0]] - values[sides[:, 1]] for name, values in ground.scores.items()}
    fold = baselines.folds(units, ground.seed)
    tfidf = baselines.tfidf_pairs(ground.words, sides, fold)
    gaps |= {} if tfidf is None else {TFIDF: tfidf}
    credit = {name: (np.sign(gap) + 1) / 2 for name, gap in gaps.items() if np.isfinite(gap).all()}
    draws = {name: resampling.mean(values, units, ground.draws, macro=test.macro) for name, values in credit.items()}
    figures = {name: _accuracy(ground, test, values, units) for name, values in credit.items()}
    extra = {"by_pair": {name: round(float(values.mean()), 4) for name, values in credit.items()}} if test.macro else {}
    return [_row(ground, test, "accuracy", draws, units, missing, figures=figures, extra=extra)]


def _accuracy(ground: Ground, test: Task, credit: Array, units: Sequence[str]) -> Figure:
    """The share of pairs (or the mean of the units' shares); few or unanimous units get Wilson's interval."""
    values, names = list(credit), list(units)
    if test.macro:
        sums: dict[str, list[float]] = {}
        for value, unit in zip(values, names, strict=True):
            sums.setdefault(unit, []).append(value)
        values, names = [sum(part) / len(part) for part in sums.values()], list(sums)
    found = cluster_mean(values, names, ground.found.unit, bootstrap=ground.bootstrap, seed=ground.seed)
    return found.model_copy(update={"n": len(credit)})


def _row(
    ground: Ground,
    test: Task,
    metric: str,
    draws: Mapping[str, Array],
    units: Sequence[str],
    missing: int,
    *,
    figures: Mapping[str, Figure] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Row:
    given = figures or {name: figure(values, len(units), ground.found.unit) for name, values in draws.items()}
    shown = {name: found.model_dump() for name, found in given.items()}
    trivial = [name for name in DIRECT if name in shown and shown[name]["value"] is not None]
    best = max(trivial, key=lambda name: shown[name]["value"], default=None)
    gains = draws[SCORE] - draws[best] if best else None
    cells = {
        **_head(ground, test, metric, len(units), len(set(units)), missing),
        **(extra or {}),
        "score": shown.pop(SCORE),
        "raw": shown.pop(RAW, None),
        "baselines": {name: shown.pop(name) for name in DIRECT if name in shown},
        "shown": shown,
        "best_baseline": best,
        "gain": None if gains is None else figure(gains, len(units), ground.found.unit).model_dump(),
    }
    return Row(cells, gains)


def _none(ground: Ground, test: Task, metric: str, n: int, missing: int) -> Row:
    """A test that this file cannot answer: too few items, or all of one label."""
    nothing = dict.fromkeys(("score", "raw", "best_baseline", "gain"))
    empty: dict[str, Any] = {**nothing, "baselines": {}, "shown": {}}
    return Row(_head(ground, test, metric, n, 0, missing) | empty)


def _head(ground: Ground, test: Task, metric: str, n: int, units: int, missing: int) -> dict[str, Any]:
    return {
        "set": ground.found.name,
        "test": test.name,
        "metric": metric,
        "n": n,
        "unit": ground.found.unit,
        "units": units,
        "license": ground.found.license,
        "in_macro": test.counts,
        "mean_over_units": test.macro,
        "without_score": missing,
    }


KINDS: dict[str, Callable[[Ground, Task], list[Row]]] = {
    "auc": _auc,
    "pairs": _pairs,
    "rank": _rank,
    "levels": _levels,
    "scale": _scale,
}
