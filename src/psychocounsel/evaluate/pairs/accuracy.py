"""How well scores order pairs of replies as the labels do, beside the longer-is-better baseline on the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psychocounsel.evaluate.results import ItemValue
from psychocounsel.evaluate.statistics import Figure, cluster_mean
from psychocounsel.records import Pair, Response, Speech


def pair_accuracy(
    pairs: Sequence[Pair],
    scores: Mapping[str, float],
    speeches: Mapping[str, Speech],
    *,
    bootstrap: int,
    seed: int,
) -> Figure:
    """Share of pairs whose chosen reply scores higher; equal scores count one half. Interval by speech cluster."""
    rows = pair_items("", pairs, scores, speeches)
    values, clusters = [row.value for row in rows], [row.cluster for row in rows]
    return cluster_mean(values, clusters, "share of pairs", bootstrap=bootstrap, seed=seed)


def pair_items(
    metric: str, pairs: Sequence[Pair], scores: Mapping[str, float], speeches: Mapping[str, Speech]
) -> list[ItemValue]:
    """The credit of every pair whose replies both have a score: 1, 0, or one half for equal scores."""
    return [
        ItemValue(
            metric=metric,
            item=pair.id,
            cluster=speeches[pair.speech_id].cluster or pair.speech_id,
            value=credit(scores[pair.chosen], scores[pair.rejected]),
        )
        for pair in pairs
        if pair.chosen in scores and pair.rejected in scores
    ]


def length_scores(responses: Mapping[str, Response]) -> dict[str, float]:
    """The baseline that prefers the longer reply, in words."""
    return {key: float(len(response.text.split())) for key, response in responses.items()}


def credit(chosen: float, rejected: float) -> float:
    """1 when the chosen reply scores higher, one half when both score alike."""
    return 0.5 if chosen == rejected else float(chosen > rejected)
