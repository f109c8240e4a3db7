"""The audit of pair sets: length bias, safety inversions, models, principles, noise. Figures only, no text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from psychocounsel.pairs import PairSets
from psychocounsel.principles import Principle
from psychocounsel.ratings.reliability import wilson
from psychocounsel.records import Pair


def audit(sets: PairSets, principles: Sequence[Principle]) -> dict[str, Any]:
    """JSON-ready figures of every set, of the noise model and of what was left out; numbers to six digits."""
    noise = sets.noise
    kinds = [*sets.pairs.items(), *sets.hard.items()]
    return {
        "sets": {name: _figures(pairs, sets, principles) for name, pairs in kinds},
        "noise": {
            "sigma": _short(noise.sigma),
            "residuals": noise.residuals,
            "spread": _short(noise.spread),
            "severity": noise.severity,
        },
        "left_out": dict(sorted(sets.left_out.items())),
        "set_aside": dict(sorted(sets.set_aside.items())),
    }


def _figures(pairs: Sequence[Pair], sets: PairSets, principles: Sequence[Principle]) -> dict[str, Any]:
    if not pairs:
        return {"pairs": 0}
    sizes = np.array([[sets.replies[key].words for key in (pair.chosen, pair.rejected)] for pair in pairs], dtype=float)
    longer = np.where(sizes[:, 0] == sizes[:, 1], 0.5, (sizes[:, 0] > sizes[:, 1]).astype(float))
    clusters = [sets.clusters[pair.speech_id] or pair.speech_id for pair in pairs]
    inverted = sum(_inverted(pair, principles) for pair in pairs)
    chances = [pair.probability for pair in pairs if pair.probability is not None]
    return {
        "pairs": len(pairs),
        "speeches": len({pair.speech_id for pair in pairs}),
        "clusters": len(set(clusters)),
        "gap": _short(_mean([pair.gap for pair in pairs])),
        "votes": _short(_mean([pair.votes for pair in pairs if pair.judges])),
        "probability": _short(_mean(chances)),
        "words": {"chosen": _short(sizes[:, 0].mean()), "rejected": _short(sizes[:, 1].mean())},
        "chosen_longer": share_by_cluster(longer.tolist(), clusters),
        "inversions": {"pairs": inverted, "share": _short(inverted / len(pairs))},
        "principles": {principle.id: _gap_of(pairs, principle.id) for principle in principles},
        "models": _models(pairs, sets),
    }


def _inverted(pair: Pair, principles: Sequence[Principle]) -> bool:
    """Was the rejected reply rated better on a gate principle (safety)? 1.9 % of the paper's released train pairs."""
    for principle in principles:
        chosen, rejected = pair.chosen_scores.get(principle.id), pair.rejected_scores.get(principle.id)
        if principle.gate and chosen is not None and rejected is not None and chosen < rejected:
            return True
    return False


def _gap_of(pairs: Sequence[Pair], name: str) -> float | None:
    """Mean of chosen less rejected on one principle, over the pairs that have both scores."""
    scores = ((pair.chosen_scores.get(name), pair.rejected_scores.get(name)) for pair in pairs)
    return _short(_mean([a - b for a, b in scores if a is not None and b is not None]))


def _models(pairs: Sequence[Pair], sets: PairSets) -> dict[str, dict[str, Any]]:
    """How often each model's replies were chosen among the pairs they stand in."""
    won = Counter(sets.replies[pair.chosen].response.model for pair in pairs)
    lost = Counter(sets.replies[pair.rejected].response.model for pair in pairs)
    return {
        model: {"chosen": won[model], "rejected": lost[model], "share": _short(won[model] / (won[model] + lost[model]))}
        for model in sorted({*won, *lost})
    }


def share_by_cluster(values: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """A share with a 95 % interval for values that hang together by cluster.

    Wilson's interval with the effective number of values, share (1 - share) / variance, where the variance is the
    cluster-robust one of a ratio; without variation, the number of clusters (Wilson 1927; Kish 1965).
    """
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    share = float(np.mean(values))
    strays = np.bincount(member, np.asarray(values) - share)
    groups = len(strays)
    variance = float(strays @ strays) / len(values) ** 2 * groups / max(groups - 1, 1)
    n = min(share * (1 - share) / variance, len(values)) if variance > 0 else groups
    low, high = wilson(share, n)
    return {"share": _short(share), "low": _short(low), "high": _short(high)}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _short(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)
