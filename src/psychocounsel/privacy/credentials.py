"""The letters behind a name (PhD, LMFT): told from everyday capitals by their list and their place."""

from __future__ import annotations

import re
from functools import cache

from psychocounsel.privacy.words import lexicon

LONGEST = 80
SEPARATOR = re.compile(r"\s{0,2}[,|/&-]?\s{0,2}")


@cache
def _letters() -> re.Pattern[str]:
    """PhD also matches Ph.D., Ph.D and PH.D; the longest one first."""
    forms = sorted(lexicon("credentials", "letters"), key=lambda form: (-len(form), form))
    # A dot may stand behind every lower-case run: M.A., Ph.D., Psy.D., M.Ed.
    spelt = [r"\.? ?".join(map(re.escape, re.findall(r"[A-Z][a-z]*|-|[a-z]+", form))) for form in forms]
    upper = [re.escape(form.upper()) for form in forms if form.upper() != form]
    return re.compile(rf"(?:{'|'.join([*spelt, *upper])})(?![A-Za-z]|-[A-Z])\.?")


@cache
def _starts() -> frozenset[str]:
    return frozenset(form[0] for form in lexicon("credentials", "letters"))


def starts_credentials(text: str, place: int) -> bool:
    """Do the letters of a profession stand at this place?"""
    return text[place] in _starts() and _letters().match(text, place) is not None


def credentials_at(text: str, place: int) -> tuple[int, int] | None:
    """The stretch of credentials that follows a name ending at `place`, or None."""
    first, end = 0, place
    while end - place < LONGEST:
        separator = SEPARATOR.match(text, end)
        start = separator.end() if separator else end
        match = _letters().match(text, start) if start > end and start < len(text) else None
        if match is None:
            break
        first, end = first or start, match.end()
    return (first, end) if first else None
