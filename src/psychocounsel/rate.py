"""Rate the rows of any file: the ratings stage for people who bring their own speeches and replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError, nearest
from psychocounsel.models.prices import Budget, load_prices
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles, overall_score
from psychocounsel.progress import progress
from psychocounsel.ratings import described, open_judges
from psychocounsel.ratings.judge import Item, rate_all
from psychocounsel.recipe import ModelsTable
from psychocounsel.records import Response, Speech, Turn, read_rows, write_rows


def rate_file(judge_name: str, source: Path, target: Path, calls: Path | None, budget: float | None = None) -> None:
    """Write `source`'s rows with `scores` and `overall` added (null where the judge gave no usable rating).

    `overall` is the gated mean of the principles. Raises UserError for missing columns, empty files and several judges.
    """
    if target.is_dir() or not target.name:
        raise UserError(f"--output {target}: is a folder; name a file")
    rows = [(number, row) for number, row in read_rows(source)]
    if not rows:
        raise UserError(f"{source}: empty; expected rows with 'speech' and 'response'")
    items = [_item(source, number, row) for number, row in rows]
    judges = open_judges([judge_name])
    if len(judges) != 1:
        raise UserError(f"--judge {judge_name}: holds {len(judges)} judges; name one")
    judge, principles = judges[0], load_principles()
    print(described(judge))
    filled = [(position, item) for position, item in enumerate(items) if item is not None]
    with (
        CallStore(calls or target.with_suffix(".calls.sqlite")) as store,
        progress("rate", len(filled)) as advance,
    ):
        store.budget = Budget(load_prices(ModelsTable()), budget, store.spent())
        results = rate_all(judge, [item for _, item in filled], principles, store, advance)
    ratings = {position: rating for (position, _), (rating, _) in zip(filled, results, strict=True)}
    made = []
    for position, (_, row) in enumerate(rows):
        rating = ratings.get(position)
        scores: dict[str, Any] | None = dict(rating.scores) if rating else None
        overall = overall_score(rating.scores, principles, gated=True) if rating else None
        made.append({**row, "scores": scores, "overall": None if overall is None else round(overall, 4)})
    write_rows(target, made)
    unrated = sum(row["overall"] is None for row in made)
    print(f"{len(made) - unrated} rows rated, {unrated} without a usable rating: {target}")


def _item(source: Path, number: int, row: dict[str, Any]) -> Item | None:
    """The row as an Item; None for an empty reply, which nobody can rate."""
    for column in ("speech", "response"):
        if not isinstance(row.get(column), str):
            raise UserError(f"{source}:{number}: no text in column '{column}'{nearest(column, list(row))}")
    if not row["speech"].strip():
        raise UserError(f"{source}:{number}: the speech is empty")
    if not row["response"].strip():
        return None
    speech = Speech(turns=(Turn(role="client", text=row["speech"]),), source=source.name, source_id=str(number))
    return Item(speech, Response(speech_id=speech.id, model="", text=row["response"]))
