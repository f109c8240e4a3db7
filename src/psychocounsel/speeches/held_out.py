"""Whether a text is nearly one that is held out, for texts from elsewhere that come one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from psychocounsel.speeches.shingles import shingles


class HeldOut:
    """Held-out texts, looked up by the word 3-grams they share with another text."""

    def __init__(self, texts: Iterable[str], least: float) -> None:
        """`least` is the Jaccard similarity from which a text counts as nearly the same."""
        self.least = least
        self.sizes: list[int] = []
        self.holders: dict[str, list[int]] = {}
        for text in texts:
            grams = shingles(text)
            for gram in grams:
                self.holders.setdefault(gram, []).append(len(self.sizes))
            self.sizes.append(len(grams))

    def holds(self, text: str) -> bool:
        """Whether some held-out text is at least `least` similar."""
        grams = shingles(text)
        shared = Counter(place for gram in grams for place in self.holders.get(gram, ()))
        return any(count >= self.least * (len(grams) + self.sizes[place] - count) for place, count in shared.items())
