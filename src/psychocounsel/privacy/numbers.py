"""Phone, card and account numbers, and the numbers states and offices give to people; each with its check digits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Set
from functools import cache, lru_cache
from importlib import import_module

from psychocounsel.privacy.addresses import allowed
from psychocounsel.privacy.findings import Finding

NEAR = 40  # characters before a number in which a word may say what it is
REGIONS = ("US", "GB", "AU", "IE", "NZ", "IN", "ZA", "DE", "FR", "NL", "ES", "MX")
NO_TRUNK = ("US", "IN", "ES", "MX")  # numbers within the country start without a 0
GAP = "[ \t().\u00a0/\u2010-\u2015-]"
PHONE = re.compile(rf"(?<![\d=_/.-])(?:\+ ?|\+?\()?\d(?:{GAP}{{0,3}}\d){{6,15}}(?!\d)")
PART = re.compile(r"[+(\d](?:(?!\. )[^\n]){0,40}")
SHORT_PHONE = re.compile(r"(?<![\w-])\d{3}[-. ]\d{4}(?![\w-])")
PHONE_WORDS = re.compile(
    r"\b(?:phone|call(?: me| us| him| her)?|cell|mobile|text(?: me)?|tel|telephone|whatsapp|fax|ring me|reach me|"
    r"(?:my|his|her|their|your) number|landline)\b",
    re.I,
)
US_SHAPE = re.compile(r"(?:\+?1[ .-]?)?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}")
DATE_SHAPE = re.compile(r"\(?(?:\d{4}[-/.–]\d{1,2}[-/.–]\d{1,2}|\d{1,2}[-/.–]\d{1,2}[-/.–]\d{4}|\d{4} ?[-–/] ?\d{4})")
CARD = re.compile(r"(?<![\d-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\d-])")
CARD_WORDS = re.compile(r"\b(?:card|visa|mastercard|amex|debit|credit)\b", re.I)
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")


def numbers(text: str) -> Iterator[Finding]:
    """All numbers that lead to a person, an account or a phone. Crisis lines are none."""
    if not any(character.isdigit() for character in text):
        return
    yield from _cards(text)
    yield from _state_ids(text)
    yield from _office_ids(text)
    yield from _phones(text)


def digits(text: str) -> str:
    """The digits 0-9 of a text."""
    return "".join(character for character in text if character in "0123456789")


def before(text: str, place: int, words: re.Pattern[str]) -> bool:
    """Does one of the words stand in the NEAR characters before a place?"""
    return words.search(text, max(0, place - NEAR), place) is not None


def _cards(text: str) -> Iterator[Finding]:
    for match in CARD.finditer(text):
        value = digits(match.group())
        if _check("luhn", value) or (len(value) == 16 and before(text, match.start(), CARD_WORDS)):
            yield Finding(match.start(), match.end(), "CARD")
    for match in IBAN.finditer(text):
        value = match.group()
        while len(value) >= 15:  # a capital word may follow the number
            if _check("iban", value):
                yield Finding(match.start(), match.start() + len(value), "ACCOUNT")
                break
            value = value.rpartition(" ")[0]


@cache
def _checker(module: str) -> Callable[[str], bool]:
    checker: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid
    return checker


def _check(module: str, value: str) -> bool:
    return value.isascii() and _checker(module)(value)


# (shape, module of python-stdnum that checks it, words that must stand before it or '' where the shape is enough)
STATE_IDS: tuple[tuple[re.Pattern[str], str, re.Pattern[str] | None], ...] = tuple(
    (re.compile(rf"(?<![\w.-]){shape}(?![\w-])"), module, re.compile(rf"\b(?:{words})\b", re.I) if words else None)
    for shape, module, words in (
        (r"\d{3}[- ]\d{2}[- ]\d{4}", "us.ssn", ""),
        (r"\d{9}", "us.ssn", "ssn|social security(?: number| no)?|social"),
        (r"9\d{2}-\d{2}-\d{4}", "us.itin", ""),
        (r"\d{3}[ -]?\d{3}[ -]?\d{4}", "gb.nhs", "nhs(?: number| no)?"),
        (r"\d{3}[ -]?\d{3}[ -]?\d{3}", "ca.sin", "sin|social insurance(?: number)?"),
        (r"\d{3} ?\d{3} ?\d{3}", "au.tfn", "tfn|tax file(?: number)?"),
        (r"\d{8}-?[A-Z]", "es.dni", ""),
        (r"[XYZ]-?\d{7}-?[A-Z]", "es.nie", ""),
        (r"[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]", "it.codicefiscale", ""),
        (r"[12] ?\d{2} ?\d{2} ?\d{2} ?\d{3} ?\d{3} ?\d{2}", "fr.nir", ""),
        (r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d", "mx.curp", ""),
        (r"\d{3}\.\d{3}\.\d{3}-\d{2}", "br.cpf", ""),
        (r"\d{4}[ -]\d{4}[ -]\d{4}", "in_.aadhaar", ""),
        (r"[A-Z]{5}\d{4}[A-Z]", "in_.pan", ""),
        (r"\d{2} ?\d{3} ?\d{3} ?\d{3}", "de.idnr", "steuer\\w{0,20}|tax id|idnr"),
        (r"\d{9}", "nl.bsn", "bsn|burgerservicenummer"),
        (r"\d{11}", "pl.pesel", "pesel"),
        (r"\d{6}[-+]\d{4}", "se.personnummer", ""),
        (r"\d{7}[A-W][A-IW]?", "ie.pps", ""),
        (r"\d{17}[0-9X]", "cn.ric", ""),
        (r"\d{13}", "za.idnr", "id|identity"),
    )
)
NINO = re.compile(r"(?<!\w)(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D](?!\w)")
OFFICE_ID = re.compile(
    r"\b(?:passport|driver'?s? licen[cs]e|driving licen[cs]e|licen[cs]e|medical record|mrn|patient|member|policy|case|"
    r"account|insurance|medicare|medicaid|student|employee|badge|social security|ssn|national insurance|nino|"
    r"routing|sort code|inmate|registration)"
    r"(?: (?:number|no\.?|id|nr\.?|num))?(?: ?(?:is|was|:|#|=|-)){0,3} {0,2}#?"
    r"((?=[A-Z0-9-]{0,12}\d[A-Z0-9-]{0,6}\d)[A-Z]{0,5}[-]?\d[A-Z0-9]{1,12}(?:[- ]\d{2,6}){0,3})(?!\w)",
    re.I,
)


def _state_ids(text: str) -> Iterator[Finding]:
    for shape, module, words in STATE_IDS:
        for match in shape.finditer(text):
            if (words is None or before(text, match.start(), words)) and _check(module, match.group()):
                yield Finding(match.start(), match.end(), "ID")
    for match in NINO.finditer(text):
        yield Finding(match.start(), match.end(), "ID")


def _office_ids(text: str) -> Iterator[Finding]:
    for match in OFFICE_ID.finditer(text):
        if len(digits(match.group(1))) >= 4:
            bank = match.group().lower().startswith(("account", "routing", "sort"))
            yield Finding(*match.span(1), "ACCOUNT" if bank else "ID")


def _phones(text: str) -> Iterator[Finding]:
    for match in PHONE.finditer(text):
        for part in PART.finditer(match.group()):  # "in 2015. (919) ..." is two numbers
            start, end = match.start() + part.start(), match.start() + part.end()
            if _is_phone(part.group(), before(text, start, PHONE_WORDS), _alone(text, start, end)):
                yield Finding(start, end, "PHONE")
    for match in SHORT_PHONE.finditer(text):
        if before(text, match.start(), PHONE_WORDS) and not _is_public(match.group()):
            yield Finding(match.start(), match.end(), "PHONE")


def _alone(text: str, start: int, end: int) -> bool:
    """Does no letter touch the number?"""
    return not (text[start - 1 : start].isalpha() or text[end : end + 1].isalpha())


@lru_cache(maxsize=1 << 14)
def _is_phone(value: str, said: bool, alone: bool) -> bool:
    plain = digits(value)
    if _is_public(value) or DATE_SHAPE.fullmatch(value):
        return False
    if len(plain) < 2 * len(re.findall(r"\d+", value)):
        return False  # counting, not a number
    if len(plain) < 7:
        return False
    if said or US_SHAPE.fullmatch(value):
        return True
    written = value.startswith("+") or len(plain) != len(value)
    if not alone and not written:
        return False
    if not written and len(plain) not in (10, 11):
        return False
    return _valid_somewhere(value, plain)


def _valid_somewhere(value: str, plain: str) -> bool:
    import phonenumbers

    for region in REGIONS:
        if not (value.startswith("+") or plain.startswith("0") or region in NO_TRUNK):
            continue
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(value, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False


@cache
def _public_phones() -> frozenset[str]:
    return frozenset(digits(value) for value in allowed("phones"))


def _is_public(value: str) -> bool:
    """Is this a crisis or emergency line?"""
    return listed(value, _public_phones())


def listed(value: str, known: Set[str]) -> bool:
    """Is a number one of the known ones (digits alone), with or without 1 or a country's code before it?"""
    written = digits(value)
    plain = written.removeprefix("00")
    forms = {written, plain, plain.removeprefix("1")} | {f"{zero}{plain[2:]}" for zero in ("", "0")}
    return not forms.isdisjoint(known)
