"""Where speeches come from: the embedded default, known data sets, tables, the hub, functions. One function a shape."""

from __future__ import annotations

import importlib
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from psychocounsel.errors import UserError, nearest
from psychocounsel.models.recorded import embedded_file, question_key
from psychocounsel.preference import read_preferences
from psychocounsel.principles import counselchat_topics, load_topics
from psychocounsel.recipe import Source, data_path
from psychocounsel.records import Speech, Turn, read_records, read_rows
from psychocounsel.rows import (
    READERS,
    Row,
    columns_of,
    csv_rows,
    file_origin,
    folder_license,
    hub_origin,
    hub_rows,
    table_rows,
)
from psychocounsel.speeches.dialogues import NO_CLIENT, read_turns

TEXT_COLUMNS = ("text", "question", "questions", "speech", "input", "prompt", "post", "instruction")


class KnownSet(NamedTuple):
    """One of the paper's sources. '' means: not on the hub, or the column is recognised by its name."""

    hub: str
    column: str
    license: str


KNOWN_SETS = {  # licences as published with the sets, looked up in 2025; 'unknown' where nobody states one
    "counsel-chat": KnownSet("nbertagnolli/counsel-chat", "questionText", "MIT"),
    "mentalagora": KnownSet("MentalAgora/TherapyTalk", "", "CC BY 4.0"),
    "therapistqa": KnownSet("", "", "unknown"),
    "psych8k": KnownSet("EmoCareAI/Psych8k", "input", "CC BY-NC-SA 4.0"),
    "amod": KnownSet("Amod/mental_health_counseling_conversations", "Context", "RAIL-D"),
    "mentalchat16k": KnownSet("ShenLab/MentalChat16K", "input", "MIT"),
    "phi-2-mental-health": KnownSet("saxenaindresh681/microsoft-phi2-mental-health", "text", "openrail"),
}


def read_source(source: Source) -> list[Speech]:
    """Every row of one source as a Speech with its provenance. Raises UserError for what cannot be read, and if empty.

    A row without a client's words is a Speech too (its text is '?'), so that the ledger of cleaning accounts for it.
    """
    kind, _, rest = source.load.partition(":")
    if source.load == "embedded":
        found: Iterable[Speech] = read_embedded()
    elif kind == "counselchat" and rest:
        found = _counselchat(data_path(rest), source)
    elif kind == "fastchat" and rest:
        found = _fastchat(data_path(rest), source)
    elif kind == "preference" and rest:
        found = _preference(rest, source)
    elif kind == "hub" and rest:
        found = _hub(rest, source, rest)
    elif kind in KNOWN_SETS:
        found = _known(kind, rest, source)
    elif "/" not in source.load and rest.isidentifier() and all(part.isidentifier() for part in kind.split(".")):
        found = _function(kind, rest, source)
    else:
        found = _file(data_path(source.load), source, Path(source.load).name)
    speeches = list(islice(found, source.limit))
    if not speeches:
        raise UserError(f"speeches: source '{source.load}' holds no rows")
    return speeches


def read_embedded() -> list[Speech]:
    """The embedded speeches: those with recorded replies, then the arena prompts nobody trains on."""
    return read_records(embedded_file("speeches.jsonl"), Speech)


def _speech(
    said: str | tuple[Turn, ...], source: str, source_id: str, license_: str, origin: str, topic: str | None = None
) -> Speech:
    return Speech(
        turns=(Turn(role="client", text=said or NO_CLIENT),) if isinstance(said, str) else said,
        source=source,
        source_id=source_id,
        license=license_,
        origin=origin,
        topic=topic or None,
        topic_by="source" if topic else "",
    )


def _counselchat(path: Path, source: Source) -> Iterator[Speech]:
    """counsel-chat's CSV: one row per answer; each question once, under the topic of most of its answers."""
    questions: dict[str, str] = {}
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for row in csv_rows(path):
        _need(row, ("questionID", "questionTitle", "questionText", "topic"), path)
        questions.setdefault(row["questionID"], row["questionText"] or row["questionTitle"])
        answers[row["questionID"]][row["topic"]] += 1
    license_ = source.license or KNOWN_SETS["counsel-chat"].license
    origin = file_origin(path)
    for key, text in questions.items():
        keys = [found[0] for name, _ in answers[key].most_common() if (found := counselchat_topics().get(name))]
        speech = _speech(text, "counsel-chat", f"counsel-chat:{key}", license_, origin, next(iter(keys), None))
        yield speech.model_copy(update={"secondary": tuple(keys[1:3])})


def accepted_topics(source: Source) -> dict[str, tuple[str, ...]]:
    """By source id of a counsel-chat CSV: every topic that its own topics may be read as; {} for other sources."""
    kind, _, rest = source.load.partition(":")
    found: dict[str, dict[str, None]] = defaultdict(dict)
    if kind == "counselchat" and rest:
        for row in csv_rows(data_path(rest)):
            keys = counselchat_topics().get(row.get("topic", ""), ())
            found[f"counsel-chat:{row.get('questionID')}"] |= dict.fromkeys(keys)
    return {source_id: tuple(keys) for source_id, keys in found.items()}


def _fastchat(path: Path, source: Source) -> Iterator[Speech]:
    """FastChat's question format: question_id and turns, of which the last is the speech."""
    origin = ""
    for number, row in read_rows(path):
        if "question_id" not in row or not isinstance(row.get("turns"), list) or not row["turns"]:
            raise UserError(f"{path}:{number}: needs 'question_id' and a list 'turns'")
        origin = origin or file_origin(path)
        yield _speech(str(row["turns"][-1]), path.name, question_key(row["question_id"]), source.license, origin)


