"""Names of clinics and practices: capital words that end in a word for such a place, one of them not generic."""

from __future__ import annotations

from collections.abc import Iterator

from psychocounsel.privacy.findings import Finding
from psychocounsel.privacy.words import Words, lexicon

MOST = 6
OPENING = frozenset(["at", "in", "the", "with", "from", "call", "contact", "visit", "see", "try", "ask"])
JOINING = frozenset(["and", "of", "the", "&", "for"])


def clinics(words: Words) -> Iterator[Finding]:
    """Every clinic with a name of its own; "Cognitive Behavioral Therapy" is a method, "Crisis Center" generic."""
    heads, pairs = lexicon("clinic", "heads"), lexicon("clinic", "pairs")
    reached = -1
    for i in range(len(words)):
        if i <= reached or not words.capital(i) or words.heading(i):
            continue
        pair = i > 0 and f"{words.low[i - 1]} {words.low[i]}" in pairs and words.gap(i - 1) == " "
        if not pair and words.low[i] not in heads:
            continue
        first = _first(words, i)
        if not any(_own(words, k) for k in range(first, i - pair)):
            continue
        reached = _last(words, i)
        if words.first(first) and words.low[first] in OPENING and first < i:
            first += 1
        yield Finding(words.start[first], words.end[reached], "CLINIC")


def _first(words: Words, head: int) -> int:
    """Where the name begins: over capital words and "and", "of", "the" between them; an opening "The" is no part."""
    first = k = head
    while k > 0 and head - k < MOST and _binds(words, k - 1):
        k -= 1
        if words.capital(k) and words.low[k] not in ("i", "i'm", "the"):
            first = k
        elif words.low[k] not in JOINING:
            break
    return first


def _binds(words: Words, k: int) -> bool:
    """Do words k and k + 1 stand together? "St. Brigid's Clinic" is one name."""
    gap = words.gap(k)
    return gap in (" ", " & ", "  ", "'s ", "’s ") or (gap == ". " and words.low[k] in ("st", "mt", "dr"))


def _own(words: Words, k: int) -> bool:
    """Is word k one that gives a clinic its name? The first word of a sentence has its capital anyway."""
    generic = lexicon("clinic", "generic") | lexicon("clinic", "heads")
    if not words.capital(k) or words.low[k] in generic or all(part in generic for part in words.low[k].split("-")):
        return False
    return not (words.first(k) and words.strength(k) == 0)


def _last(words: Words, head: int) -> int:
    last = head
    while last + 1 < len(words) and last - head < 3 and words.gap(last) in (" ", ", ") and words.capital(last + 1):
        if words.low[last + 1] not in lexicon("clinic", "tails") | lexicon("clinic", "heads"):
            break
        last += 1
    return last
