"""Does the embedded judge order replies to held-out speeches as their ratings do, clearly better than length does?

Two replies to one speech count as a pair when their rated means lie half a point or more apart. The judge never saw
the test speeches when it was fitted. It was fitted on ratings of the same kind, so this is no independent proof.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from typing import Any

from psychocounsel.evaluate.statistics import Figure, cluster_mean
from psychocounsel.models.recorded import embedded_file
from psychocounsel.ratings.embedded import EmbeddedScorer
from psychocounsel.ratings.rated import Rated, package_rows

LEAST = 0.5
Score = Callable[[Rated], float]


def rated_mean(row: Rated) -> float:
    return sum(row.scores) / len(row.scores)


def longer(row: Rated) -> float:
    return float(len(row.response.split()))


def accuracy(rows: list[Rated], score: Score, *, extremes: bool = False) -> Figure:
    """Share of pairs that `score` orders as rated, ties one half, with an interval by speech."""
    by_speech: dict[str, list[Rated]] = defaultdict(list)
    for row in rows:
        by_speech[row.speech_id].append(row)
    credit, clusters = [], []
    for speech, group in by_speech.items():
        ranked = sorted(group, key=rated_mean, reverse=True)
        pairs = [(ranked[0], ranked[-1])] if extremes else list(combinations(ranked, 2))
        for better, worse in pairs:
            if rated_mean(better) - rated_mean(worse) >= LEAST - 1e-9:
                difference = score(better) - score(worse)
                credit.append(0.5 if difference == 0 else float(difference > 0))
                clusters.append(speech)
    return cluster_mean(credit, clusters, "share of pairs")


def main() -> int:
    scorer = EmbeddedScorer()
    folder = embedded_file("ratings.jsonl").parent
    rows = package_rows(folder, test=True)
    scores = {id(row): sum(scorer.score(row.speech, row.response).values()) for row in rows}
    judge, length = accuracy(rows, lambda row: scores[id(row)]), accuracy(rows, longer)
    figures: dict[str, Any] = {
        "judge": judge.model_dump(),
        "longer_is_better": length.model_dump(),
        "judge_best_against_worst": accuracy(rows, lambda row: scores[id(row)], extremes=True).model_dump(),
        "longer_best_against_worst": accuracy(rows, longer, extremes=True).model_dump(),
        "speeches": len({row.speech_id for row in rows}),
    }
    for name, figure in figures.items():
        print(f"{name}: {figure}")
    met = judge.low is not None and length.high is not None and judge.low > length.high
    goal = "the lower bound of judge lies above the upper bound of longer_is_better"
    print(json.dumps({"benchmark": "embedded_judge", "figures": figures, "goal": goal, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
