"""How much personal data a pass over a corpus has missed: planted values, and two readers compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from psychocounsel.engine import HERE, Engine
from psychocounsel.privacy import find, known_values
from psychocounsel.privacy.planted import is_found, plant, planted_types
from psychocounsel.records import content_id

MOST_PLANTED, LEAST_PLANTED = 200, 20  # values of each type, as many as there are texts between the two
HOST = 2000  # characters of a text that get a planted value
Z = 1.959964
DIGITS = 6
Estimate = dict[str, Any]


def recall_on_planted(
    texts: Sequence[str], known: tuple[str, ...] = (), seed: int = 0, engine: Engine = HERE
) -> dict[str, Estimate]:
    """The share of planted values of each type that are found whole in texts of this corpus, with Wilson's interval.

    Texts are drawn by content hash, so the order of rows means nothing. {} when there are no texts.
    """
    if not texts:
        return {}
    hosts = sorted({text[:HOST] for text in texts}, key=lambda text: content_id([seed, "plant", text]))
    each = max(LEAST_PLANTED, min(MOST_PLANTED, len(hosts)))
    jobs = [
        (hosts[k % len(hosts)], kind, int(content_id([seed, kind, k]), 16))
        for kind in planted_types()
        for k in range(each)
    ]
    found = engine.map("planted personal data", partial(_found, known), jobs)
    return {
        kind: wilson(sum(found[place * each : (place + 1) * each]), each) for place, kind in enumerate(planted_types())
    }


def _found(known: tuple[str, ...], jobs: list[tuple[str, str, int]]) -> list[bool]:
    made = (plant(*job) for job in jobs)
    return [is_found(planted, find(planted.text, known_values(known))) for planted in made]


def wilson(hits: int, n: int) -> Estimate:
    """A share with its 95 % interval. Wilson 1927."""
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    share, spread = hits / n, Z * Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return {"value": round(share, DIGITS), "low": round(low, DIGITS), "high": round(high, DIGITS), "n": n}


def expected_misses(found: Mapping[str, int], recall: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """How many values of each type are still there, if real ones are found as often as planted ones.

    With recall r, the misses beside n found ones are negative binomial: mean n (1 - r) / r; the interval is its 95 %
    range over n + 1 finds, taken at the ends of r's own interval, so it is no claim of zero where nothing was found.
    """
    return {kind: _misses(found.get(kind, 0), share) for kind, share in recall.items()}


def _misses(n: int, share: Estimate) -> Estimate:
    from scipy.stats import nbinom

    if not share["value"]:
        return {"value": None, "low": None, "high": None, "n": n}
    low = nbinom.ppf(0.025, n, share["high"]) if n else 0.0
    high = nbinom.ppf(0.975, n + 1, share["low"])
    value = n * (1 - share["value"]) / share["value"]
    return {"value": round(value, 2), "low": max(0.0, float(low)), "high": float(high), "n": n}


def chapman(first: int, second: int, both: int) -> Estimate:
    """What two readers have both missed, from how much each found and how much both. Chapman 1951.

    N = (first + 1)(second + 1) / (both + 1) - 1, less what either found. The interval is log-normal around the misses
    (Chao 1987), with Seber's variance of N. It holds if the readers miss independently of each other, which is
    optimistic: what is hard for one is often hard for the other.
    """
    total = (first + 1) * (second + 1) / (both + 1) - 1
    seen = first + second - both
    misses = max(0.0, total - seen)
    variance = (first + 1) * (second + 1) * (first - both) * (second - both) / ((both + 1) ** 2 * (both + 2))
    if misses <= 0:
        return {"value": 0.0, "low": 0.0, "high": 0.0, "n": seen}
    factor = math.exp(Z * math.sqrt(math.log(1 + variance / misses**2)))
    low, high = misses / factor, misses * factor
    return {"value": round(misses, 2), "low": round(low, 2), "high": round(high, 2), "n": seen}
