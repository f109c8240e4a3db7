"""Rows of tables that others made: CSV, JSON, JSON Lines, Parquet, and data sets on the hub or in hub layout."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.recipe import data_path
from psychocounsel.records import content_id, file_hash, read_rows

Row = Mapping[str, Any]
SHORT = 12  # hex digits of a content hash that are enough to tell two versions of a file apart
csv.field_size_limit(1 << 27)


def table_rows(path: Path) -> Iterator[Row]:
    """Rows of a .csv, .json, .jsonl or .parquet file. Raises UserError for other, missing and broken files."""
    if path.suffix not in READERS:
        raise UserError(f"{path}: not a {', '.join(READERS)} file")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return READERS[path.suffix](path)


def hub_rows(place: str) -> dict[str, Any]:
    """Splits (iterables of rows) of a data set on the hub, or of a local folder in hub layout. Raises UserError."""
    import datasets

    folder = data_path(place)
    try:
        found = datasets.load_dataset(str(folder) if folder.is_dir() else place)
    except Exception as error:  # the library raises a dozen kinds for network, name, format and access
        raise UserError(f"{place}: cannot be loaded from the hub ({' '.join(str(error).split())[:200]})") from error
    return dict(found)


def file_origin(path: Path) -> str:
    """Name and short content hash of a file, or of all files of a folder: the same on every machine."""
    if not path.is_dir():
        return f"{path.name}@{file_hash(path)[:SHORT]}"
    parts = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return f"{path.name}@{content_id([[str(file.relative_to(path)), file_hash(file)] for file in parts])[:SHORT]}"


def hub_origin(place: str, split: Any) -> str:
    """A hub id with the revision the library loaded ('' where it does not tell), or a local folder with its hash."""
    folder = data_path(place)
    if folder.is_dir():
        return file_origin(folder)
    files = getattr(split, "cache_files", None) or [{"filename": ""}]
    revision = Path(files[0]["filename"]).parent.name  # the library caches under .../CONFIG/VERSION/REVISION
    return f"{place}@{revision[:SHORT]}" if re.fullmatch(r"[0-9a-f]{40}", revision) else place


def folder_license(place: str) -> str:
    """The licence that a local data set's card states, or ''."""
    card = data_path(place) / "README.md"
    if not card.is_file():
        return ""
    front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.S)
    found = re.search(r"^license:[ \t]*(\S.*)$", front[1], re.M) if front else None
    return found[1].strip("'\" ") if found else ""


def columns_of(row: Row) -> str:
    """The names of a row's columns for an error, each cut: in a file without a header they are a client's words."""
    return ", ".join(f"'{name:.20}…'" if len(name) > 20 else f"'{name}'" for name in row)


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a UTF-8 CSV file with a header; missing cells are ''."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            for row in csv.DictReader(file):
                yield {key: value or "" for key, value in row.items() if key is not None}
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: not a UTF-8 CSV file ({error})") from error


def _json_rows(path: Path) -> Iterator[Row]:
    """A JSON list of objects; a file that begins otherwise is read as JSON Lines, as half the .json files are."""
    with path.open("rb") as file:
        listed = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if not listed:
        yield from _json_lines(path)
        return
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path}: not UTF-8 JSON ({error})") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: entry {number} is no JSON object but {type(row).__name__}")
        yield row


def _json_lines(path: Path) -> Iterator[Row]:
    return (row for _, row in read_rows(path))


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=8192):
            yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from error


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": csv_rows,
    ".json": _json_rows,
    ".jsonl": _json_lines,
    ".parquet": _parquet_rows,
}