def _preference(place: str, source: Source) -> Iterator[Speech]:
    """The speeches of a preference set in the released schema, each with the split it was released in."""
    for speech in read_preferences(place).speeches:
        yield speech.model_copy(update={"license": source.license}) if source.license else speech


def _known(name: str, place: str, source: Source) -> Iterator[Speech]:
    """One of the paper's sets: from the hub, or from a file or other id after the colon ('therapistqa:FILE')."""
    known = KNOWN_SETS[name]
    if not (place or known.hub):
        raise UserError(f"speeches: '{name}' is not on the hub; download its file and write load = \"{name}:FILE\"")
    column = "" if source.turns else known.column
    filled = source.model_copy(update={"text": source.text or column, "license": source.license or known.license})
    if Path(place).suffix in READERS:
        return _file(data_path(place), filled, name)
    return _hub(place or known.hub, filled, name)


def _file(path: Path, source: Source, name: str) -> Iterator[Speech]:
    if path.suffix not in READERS:
        known = ", ".join(
            ["embedded", "counselchat:FILE", "fastchat:FILE", "preference:PLACE", "hub:OWNER/NAME", *KNOWN_SETS]
        )
        raise UserError(
            f"speeches: source '{path}' is not a .csv, .json, .jsonl or .parquet file, "
            f"no package.module:function, nor one of: {known}"
        )
    rows = table_rows(path)  # says what is missing before the file is hashed
    return _table(rows, source, name, file_origin(path))


def _hub(place: str, source: Source, name: str) -> Iterator[Speech]:
    """A hub data set's train split, or its only split; a local folder in hub layout works the same."""
    splits = hub_rows(place)
    rows = splits["train" if "train" in splits else next(iter(splits))]
    filled = source.model_copy(update={"license": source.license or folder_license(place)})
    return _table(iter(rows), filled, name, hub_origin(place, rows))


def _function(module: str, attribute: str, source: Source) -> Iterator[Speech]:
    """A function of the user: it returns texts, table rows or finished speeches, in any mixture."""
    where = f"{module}:{attribute}"
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        hint = nearest(module, ["counselchat", "fastchat", "preference", "hub", *KNOWN_SETS])
        raise UserError(f"speeches: source '{where}' cannot be imported ({error}){hint}") from error
    if not callable(function):
        raise UserError(f"speeches: source '{where}' is no function that returns rows, texts or speeches")
    for number, item in enumerate(_called(function, where), 1):
        if isinstance(item, Speech):
            yield item if item.origin else item.model_copy(update={"origin": where})
        elif isinstance(item, str):
            yield _speech(_words(item), where, f"{where}:{number}", source.license, where)
        elif isinstance(item, dict):
            yield _from_row(item, source, where, where, number)
        else:
            raise UserError(
                f"speeches: source '{where}' gave {type(item).__name__} as item {number}; "
                "give texts, dicts with a text or turns column, or Speech records"
            )


def _called(function: Any, where: str) -> Iterator[Any]:
    """What a user's function gives. A failure is told by kind and line, never by a message that may hold a text."""
    try:
        yield from function()
    except UserError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        raise UserError(f"speeches: source '{where}' failed with {type(error).__name__} in {place}") from error


def _table(rows: Iterator[Row], source: Source, name: str, origin: str) -> Iterator[Speech]:
    """Any table: the column of the client's words is named in the recipe or recognised by its name."""
    for number, row in enumerate(rows, 1):
        yield _from_row(row, source, name, origin, number)


def _from_row(row: Row, source: Source, name: str, origin: str, number: int) -> Speech:
    column = source.turns or source.text or next((key for key in row if key.lower() in TEXT_COLUMNS), "")
    if column not in row:
        raise UserError(
            f"{source.load}: no column '{column or 'text'}'{nearest(column or 'text', list(row)) or '.'} "
            f'The columns are {columns_of(row)}; name the one with the client\'s words as text = "...", '
            'or the one with dialogues as turns = "..."'
        )
    for wanted in (source.id, source.topic):
        if wanted and wanted not in row:
            raise UserError(f"{source.load}: no column '{wanted}'{nearest(wanted, list(row))}")
    said: str | tuple[Turn, ...] = "" if source.turns else _words(row[column])
    if source.turns:
        try:
            said = read_turns(row[column])
        except ValueError as error:
            raise UserError(f"{source.load}: row {number}: column '{column}': {error}") from None
    source_id = str(row[source.id]) if source.id else f"{name}:{number}"
    return _speech(said, name, source_id, source.license, origin, _topic(row, source, number))


def _words(value: Any) -> str:
    """A cell as text: none and not-a-number are empty, half characters become '?' because no file could hold them."""
    return "" if value is None or value != value else str(value).encode("utf-8", "replace").decode()


def _topic(row: Row, source: Source, number: int) -> str | None:
    topic = _words(row[source.topic]) if source.topic else None
    if topic and topic not in load_topics():
        hint = nearest(topic[:40], list(load_topics())) or "."
        raise UserError(  # cut: the column named by mistake may hold a client's words
            f"{source.load}: '{topic:.20}' in row {number} is no fine topic{hint} "
            "The ids are in principles/topics.toml; leave sources.topic out to have topics filled in"
        )
    return topic or None


def _need(row: Row, columns: tuple[str, ...], path: Path) -> None:
    for column in columns:
        if column not in row:
            raise UserError(
                f"{path}: no column '{column}'{nearest(column, list(row)) or '.'} The columns are {columns_of(row)}"
            )
