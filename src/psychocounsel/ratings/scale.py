"""How each judge uses the scale: ceilings, missing scores, and the halo that makes seven principles one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from psychocounsel.ratings.reliability import LEVELS, Array


def scale_use(scores: Array, names: Sequence[str]) -> dict[str, Any]:
    """Counts of 1 to 5, share without a score, mean and spread by principle, halo and flatness.

    `scores` is (replies, principles), NaN for none. `halo` is the mean correlation between principles over replies;
    near 1 the judge gives one impression several times. `flat` is the share of replies with the same score throughout.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an all-empty row has no largest score
        flat = np.nanmax(scores, axis=1) == np.nanmin(scores, axis=1) if scores.size else np.zeros(0, dtype=bool)
    several = np.isfinite(scores).sum(axis=1) > 1
    return {
        "ratings": len(scores),
        "all": _use(scores.ravel()),
        "principles": {name: _use(scores[:, k]) for k, name in enumerate(names)},
        "halo": _halo(scores),
        "flat": round(float(flat[several].mean()), 6) if several.any() else None,
    }


def _use(scores: Array) -> dict[str, Any]:
    given = scores[np.isfinite(scores)]
    level = np.clip(np.floor(given + 0.5), LEVELS[0], LEVELS[-1])
    return {
        "counts": {str(k): int((level == k).sum()) for k in LEVELS},
        "none": round(1 - len(given) / len(scores), 6) if len(scores) else None,
        "mean": round(float(given.mean()), 6) if len(given) else None,
        "sd": round(float(given.std(ddof=1)), 6) if len(given) > 1 else None,
    }


def _halo(scores: Array) -> float | None:
    found = []
    for k in range(scores.shape[1]):
        for j in range(k + 1, scores.shape[1]):
            both = scores[np.isfinite(scores[:, k]) & np.isfinite(scores[:, j])][:, [k, j]]
            if len(both) > 2 and both[:, 0].std() > 0 and both[:, 1].std() > 0:
                found.append(float(np.asarray(np.corrcoef(both.T))[0, 1]))
    return round(float(np.mean(found)), 6) if found else None
