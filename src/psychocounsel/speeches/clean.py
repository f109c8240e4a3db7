"""Cleaning with a ledger: repair the text, then drop what cannot be used, each row with one reason."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

from psychocounsel.progress import progress
from psychocounsel.recipe import SpeechesTable
from psychocounsel.records import Record, Speech, Turn

LANGUAGE_WORDS = 5
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff\ufffd]")


class Drop(Record):
    """One line of the ledger."""

    source: str
    source_id: str
    reason: str
    detail: str = ""


def repair(text: str) -> str:
    """Unicode NFC, HTML entities and stray control characters resolved, runs of spaces and blank lines folded."""
    text = (
        unicodedata.normalize("NFC", html.unescape(text))
        .replace("\r\n", "\n")
        .replace("\r", "\n")
        .replace("\u00a0", " ")
    )
    text = CONTROL.sub("", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r" ?\n ?", "\n", re.sub(r"\n\s*\n+", "\n\n", text)).strip()


def clean(raw: Sequence[Speech], table: SpeechesTable) -> tuple[list[Speech], list[Drop]]:
    """Repaired speeches that pass every rule, in order, and a ledger entry for each other row."""
    kept: list[Speech] = []
    dropped: list[Drop] = []
    seen: dict[str, str] = {}
    with progress("cleaning", len(raw)) as advance:
        for row in raw:
            advance()
            turns = tuple(Turn(role=turn.role, text=repair(turn.text) or "?") for turn in row.turns)
            speech = row.model_copy(update={"turns": turns})
            reason, detail = _fault(speech, table, seen)
            if reason:
                dropped.append(Drop(source=row.source, source_id=row.source_id, reason=reason, detail=detail))
            else:
                seen[_plain(speech.text)] = speech.id
                kept.append(speech)
    return kept, dropped


def _fault(speech: Speech, table: SpeechesTable, seen: dict[str, str]) -> tuple[str, str]:
    text = speech.text
    if not _plain(text):
        return "no words", f"{len(text)} characters"
    if len(text) < table.min_chars:
        return "too short", f"{len(text)} characters"
    if len(text) > table.max_chars:
        return "too long", f"{len(text)} characters"
    twin = seen.get(_plain(text))
    if twin:
        return "exact duplicate", f"of {twin}"
    if table.language and len(text.split()) >= LANGUAGE_WORDS:
        language = language_of(text)
        if language != table.language:
            return "other language", language
    return "", ""


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def language_of(text: str) -> str:
    """ISO 639-1 code of the most likely language."""
    import py3langid

    return str(py3langid.classify(text)[0])
