"""Invented personal data with its exact place: to test the recognisers, and to estimate what they miss in real texts.

Names are drawn from lists of their own, chosen without a look at the recognisers' lists. About a third of the forms
are hard ones: names without any sign beside them, numbers with odd spacing, addresses spelt out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from numpy.random import Generator, Philox

from psychocounsel.privacy.findings import Finding
from psychocounsel.privacy.words import table

Draw = Callable[[Sequence[str]], str]
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Planted:
    """A text into which `value` of a type was put at text[start:end]; `hard` says which kind of form it is.

    `sentence` is the stretch of all that was put in: the value with the words around it.
    """

    text: str
    type: str
    start: int
    end: int
    hard: bool
    sentence: tuple[int, int]

    @property
    def value(self) -> str:
        return self.text[self.start : self.end]


def planted_types() -> list[str]:
    """The types that can be planted, in the order of the data file."""
    return list(table("planted")["forms"])


def plant(text: str, kind: str, seed: int) -> Planted:
    """Put one invented sentence with a value of this type between two sentences of a text (Philox with `seed`)."""
    random = Generator(Philox(seed))

    def draw(items: Sequence[str]) -> str:
        return items[int(random.integers(len(items)))]

    forms = table("planted")["forms"][kind]
    options = [(form, hard) for hard, group in ((False, "easy"), (True, "hard")) for form in forms.get(group, [])]
    form, hard = options[int(random.integers(len(options)))]
    before, value, after = (fill(part, draw) for part in re.split(r"<<|>>", form))
    places = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    place = len(text) if "{end}" in form else places[int(random.integers(len(places)))]
    head, tail = text[:place], text[place:]
    head += "" if not head or head[-1].isspace() else " "
    first = len(head)
    start = first + len(before)
    joined = f"{head}{before}{value}{after}{' ' if tail else ''}{tail}"
    end = start + len(value)
    return Planted(joined, kind, start, end, hard, (first, end + len(after)))


def seeded_set(each: int, seed: int) -> list[Planted]:
    """`each` values of every type in texts of three sentences that hold no personal data, though they look like it."""
    sentences = table("planted")["tempting"]["sentences"]
    random = Generator(Philox(seed))
    hosts = random.integers(len(sentences), size=(len(planted_types()), each, 3))
    seeds = random.integers(1 << 62, size=(len(planted_types()), each))
    return [
        plant("\n".join(sentences[i] for i in hosts[k, n]), kind, int(seeds[k, n]))
        for k, kind in enumerate(planted_types())
        for n in range(each)
    ]


def is_found(planted: Planted, findings: Sequence[Finding]) -> bool:
    """Is every letter and digit of the planted value covered, by findings of whatever type?"""
    return all(
        any(finding.start <= place < finding.end for finding in findings)
        for place in range(planted.start, planted.end)
        if planted.text[place].isalnum()
    )


def false_alarms(planted: Planted, findings: Sequence[Finding]) -> list[Finding]:
    """Findings outside the planted sentence, and those that meet the value but take it for something else."""
    first, last = planted.sentence
    return [
        finding
        for finding in findings
        if not (first <= finding.start and finding.end <= last)
        or (finding.type != planted.type and finding.start < planted.end and planted.start < finding.end)
    ]


def fill(form: str, draw: Draw) -> str:
    """A form with its slots filled: {given} and other lists, {d3} three digits, {card}, {ssn} with check digits."""

    def slot(match: re.Match[str]) -> str:
        name = match.group(1)
        if name == "end":
            return ""
        if name in CHECKED:
            return CHECKED[name](draw)
        if re.fullmatch(r"d\d", name):
            return "".join(draw("0123456789") for _ in range(int(name[1])))
        return draw(table("planted")["words"][name])

    return SLOT.sub(slot, form)


def _some(draw: Draw, count: int) -> str:
    return "".join(draw("0123456789") for _ in range(count))


def _card(draw: Draw) -> str:
    from stdnum import luhn

    body = draw("45") + draw("12345") + _some(draw, 13)
    number = body + luhn.calc_check_digit(body)
    separator = draw((" ", "-", ""))
    return separator.join(number[i : i + 4] for i in range(0, 16, 4))


def _ssn(draw: Draw) -> str:
    area = f"{draw('123456')}{draw('123456789')}{draw('1234')}"
    return f"{area}-{draw('123456789')}{draw('1234')}-{draw('123456789')}{_some(draw, 3)}"


def _nhs(draw: Draw) -> str:
    from stdnum.gb import nhs

    while True:
        body = draw("4679") + _some(draw, 8)
        for digit in "0123456789":
            if nhs.is_valid(body + digit):
                return f"{body[:3]} {body[3:6]} {body[6:]}{digit}"


def _sin(draw: Draw) -> str:
    from stdnum import luhn

    body = draw("1234567") + _some(draw, 7)
    number = body + luhn.calc_check_digit(body)
    return f"{number[:3]} {number[3:6]} {number[6:]}"


def _dni(draw: Draw) -> str:
    body = _some(draw, 8)
    return body + "TRWAGMYFPDXBNJZSQVHLCKE"[int(body) % 23]


def _iban(draw: Draw) -> str:
    from stdnum import iban

    rest = f"37040044{_some(draw, 10)}"
    return f"DE{iban.calc_check_digits(f'DE00{rest}')}{rest}"


def _us_phone(draw: Draw) -> str:
    area = draw(("212", "312", "415", "512", "617", "702", "787", "919"))
    first, second, third = area, f"{draw('23456789')}{_some(draw, 2)}", _some(draw, 4)
    return draw(
        (
            f"{first}-{second}-{third}",
            f"({first}) {second}-{third}",
            f"{first}.{second}.{third}",
            f"+1 {first} {second} {third}",
        )
    )


CHECKED: dict[str, Callable[[Draw], str]] = {
    "card": _card, "ssn": _ssn, "nhs": _nhs, "sin": _sin, "dni": _dni, "iban": _iban, "us_phone": _us_phone,
}  # fmt: skip
