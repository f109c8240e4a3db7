"""Agreement between judges: quadratic kappa for pairs of raters, Krippendorff's alpha for all of them."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from psychocounsel.principles import Principle
from psychocounsel.records import Rating


def judge_agreement(ratings: Iterable[Rating], principles: Sequence[Principle]) -> dict[str, dict[str, Any]]:
    """By principle: quadratic-weighted kappa pooled over doubly rated responses, Krippendorff's alpha (ordinal), n.

    Values are None where they are undefined (no doubly rated response, or no variation), never 1.
    """
    by_response: dict[str, dict[str, Rating]] = defaultdict(dict)
    for rating in ratings:
        by_response[rating.response_id][rating.judge] = rating
    shared = [sorted(group.items()) for _, group in sorted(by_response.items()) if len(group) > 1]
    table = {}
    for principle in principles:
        units = [[(judge, rating.scores.get(principle.id)) for judge, rating in group] for group in shared]
        present = [[(judge, score) for judge, score in unit if score is not None] for unit in units]
        table[principle.id] = _agreement([unit for unit in present if len(unit) > 1])
    return table


def mean_kappa(agreement: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Mean of the defined kappas over principles; None when none is defined."""
    kappas = [row["kappa"] for row in agreement.values() if row["kappa"] is not None]
    return sum(kappas) / len(kappas) if kappas else None


def _agreement(units: list[list[tuple[str, float]]]) -> dict[str, Any]:
    pairs = [(unit[i][1], unit[j][1]) for unit in units for i in range(len(unit)) for j in range(i + 1, len(unit))]
    return {"kappa": quadratic_kappa(pairs), "alpha": _alpha(units), "n": len(units)}


def quadratic_kappa(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Cohen's kappa with quadratic weights over (first, second) scores from 1 to 5; None without variation."""
    if not pairs:
        return None
    scores = np.asarray(pairs, dtype=float)
    observed = float(((scores[:, 0] - scores[:, 1]) ** 2).mean())
    expected = float(((scores[:, 0][:, None] - scores[:, 1][None, :]) ** 2).mean())
    return 1 - observed / expected if expected > 0 else None


def _alpha(units: list[list[tuple[str, float]]]) -> float | None:
    import krippendorff

    judges = sorted({judge for unit in units for judge, _ in unit})
    if len(judges) < 2 or len({score for unit in units for _, score in unit}) < 2:
        return None
    table = np.full((len(judges), len(units)), np.nan)
    for column, unit in enumerate(units):
        for judge, score in unit:
            table[judges.index(judge), column] = score
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal"))
