"""How often topics are right: figures with intervals by cluster, against the labels that a source came with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
SEED = 20250219
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One labelled speech: what the source said (its topic first, then what else is accepted), and ranked answers."""

    cluster: str
    accepted: tuple[str, ...]
    answers: tuple[str, ...]


def figures(cases: Sequence[Case], coarse: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Accuracy of the first answer against the topic, any accepted one, the top three and (with `coarse`) the coarse
    topic; macro-F1 over the topics that occur; the largest topic as a baseline. 95 % intervals by cluster bootstrap.
    """
    if not cases:
        return {"n": 0}
    truth = [case.accepted[0] for case in cases]
    answer = [case.answers[0] if case.answers else "" for case in cases]
    names = sorted({*truth})
    largest = max(names, key=lambda name: (truth.count(name), name))
    hits = {
        "accuracy": [a == t for a, t in zip(answer, truth, strict=True)],
        "accuracy_accepted": [a in case.accepted for a, case in zip(answer, cases, strict=True)],
        "accuracy_top3": [case.accepted[0] in case.answers[:3] for case in cases],
        "baseline_largest": [t == largest for t in truth],
        "baseline_largest_accepted": [largest in case.accepted for case in cases],
    }
    if coarse:
        hits["accuracy_coarse"] = [coarse.get(a) == coarse.get(t) for a, t in zip(answer, truth, strict=True)]
    clusters, member = np.unique([case.cluster for case in cases], return_inverse=True)
    draws = _draws(len(clusters))
    sizes = _by_cluster(np.ones(len(cases)), member, len(clusters))
    found: dict[str, Any] = {"n": len(cases), "clusters": len(clusters), "largest": largest}
    for name, values in hits.items():
        sums = _by_cluster(np.array(values, dtype=float), member, len(clusters))
        found[name] = _interval(float(sums.sum() / len(cases)), [float(w @ sums / (w @ sizes)) for w in draws])
    tallies = [
        np.stack([_by_cluster(np.array(one, dtype=float), member, len(clusters)) for one in kind], axis=1)
        for kind in (
            [[t == name == a for a, t in zip(answer, truth, strict=True)] for name in names],
            [[a == name for a in answer] for name in names],
            [[t == name for t in truth] for name in names],
        )
    ]
    f1 = _f1(*(tally.sum(axis=0) for tally in tallies))
    found["macro_f1"] = _interval(float(f1.mean()), [_macro(w, tallies) for w in draws])
    right, answered, there = (tally.sum(axis=0) for tally in tallies)
    found["topics"] = {
        name: {
            "n": int(there[i]),
            "precision": round(float(right[i] / answered[i]), 4) if answered[i] else None,
            "recall": round(float(right[i] / there[i]), 4),
            "f1": round(float(f1[i]), 4),
        }
        for i, name in enumerate(names)
    }
    return found


def _draws(clusters: int) -> list[Floats]:
    """How often each cluster is drawn, for every bootstrap sample; from a fixed seed, so that every run agrees."""
    random = np.random.Generator(np.random.Philox(SEED))
    return [
        np.bincount(random.integers(0, clusters, size=clusters), minlength=clusters).astype(float) for _ in range(DRAWS)
    ]


def _by_cluster(values: Floats, member: NDArray[np.intp], clusters: int) -> Floats:
    return np.bincount(member, weights=values, minlength=clusters).astype(float)


def _f1(right: Floats, answered: Floats, there: Floats) -> Floats:
    """2 TP / (answers + occurrences), 0 where a label is neither answered nor there."""
    return 2 * right / np.maximum(answered + there, 1)


def _macro(weights: Floats, tallies: Sequence[Floats]) -> float:
    """Macro-F1 of one bootstrap sample, over the labels that occur in it."""
    right, answered, there = (weights @ tally for tally in tallies)
    return float(_f1(right, answered, there)[there > 0].mean())


def _interval(value: float, samples: Sequence[float]) -> dict[str, float]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
