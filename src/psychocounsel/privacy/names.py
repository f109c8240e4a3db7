"""Names of people, from the words around them and a list of given names. One pass over the words of a text."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache

from psychocounsel.privacy.credentials import credentials_at, starts_credentials
from psychocounsel.privacy.findings import Finding
from psychocounsel.privacy.words import NO, PERHAPS, STRONG, Words, fold, lexicon, table, word_list

Span = tuple[int, int] | None  # the first and last word of a name
Rule = Callable[[Words, int], Span]
MOST = 4  # words of a name
SELF = frozenset(["i'm", "im", "am", "is"])
AFTER_SELF = frozenset(["and", "but", "from", "the", "a", "an", "'s", "years", "year", "im", "i'm", "i", "here"])
SIGN_GAP = re.compile(r"[\s,.!~:;()*…–—-]{1,16}")
DASH = re.compile(r"(?:^|[\s.!?,;)])[-–—~*]{1,3} {0,2}$")
TRAIL = re.compile(r"[\s~.!*,)\]\"'”-]{0,12}(?=$|\x00|(?:https?:|www\.)|[\n~]|P\.?S)")


def names(words: Words) -> Iterator[Finding]:
    """Every name with its credentials. Where two rules find the same name, both report it."""
    for i in range(len(words)):
        rules = _triggers().get(words.low[i], ())
        for rule in (*rules, *AT_NAMES) if words.capital(i) else rules:
            span = rule(words, i)
            if span is None:
                continue
            start, end = words.start[span[0]], words.end[span[1]]
            if words.folded[start:end] in _cited():
                continue
            yield Finding(start, end, "NAME")
            place = credentials_at(words.text, end)
            if place:
                yield Finding(*place, "CREDENTIAL")


@cache
def _cited() -> frozenset[str]:
    return frozenset(fold(name) for entry in table("allowed")["names"] for name in entry["values"])


def _read(words: Words, i: int, least: int) -> Span:
    """The name that starts at word i: (first, last), if its first word is at least as strong as `least`.

    Goes on over capital words that may be names, initials and particles ("van", "de la").
    """
    if i >= len(words) or words.strength(i) < least or (words.heading(i) and words.strength(i) < STRONG):
        return None
    if starts_credentials(words.text, words.start[i]):
        return None
    last, k = i, i
    while k + 1 < len(words) and k + 1 - i < MOST + 1:
        gap = words.gap(k)
        initial = words.end[k] - words.start[k] == 1
        if not (gap in (" ", "  ", "\u00a0") or (gap in (". ", ".", ".  ") and initial)):
            break
        k += 1
        if starts_credentials(words.text, words.start[k]):
            break
        if words.capital(k) and (words.end[k] - words.start[k] == 1 or _goes_on(words, k)):
            if words.end[k] - words.start[k] > 1:
                last = k
            elif words.low[k] != "i":
                last = k if words.gap(k)[:1] in (".", ",", "") or k + 1 == len(words) else last
            else:
                break
        elif words.low[k] not in lexicon("particles"):
            break
    return i, last


def _goes_on(words: Words, k: int) -> bool:
    """May word k be a further part of a name? A family name may be an everyday word (Stone) behind a given name."""
    if words.heading(k) or words.low[k] in lexicon("openings") or words.low[k] in lexicon("never"):
        return words.strength(k) == STRONG
    if words.strength(k) > NO:
        return True
    behind = words.strength(k - 1) > NO or words.end[k - 1] - words.start[k - 1] == 1  # a name or an initial
    return behind and not words.shouted(k) and len(words.low[k]) > 2


def _capital_name(words: Words, i: int, everyday: bool = False) -> Span:
    """A name where the words before it all but say so: a strong one in any case, a weaker one with its capital."""
    if i >= len(words):
        return None
    if words.strength(i) == STRONG or (words.capital(i) and words.strength(i) >= PERHAPS):
        return _read(words, i, PERHAPS)
    return None


def _ends_here(words: Words, last: int) -> bool:
    """Does the clause end behind word `last`, or go on as it does behind a name?"""
    gap = words.gap(last)
    return (
        last + 1 == len(words)
        or gap.strip(" ")[:1] in (*",.;!?)\n~:-–—'’",)
        or (gap == " " and words.low[last + 1] in AFTER_SELF)
    )


def _self(words: Words, i: int) -> Span:
    """I'm NAME, I am NAME, this is NAME."""
    low = words.low[i]
    before = words.low[i - 1] if i else ""
    this = low == "is" and before == "this" and words.first(i - 1)
    if not (low in ("i'm", "im") or (low == "am" and before == "i") or this):
        return None
    at = i + 1
    if at >= len(words) or words.gap(at - 1) != " ":
        return None
    strong = words.strength(at) == STRONG
    if not strong and (not words.capital(at) or words.low[at].endswith(("ian", "ese", "ean"))):
        return None
    span = _read(words, at, PERHAPS)
    return span if span and (strong or _ends_here(words, span[1])) else None


