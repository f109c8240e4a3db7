"""A text as the embedded judge reads it: normalised, in words, sentences and questions, in linear time."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from psychocounsel.ratings.lexicons import COMMON, FUNCTION, NUMBER_WORDS

LIMIT = 12_000  # characters read of a text; six times the longest reply a person would finish
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+(?:[.,:]\d+)*")
SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]{0,3}\s+|\n+")
SPLIT_CONTRACTION = re.compile(r"\b([a-z]{1,8}) (s|t|m|re|ve|ll|d)\b")
SUFFIXES = ("ingly", "edly", "ness", "ing", "ies", "ied", "ers", "ed", "es", "ly", "er", "s", "e", "y")


def normalise(text: str) -> str:
    """Lower case, straight apostrophes, contractions rejoined ('don t'), cut to LIMIT."""
    text = unicodedata.normalize("NFKC", text[:LIMIT])[:LIMIT].lower()
    return SPLIT_CONTRACTION.sub(r"\1'\2", text.replace("’", "'").replace("‘", "'"))


def stem(word: str) -> str:
    """A crude stem, enough to see that 'carried' picks up 'carry'."""
    word = word.removesuffix("'s")
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


@dataclass(frozen=True)
class Text:
    """A text with the views of it that several features share."""

    raw: str

    @cached_property
    def low(self) -> str:
        return normalise(self.raw)

    @cached_property
    def words(self) -> list[str]:
        return WORD.findall(self.low)

    @cached_property
    def content(self) -> list[str]:
        """Stems of the words that carry this text's own matter, in order."""
        return [stem(word) for word in self.words if is_content(word)]

    @cached_property
    def sentences(self) -> list[str]:
        return [part.strip() for part in SENTENCE_END.split(self.low) if WORD.search(part)]

    @cached_property
    def questions(self) -> list[str]:
        return [sentence for sentence in self.sentences if sentence.rstrip("\"'”’) ").endswith("?")]

    @cached_property
    def names(self) -> set[str]:
        """Numbers, and words capitalised inside a sentence: the facts nobody else would have brought."""
        inner = re.findall(r"(?<=[a-z,;] )[A-Z][^\W\d_]{2,}", self.raw[:LIMIT])
        return {word.lower() for word in inner if word.lower() not in FUNCTION} | self.numbers

    @cached_property
    def numbers(self) -> set[str]:
        return {word for word in self.words if word[0].isdigit() or word in NUMBER_WORDS}


def is_content(word: str) -> bool:
    """Neither a function word nor one of the words every counselling text shares."""
    return word not in FUNCTION and word not in COMMON and (len(word) > 2 or word[0].isdigit())
