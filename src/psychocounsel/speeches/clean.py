"""Cleaning with a ledger: repair the text, then drop what cannot be used, each row with one reason."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from functools import partial

from psychocounsel.engine import HERE, Engine
from psychocounsel.recipe import SpeechesTable
from psychocounsel.records import Record, Speech, Turn
from psychocounsel.speeches.content import content_fault
from psychocounsel.speeches.dialogues import NO_CLIENT
from psychocounsel.speeches.split import standing_for

LANGUAGE_WORDS = 5
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\ufff9-\ufffd]"
)
MOST_PASSES = 8  # a repair can uncover another: '&amp;amp;', or an entity that a hidden character cut in two


class Drop(Record):
    """One line of the ledger. `id` is the content id that the row, repaired, would have had as a speech."""

    source: str
    source_id: str
    reason: str
    detail: str = ""
    id: str = ""


def repair(text: str) -> str:
    """Garbled encodings (UTF-8 read as cp1252 and the like) mended, Unicode NFC, HTML entities resolved, control and
    invisible characters removed, runs of spaces and blank lines folded. Repairing twice is repairing once."""
    for _ in range(MOST_PASSES):
        before, text = text, _repair_once(text)
        if text == before:
            break
    return text


def _repair_once(text: str) -> str:
    if "&" in text:
        text = html.unescape(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    if not text.isascii():
        from ftfy import fix_encoding

        text = unicodedata.normalize("NFC", fix_encoding(text))
    text = CONTROL.sub("", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r" ?\n ?", "\n", re.sub(r"\n\s*\n+", "\n\n", text)).strip()


def clean(raw: Sequence[Speech], table: SpeechesTable, engine: Engine = HERE) -> tuple[list[Speech], list[Drop]]:
    """Repaired speeches that pass every rule, in order, and a ledger entry for each other row, in order too.

    Rows are examined one by one wherever the engine runs; exact duplicates are found here, over all rows.
    """
    kept: list[Speech] = []
    dropped: list[Drop] = []
    seen: dict[str, int] = {}
    for speech, reason, detail in engine.map("cleaning", partial(examine, table=table), raw):
        if not reason:
            place = seen.setdefault(plain_words(client_text(speech)), len(kept))
            if place == len(kept):
                kept.append(speech)
                continue
            kept[place] = standing_for(kept[place], speech)
            reason, detail = "exact duplicate", f"of {kept[place].id}"
        dropped.append(drop(speech, reason, detail))
    return kept, dropped


def drop(speech: Speech, reason: str, detail: str) -> Drop:
    """The ledger's line for a speech that is left out."""
    return Drop(source=speech.source, source_id=speech.source_id, reason=reason, detail=detail, id=speech.id)


def examine(rows: Sequence[Speech], table: SpeechesTable) -> list[tuple[Speech, str, str]]:
    """(repaired speech, reason, detail) per row; no reason when it may stay. Looks at each row alone."""
    return [(speech, *_fault(speech, table)) for speech in map(repaired, rows)]


def repaired(row: Speech) -> Speech:
    """The speech with every turn repaired; the same object when nothing was to be done, which spares memory."""
    texts = [repair(turn.text) or NO_CLIENT for turn in row.turns]
    if all(text == turn.text for text, turn in zip(texts, row.turns, strict=True)):
        return row
    turns = tuple(Turn(role=turn.role, text=text) for turn, text in zip(row.turns, texts, strict=True))
    return row.model_copy(update={"turns": turns})


def client_text(speech: Speech) -> str:
    """All that the client says, turn by turn."""
    if len(speech.turns) == 1:
        return speech.text
    return "\n\n".join(turn.text for turn in speech.turns if turn.role == "client")


def _fault(speech: Speech, table: SpeechesTable) -> tuple[str, str]:
    text = client_text(speech)
    if len(speech.turns) > 1 and not plain_words(text):
        return "no client turn", f"{len(speech.turns)} turns"
    if not plain_words(speech.text):
        return "no words", f"{len(text)} characters"
    if len(text) < table.min_chars:
        return "too short", f"{len(text)} characters"
    if len(speech.text) > table.max_chars:
        return "too long", f"{len(speech.text)} characters"
    if table.language and len(text.split()) >= LANGUAGE_WORDS:
        language = language_of(text)
        if language != table.language:
            return "other language", language
    return content_fault(text, english=table.language == "en") if table.content else ("", "")


def plain_words(text: str) -> str:
    """The words of a text in lower case, one space between: what makes two rows the same."""
    return " ".join(re.findall(r"\w+", text.lower()))


def language_of(text: str) -> str:
    """ISO 639-1 code of the most likely language."""
    import py3langid

    return str(py3langid.classify(text)[0])
