"""results.json and items.jsonl: what every evaluation leaves, and what `eval gate` compares. A stable interface."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from psychocounsel.errors import UserError
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.records import Record, read_records, write_records, write_text

SCHEMA: Literal["psychocounsel-results/1"] = "psychocounsel-results/1"
Finite = Annotated[float, Field(allow_inf_nan=False)]
RESULTS, ITEMS = "results.json", "items.jsonl"


class Results(Record):
    """Everything an evaluation measured, by metric name. `dependent` are the reasons why a judge is not independent
    (empty is good), `judges` who graded, `about` what was evaluated: names, counts, licences; never a client's text."""

    schema_: Literal["psychocounsel-results/1"] = Field(default=SCHEMA, alias="schema")
    name: str
    command: str = "run"
    dependent: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    about: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, Figure] = Field(default_factory=dict)


class ItemValue(Record):
    """The value of one item (speech, pair) behind a metric: two evaluations with the same items are compared by them.

    `item` is an id, `cluster` that of its near-duplicates; the mean of `value` over the items is the metric. `known`
    holds what else a comparison needs (characters of both replies of a contest: `chars_a`, `chars_b`).
    """

    metric: str
    item: str
    cluster: str
    value: Finite
    known: dict[str, Finite] = Field(default_factory=dict)


def metric_part(name: str) -> str:
    """A policy's name as the names of metrics carry it: a dot would part them, and patterns of gates read the rest."""
    return re.sub(r"\W", "_", name)


def write_results(folder: Path, results: Results, items: Iterable[ItemValue]) -> None:
    """Write both files, each atomically; results.json last: where it stands, the other is complete."""
    write_records(folder / ITEMS, items)
    text = json.dumps(results.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False)
    write_text(folder / RESULTS, text)


def read_results(folder: Path) -> Results:
    """The results of a run or an evaluation folder. Raises UserError for one that is unfinished or damaged."""
    path = folder / RESULTS
    if not path.is_file():
        raise UserError(f"{folder}: holds no {RESULTS}; name the folder of a finished run or evaluation")
    try:
        return Results.model_validate_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: damaged (not UTF-8); run again") from error
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise UserError(f"{path}: damaged, or of another version ({what:.160}); run again") from error


def read_items(folder: Path) -> dict[str, dict[str, ItemValue]]:
    """Values by metric and item; {} for an evaluation that left none."""
    path = folder / ITEMS
    found: dict[str, dict[str, ItemValue]] = {}
    for row in read_records(path, ItemValue) if path.is_file() else []:
        if row.item in found.setdefault(row.metric, {}):
            raise UserError(f"{path}: {row.metric} has the item {row.item} twice; run again")
        found[row.metric][row.item] = row
    return found


def schema() -> Mapping[str, Any]:
    """The JSON schema of results.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Results.model_json_schema(by_alias=True)}
