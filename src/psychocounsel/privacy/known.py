"""Values a source itself lists (its authors, their clinics and addresses): always removed, in any case of letters."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain

from psychocounsel.privacy.addresses import URL, host_of
from psychocounsel.privacy.credentials import starts_credentials
from psychocounsel.privacy.findings import Finding
from psychocounsel.privacy.words import Words, fold, lexicon, word_list

Entry = tuple[re.Pattern[str], str, bool]  # the value, its type, whether its last part is short
GAP = r"[\W_]{0,3}"
INITIAL = rf"{GAP}(?:[a-z]\b{GAP})?"  # a middle initial the list does not have
START = 3  # letters by which an entry is looked up
LABEL = 8  # letters from which a host's own name counts without its ending
SHORT = 3
START_OF_WORD = re.compile(r"(?<![^\W_])[^\W_]|(?<=[a-z])[A-Z]|(?<=\d)[^\W\d_]|(?<=[^\W\d_])\d")
GLUED = re.compile(r"[A-Z]|www\.|https?:|[^A-Za-z]|$")


class Known:
    """Persons, clinics, URLs and phrases, ready to be found in texts of any number.

    A person is found by the full name, by given and family name with anything between left out or one initial put in,
    and by title and family name. A given name alone ("Grace") only counts where the context makes it a name.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self.entries: dict[str, list[Entry]] = defaultdict(list)
        self.family: set[str] = set()
        given: set[str] = set()
        for value in sorted({" ".join(value.split()) for value in values}):
            if _is_address(value):
                self._add_address(value)
            elif parts := _person(value):
                given.add(parts[0])
                self._add(parts, "NAME", INITIAL)
                if len(parts) > 1:
                    self._add([parts[0], parts[-1]], "NAME", INITIAL)
                    self.family.add(parts[-1])
            elif len(parts := _parts(value)) > 1 or len(value) >= LABEL:
                kind = "CLINIC" if set(parts) & (lexicon("clinic", "heads") | lexicon("clinic", "tails")) else "NAME"
                self._add(parts, kind)
        self.given = frozenset(name for name in given if len(name) > 2 and name not in lexicon("titles"))

    def _add(self, parts: list[str], kind: str, between: str = GAP) -> None:
        key = "".join(parts)
        if len(parts) < 2 and len(key) < LABEL:
            return
        entry = (re.compile(between.join(map(re.escape, parts))), kind, len(parts[-1]) <= SHORT)
        if entry not in self.entries[parts[0][:START]]:
            self.entries[parts[0][:START]].append(entry)

    def _add_address(self, value: str) -> None:
        host = host_of(value)
        page = value.rstrip("/").rpartition("/")[2]
        for text, gap in ((value, GAP), (host, GAP), (page, "[-_]"), (host.split(".")[0], "")):
            parts = _parts(text)
            if sum(map(len, parts)) >= LABEL:
                self._add(parts, "URL", gap)

    def find(self, words: Words) -> Iterator[Finding]:
        """Every known value in a text, looked up at the starts of words and of capitals inside words."""
        if not self.entries:
            return
        text, folded = words.text, words.folded
        for start in _starts(text):
            for pattern, kind, short in self._at(folded, start):
                match = pattern.match(folded, start)
                if match and _ends(text, match.end(), kind, short):
                    yield Finding(start, match.end(), kind, known=True)
        yield from self._addresses(text)
        yield from self._titled(words)

    def _at(self, folded: str, start: int) -> Iterator[Entry]:
        """Entries that may begin at a place, by their first letters (a short first name has fewer)."""
        return chain.from_iterable(self.entries.get(folded[start : start + n], ()) for n in range(START, 0, -1))

    def _addresses(self, text: str) -> Iterator[Finding]:
        """The whole of a URL that holds a known name or host."""
        if "." not in text and "@" not in text:
            return
        for match in URL.finditer(text):
            inside = fold(match.group())
            for start in _starts(match.group()):
                found = (
                    pattern.match(inside, start)
                    for pattern, _, _ in self.entries.get(inside[start : start + START], ())
                )
                if any(found):
                    yield Finding(match.start(), match.end(), "URL", known=True)
                    break

    def _titled(self, words: Words) -> Iterator[Finding]:
        for i in range(len(words) - 1):
            if (
                words.low[i] in lexicon("titles")
                and words.low[i + 1] in self.family
                and words.gap(i) in (" ", ". ", ".")
            ):
                yield Finding(words.start[i + 1], words.end[i + 1], "NAME", known=True)


NOTHING = Known(())


@lru_cache(maxsize=8)
def known_values(values: tuple[str, ...]) -> Known:
    """The same list made ready once in each process."""
    return Known(values) if values else NOTHING


def _starts(text: str) -> Iterator[int]:
    """Places where a word begins, or a capital or digit run inside one ("bestRobin", "DrLow")."""
    return (match.start() for match in START_OF_WORD.finditer(text))


def _ends(text: str, place: int, kind: str, short: bool) -> bool:
    """Does a value end at this place? Texts made from pages glue the next sentence to it ("Ann Lowwww.", "LowThe")."""
    if short and text[place : place + 1].isalnum():
        return False
    return kind == "URL" or GLUED.match(text, place) is not None


def _is_address(value: str) -> bool:
    return " " not in value and URL.fullmatch(value) is not None


def _parts(value: str) -> list[str]:
    return re.findall(r"[^\W_]+", fold(re.sub(r"^https?://(?:www\.)?|^www\.", "", value)))


def _person(value: str) -> list[str]:
    """The folded parts of a person's name without title and letters; [] when the value is none."""
    plain = value.partition(",")[0]
    tokens = [token for token in re.split(r"[\s.]+", plain) if token]
    while tokens and fold(tokens[0]).strip(".") in lexicon("titles"):
        tokens = tokens[1:]
    while len(tokens) > 1 and _no_name(tokens[-1], tokens[0]):
        tokens = tokens[:-1]
    parts = [part for token in tokens for part in _parts(token)]
    places = lexicon("clinic", "heads") | lexicon("clinic", "tails")
    if not 1 <= len(tokens) <= 5 or any(not part.isalpha() for part in parts) or set(parts) & places:
        return []
    everyday = [part for part in parts if part in word_list("words")]
    return parts if len(everyday) < len(parts) or len(parts) == 2 else []


def _no_name(token: str, first: str) -> bool:
    """Is the last token of a person's line no part of the name: letters of a profession, a number, a lone slash?"""
    letters = token.isupper() and len(token) > 1 and not first.isupper()
    return letters or "/" in token or not token[0].isalpha() or starts_credentials(token, 0)
