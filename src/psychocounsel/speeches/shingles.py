"""Texts as sets of word 3-grams: what similarity means, and the same as hashes in arrays, fast and the same anywhere.

Words are hashed with blake2b, so that a text has the same shingles on every machine and in every process.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHINGLE = 3
HASHES = 384  # of a MinHash signature
PRINTS = 128  # of these, so many are kept as one byte each for an estimate before the exact comparison
HASH_BITS = 53  # of a shingle; the other 11 number the texts of a block, so that one sort serves the whole block
BLOCK = 1 << (64 - HASH_BITS)
CHUNK = 1 << 17  # shingles hashed at once: they fit the processor's cache
SEED = 20250219
GAPS = {code: " " for code in range(128) if not re.match(r"\w", chr(code))}

Sketch = tuple[bytes, bytes]


def shingles(text: str) -> frozenset[str]:
    """Word 3-grams of a text in lower case (the whole text when it is shorter)."""
    words = _words(text)
    if len(words) < SHINGLE:
        return frozenset([" ".join(words)])
    return frozenset(" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """|a & b| / |a | b|. The definition; `similarities` computes the same for many pairs."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


@dataclass(frozen=True)
class Sets:
    """Hashed shingles of texts, one set after the other: text i has `hashes[starts[i]:starts[i + 1]]`, ascending."""

    hashes: NDArray[np.uint64]
    starts: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in `hashes` the sets of these rows stand, row after row."""
        sizes = self.sizes[rows]
        ends = np.cumsum(sizes)
        return np.arange(ends[-1] if len(ends) else 0) + np.repeat(self.starts[rows] - ends + sizes, sizes)


def pack(parts: Iterable[bytes]) -> Sets:
    """The sets whose bytes `hashed` gave, text by text."""
    parts = list(parts)
    starts = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum([len(part) // 8 for part in parts], out=starts[1:])
    return Sets(np.frombuffer(b"".join(parts), dtype="<u8"), starts)


def hashed(texts: Sequence[str]) -> list[bytes]:
    """The hashed shingles of every text as bytes, for `pack`."""
    sets = _sets(texts)
    return [sets.hashes[a:b].tobytes() for a, b in zip(sets.starts[:-1], sets.starts[1:], strict=True)]


def sketches(texts: Sequence[str], rows: int) -> list[Sketch]:
    """For every text: keys of HASHES // rows bands (4 bytes each) and PRINTS bytes; its hashed shingles."""
    sets = _sets(texts)
    signatures = _signatures(sets)
    bands = HASHES // rows
    keys = np.zeros((bands, len(texts)), dtype=np.uint64)
    for row in range(rows):
        keys = _mixed(keys ^ signatures[row : bands * rows : rows])
    fronts = (keys >> np.uint64(32)).astype("<u4").T.copy().view(np.uint8)
    fronts = np.concatenate([fronts, signatures[:PRINTS].astype(np.uint8).T], axis=1)
    return [
        (front.tobytes(), sets.hashes[a:b].tobytes())
        for front, a, b in zip(fronts, sets.starts[:-1], sets.starts[1:], strict=True)
    ]


def banding(level: float) -> tuple[int, int]:
    """(bands, rows): the most rows, so the fewest chance finds, that miss 1 pair in 1,000 of this Jaccard at most."""
    rows = next((rows for rows in range(16, 1, -1) if detection(level, rows) >= 0.999), 1)
    return HASHES // rows, rows


