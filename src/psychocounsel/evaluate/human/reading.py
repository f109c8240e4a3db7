"""Rows of label files as published: columns that must be there, numbers that are numbers, and where a fault is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError, nearest
from psychocounsel.rows import READERS, Row, columns_of, file_origin, hub_origin, hub_rows, table_rows

Place = Path | str


def labelled_rows(path: Path, columns: Sequence[str], what: str) -> Iterator[tuple[int, Row]]:
    """(number, row) of a table file, from 1. Raises UserError for a file or column that is not there, and if empty.

    `what` names the file as its authors publish it, for the error.
    """
    number = 0
    for number, row in enumerate(table_rows(path), 1):
        _need(row, columns, f"{path}: row {number}", what)
        yield number, row
    if not number:
        raise UserError(f"{path}: holds no rows; this must be {what}")


def placed_rows(place: Place, columns: Sequence[str], what: str, split: str) -> tuple[list[Row], str]:
    """(rows, origin) of a table file, or of a data set on the hub or in hub layout (its `split`, or its only one)."""
    path = Path(place)
    if path.suffix in READERS:
        return [row for _, row in labelled_rows(path, columns, what)], file_origin(path)
    splits = hub_rows(str(place))
    part = splits.get(split, next(iter(splits.values())))
    rows: list[Row] = []
    for number, row in enumerate(part, 1):
        _need(row, columns, f"{place}: row {number}", what)
        rows.append(row)
    if not rows:
        raise UserError(f"{place}: holds no rows; this must be {what}")
    return rows, hub_origin(str(place), part)


def text(row: Row, column: str) -> str:
    """A cell as text without outer spaces; none and not-a-number are ''."""
    value = row[column]
    return "" if value is None or value != value else str(value).strip()


def number(row: Row, column: str, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A cell as a number within bounds. Raises UserError; the cell itself is not told, it may hold a client's words."""
    try:
        value = float(text(row, column))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and low <= value <= high):
        bounds = f" from {low:g} to {high:g}" if math.isfinite(low) and math.isfinite(high) else ""
        raise UserError(f"{where}: column '{column}' holds no number{bounds}; mend the row or take it out")
    return value


def choice(row: Row, column: str, known: Mapping[str, Any], where: str) -> Any:
    """What a cell stands for, by its words in lower case. Raises UserError for other words."""
    word = text(row, column).lower()
    if word not in known:
        raise UserError(f"{where}: column '{column}' holds none of {', '.join(known)}; mend the row or take it out")
    return known[word]


def _need(row: Row, columns: Sequence[str], where: str, what: str) -> None:
    for column in columns:
        if column not in row:
            raise UserError(
                f"{where} has no column '{column}'{nearest(column, list(row)) or '.'} "
                f"The columns are {columns_of(row)}; this must be {what}"
            )
