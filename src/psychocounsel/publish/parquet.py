"""Rows as Parquet in the hub's layout: fixed schemas and settings, so that the same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psychocounsel.preference import COLUMNS, TEXTS
from psychocounsel.publish.rows import Row, principle_columns

if TYPE_CHECKING:
    import pyarrow

GROUP = 1_000  # rows held in memory, and rows of a row group: about 3 MB of text
SHARD = 100_000  # rows of a file


def form_schemas(principles: Sequence[str]) -> dict[str, pyarrow.Schema]:
    """The columns of the three forms."""
    import pyarrow as pa

    text, number, whole = pa.string(), pa.float64(), pa.int64()
    messages = pa.list_(pa.struct([("role", text), ("content", text)]))
    texts = (
        "ID",
        "pair_id",
        "chosen_id",
        "rejected_id",
        "source",
        "source_id",
        "license",
        "topic",
        "stage",
        "risk",
        "cluster",
    )
    return {
        "released": pa.schema([(name, text if name in TEXTS else whole) for name in COLUMNS]),
        "trl": pa.schema(
            [*((name, messages) for name in ("prompt", "chosen", "rejected"))]
            + [(name, number) for name in ("score_chosen", "score_rejected")]
        ),
        "scores": pa.schema(
            [("ID", text), ("prefID", whole), *((name, text) for name in texts[1:])]
            + [("gap", number), ("uncertainty", number), ("judges", pa.list_(text))]
            + [(name, number) for name in ("votes", "probability", *principle_columns(principles))]
        ),
    }


@dataclass
class Table:
    """One split of one form on its way to the disk. `rows` is how many there will be; it names the files."""

    folder: Path
    split: str
    schema: pyarrow.Schema
    rows: int
    examples: int = 0
    bytes: int = 0
    files: list[Path] = field(default_factory=list)
    _waiting: list[Row] = field(default_factory=list)
    _writer: Any = None

    def add(self, row: Row) -> None:
        """Take one row; it is on the disk after `close` at the latest."""
        self._waiting.append(row)
        self.examples += 1
        if len(self._waiting) == GROUP or self.examples % SHARD == 0:
            self._flush()
        if self.examples % SHARD == 0:
            self._finish_file()

    def close(self) -> None:
        self._flush()
        self._finish_file()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._waiting:
            return
        batch = pa.Table.from_pylist(self._waiting, schema=self.schema)
        self._waiting = []
        self.bytes += batch.nbytes
        if self._writer is None:
            shards = max(1, -(-self.rows // SHARD))
            path = self.folder / f"{self.split}-{len(self.files):05d}-of-{shards:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            self.files.append(path)
            self._writer = pq.ParquetWriter(
                path, self.schema, version="2.6", data_page_version="1.0", compression="zstd", compression_level=3
            )
        self._writer.write_table(batch, row_group_size=GROUP)

    def _finish_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def features(schema: pyarrow.Schema) -> list[dict[str, Any]]:
    """The columns as the `datasets` library writes them into a card."""
    import pyarrow as pa

    found: list[dict[str, Any]] = []
    for column in schema:
        if pa.types.is_list(column.type):
            inner = column.type.value_type
            struct = pa.types.is_struct(inner)
            found.append({"name": column.name, "list": features(pa.schema(list(inner))) if struct else _dtype(inner)})
        else:
            found.append({"name": column.name, "dtype": _dtype(column.type)})
    return found


def _dtype(kind: Any) -> str:
    return {"double": "float64"}.get(str(kind), str(kind))