def detection(level: float, rows: int) -> float:
    """P(two sets of this Jaccard agree in all rows of a band) = 1 - (1 - J^rows)^bands. Leskovec et al., MMDS 3.4."""
    return float(1 - (1 - level**rows) ** (HASHES // rows))


def similarities(sets: Sets, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exact Jaccard of the pairs (first[k], second[k]); shape (pairs,)."""
    common = np.zeros(len(first), dtype=np.int64)
    sizes = sets.sizes
    for low in range(0, len(first), BLOCK):
        pair = slice(low, low + BLOCK)
        number = np.arange(len(first[pair]), dtype=np.uint64) << np.uint64(HASH_BITS)
        both = np.concatenate(
            [sets.hashes[sets.places(rows[pair])] | np.repeat(number, sizes[rows[pair]]) for rows in (first, second)]
        )
        both.sort()
        twice = both[1:][both[1:] == both[:-1]] >> np.uint64(HASH_BITS)
        common[pair] = np.bincount(twice.astype(np.int64), minlength=len(number))
    return common / (sizes[first] + sizes[second] - common)


def _words(text: str) -> list[str]:
    """Runs of letters, digits and underscores in lower case; ASCII takes a way that is three times as fast."""
    text = text.lower()
    return text.translate(GAPS).split() if text.isascii() else re.findall(r"\w+", text)


def _sets(texts: Sequence[str]) -> Sets:
    blocks = [_block(texts[low : low + BLOCK]) for low in range(0, len(texts), BLOCK)]
    starts = np.zeros(len(texts) + 1, dtype=np.int64)
    if blocks:
        np.cumsum(np.concatenate([sizes for _, sizes in blocks]), out=starts[1:])
    return Sets(np.concatenate([hashes for hashes, _ in blocks] or [np.zeros(0, np.uint64)]), starts)


def _block(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(hashes, sizes) of at most BLOCK texts. A text of fewer than three words is filled up with empty ones."""
    words: list[str] = []
    counts = []
    for text in texts:
        found = _words(text)
        found += [""] * (SHINGLE - len(found))
        words += found
        counts.append(len(found))
    known = {word: _word_hash(word) for word in set(words)}
    hashes = np.fromiter(map(known.__getitem__, words), dtype=np.uint64, count=len(words))
    grams = hashes[: -SHINGLE + 1]
    for step in range(1, SHINGLE):
        grams = _mixed(grams) + hashes[step : len(hashes) - SHINGLE + 1 + step]
    number = np.repeat(np.arange(len(texts), dtype=np.uint64), counts)
    inside = number[: -SHINGLE + 1] == number[SHINGLE - 1 :]
    bits = np.uint64(HASH_BITS)
    keys = np.sort((_mixed(grams) >> np.uint64(64 - HASH_BITS) | number[: -SHINGLE + 1] << bits)[inside])
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    sizes = np.bincount((keys >> bits).astype(np.int64), minlength=len(texts))
    return keys & np.uint64((1 << HASH_BITS) - 1), sizes


def _signatures(sets: Sets) -> NDArray[np.uint32]:
    """MinHash signatures of shape (HASHES, texts) with h(x) = a x + b mod 2^32, a odd. Broder 1997."""
    draw = np.random.Generator(np.random.Philox(SEED))
    factors = draw.integers(0, 1 << 32, size=HASHES, dtype=np.uint32) | np.uint32(1)
    offsets = draw.integers(0, 1 << 32, size=HASHES, dtype=np.uint32)
    signatures = np.zeros((HASHES, len(sets.starts) - 1), dtype=np.uint32)
    values = sets.hashes.astype(np.uint32)
    low = 0
    while low < len(sets.starts) - 1:
        high = max(low + 1, int(np.searchsorted(sets.starts, sets.starts[low] + CHUNK, side="right")) - 1)
        part = values[sets.starts[low] : sets.starts[high]]
        starts = sets.starts[low:high] - sets.starts[low]
        image = np.empty_like(part)
        for number in range(HASHES):
            np.multiply(part, factors[number], out=image)
            image += offsets[number]
            np.minimum.reduceat(image, starts, out=signatures[number, low:high])
        low = high
    return signatures


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of MurmurHash3: a bijection of 64-bit numbers in which every bit depends on every other."""
    values = (values ^ values >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ values >> np.uint64(33)) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ values >> np.uint64(33)


def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
