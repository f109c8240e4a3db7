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
AGE = re.compile(
    r"\b(?P<before>(?:I am|I['’]m|he is|he['’]s|she is|she['’]s|aged?|turned) )?(?P<years>[2-7]\d)"
    r"(?P<after>[- ]years?[- ]old|[- ]?y/?o)?(?![\w%]|[.,:/-]?\d)(?=\s+(?P<next>\w+))?",
    re.I,
)  # adults only: a child of 12 made 47 would be another message
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
    contractions = found["contractions"]
    anywhere = {**_back(contractions), **contractions, **found["lengthened"], **found["synonyms"]}
    return _replaced(text, anywhere, found["shortened"])


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
    made = _replaced(text, {**_back(table), **table}) or text
    made = re.sub(r"\b(her|his|him|hers)\b(?=\s+(?P<next>\w+))?", _pronoun, made, flags=re.I)
    return made if made != text else None


def other_culture(text: str) -> str | None:
    """The same message by a person of another origin or faith; None where no word tells."""
    table = tables()["persona"]["culture"]
    return _replaced(text, {**_back(table), **table})


def other_age(text: str) -> str | None:
    """The same message by somebody decades older or younger, an adult still; None where no age is told."""

    def swap(found: re.Match[str]) -> str:
        bare = not found["after"] and found["next"] and found["next"].lower() not in persona["behind_an_age"]
        if bare or not (found["before"] or found["after"]):
            return found[0]  # "I am 20 minutes late"
        years = int(found["years"])
        return f"{found['before'] or ''}{years + 35 if years < 45 else years - 25}{found['after'] or ''}"

    persona = tables()["persona"]

    made = AGE.sub(swap, text)
    return made if made != text else None


def _pronoun(found: re.Match[str]) -> str:
    """his friend -> her friend, of her -> of him; what follows tells which 'her' (or 'his') it is."""
    owned = bool(found["next"]) and found["next"].lower() not in tables()["persona"]["no_owner"]
    table = {"his": "her" if owned else "hers", "him": "her", "hers": "his", "her": "his" if owned else "him"}
    return _cased(found[1], table[found[1].lower()])


def _back(table: Mapping[str, str]) -> dict[str, str]:
    """Second words to first ones; where two have the same second word, to the first of them."""
    found: dict[str, str] = {}
    for one, two in table.items():
        found.setdefault(two, one)
    return found


def _replaced(text: str, pairs: Mapping[str, str], before_ing: Mapping[str, str] | None = None) -> str | None:
    """The text with every whole word or phrase replaced once; those of `before_ing` only before "not" or "-ing"."""
    known = {key.lower(): value for key, value in {**pairs, **(before_ing or {})}.items()}
    found = [re.escape(key) for key in sorted(pairs, key=len, reverse=True)]
    found += [rf"{re.escape(key)}(?=\s+(?:not|\w+ing)\b)" for key in before_ing or ()]
    pattern = rf"\b(?:{'|'.join(found)})\b".replace("'", "['’]")
    made = re.sub(pattern, lambda hit: _cased(hit[0], known[hit[0].lower().replace("’", "'")]), text, flags=re.I)
    return made if made != text else None


def _cased(old: str, new: str) -> str:
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new[0].upper() + new[1:] if old[0].isupper() else new
