"""Dates of birth, told from other dates by the words beside them, and ages over 89."""

from __future__ import annotations

import re
from collections.abc import Iterator

from psychocounsel.privacy.findings import Finding

MONTHS = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    "nov(?:ember)?|dec(?:ember)?"
)
DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?"
YEAR = r"(?:1[89]\d\d|20\d\d)"
DATE = re.compile(
    rf"(?<![\w/.-])(?:{YEAR}[-/.](?:1[0-2]|0?[1-9])[-/.](?:0[1-9]|[12]\d|3[01]|[1-9])"
    rf"|(?:0?[1-9]|[12]\d|3[01])[-/. ](?:0?[1-9]|[12]\d|3[01])[-/. ](?:{YEAR}|\d\d)"
    rf"|(?:{MONTHS})\.? {DAY}(?:,? {{1,2}}{YEAR})?"
    rf"|{DAY} (?:of )?(?:{MONTHS})\.?(?:,? {{1,2}}{YEAR})?)(?![\w/-])",
    re.I,
)
BORN_BEFORE = re.compile(
    r"(?:\bborn\b|\bbirth ?da(?:y|te)\b|\bdate of birth\b|\bd\.?o\.?b\b\.?|\bbday\b|\bb-day\b)[^\n]{0,30}$", re.I
)
BORN_AFTER = re.compile(
    r"^(?:[ ,(]{0,3}(?:is|was|being)? ?(?:my|his|her|their|our|the) (?:\w{1,15} ){0,2}(?:birth|b-?day))", re.I
)
TENS = "ninety|hundred|a hundred|one hundred"
ONES = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
OLD = rf"(?:9\d|1[01]\d|(?:{TENS})(?:[- ](?:and )?(?:{ONES}))?)"
AGE = re.compile(
    rf"(?<![\w$€£.,/-])({OLD})(?= ?-? ?(?:years?|yrs?)[- ]?(?:old|young|of age)\b| ?(?:y/o|yo)\b)"
    rf"|(?:\b(?:aged?|age of|age is|age:|turn(?:ed|s|ing)?|nearly|almost) )({OLD})(?![\w%]|[.,:/-]\d"
    rf"| (?:percent|per|times|minutes|hours|days|weeks|months|miles|pounds|lbs?|kg|kilos|degrees|dollars|people))"
    rf"|(?:\b(?:i am|i'm|im|she is|she's|he is|he's|they are|who is|who's|was|is) )({OLD})"
    r"(?=[.,;!?](?!\d)|\n|$| and (?:still|lives?|has|i|he|she|they|my|in|frail|not|cannot|needs?|can't)\b"
    r"| now\b| already\b)",
    re.I,
)


def dates(text: str) -> Iterator[Finding]:
    """Dates of birth (a year of birth alone is none) and ages over 89."""
    for match in DATE.finditer(text):
        start, end = match.span()
        if BORN_BEFORE.search(text[max(0, start - 50) : start]) or BORN_AFTER.search(text[end : end + 50]):
            yield Finding(start, end, "DOB")
    for match in AGE.finditer(text):
        group = match.lastindex or 0
        yield Finding(*match.span(group), "AGE")
