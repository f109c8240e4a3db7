"""Records at rest, read when asked for: of a large file only an index of ids is held in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic

from pydantic import ValidationError

from psychocounsel.errors import UserError
from psychocounsel.records import AnyRecord, read_rows


class Stored(Generic[AnyRecord]):
    """The records of a JSON Lines file by id. Raises UserError for lines that are no such record."""

    def __init__(self, path: Path, kind: type[AnyRecord]) -> None:
        self.path, self.kind = path, kind
        self.offsets: dict[str, int] = {}
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        offset = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    self.offsets[self._id(line, number)] = offset
                offset += len(line)
        self.file = path.open("rb")

    def __enter__(self) -> Stored[AnyRecord]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def __getitem__(self, key: str) -> AnyRecord:
        if key not in self.offsets:
            raise UserError(
                f"{self.path}: there is no {self.kind.__name__.lower()} {key}; was the file changed by hand?"
            )
        self.file.seek(self.offsets[key])
        row = json.loads(self.file.readline())
        row.pop("id", None)
        record = checked(row, self.kind, f"{self.path}: {key}")
        if getattr(record, "id", key) != key:
            raise UserError(f"{self.path}: {key}: its id is not that of its content; was the file changed by hand?")
        return record

    def _id(self, line: bytes, number: int) -> str:
        try:
            return str(json.loads(line)["id"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}:{number}: not a {self.kind.__name__.lower()} with an id") from error


def stream(path: Path, kind: type[AnyRecord]) -> Iterator[AnyRecord]:
    """The records of a JSON Lines file one by one. Raises UserError as `read_records` does."""
    for number, row in read_rows(path):
        row.pop("id", None)
        yield checked(row, kind, f"{path}:{number}")


def checked(row: dict[str, Any], kind: type[AnyRecord], where: str) -> AnyRecord:
    """A row as a record, or UserError with the first fault."""
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or kind.__name__
        raise UserError(f"{where}: {name}: {first['msg']}") from error
