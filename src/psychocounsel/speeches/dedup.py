"""Near-duplicates: MinHash with banded hashing finds candidates, exact Jaccard confirms, union-find makes clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from psychocounsel.engine import HERE, Engine
from psychocounsel.speeches.shingles import HASHES, PRINTS, Sets, banding, pack, similarities, sketches

SMALL = 8  # all pairs of a bucket of so many members are candidates
NEIGHBOURS = 4  # in a larger one each member is compared with so many followers, and with the earliest member
GATHER = 1 << 17  # pairs looked at together: memory stays flat
DEVIATIONS = 4.0  # an estimate so many standard deviations below the level needs no exact comparison

Rows = NDArray[np.int64]
Pairs = NDArray[np.int64]


@dataclass
class Clusters:
    """`root[i]` is the first member of text i's cluster; `duplicate_of[i]` the earlier text that i repeats."""

    root: list[int]
    duplicate_of: dict[int, int]


def near_duplicates(texts: Sequence[str], drop_at: float, join_at: float, engine: Engine = HERE) -> Clusters:
    """Texts `join_at` alike (Jaccard of word 3-grams) share a cluster; at `drop_at` the later one is a duplicate.

    `duplicate_of` names the earliest kept text that is so alike. Every pair acted upon has its exact similarity; a
    pair of at least the lower limit is overlooked in fewer than 1 of 1,000 cases (`banding`). Work and memory grow
    linearly, also where thousands of texts share a passage. Only the signatures are computed over the engine.
    """
    level = min(drop_at, join_at)
    sets, keys, prints = sketched(texts, banding(level)[1], engine)
    same = _equal(sets)
    alone = np.setdiff1d(np.arange(len(texts)), same[:, 1])
    pairs = np.concatenate([same, alone[candidates(keys[:, alone], prints[alone], level)]])
    alike = similarities(sets, pairs[:, 0], pairs[:, 1])
    while True:
        repeats = pairs[alike >= drop_at]
        duplicate_of = _dropped(repeats)
        further = _unseen(_to_partners(repeats, duplicate_of), pairs)
        if not len(further):
            return Clusters(_roots(len(texts), pairs[alike >= level]), duplicate_of)
        pairs = np.concatenate([pairs, further])
        alike = np.concatenate([alike, similarities(sets, further[:, 0], further[:, 1])])


def merged(clusters: Clusters, pairs: Sequence[tuple[int, int, float]]) -> Clusters:
    """The clusters with both members of every pair (first, second, similarity) in one. No text is dropped for it."""
    edges = [*enumerate(clusters.root), *((first, second) for first, second, _ in pairs)]
    return Clusters(_roots(len(clusters.root), np.array(edges).reshape(-1, 2)), dict(clusters.duplicate_of))


def sketched(texts: Sequence[str], rows: int, engine: Engine) -> tuple[Sets, NDArray[np.uint32], NDArray[np.uint8]]:
    """(shingles, keys of shape (bands, texts) for bands of so many rows, prints of shape (texts, PRINTS))."""
    bands = HASHES // rows
    parts = engine.map("signatures", partial(sketches, rows=rows), texts)
    sets = pack(part for _, part in parts)
    fronts = np.frombuffer(b"".join(front for front, _ in parts), dtype=np.uint8).reshape(-1, 4 * bands + PRINTS)
    del parts
    keys = np.ascontiguousarray(fronts[:, :-PRINTS]).view("<u4")
    return sets, np.ascontiguousarray(keys.T), np.ascontiguousarray(fronts[:, -PRINTS:])


def candidates(keys: NDArray[np.uint32], prints: NDArray[np.uint8], level: float) -> Pairs:
    """Pairs (first < second) that share a bucket and whose prints do not speak against `level`; shape (pairs, 2)."""
    count = keys.shape[1]
    known: Rows = np.zeros(0, dtype=np.int64)
    fresh = [known]
    for band in range(len(keys)):
        pairs = _bucket_pairs(keys, band)
        for low in range(0, len(pairs), GATHER):
            near = pairs[low : low + GATHER]
            near = near[_shared(prints, near) >= _least_shared(level)]
            fresh.append(near[:, 0] * count + near[:, 1])
        if sum(map(len, fresh)) > max(len(known), 8 * GATHER):
            known, fresh = _distinct(np.concatenate([known, *fresh])), []
    known = _distinct(np.concatenate([known, *fresh]))
    return np.stack(np.divmod(known, max(count, 1)), axis=1)


