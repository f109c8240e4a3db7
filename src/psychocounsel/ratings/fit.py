"""Refit the embedded judge: `python -m psychocounsel.ratings.fit` writes judge.json and prints its figures.

Fitted on the package's rated replies (test speeches left out) and, where present, on the rated MentalChat16K
replies in $PSYCHOCOUNSEL_DATA (default ../shared/data). All agreement comes from cross-validation grouped by
speech, nested so that nothing is tuned on a fold it is measured on, or from replies left out altogether. The
word lists were written with the rated replies in view, so even the test figures are a little kind.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psychocounsel.errors import UserError
from psychocounsel.models.recorded import embedded_file
from psychocounsel.ratings.embedded import PRINCIPLES, bounded, sound, standard
from psychocounsel.ratings.features import FEATURES, features
from psychocounsel.ratings.rated import PACKAGE, SHARED, Rated, package_rows, shared_rows
from psychocounsel.ratings.soundness import order_table
from psychocounsel.records import content_id

Array = NDArray[np.float64]
ALPHAS = (10.0, 30.0, 100.0, 300.0, 1000.0)
SHARED_WEIGHTS = (1.0, 2.0)  # how much a shared reply counts beside a package reply
FOLDS = 10
DRAWS = 2000


@dataclass(frozen=True)
class Fitted:
    """A ridge model of the seven scores on standardised markers."""

    means: Array
    scales: Array
    weights: Array
    intercepts: Array

    def predict(self, values: Array, soundness: Array) -> Array:
        raw = self.intercepts + standard(values, self.means, self.scales) @ self.weights
        return bounded(raw, values, soundness)


@dataclass(frozen=True)
class Table:
    """Rated replies with their markers, so that folds only index."""

    rows: tuple[Rated, ...]
    values: Array
    soundness: Array
    scores: Array

    @classmethod
    def of(cls, rows: Sequence[Rated], order: dict[str, float]) -> Table:
        values = np.array([features(row.speech, row.response) for row in rows])
        factors = np.array([sound(row.speech, row.response, order) for row in rows])
        return cls(tuple(rows), values, factors, np.array([row.scores for row in rows]))

    def take(self, mask: NDArray[np.bool_]) -> Table:
        rows = tuple(row for row, kept in zip(self.rows, mask, strict=True) if kept)
        return Table(rows, self.values[mask], self.soundness[mask], self.scores[mask])

    def where(self, **fields: str) -> NDArray[np.bool_]:
        return np.array([all(getattr(row, key) == value for key, value in fields.items()) for row in self.rows])

    def folds(self, count: int, salt: str) -> NDArray[np.int64]:
        """A fold per row by the hash of its speech: the same split on every machine and in every order."""
        speeches = sorted({row.speech_id for row in self.rows}, key=lambda key: content_id([salt, key]))
        place = {key: number % count for number, key in enumerate(speeches)}
        return np.array([place[row.speech_id] for row in self.rows])


def ridge(table: Table, alpha: float, shared_weight: float) -> Fitted:
    """Weighted ridge regression of all seven scores at once, in closed form."""
    weights = np.where(table.where(source=SHARED), shared_weight, 1.0)
    means = np.average(table.values, axis=0, weights=weights)
    spread = np.sqrt(np.average((table.values - means) ** 2, axis=0, weights=weights))
    scales = np.where(spread < 1e-6, 1.0, spread)
    held = standard(table.values, means, scales)
    centre = np.average(held, axis=0, weights=weights)
    target = np.average(table.scores, axis=0, weights=weights)
    left = (held - centre).T @ ((held - centre) * weights[:, None]) + alpha * np.eye(held.shape[1])
    found = np.linalg.solve(left, (held - centre).T @ ((table.scores - target) * weights[:, None]))
    slopes: Array = np.asarray(found, dtype=np.float64)
    return Fitted(means, scales, slopes, target - centre @ slopes)


def choose(table: Table, folds: int = 5) -> tuple[float, float]:
    """The (alpha, shared weight) that orders replies best: mean over sources of within-speech correlation."""
    place = table.folds(folds, "inner")
    sources = sorted({row.source for row in table.rows})
    best, chosen = -2.0, (ALPHAS[-1], SHARED_WEIGHTS[0])
    for weight in SHARED_WEIGHTS[: 1 if len(sources) == 1 else None]:
        for alpha in ALPHAS:
            predicted = np.zeros(table.scores.shape)
            for fold in range(folds):
                model, held = ridge(table.take(place != fold), alpha, weight), table.take(place == fold)
                predicted[place == fold] = model.predict(held.values, held.soundness)
            value = float(np.mean([_within(table, predicted.mean(axis=1), source) for source in sources]))
            if value > best + 1e-4:
                best, chosen = value, (alpha, weight)
    return chosen


def _within(table: Table, overall: Array, source: str) -> float:
    """Correlation of predicted and rated overall after taking out each speech's mean."""
    mine, theirs = [], []
    for rows in _by_speech(table, source):
        mine.append(overall[rows] - overall[rows].mean())
        theirs.append(table.scores[rows].mean(axis=1) - table.scores[rows].mean())
    return float(np.corrcoef(np.concatenate(mine), np.concatenate(theirs))[0, 1])