NAMING = frozenset(["named", "called", "name's", "names"])


def _said(words: Words, i: int) -> Span:
    """My name is NAME, call me NAME, named NAME, NAME in a form."""
    low, gap = words.low[i], words.gap(i)
    before = words.low[i - 1] if i else ""
    if low == "is" and before == "name" and i + 1 < len(words) and words.strength(i + 1) == PERHAPS:
        return (i + 1, i + 1) if _ends_here(words, i + 1) and not words.capital(i + 1) else _capital_name(words, i + 1)
    if (
        (low in ("is", "was") and before in ("name", "names"))
        or (low in NAMING and gap == " " and _of_person(words, i))
        or (low == "me" and before in ("call", "calls", "called", "calling") and gap == " ")
        or (low == "name" and re.match(r"'s |’s ", gap))
        or (low == "name" and re.match(r" ?[:=] ?", gap))
    ):
        return _capital_name(words, i + 1)
    return None


def _of_person(words: Words, i: int) -> bool:
    """Is it a person who is called something? "My son called Obi" is, "an illness called Ataxia" is not."""
    at = i + 1
    if at < len(words) and (words.strength(at) == STRONG or words.low[at] in word_list("both")):
        return True
    return any(words.low[k] in lexicon("relations") for k in range(max(0, i - 3), i))


def _titled(words: Words, i: int) -> Span:
    """Dr NAME, Mrs NAME: any capital word counts here, everyday words too (Mr Young)."""
    if words.gap(i) not in (" ", ". ", ".", ".  "):
        return None
    if not words.capital(i) or i + 1 >= len(words) or not words.capital(i + 1) or words.heading(i + 1):
        return None
    if words.low[i] in ("coach", "father", "judge", "nurse", "officer", "principal", "doctor") and (
        words.strength(i + 1) < PERHAPS or words.gap(i) != " "
    ):
        return None
    if words.gap(i) == "." and words.end[i] - words.start[i] > 4:
        return None
    if words.low[i + 1] in lexicon("never") or (words.shouted(i + 1) and words.strength(i + 1) < STRONG):
        return None
    return _read(words, i + 1, PERHAPS) or (i + 1, _last_of_title(words, i + 1))


def _last_of_title(words: Words, i: int) -> int:
    k = i
    while k + 1 < len(words) and k < i + 2 and words.gap(k) == " " and words.capital(k + 1) and _goes_on(words, k + 1):
        k += 1
    return k


def _related(words: Words, i: int) -> Span:
    """My brother NAME, her husband, NAME, my therapist Dr NAME (left to the title)."""
    if words.gap(i) not in (" ", ", ", " (", " - "):
        return None
    owner = next((k for k in (i - 1, i - 2, i - 3) if k >= 0 and words.low[k] in OWNERS), None)
    if owner is None or i + 1 >= len(words):
        return None
    strong = words.strength(i + 1) == STRONG
    if words.gap(i) != " " and not (strong and words.capital(i + 1)):
        return None
    return _capital_name(words, i + 1)


