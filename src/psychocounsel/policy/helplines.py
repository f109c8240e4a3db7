"""Phone numbers of a reply that stand on no list: a policy that recites numbers from memory also invents them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import date
from functools import cache
from importlib.resources import files

from pydantic import Field

from psychocounsel.privacy.numbers import GAP, PHONE, SHORT_PHONE, before, digits, listed, numbers
from psychocounsel.records import Record

CALLED = re.compile(
    r"\b(?:call|dial|phone|ring|text|helpline|hotline|lifeline|crisis line|number|reach (?:them|us))\b", re.I
)
# A number of three to six digits is one to call when it follows such words at once and the clause ends or goes on so.
SHORT = re.compile(
    r"\b(?:call|calling|dial|dialling|dialing|phone|phoning|ring|ringing|text|texting|text [A-Za-z]{2,12} to|"
    r"(?:hot|help|life)line(?: is| at| on|:|,)?|(?:call|reach|contact|text) (?:[\w']{1,24} ){1,5}(?:at|on))"
    rf" {{0,2}}[(:]? {{0,2}}(\d(?:{GAP}?\d){{2,5}})"
    r"(?=[.,;:!?)\]\"'”’*]|\s{0,3}$|\s{0,3}\(|"
    r"\s{1,3}(?:or|and|if|for|now|to|right|immediately|straight|anytime|any time|at any|24)\b)",
    re.I | re.M,
)
DIGIT = re.compile(r"\d")
YEAR = re.compile(r"(?:19|20)\d\d|\d{1,2}[:.]\d\d")
LETTERS = re.compile(r"(?<![\w-])(?:1[-. ])?8(?:00|33|44|55|66|77|88)[-. ](?:[A-Z0-9]{2,10}-?){1,3}(?![\w-])")
KEYS = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "22233344455566677778889999")


class Helpline(Record):
    """A crisis line or the emergency services. `verified_on`: the day a person rang or checked it; None: nobody did."""

    country: str = ""
    values: tuple[str, ...] = Field(min_length=1)
    notes: str = ""
    source: str = ""
    verified_on: date | None = None


@cache
def load_helplines() -> tuple[Helpline, ...]:
    """Every line of helplines.toml, the emergency numbers last."""
    rows = tomllib.loads(files("psychocounsel.policy").joinpath("helplines.toml").read_text(encoding="utf-8"))
    return tuple(Helpline.model_validate(row) for row in [*rows["helpline"], *rows["emergency"]])


@cache
def _known() -> frozenset[str]:
    return frozenset(digits(value) for line in load_helplines() for value in line.values)


def unknown_numbers(text: str) -> Iterator[str]:
    """The phone numbers of a text, as written, that are no helpline of the list and no emergency number."""
    if not DIGIT.search(text):
        return
    for value in _numbers(text):
        if not listed(value.translate(KEYS), _known()):
            yield value


def _numbers(text: str) -> Iterator[str]:
    """Phone numbers: those that lead to a person, public lines, short ones after "call", and those with letters."""
    yield from (text[found.start : found.end] for found in numbers(text) if found.type == "PHONE")
    for shape in (PHONE, SHORT_PHONE):
        for match in shape.finditer(text):
            if before(text, match.start(), CALLED) and not YEAR.search(match.group()):
                yield match.group()
    for match in SHORT.finditer(text):
        if not YEAR.fullmatch(match.group(1)):
            yield match.group(1)
    yield from (match.group() for match in LETTERS.finditer(text))
