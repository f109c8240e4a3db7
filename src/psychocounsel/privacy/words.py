"""Words of a text with their places, and how much a word looks like a name."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from functools import cache
from importlib.resources import files
from typing import Any

WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")
SMALL = frozenset(
    ["a", "an", "and", "are", "as", "at", "but", "by", "for", "from", "if", "in", "into", "is", "not", "of", "on", "or",
     "over", "than", "that", "the", "to", "when", "with"]
)  # fmt: skip
HEADING_WORDS = 4  # everyday words with a capital, and none without, that make a line a heading
STRONG, PERHAPS, NO = 2, 1, 0


@cache
def word_list(name: str) -> frozenset[str]:
    """A list of folded words that comes with the package."""
    text = files("psychocounsel.privacy.data").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


@cache
def table(name: str) -> dict[str, Any]:
    """A TOML file of the package's data."""
    return tomllib.loads(files("psychocounsel.privacy.data").joinpath(f"{name}.toml").read_text(encoding="utf-8"))


@cache
def lexicon(*keys: str) -> frozenset[str]:
    """A word list of lexicon.toml, written as one string or as a list."""
    value: Any = table("lexicon")
    for key in keys:
        value = value[key]
    return frozenset(value.split() if isinstance(value, str) else value)


def fold(text: str) -> str:
    """Lower case without accents, character by character, so that every place stays where it is."""
    if text.isascii():
        return text.lower()
    return "".join(_fold(character) for character in text)


@cache
def _fold(character: str) -> str:
    if character in "‘’`´":
        return "'"
    plain = unicodedata.normalize("NFKD", character.lower())[:1]
    return plain if len(plain) == 1 else character


class Words:
    """The words of a text. Word i is text[start[i]:end[i]]; a possessive 's is no part of it."""

    def __init__(self, text: str, more_names: frozenset[str] = frozenset()) -> None:
        self.text = text
        self.more_names = more_names
        self.folded = fold(text)
        self.start: list[int] = []
        self.end: list[int] = []
        for match in WORD.finditer(text):
            start, end = match.span()
            if end - start > 2 and self.folded[end - 2 : end] in ("'s", "’s"):
                end -= 2
            self.start.append(start)
            self.end.append(end)
        self.low = [self.folded[a:b] for a, b in zip(self.start, self.end, strict=True)]
        self._headings = self._find_headings()
        self._strengths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.start)

    def word(self, i: int) -> str:
        """Word i as written."""
        return self.text[self.start[i] : self.end[i]]

    def gap(self, i: int) -> str:
        """At most 16 characters between word i and the next one (or the end of the text)."""
        stop = self.start[i + 1] if i + 1 < len(self) else len(self.text)
        return self.text[self.end[i] : min(stop, self.end[i] + 16)]

    def capital(self, i: int) -> bool:
        """Does the word begin with a capital?"""
        return self.text[self.start[i]].isupper()

    def shouted(self, i: int) -> bool:
        """Is the word longer than a letter and all in capitals?"""
        return self.end[i] - self.start[i] > 1 and self.word(i).isupper()

    def first(self, i: int) -> bool:
        """Does the word begin a sentence or a line?"""
        if i == 0:
            return True
        gap = self.text[max(self.end[i - 1], self.start[i] - 16) : self.start[i]]
        return any(mark in gap for mark in '.!?\n:…"“(')

    def heading(self, i: int) -> bool:
        """Does the word stand in a line whose words mostly begin with a capital?"""
        return self._headings[i]

    def strength(self, i: int) -> int:
        """STRONG: a given name and nothing else; PERHAPS: a name if the words around it say so; NO: no name."""
        if i not in self._strengths:
            self._strengths[i] = self._strength(i)
        return self._strengths[i]

    def _strength(self, i: int) -> int:
        low, long = self.low[i], self.end[i] - self.start[i]
        if long < 2 or long > 30:
            return NO
        if low in self.more_names and low not in word_list("words") and low not in word_list("both"):
            return STRONG
        if low in lexicon("never") and low not in word_list("given_names"):
            return NO
        parts = low.split("-") if "-" in low else [low]
        if all(part in word_list("given_names") for part in parts):
            return STRONG
        if low in word_list("both") or any(part in word_list("given_names") for part in parts):
            return PERHAPS
        if self.shouted(i) or any(part in word_list("words") or _inflected(part) for part in parts):
            return NO
        return PERHAPS if self.capital(i) and "'" not in low[2:] else NO

    def _tells(self, k: int) -> bool:
        """Does the capital of word k say whether the line is a heading?"""
        return self.low[k] in word_list("words") and self.low[k] not in SMALL

    def _find_headings(self) -> list[bool]:
        """In a heading capitals mean nothing. Joining words (and, of, the) may be small there."""
        heading: list[bool] = []
        line: list[int] = []
        for i in range(len(self)):
            line.append(i)
            if i + 1 == len(self) or "\n" in self.text[self.end[i] : self.start[i + 1]]:
                long = [k for k in line if self._tells(k)]
                found = len(long) >= HEADING_WORDS and all(self.capital(k) for k in long)
                heading += [found] * len(line)
                line = []
        return heading


ENDINGS = (
    "ness", "less", "ful", "ously", "tion", "sion", "ment", "ity", "ing", "able", "ible", "ically", "ism", "ology",
    "aholic", "phobic", "sexual", "minded", "ish",
)  # fmt: skip


def _inflected(low: str) -> bool:
    """Is a word that is not on the list the form of one that is, or built like an everyday word?"""
    words = word_list("words")
    for ending in ("s", "es", "ed", "d", "ing", "ly", "er", "y", "n't", "nt"):
        if low.endswith(ending) and low[: -len(ending)] in words and len(low) - len(ending) > 2:
            return True
    return len(low) > 6 and low.endswith(ENDINGS)
