"""Near-duplicates: MinHash with banded hashing finds candidates, exact Jaccard confirms, union-find makes clusters."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHINGLE = 3
BANDS, ROWS = 32, 3  # catches 0.4 with probability 0.88, 0.5 with 0.99, 0.8 always


@dataclass
class Clusters:
    """`root[i]` is the first member of text i's cluster; `duplicate_of[i]` the earlier text that i repeats."""

    root: list[int]
    duplicate_of: dict[int, int]


def shingles(text: str) -> frozenset[str]:
    """Word 3-grams of a text in lower case (the whole text when it is shorter)."""
    words = re.findall(r"\w+", text.lower())
    if len(words) < SHINGLE:
        return frozenset([" ".join(words)])
    return frozenset(" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """|a & b| / |a | b|."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def near_duplicates(texts: Sequence[str], drop_at: float, join_at: float) -> Clusters:
    """Texts `join_at` alike (Jaccard of word 3-grams) share a cluster; at `drop_at` the later one is a duplicate."""
    sets = [shingles(text) for text in texts]
    root = list(range(len(texts)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    duplicate_of: dict[int, int] = {}
    for first, second in sorted(_candidates(sets)):
        alike = jaccard(sets[first], sets[second])
        if alike >= min(join_at, drop_at):
            low, high = sorted((find(first), find(second)))
            root[high] = low
        if alike >= drop_at and first not in duplicate_of:
            duplicate_of.setdefault(second, first)
    return Clusters([find(i) for i in range(len(texts))], duplicate_of)


def _candidates(sets: Sequence[frozenset[str]]) -> set[tuple[int, int]]:
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for position, signature in enumerate(_signatures(sets)):
        for band in range(BANDS):
            buckets[band, signature[band * ROWS : (band + 1) * ROWS].tobytes()].append(position)
    # Members of one bucket are joined to its first two: enough for the clusters, linear for huge buckets.
    return {
        (first, second)
        for members in buckets.values()
        for offset, first in enumerate(members[:2])
        for second in members[offset + 1 :]
    }


def _signatures(sets: Sequence[frozenset[str]]) -> NDArray[np.uint64]:
    """MinHash signatures of shape (texts, BANDS * ROWS), from fixed seeds so that every run agrees."""
    random = np.random.Generator(np.random.Philox(20250219))
    most = np.iinfo(np.uint64).max
    factors = random.integers(0, most, size=BANDS * ROWS, dtype=np.uint64) | np.uint64(1)
    offsets = random.integers(0, most, size=BANDS * ROWS, dtype=np.uint64)
    signatures = np.zeros((len(sets), BANDS * ROWS), dtype=np.uint64)
    for position, items in enumerate(sets):
        hashes = np.array([_hash(item) for item in items], dtype=np.uint64)
        signatures[position] = (hashes[:, None] * factors + offsets).min(axis=0)  # modulo 2^64, by overflow
    return signatures


def _hash(item: str) -> int:
    return int.from_bytes(hashlib.blake2b(item.encode(), digest_size=8).digest(), "little")
