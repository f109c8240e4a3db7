"""Leakage: how alike rows of different splits are, and rows of the splits and of external sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from psychocounsel.engine import HERE, Engine
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.records import Speech
from psychocounsel.speeches.dedup import candidates, sketched
from psychocounsel.speeches.join import Alike, Join, Rows
from psychocounsel.speeches.shingles import Sets, banding, detection, hashed, pack, similarities

LEVELS = (0.2, 0.4, 0.6, 0.8)
BUDGET = 2e9  # encounters of shared shingles: about a minute
NAMED = 20


@dataclass(frozen=True)
class Part:
    """One side of a comparison: rows with their names, texts and hashed shingles."""

    ids: Sequence[str]
    texts: Sequence[str]
    sets: Sets


@dataclass(frozen=True)
class Search:
    """How two parts are compared. No pair of at least `complete_from` is overlooked; None: some pairs may be."""

    by: str
    complete_from: float | None
    rows: int = 0

    def finds(self, level: float) -> float | None:
        """P(a pair of this Jaccard is found); None where nothing is said of it."""
        if self.complete_from is None:
            return round(detection(level, self.rows), 6)
        return 1.0 if level >= self.complete_from else None


def leakage(
    speeches_by_split: Mapping[str, Sequence[Speech]],
    externals: Mapping[str, Sequence[str]],
    cluster: float = 0.4,
    engine: Engine = HERE,
) -> dict[str, Any]:
    """The report on splits (whole dialogues are compared) and on external texts, ready for JSON.

    For each two splits, and each external set with each split: the `maximum` Jaccard of word 3-grams and the `rows`
    that have it (ids; for an external text its number, from 0), the number of `pairs` at or above each level and of
    those `at_cluster`, the nearest NAMED of these, and the `search`: `complete_from`, the level from which no pair
    was overlooked, and the probability with which a pair of each level is found. A count the search cannot vouch for
    is null; every figure given is exact or, after a search by MinHash, exact for what was found.

    `leaks` are pairs of two splits at or above `cluster`; 0 where rows were split by cluster. No text is reported.
    """
    splits = {
        name: _part([speech.id for speech in rows], [dialogue_text(speech.turns) for speech in rows], engine)
        for name, rows in sorted(speeches_by_split.items())
    }
    between = {
        f"{one} and {other}": _compared(splits[one], splits[other], cluster, engine)
        for one, other in combinations(splits, 2)
    }
    outside: dict[str, Any] = {}
    for name, texts in sorted(externals.items()):
        part = _part([str(row) for row in range(len(texts))], texts, engine)
        outside[name] = {split: _compared(rows, part, cluster, engine) for split, rows in splits.items()}
    return {
        "cluster": cluster,
        "leaks": sum(found["at_cluster"] for found in between.values()),
        "rows": {name: len(part.ids) for name, part in splits.items()},
        "splits": between,
        "external": outside,
    }


def _part(ids: Sequence[str], texts: Sequence[str], engine: Engine) -> Part:
    return Part(ids, texts, pack(engine.map("shingles", hashed, texts)))


def _compared(one: Part, other: Part, cluster: float, engine: Engine) -> dict[str, Any]:
    join = Join(one.sets, other.sets)
    search = _affordable(join, cluster)
    met = _Met(cluster)
    for pairs, alike in _pairs(search, join, one, other, engine):
        met.add(one, other, pairs, alike)
    sure = 0.0 if search.complete_from is None else search.complete_from
    nearest = met.nearest
    return {
        "maximum": round(-nearest[0], 6) if nearest else (0.0 if one.ids and other.ids else None),
        "rows": list(nearest[1:]) if nearest else None,
        "pairs": {str(level): met.counts[level] if level >= sure else None for level in LEVELS},
        "at_cluster": met.counts[cluster],
        "nearest": [[first, second, round(-alike, 6)] for alike, first, second in met.named],
        "search": {
            "by": search.by,
            "complete_from": search.complete_from,
            "finds": {str(level): search.finds(level) for level in sorted({*LEVELS, cluster})},
        },
    }


def _affordable(join: Join, cluster: float) -> Search:
    """The search from the lowest level that BUDGET allows; where it does not even allow `cluster`, MinHash."""
    for level in sorted({0.0, min(LEVELS[0], cluster), cluster}):
        if join.cost(level) <= BUDGET:
            return Search("prefix filtering" if level else "all shared shingles", level)
    return Search("minhash", None, banding(cluster)[1])


def _pairs(search: Search, join: Join, one: Part, other: Part, engine: Engine) -> Iterator[tuple[Rows, Alike]]:
    if search.complete_from is not None:
        yield from join.pairs(search.complete_from)
        return
    sets, keys, prints = sketched([*one.texts, *other.texts], search.rows, engine)
    pairs = candidates(keys, prints, LEVELS[0])
    pairs = pairs[(pairs[:, 0] < len(one.ids)) & (pairs[:, 1] >= len(one.ids))]
    yield pairs - np.array([0, len(one.ids)]), similarities(sets, pairs[:, 0], pairs[:, 1])


@dataclass
class _Met:
    """What a search has met so far: counts by level, the nearest pair, and the nearest of those at `cluster`."""

    cluster: float
    counts: dict[float, int] = field(default_factory=dict)
    nearest: tuple[float, str, str] | None = None
    named: list[tuple[float, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = dict.fromkeys((*LEVELS, self.cluster), 0)

    def add(self, one: Part, other: Part, pairs: Rows, alike: Alike) -> None:
        def names(least: float) -> list[tuple[float, str, str]]:
            """(minus Jaccard, id, id), so that the nearest come first and ties go by the ids."""
            at = np.flatnonzero(alike >= least)
            return sorted((-float(alike[k]), one.ids[pairs[k, 0]], other.ids[pairs[k, 1]]) for k in at)

        for level in self.counts:
            self.counts[level] += int((alike >= level).sum())
        if len(alike):
            self.nearest = min([*names(float(alike.max())), *([self.nearest] if self.nearest else [])])
            self.named = sorted([*self.named, *names(self.cluster)])[:NAMED]
