"""Files of rows, read and written in chunks: JSON Lines and Parquet, written under another name and then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from psychocounsel.errors import UserError
from psychocounsel.records import read_rows
from psychocounsel.score.rows import read_item

CHUNK = 1_000  # rows in memory
SUFFIXES = (".jsonl", ".parquet")
Row = dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file with their numbers (lines of JSON Lines, rows of Parquet, from 1); `table` if Parquet."""

    numbers: Sequence[int]
    rows: Sequence[Row]
    table: Any = None


Write = Callable[[Chunk, Sequence[Row]], None]


@dataclass
class Survey:
    """What a first look at a file found: how many rows, which columns, and their types where Parquet needs them."""

    rows: int = 0
    columns: set[str] = field(default_factory=set)
    schema: Any = None


def check_paths(source: Path, target: Path) -> None:
    """Raises UserError for a missing input, an output that is a folder, and endings that name no known form."""
    if target.is_dir() or not target.name:
        raise UserError(f"--output {target}: is a folder; name a file")
    for option, path in (("--input", source), ("--output", target)):
        if path.suffix not in SUFFIXES:
            raise UserError(f"{option} {path}: name a {' or '.join(SUFFIXES)} file")
    if not source.is_file():
        raise UserError(f"{source}: no such file")


def read_chunks(path: Path) -> Iterator[Chunk]:
    """The rows of a file, at most CHUNK at a time. Raises UserError for a file that cannot be read."""
    if path.suffix == ".jsonl":
        lines = read_rows(path)
        while part := list(islice(lines, CHUNK)):
            yield Chunk([number for number, _ in part], [row for _, row in part])
    else:
        yield from _parquet_chunks(path)


def _parquet_chunks(path: Path) -> Iterator[Chunk]:
    import pyarrow
    import pyarrow.parquet

    start = 1
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=CHUNK):
            yield Chunk(range(start, start + len(batch)), batch.to_pylist(), pyarrow.Table.from_batches([batch]))
            start += len(batch)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: a text is not UTF-8 ({error.reason}); convert the file first") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not a Parquet file, or a damaged one ({' '.join(str(error).split())[:120]})"
        ) from error


def survey(source: Path, target: Path) -> Survey:
    """Read every row once, so that what is wrong with any of them is said before a model is opened.

    Raises UserError for rows that cannot be scored, and for values that the output's form cannot hold.
    """
    found = Survey()
    forms: set[bool] = set()
    for chunk in read_chunks(source):
        for number, row in zip(chunk.numbers, chunk.rows, strict=True):
            forms.add(read_item(f"{source}:{number}", row).several)
            found.columns.update(row)
            if chunk.table is not None and target.suffix == ".jsonl":
                _check_json(f"{source}:{number}", row)
        if chunk.table is None and target.suffix == ".parquet":
            found.schema = _wider(source, chunk, found.schema)
        found.rows += len(chunk.rows)
    if not found.rows:
        raise UserError(f"{source}: empty; expected rows with 'speech' (or a dialogue) and 'response'")
    if len(forms) > 1 and target.suffix == ".parquet":
        raise UserError(
            f"{source}: some rows have 'response' and some 'responses'; Parquet holds one form, write .jsonl"
        )
    return found


def _check_json(where: str, row: Row) -> None:
    for name, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise UserError(f"{where}: column '{name:.20}' holds what JSON cannot; write .parquet") from None


def _wider(source: Path, chunk: Chunk, schema: Any) -> Any:
    """The Arrow schema that holds a chunk of JSON rows and all rows before it."""
    import pyarrow as pa

    fields = []
    for name in dict.fromkeys(key for row in chunk.rows for key in row):
        try:
            fields.append(pa.field(name, pa.array([row.get(name) for row in chunk.rows]).type))
        except (pa.ArrowException, OverflowError):
            raise _mixed(source, name) from None
    mine = pa.schema(fields)
    if schema is None:
        return mine
    for place in mine:
        try:
            schema = pa.unify_schemas([schema, pa.schema([place])], promote_options="permissive")
        except pa.ArrowException:
            raise _mixed(source, place.name) from None
    return schema


def _mixed(source: Path, name: str) -> UserError:
    return UserError(f"{source}: column '{name:.20}' holds values of different kinds; write .jsonl")


@contextmanager
def writing(target: Path, schema: Any = None) -> Iterator[Write]:
    """Yield `write(chunk, added)`. The file has its name only when everything is written; else nothing is left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    form = _json_lines if target.suffix == ".jsonl" else _parquet
    try:
        with part.open("wb") as file:
            with form(file, schema) as write:
                yield write
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def _json_lines(file: IO[bytes], schema: Any) -> Iterator[Write]:
    def write(chunk: Chunk, added: Sequence[Row]) -> None:
        for row, more in zip(chunk.rows, added, strict=True):
            file.write(json.dumps({**row, **more}, ensure_ascii=False, allow_nan=False).encode() + b"\n")

    yield write


@contextmanager
def _parquet(file: IO[bytes], schema: Any) -> Iterator[Write]:
    """Columns of a Parquet input are written as they were read, never by way of Python values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None

    def write(chunk: Chunk, added: Sequence[Row]) -> None:
        nonlocal writer
        try:
            table = chunk.table if chunk.table is not None else pa.Table.from_pylist(chunk.rows, schema=schema)
            table = table.drop_columns([name for name in added[0] if name in table.column_names])
            for name in added[0]:
                kind = writer.schema.field(name).type if writer else None
                table = table.append_column(name, pa.array([row[name] for row in added], type=kind))
            table = table.replace_schema_metadata(None)  # what other libraries noted about the columns is no longer so
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
        except pa.ArrowException as error:
            first = " ".join(str(error).split())[:120]
            raise UserError(f"the rows do not fit into Parquet ({first}); write .jsonl") from error

    try:
        yield write
    except BaseException:
        with suppress(Exception):
            if writer:
                writer.close()  # or it would be closed when it is collected, after its file
        raise
    if writer:
        writer.close()
