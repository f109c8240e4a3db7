"""counsel-chat's CSV, whose rows carry therapists' real names and addresses: its answers, and what must not survive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from psychocounsel.errors import UserError, nearest
from psychocounsel.privacy.clinics import clinics
from psychocounsel.privacy.words import Words, fold
from psychocounsel.rows import columns_of, csv_rows

PERSON_COLUMNS = ("therapistInfo", "therapistURL")
ANSWER_COLUMNS = ("questionID", "answerText", *PERSON_COLUMNS)
LOCATION = re.compile(r"(?:https?://|www\.)[^\s,;]+|\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|info|ca)\b", re.I)
MARK = re.compile(r",|\s[-–|]|-\s|\s{2,}")
CUT = re.compile(r"[^\x00-\x7f]+[^\W\d_A-Z]*")
TITLE = re.compile(r"[\W_]{0,4}(?:(?:dr|ms|mr|mrs)\.? )?")


def counselchat_rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows, '' for empty fields. Raises UserError for a missing file or column, or one that is no UTF-8 CSV."""
    empty = True
    for number, row in enumerate(csv_rows(path), 2):
        empty = False
        for column in columns:
            if column not in row:
                raise UserError(
                    f"{path}: row {number} has no column '{column}'{nearest(column, list(row)) or '.'} "
                    f"The columns are {columns_of(row)}; this must be counsel-chat's own CSV"
                )
        yield row
    if empty:
        raise UserError(f"{path}: holds no rows; this must be counsel-chat's own CSV")


def counselchat_persons(path: Path) -> list[str]:
    """Every therapist's name and page, and the clinics and sites in the short descriptions; sorted.

    Raises UserError as `counselchat_rows` does. The list is made for `known` of the other functions here. It is
    personal data itself and belongs into no output.
    """
    rows = counselchat_rows(path, PERSON_COLUMNS)
    return persons((row["therapistInfo"], row["therapistURL"]) for row in rows)


def persons(pairs: Iterator[tuple[str, str]]) -> list[str]:
    """The same from pairs of (therapistInfo, therapistURL)."""
    found: set[str] = set()
    for info, url in set(pairs):
        name, rest = split_info(info, url)
        found |= {name, url.strip(), *LOCATION.findall(rest)}
        found |= {rest[place.start : place.end].strip() for place in clinics(Words(rest))}
    return sorted(value for value in found if len(value) > 2)


def split_info(info: str, url: str) -> tuple[str, str]:
    """(name, description) of a therapistInfo, where both stand without a space between: the URL's end tells where.

    'Ann LowTrauma work' with '.../ann-low' gives ('Ann Low', 'Trauma work').
    """
    text, place, last = fold(info), 0, 0
    for part in re.split(r"[^a-z0-9]+", fold(url.rstrip("/").rpartition("/")[2])):
        skip = TITLE.match(text, place)
        place = skip.end() if skip else place
        if not text.startswith(part, place):
            if part in ("dr", "ms", "mr", "mrs") or (len(part) == 1 and last):
                continue  # a title the description leaves out, or what the URL has left of a letter with an accent
            break
        place += len(part)
        if not info[place : place + 1].isascii():
            cut = CUT.match(info, place)  # the URL breaks at a letter with an accent
            place = cut.end() if cut else place
        last = place
    head = info[:last] if last else MARK.split(info)[0]
    return MARK.split(head)[0].strip(), info[len(head) :].lstrip(" ,-")
