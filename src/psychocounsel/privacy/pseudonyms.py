"""Placeholders for what was found: the same value gets the same one throughout a dialogue, and none is given twice."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from psychocounsel.privacy.findings import PLACEHOLDER, Finding
from psychocounsel.privacy.words import WORD, Words, fold, word_list

Finder = Callable[[str], list[Finding]]
ROUNDS = 8  # each round may bring words together that say something new; two are the rule
COVER = "\x00"


@dataclass
class Replaced:
    """Texts with placeholders, `values` {placeholder: the first value it stands for}, and finds by type."""

    texts: list[str]
    values: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def covered(text: str) -> str:
    """The text with its placeholders blotted out, so that no recogniser reads them. Places stay where they are."""
    return PLACEHOLDER.sub(lambda match: COVER * len(match.group()), text)


def replace(texts: Sequence[str], finder: Finder) -> Replaced:
    """Replace all findings in the texts of one dialogue until none is left, so that a second pass changes nothing.

    Numbers go on behind placeholders that stand in the texts already.
    """
    outcome = Replaced(list(texts))
    numbers: dict[tuple[str, str], str] = {}
    highest: dict[str, int] = defaultdict(int)
    for text in texts:
        for match in PLACEHOLDER.finditer(text):
            highest[match.group(1)] = max(highest[match.group(1)], int(match.group(2)))
    for _ in range(ROUNDS):
        found = [finder(text) for text in outcome.texts]
        found = _repeated(outcome.texts, found)
        if not any(found):
            break
        for place, (text, findings) in enumerate(zip(outcome.texts, found, strict=True)):
            parts, end = [], 0
            for finding in findings:
                value = text[finding.start : finding.end]
                name = _placeholder(finding.type, value, numbers, highest)
                outcome.values.setdefault(name, value)
                outcome.counts[finding.type] = outcome.counts.get(finding.type, 0) + 1
                parts += [text[end : finding.start], name]
                end = finding.end
            outcome.texts[place] = "".join([*parts, text[end:]])
    return outcome


def _placeholder(kind: str, value: str, numbers: dict[tuple[str, str], str], highest: dict[str, int]) -> str:
    key = (kind, _same(kind, value))
    if key not in numbers:
        highest[kind] += 1
        numbers[key] = f"[{kind}_{highest[kind]}]"
        if kind == "NAME" and " " in key[1]:  # "Ann Low" is "Ann" later on, and "Dr Low"
            for part in (key[1].partition(" ")[0], key[1].rpartition(" ")[2]):
                numbers.setdefault((kind, part), numbers[key])
    return numbers[key]


def _same(kind: str, value: str) -> str:
    """Two spellings of a value that mean the same become equal."""
    if kind in ("PHONE", "CARD", "ACCOUNT", "ID"):
        return re.sub(r"[\W_]", "", value).lower().removeprefix("00")
    if kind in ("NAME", "CLINIC", "CREDENTIAL"):
        return " ".join(re.findall(r"[^\W_]+", fold(value)))
    return value.lower()


def _repeated(texts: Sequence[str], found: Sequence[list[Finding]]) -> list[list[Finding]]:
    """Add the further places of a name that was told once ("My name is Oyelaran." ... "Oyelaran said")."""
    told: set[str] = set()
    for text, findings in zip(texts, found, strict=True):
        for finding in findings:
            if finding.type == "NAME":
                told |= {part for part in WORD.findall(text[finding.start : finding.end]) if _rare(part)}
    if not told:
        return list(found)
    return [_with_told(text, findings, told) for text, findings in zip(texts, found, strict=True)]


def _rare(part: str) -> bool:
    """Is a part of a name no everyday word, so that it means the person wherever it stands with its capital?"""
    low = fold(part)
    return len(low) > 2 and part[0].isupper() and low not in word_list("words") and low not in word_list("both")


def _with_told(text: str, findings: list[Finding], told: set[str]) -> list[Finding]:
    taken = bytearray(len(text))
    for finding in findings:
        taken[finding.start : finding.end] = b"\x01" * (finding.end - finding.start)
    words = Words(covered(text))
    more = [
        Finding(words.start[i], words.end[i], "NAME")
        for i in range(len(words))
        if words.word(i) in told and not any(taken[words.start[i] : words.end[i]])
    ]
    return sorted([*findings, *more])
