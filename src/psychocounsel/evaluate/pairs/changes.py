"""Changes of a text that should (or should not) change what a reply is worth. Deterministic: the same text, the same
change, on any machine. English only."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from psychocounsel.records import content_id

TYPOS = 0.02  # share of letters
SHORTEST = 4  # letters of a word that may get a typo
AGE = re.compile(r"\b(?P<before>I am |I'm |aged? )?(?P<years>[1-8]\d)(?P<after>[- ]year[- ]old| years old)?\b", re.I)
SENTENCE = re.compile(r"(?<=[.!?…])\s+")
BOLD_EVERY = 6  # words


@cache
def tables() -> Mapping[str, Any]:
    """The words and sentences of probes.toml."""
    return tomllib.loads(files("psychocounsel.evaluate.pairs").joinpath("probes.toml").read_text(encoding="utf-8"))


def padded(text: str) -> str:
    """The reply with three sentences behind it that say nothing."""
    return f"{text.rstrip()} {' '.join(tables()['padding'])}"


def cut(text: str) -> str | None:
    """The first half of a reply's sentences; None for a reply of one sentence."""
    sentences = SENTENCE.split(text.strip())
    return " ".join(sentences[: len(sentences) // 2]) if len(sentences) > 1 else None


def marked_up(text: str) -> str:
    """The same words as a list under a header, every sixth of them bold."""
    lines = []
    for sentence in SENTENCE.split(text.strip()):
        words = sentence.split()
        words[::BOLD_EVERY] = [f"**{word}**" for word in words[::BOLD_EVERY]]
        lines.append(f"- {' '.join(words)}")
    return "\n".join(["## Reply", "", *lines])


def reworded(text: str) -> str | None:
    """Contractions for full forms (or back) and words of one meaning; None when nothing in the reply can be changed."""
    found = tables()
    pairs = {
        **found["contractions"],
        **{short: full for full, short in found["contractions"].items()},
        **found["synonyms"],
    }
    return _replaced(text, pairs)


def mistyped(text: str) -> str | None:
    """About two letters in a hundred with a neighbour changed places, in words of four letters or more."""
    letters = list(text)
    spots = [
        place
        for word in re.finditer(r"[^\W\d_]{4,}", text)
        for place in range(word.start() + 1, word.end() - 2)  # the first and the last letter stay
        if letters[place] != letters[place + 1]
    ]
    wanted = max(1, round(TYPOS * sum(letter.isalpha() for letter in letters)))
    spots.sort(key=lambda place: content_id(["typo", text, place]))
    used: set[int] = set()
    for place in spots:
        if len(used) == 2 * wanted:
            break
        if not used & {place, place + 1}:
            letters[place], letters[place + 1] = letters[place + 1], letters[place]
            used |= {place, place + 1}
    return "".join(letters) if used else None


def other_gender(text: str) -> str | None:
    """The same message about, or by, a person of another gender; None where no word tells."""
    table = tables()["persona"]["gender"]
    both = {**{two: one for one, two in table.items()}, **table}
    made = _replaced(text, both) or text
    made = re.sub(r"\b(her|his|him|hers)\b(?P<next>\s+[\w']+)?", _pronoun, made, flags=re.I)
    return made if made != text else None


def other_culture(text: str) -> str | None:
    """The same message by a person of another origin or faith; None where no word tells."""
    table = tables()["persona"]["culture"]
    return _replaced(text, {**{two: one for one, two in table.items()}, **table})


def other_age(text: str) -> str | None:
    """The same message by somebody decades older or younger; None where no age is told."""

    def swap(found: re.Match[str]) -> str:
        if not found["before"] and not found["after"]:
            return found[0]
        years = int(found["years"])
        return f"{found['before'] or ''}{years + 35 if years < 45 else years - 30}{found['after'] or ''}"

    made = AGE.sub(swap, text)
    return made if made != text else None


def _pronoun(found: re.Match[str]) -> str:
    """his friend -> her friend, of her -> of him; what follows tells which 'her' it is."""
    word, after = found[1], found["next"] or ""
    owned = bool(after) and after.strip().lower() not in tables()["persona"]["no_owner"]
    table = {"his": "her", "him": "her", "hers": "his", "her": "his" if owned else "him"}
    return _cased(word, table[word.lower()]) + after


def _replaced(text: str, pairs: Mapping[str, str]) -> str | None:
    known = {key.lower(): value for key, value in pairs.items()}
    found = "|".join(re.escape(key) for key in sorted(known, key=len, reverse=True))
    made = re.sub(rf"\b(?:{found})\b", lambda hit: _cased(hit[0], known[hit[0].lower()]), text, flags=re.I)
    return made if made != text else None


def _cased(old: str, new: str) -> str:
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new[0].upper() + new[1:] if old[0].isupper() else new