def _by_speech(table: Table, source: str) -> list[NDArray[np.int64]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(table.rows):
        if row.source == source:
            groups[row.speech_id].append(number)
    return [np.array(rows) for _, rows in sorted(groups.items())]


def cross_validate(table: Table) -> tuple[Array, Array]:
    """Nested predictions for every reply: all writers known, and the reply's own writer left out as well."""
    place = table.folds(FOLDS, "outer")
    seen, unseen = np.zeros(table.scores.shape), np.zeros(table.scores.shape)
    writers = np.array([row.writer for row in table.rows])
    for fold in range(FOLDS):
        train = table.take(place != fold)
        alpha, weight = choose(train)
        held = place == fold
        seen[held] = ridge(train, alpha, weight).predict(table.values[held], table.soundness[held])
        for writer in sorted(set(writers[held])):
            model = ridge(table.take((place != fold) & (writers != writer)), alpha, weight)
            mask = held & (writers == writer)
            unseen[mask] = model.predict(table.values[mask], table.soundness[mask])
    return seen, unseen


def figures(table: Table, predicted: Array, source: str) -> dict[str, Any]:
    """Share of a speech's pairs ordered as rated; the 95 % interval comes from drawing speeches anew."""
    from scipy.stats import spearmanr

    rated, overall = table.scores.mean(axis=1), predicted.mean(axis=1)
    words = np.array([float(len(row.response.split())) for row in table.rows])
    groups = _by_speech(table, source)
    tally = {
        (least, name): np.array([_pairs(rated[g], by[g], least) for g in groups])
        for least in (0.01, 0.5, 1.0)
        for name, by in (("judge", overall), ("longer", words))
    }
    main = tally[0.5, "judge"]
    draws = np.random.default_rng(7).integers(0, len(groups), (DRAWS, len(groups)))
    sums = main[draws].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1), [0.025, 0.975])
    rows = np.concatenate(groups)
    return {
        "pair_accuracy": _rate(main),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "pairs": int(main[:, 1].sum()),
        "speeches": len(groups),
        "any_difference": _rate(tally[0.01, "judge"]),
        "one_point": _rate(tally[1.0, "judge"]),
        "longer_is_better": _rate(tally[0.5, "longer"]),
        "spearman": {
            name: round(float(spearmanr(table.scores[rows, i], predicted[rows, i])[0]), 3)
            for i, name in enumerate(PRINCIPLES)
        },
    }


def _pairs(rated: Array, by: Array, least: float) -> tuple[float, int]:
    """(pairs ordered as rated, pairs) of one speech; a tie counts half."""
    hits, count = 0.0, 0
    for i in range(len(rated)):
        for j in range(len(rated)):
            if rated[i] - rated[j] >= least - 1e-9:
                hits += float(by[i] > by[j]) + 0.5 * float(by[i] == by[j])
                count += 1
    return hits, count


