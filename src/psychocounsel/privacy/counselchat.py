"""counsel-chat's CSV, whose rows carry therapists' real names and addresses: its rows, and all that must not survive."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from psychocounsel.errors import UserError, nearest
from psychocounsel.privacy.words import fold

PERSON_COLUMNS = ("therapistInfo", "therapistURL")
ANSWER_COLUMNS = ("questionID", "answerText", *PERSON_COLUMNS)
LOCATION = re.compile(r"(?:https?://|www\.)[^\s,;]+|\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|info|ca)\b", re.I)
MARK = re.compile(r",|\s[-–|]|-\s|\s{2,}")
csv.field_size_limit(1 << 27)


def counselchat_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """All rows, with '' for empty fields. Raises UserError for a missing file or column, or one that is no UTF-8 CSV."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or ())
            for column in columns:
                if column not in header:
                    raise UserError(
                        f"{path}: no column '{column}'{nearest(column, header) or '.'} "
                        f"The columns are {', '.join(header) or 'none'}; this must be counsel-chat's own CSV"
                    )
            return [{key: value or "" for key, value in row.items() if key is not None} for row in reader]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: not a UTF-8 CSV file ({error})") from error


def counselchat_persons(path: Path) -> list[str]:
    """Every therapist's name, page, page name, and clinic and site where the short description has one; sorted.

    Raises UserError as `counselchat_rows` does. The list is for `known` in the other functions here; it is personal
    data itself and belongs into no output.
    """
    pairs = {(row["therapistInfo"], row["therapistURL"]) for row in counselchat_rows(path, PERSON_COLUMNS)}
    found: set[str] = set()
    for info, url in pairs:
        name, rest = split_info(info, url)
        found |= {name, url.strip(), *LOCATION.findall(rest)}
        found |= {part.strip() for part in _places(rest)}
    return sorted(value for value in found if len(value) > 2)


def split_info(info: str, url: str) -> tuple[str, str]:
    """(name, description) of a therapistInfo, where both stand without a space between: the URL's end tells where.

    'Ann LowTrauma work' with '.../ann-low' gives ('Ann Low', 'Trauma work').
    """
    slug = [part for part in re.split(r"[^a-z0-9]+", fold(url.rstrip("/").rpartition("/")[2])) if part]
    place, last = 0, 0
    text = fold(info)
    for part in slug:
        skip = re.compile(r"[\W_]{0,4}(?:dr\.? |ms\.? |mr\.? |mrs\.? )?").match(text, place)
        place = skip.end() if skip else place
        if not text.startswith(part, place) and place and len(part) == 1:
            continue  # what is left of a letter with an accent, or of an initial
        if part in ("dr", "ms", "mr", "mrs") and not text.startswith(part, place):
            continue
        if not text.startswith(part, place):
            break
        place += len(part)
        if part not in text.split() and not info[place : place + 1].isascii():
            place += len(re.split(r"[\W_]", info[place:], maxsplit=1)[0])  # the URL was cut at a letter with an accent
        last = place
    head = info[:last] if last else MARK.split(info)[0]
    name = MARK.split(head)[0].strip()
    return name, info[len(head) :].lstrip(" ,-")


def _places(rest: str) -> list[str]:
    """Clinics named in a description."""
    from psychocounsel.privacy.clinics import clinics
    from psychocounsel.privacy.words import Words

    return [rest[found.start : found.end] for found in clinics(Words(rest))]