def _bucket_pairs(keys: NDArray[np.uint32], band: int) -> Pairs:
    """Pairs within the buckets of one band: all in a small one, linearly many in a crowded one.

    Members of a crowded bucket stand in the order of the next bands, so the more alike, the nearer; each is compared
    with NEIGHBOURS followers and with the earliest member.
    """
    bits = np.uint64(keys.shape[1].bit_length())
    ordered = np.sort(keys[band].astype(np.uint64) << bits | np.arange(keys.shape[1], dtype=np.uint64))
    equal = ordered[1:] >> bits == ordered[:-1] >> bits
    shared = np.flatnonzero(np.append(equal, False) | np.append(False, equal)) if len(equal) else np.zeros(0, np.int64)
    rows = (ordered[shared] & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    bucket = np.cumsum(~np.append(False, equal)[shared])
    crowded = np.flatnonzero(np.bincount(bucket)[bucket] > SMALL)
    members = rows[crowded]
    pairs = [np.stack([rows[np.searchsorted(bucket, bucket[crowded])], members], axis=1)]
    following = [keys[(band + step) % len(keys)][members] for step in (3, 2, 1)]
    rows[crowded] = members[np.lexsort([*following, bucket[crowded]])]
    for step in range(1, SMALL):
        if step == NEIGHBOURS + 1:
            rows, bucket = np.delete(rows, crowded), np.delete(bucket, crowded)
        together = bucket[step:] == bucket[:-step]
        pairs.append(np.stack([rows[:-step][together], rows[step:][together]], axis=1))
    found: Pairs = np.sort(np.concatenate(pairs), axis=1)
    return found[found[:, 0] < found[:, 1]]


def _distinct(values: Rows) -> Rows:
    """The values in ascending order, each once (np.unique hashes integers, which takes ten times as long)."""
    values = np.sort(values)
    new: NDArray[np.bool_] = np.append(True, values[1:] != values[:-1])[: len(values)]
    return values[new]


def _shared(prints: NDArray[np.uint8], pairs: Pairs) -> NDArray[np.int64]:
    equal: NDArray[np.int64] = np.count_nonzero(prints[pairs[:, 0]] == prints[pairs[:, 1]], axis=1)
    return equal


def _least_shared(level: float) -> float:
    """Equal prints that a pair of this Jaccard has but for 1 in 30,000: mean minus DEVIATIONS of a binomial."""
    return PRINTS * level - DEVIATIONS * math.sqrt(PRINTS * level * (1 - level))


def _equal(sets: Sets) -> Pairs:
    """(first, later) for every text that has the very shingles of an earlier one."""
    if not len(sets.sizes):
        return np.zeros((0, 2), dtype=np.int64)
    sums = np.add.reduceat(sets.hashes * sets.hashes, sets.starts[:-1])
    _, first, group = np.unique(sums, return_index=True, return_inverse=True)
    pairs: Pairs = np.stack([first[group], np.arange(len(sums))], axis=1)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    wholly: NDArray[np.bool_] = similarities(sets, pairs[:, 0], pairs[:, 1]) == 1.0
    return pairs[wholly]


def _dropped(repeats: Pairs) -> dict[int, int]:
    """{later: earlier} for every text that repeats a kept earlier one; of several the earliest."""
    duplicate_of: dict[int, int] = {}
    for first, second in repeats[np.lexsort([repeats[:, 1], repeats[:, 0]])].tolist():
        if first not in duplicate_of:
            duplicate_of.setdefault(second, first)
    return duplicate_of


def _to_partners(repeats: Pairs, duplicate_of: dict[int, int]) -> Pairs:
    """Pairs of a text with the text that its own near-duplicate was dropped for: they may be alike too."""
    partner = np.arange(repeats.max(initial=-1) + 1)
    partner[list(duplicate_of)] = list(duplicate_of.values())
    pairs = np.stack([partner[repeats[:, 0]], repeats[:, 1]], axis=1)
    unsettled = (partner[repeats[:, 1]] == repeats[:, 1]) | (partner[repeats[:, 1]] > pairs[:, 0])
    found: Pairs = np.unique(pairs[unsettled & (pairs[:, 0] < repeats[:, 0])], axis=0)
    return found


def _unseen(pairs: Pairs, seen: Pairs) -> Pairs:
    """Those of `pairs` that are not among `seen`."""
    step = max(int(seen.max(initial=0)), int(pairs.max(initial=0))) + 1
    codes, known = pairs[:, 0] * step + pairs[:, 1], np.sort(seen[:, 0] * step + seen[:, 1])
    place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    return pairs[known[place] != codes] if len(known) else pairs


def _roots(count: int, pairs: Pairs) -> list[int]:
    """The first member of each text's connected component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    _, first, group = np.unique(label, return_index=True, return_inverse=True)
    return [int(root) for root in first[group]]