def _rate(tally: Array) -> float:
    return round(float(tally[:, 0].sum() / max(1.0, tally[:, 1].sum())), 3)


def refit(package: Path, shared: Path | None) -> dict[str, Any]:
    """Everything judge.json holds, computed from the data alone. Raises UserError without any rated reply."""
    rows = package_rows(package, test=False) + (shared_rows(shared) if shared else [])
    if not rows:
        raise UserError(f"{package}: no rated reply to fit on")
    order = order_table(row.response for row in rows)
    table = Table.of(rows, order)
    sources = sorted({row.source for row in rows})
    alpha, weight = choose(table)
    model = ridge(table, alpha, weight)
    seen, unseen = cross_validate(table)
    agreement: dict[str, Any] = {
        "sources": {source: figures(table, seen, source) for source in sources},
        "unseen_writer": {source: figures(table, unseen, source) for source in sources},
        "other_source": {},
    }
    for source in sources if len(sources) > 1 else []:
        rest = table.take(~table.where(source=source))
        there = ridge(rest, choose(rest)[0], 1.0).predict(table.values, table.soundness)
        agreement["other_source"][source] = figures(table, there, source)
    if test := package_rows(package, test=True):
        held = Table.of(test, order)
        agreement["held_out_test"] = figures(held, model.predict(held.values, held.soundness), PACKAGE)
    return {
        "features": list(FEATURES),
        "means": _rounded(model.means),
        "scales": _rounded(model.scales),
        "coefficients": {name: _rounded(model.weights[:, i]) for i, name in enumerate(PRINCIPLES)},
        "intercepts": {name: round(float(model.intercepts[i]), 5) for i, name in enumerate(PRINCIPLES)},
        "alpha": alpha,
        "shared_weight": weight,
        "fitted_on": {source: int(table.where(source=source).sum()) for source in sources},
        "unsound_share": round(float((table.soundness < 0.99).mean()), 4),
        "order": order,
        "agreement": agreement,
    }


def _rounded(values: Array) -> list[float]:
    return [round(float(value), 5) for value in values]


def report(model: dict[str, Any]) -> str:
    """The figures as a table for people."""
    head = f"alpha {model['alpha']:g}, shared weight {model['shared_weight']:g}, fitted on {model['fitted_on']}"
    lines = [
        head,
        f"{'measured on':58} {'>=.5':>6} {'95 %':>13} {'pairs':>6} {'any':>6} {'>=1':>6} {'longer':>7}",
    ]
    agreement = model["agreement"]
    names = {
        "sources": "cross-validated",
        "unseen_writer": "writer left out",
        "other_source": "source left out",
    }
    cells = [(f"{source} ({name})", row) for kind, name in names.items() for source, row in agreement[kind].items()]
    if "held_out_test" in agreement:
        cells.append((f"{PACKAGE} (held-out test speeches)", agreement["held_out_test"]))
    for name, row in cells:
        low, high = row["interval"]
        lines.append(
            f"{name:58} {row['pair_accuracy']:6.3f} {low:6.3f}-{high:.3f} {row['pairs']:7d} "
            f"{row['any_difference']:6.3f} {row['one_point']:6.3f} {row['longer_is_better']:7.3f}"
        )
        lines.append("    Spearman " + ", ".join(f"{key} {value:.2f}" for key, value in row["spearman"].items()))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Refit from the data that is there, write the file, print the table."""
    parser = argparse.ArgumentParser(prog="python -m psychocounsel.ratings.fit", description=__doc__)
    parser.add_argument("--out", type=Path, default=embedded_file("judge.json"), help="file to write")
    chosen = parser.parse_args(arguments)
    model = refit(embedded_file(""), Path(os.environ.get("PSYCHOCOUNSEL_DATA", "../shared/data")))
    part = chosen.out.with_name(chosen.out.name + ".part")
    part.write_text(json.dumps(model, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(chosen.out)
    print(report(model))


if __name__ == "__main__":
    main()
