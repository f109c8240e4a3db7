"""All pairs of two collections that are alike: a set similarity join that overlooks nothing from some level on.

Looking at every shared shingle finds every pair. Prefix filtering finds every pair of at least a level t with less
work: of a set x, all but the ceil(t |x|) - 1 commonest shingles are enough, since two sets that are so alike share
more than those (Chaudhuri et al. 2006; Bayardo et al. 2007).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from psychocounsel.speeches.shingles import Sets, similarities

BLOCK = 2e7  # encounters of a shingle looked at together, so that memory stays flat

Rows = NDArray[np.int64]
Alike = NDArray[np.float64]


class Join:
    """Two collections, their shared shingles ranked from the rarest to the commonest."""

    def __init__(self, one: Sets, other: Sets) -> None:
        self.sides = (one, other)
        self.known = np.intersect1d(np.unique(one.hashes), np.unique(other.hashes), assume_unique=True)

    def cost(self, level: float) -> float:
        """Encounters of a shingle in both collections that a search from `level` on has to look at."""
        one, other = (np.bincount(rank, minlength=len(self.known)) for _, rank in self._prefixes(level))
        return float(one @ other.astype(float))

    def pairs(self, level: float) -> Iterator[tuple[Rows, Alike]]:
        """Blocks of (pairs of shape (n, 2), their exact Jaccard): all pairs of at least `level`, and some below.

        At level 0 these are all pairs with anything in common.
        """
        from scipy.sparse import csr_array

        (row, rank), (column, same) = self._prefixes(level)
        one, other = self.sides
        shape = len(one.sizes), len(other.sizes)
        left = csr_array((np.ones(len(row), np.int32), (row, rank)), shape=(shape[0], len(self.known)))
        right = csr_array((np.ones(len(same), np.int32), (same, column)), shape=(len(self.known), shape[1]))
        work = np.cumsum(np.bincount(row, np.diff(right.indptr)[rank], minlength=shape[0]))
        cuts = np.unique(np.searchsorted(work, np.arange(BLOCK, work[-1:].sum(), BLOCK)))
        for low, high in zip([0, *cuts], [*cuts, shape[0]], strict=True):
            met = (left[low:high] @ right).tocoo()
            pairs = np.stack([met.row + low, met.col], axis=1).astype(np.int64)
            if level:
                yield pairs, similarities(self._both, pairs[:, 0], pairs[:, 1] + shape[0])
            else:
                yield pairs, met.data / (one.sizes[pairs[:, 0]] + other.sizes[pairs[:, 1]] - met.data)

    @cached_property
    def _both(self) -> Sets:
        one, other = self.sides
        starts = np.concatenate([one.starts, other.starts[1:] + one.starts[-1]])
        return Sets(np.concatenate([one.hashes, other.hashes]), starts)

    @cached_property
    def _ranked(self) -> list[tuple[Rows, Rows]]:
        """For both sides (row, rank) of every shared shingle, in ascending order."""
        met = []
        for side in self.sides:
            place = np.minimum(np.searchsorted(self.known, side.hashes), max(len(self.known) - 1, 0))
            hit = self.known[place] == side.hashes if len(self.known) else np.zeros(len(place), dtype=bool)
            met.append((np.repeat(np.arange(len(side.sizes)), side.sizes)[hit], place[hit]))
        often = sum(np.bincount(place, minlength=len(self.known)) for _, place in met)
        rank = np.empty(len(self.known), dtype=np.int64)
        rank[np.argsort(often, kind="stable")] = np.arange(len(rank))
        step = max(len(rank), 1)
        codes = [np.sort(row * step + rank[place]) for row, place in met]
        return [(code // step, code % step) for code in codes]

    def _prefixes(self, level: float) -> list[tuple[Rows, Rows]]:
        """`_ranked` without the commonest shingles of each row, which a search from `level` on does not need."""
        kept = []
        for side, (row, rank) in zip(self.sides, self._ranked, strict=True):
            counts = np.bincount(row, minlength=len(side.sizes))
            place = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
            enough = counts - np.ceil(level * side.sizes - 1e-9) + 1
            inside = place < enough[row]
            kept.append((row[inside], rank[inside]))
        return kept