OWNERS = frozenset(["my", "his", "her", "our", "their", "your", "a", "an"])


def _greeted(words: Words, i: int) -> Span:
    """Hi NAME, Dear NAME: at the start of a sentence, with a comma or line behind the name."""
    if not words.first(i) or words.gap(i) not in (" ", ", "):
        return None
    span = _capital_name(words, i + 1)
    return span if span and words.gap(span[1]).strip(" ")[:1] in (",", "!", ".", "\n", ":", "-", "–", "—") else None


def _signed(words: Words, i: int) -> Span:
    """Kind regards, NAME: a closing word, then a name, then the end of the text, a line, credentials or an address."""
    low = words.low[i]
    closing = low in lexicon("valedictions") or any(
        " ".join(words.low[max(0, i - n) : i + 1]) in lexicon("valedictions") for n in (1, 2, 3)
    )
    gap = words.gap(i)
    if not closing or not SIGN_GAP.fullmatch(gap) or gap == " " or i + 1 >= len(words) or not words.capital(i + 1):
        return None
    span = _read(words, i + 1, PERHAPS)
    return span if span and _closes(words, span[1]) else None


def _closes(words: Words, last: int) -> bool:
    end = words.end[last]
    return bool(TRAIL.match(words.text, end)) or credentials_at(words.text, end) is not None


def _dashed(words: Words, i: int) -> Span:
    """- NAME, ~NAME at the end of a text, and a name alone in its last line."""
    if i == 0:
        return None
    start = words.start[i]
    head = words.text[max(0, start - 8) : start]
    alone = "\n" in head and not head.rpartition("\n")[2].strip(" ")
    if not (alone or DASH.search(head)):
        return None
    span = _read(words, i, PERHAPS)
    return span if span and _closes(words, span[1]) and (not alone or i + 3 >= len(words)) else None


def _bare(words: Words, i: int) -> Span:
    """A capital word that is a given name and nothing else, with the family name behind it."""
    if words.strength(i) == STRONG:
        if words.shouted(i) and not words.heading(i):
            return None
        return _read(words, i, STRONG)
    # "Grace Okafor": a name that is also a word counts when a word that can only be a family name follows.
    if words.strength(i) == PERHAPS and words.low[i] in word_list("both"):
        span = _read(words, i, PERHAPS)
        if span and span[1] > i:
            last = words.strength(span[1])
            rare = last == PERHAPS and words.low[span[1]] not in word_list("both")
            return span if rare or (last == STRONG and not words.first(i)) else None
    return None


def _lettered(words: Words, i: int) -> Span:
    """NAME, LMFT: two to four capital words before the letters of a profession."""
    if words.strength(i) < PERHAPS or (i and _joined(words, i - 1)):
        return None
    span = _read(words, i, PERHAPS)
    if span is None or credentials_at(words.text, words.end[span[1]]) is None:
        return None
    return span if span[1] > span[0] or words.strength(i) == STRONG or not words.first(i) else None


def _joined(words: Words, k: int) -> bool:
    """Is word k the part of a name before word k + 1?"""
    return words.gap(k) == " " and words.capital(k) and words.strength(k) > NO and not words.heading(k)


AT_NAMES: tuple[Rule, ...] = (_dashed, _bare, _lettered)


@cache
def _triggers() -> dict[str, tuple[Rule, ...]]:
    """The rules a word sets off, by the word."""
    rules: dict[str, list[Rule]] = defaultdict(list)
    last_words = frozenset(phrase.split()[-1] for phrase in lexicon("valedictions"))
    for rule, triggers in (
        (_self, SELF), (_said, NAMING | {"is", "was", "me", "name"}), (_titled, lexicon("titles")),
        (_related, lexicon("relations")), (_greeted, lexicon("greetings")), (_signed, last_words),
    ):  # fmt: skip
        for word in triggers:
            rules[word].append(rule)
    return {word: tuple(found) for word, found in rules.items()}
