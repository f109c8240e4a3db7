"""Where speeches come from: the embedded default, known data sets, local tables and the hub. One function per shape."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError, nearest
from psychocounsel.models.recorded import embedded_file, question_key
from psychocounsel.principles import counselchat_topics, load_topics
from psychocounsel.recipe import Source, data_path
from psychocounsel.records import Speech, Turn, read_records, read_rows

TEXT_COLUMNS = ("text", "question", "questions", "speech", "input", "prompt", "post", "instruction")
KNOWN_SETS: dict[str, tuple[str, str, str]] = {  # name: (hub id, column with the client's words, licence as published)
    "counsel-chat": ("nbertagnolli/counsel-chat", "questionText", "none stated on the hub; repository MIT"),
    "mentalagora": ("", "question", "see its repository"),
    "therapistqa": ("", "question", "see its distributor"),
    "psych8k": ("EmoCareAI/Psych8k", "input", "CC BY-NC-SA 4.0"),
    "amod": ("Amod/mental_health_counseling_conversations", "Context", "openrail"),
    "mentalchat16k": ("ShenLab/MentalChat16K", "input", "MIT"),
    "phi-2-mental-health": ("saxenaindresh681/microsoft-phi2-mental-health", "text", "openrail"),
}
csv.field_size_limit(1 << 27)


def read_source(source: Source) -> list[Speech]:
    """Every usable row of one source as a Speech. Raises UserError for missing files or columns and empty sets."""
    kind, _, rest = source.load.partition(":")
    if source.load == "embedded":
        speeches = read_embedded()
    elif kind == "counselchat" and rest:
        speeches = list(_counselchat(data_path(rest), source))
    elif kind == "fastchat" and rest:
        speeches = list(_fastchat(data_path(rest), source))
    elif kind == "hub" and rest:
        speeches = list(_table(_hub_rows(rest), source, rest))
    elif kind in KNOWN_SETS:
        speeches = list(_known(kind, rest, source))
    else:
        speeches = list(_table(_file_rows(data_path(source.load)), source, Path(source.load).name))
    if not speeches:
        raise UserError(f"speeches: source '{source.load}' holds no rows")
    return speeches[: source.limit]


def read_embedded() -> list[Speech]:
    """The embedded speeches: those with recorded replies, then the arena prompts nobody trains on."""
    return read_records(embedded_file("speeches.jsonl"), Speech)


def _speech(text: str, source: str, source_id: str, license_: str, topic: str | None = None) -> Speech:
    return Speech(
        turns=(Turn(role="client", text=text or "?"),),
        source=source,
        source_id=source_id,
        license=license_,
        topic=topic or None,
        topic_by="source" if topic else "",
    )


def _counselchat(path: Path, source: Source) -> Iterator[Speech]:
    """counsel-chat's CSV: one row per answer; each question once, under its first topic."""
    topics = counselchat_topics()
    seen: set[str] = set()
    for row in _csv_rows(path):
        _need(row, ("questionID", "questionTitle", "questionText", "topic"), path)
        text = row["questionText"] or row["questionTitle"]
        key = row["questionID"]
        if key in seen:
            continue
        seen.add(key)
        yield _speech(text, "counsel-chat", f"counsel-chat:{key}", source.license or "MIT", topics.get(row["topic"]))


def _fastchat(path: Path, source: Source) -> Iterator[Speech]:
    """FastChat's question format: question_id and turns."""
    for number, row in read_rows(path):
        if "question_id" not in row or not isinstance(row.get("turns"), list) or not row["turns"]:
            raise UserError(f"{path}:{number}: needs 'question_id' and a list 'turns'")
        yield _speech(str(row["turns"][-1]), path.name, question_key(row["question_id"]), source.license)


def _known(name: str, place: str, source: Source) -> Iterator[Speech]:
    """One of the paper's sets: from the hub, or from a file or other id after the colon ('therapistqa:FILE')."""
    hub_id, column, license_ = KNOWN_SETS[name]
    if not (place or hub_id):
        raise UserError(f"speeches: '{name}' is not on the hub; download its file and write load = \"{name}:FILE\"")
    filled = source.model_copy(update={"text": source.text or column, "license": source.license or license_})
    rows = (
        _file_rows(data_path(place))
        if Path(place).suffix in (".csv", ".jsonl", ".parquet")
        else _hub_rows(place or hub_id)
    )
    yield from _table(rows, filled, name)


def _table(rows: Iterator[Mapping[str, Any]], source: Source, name: str) -> Iterator[Speech]:
    """Any table: the column of the client's words is named in the recipe or recognised by its name."""
    for number, row in enumerate(islice(rows, source.limit), 1):
        column = source.text or next((key for key in row if key.lower() in TEXT_COLUMNS), "")
        if column not in row:
            raise UserError(
                f"{source.load}: no column '{column or 'text'}'{nearest(column or 'text', list(row)) or '.'} "
                f'The columns are {", ".join(map(repr, row))}; name the one with the client\'s words as text = "..."'
            )
        for wanted in (source.id, source.topic):
            if wanted and wanted not in row:
                raise UserError(f"{source.load}: no column '{wanted}'{nearest(wanted, list(row))}")
        topic = str(row[source.topic] or "") or None if source.topic else None
        if topic and topic not in load_topics():
            hint = nearest(topic, list(load_topics())) or "."
            raise UserError(
                f"{source.load}: '{topic}' in row {number} is no fine topic{hint} "
                "The ids are in principles/topics.toml; leave sources.topic out to have topics filled in"
            )
        yield _speech(
            str(row[column] or ""),
            name,
            str(row[source.id]) if source.id else f"{name}:{number}",
            source.license,
            topic,
        )


def _file_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    readers: dict[str, Callable[[Path], Iterator[Mapping[str, Any]]]] = {
        ".csv": _csv_rows,
        ".jsonl": lambda file: (row for _, row in read_rows(file)),
        ".parquet": _parquet_rows,
    }
    if path.suffix not in readers:
        known = ", ".join(["embedded", "counselchat:FILE", "fastchat:FILE", "hub:OWNER/NAME", *KNOWN_SETS])
        raise UserError(f"speeches: source '{path}' is not a .csv, .jsonl or .parquet file, nor one of: {known}")
    if not path.is_file():
        raise UserError(f"speeches: {path}: no such file")
    return readers[path.suffix](path)


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise UserError(f"speeches: {path}: no such file")
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            for row in csv.DictReader(file):
                yield {key: value or "" for key, value in row.items() if key is not None}
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: not a UTF-8 CSV file ({error})") from error


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from error


def _hub_rows(name: str) -> Iterator[Mapping[str, Any]]:
    """Rows of a hub data set's train split (or its only split); a local folder in hub layout works the same."""
    import datasets

    place = data_path(name)
    try:
        found = datasets.load_dataset(str(place) if place.is_dir() else name)
    except Exception as error:  # the library raises a dozen kinds for network, name, format and access
        raise UserError(f"{name}: cannot be loaded from the hub ({' '.join(str(error).split())[:200]})") from error
    yield from found["train" if "train" in found else next(iter(found))]


def _need(row: Mapping[str, Any], columns: tuple[str, ...], path: Path) -> None:
    for column in columns:
        if column not in row:
            raise UserError(
                f"{path}: no column '{column}'{nearest(column, list(row)) or '.'} The columns are {', '.join(row)}"
            )
