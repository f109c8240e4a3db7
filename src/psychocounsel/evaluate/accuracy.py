"""How well scores order pairs of replies as the labels do, beside the longer-is-better baseline on the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    known = [pair for pair in pairs if pair.chosen in scores and pair.rejected in scores]
    credit = [_credit(scores[pair.chosen], scores[pair.rejected]) for pair in known]
    clusters = [speeches[pair.speech_id].cluster for pair in known]
    return cluster_mean(credit, clusters, "share of pairs", bootstrap=bootstrap, seed=seed)


def length_scores(responses: Mapping[str, Response]) -> dict[str, float]:
    """The baseline that prefers the longer reply, in words."""
    return {key: float(len(response.text.split())) for key, response in responses.items()}


def _credit(chosen: float, rejected: float) -> float:
    return 0.5 if chosen == rejected else float(chosen > rejected)
