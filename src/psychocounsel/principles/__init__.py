"""What is good: professional principles and topics, as data that a recipe can change."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict

from psychocounsel.errors import UserError, nearest
from psychocounsel.recipe import PrinciplesTable, PrincipleText


class Principle(BaseModel):
    """One principle of the rubric: anchors[0] describes a score of 1, anchors[4] a score of 5."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    name: str
    definition: str
    grounding: str
    anchors: tuple[str, str, str, str, str]
    failures: tuple[str, ...]
    weight: float
    gate: bool


class Topic(BaseModel):
    """A fine topic, the coarse topic above it and a one-line definition."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    coarse: str
    definition: str


@cache
def _data(name: str) -> dict[str, Any]:
    return tomllib.loads(files("psychocounsel.principles").joinpath(name).read_text(encoding="utf-8"))


def load_principles(table: PrinciplesTable | None = None) -> tuple[Principle, ...]:
    """The seven principles with a recipe's changes: dropped, reworded, weighted, added. Raises UserError."""
    table = table or PrinciplesTable()
    rows = {row["id"]: dict(row) for row in _data("principles.toml")["principle"]}
    for key in [*table.drop, *table.weight, *(text.id for text in table.reword)]:
        if key not in rows and key not in {text.id for text in table.add}:
            raise UserError(f"principles: there is no principle '{key}'{nearest(key, list(rows))}")
    for text in table.add:
        if text.id in rows:
            raise UserError(
                f"principles.add: there is a principle '{text.id}' already; change it with principles.reword"
            )
        rows[text.id] = _complete(text)
    for text in table.reword:
        rows[text.id].update(text.model_dump(exclude_none=True))
    for key, weight in table.weight.items():
        rows[key]["weight"] = weight
    chosen = tuple(Principle.model_validate(row) for key, row in rows.items() if key not in table.drop)
    if not any(principle.weight > 0 for principle in chosen):
        raise UserError("principles: at least one principle needs a weight above 0")
    return chosen


def _complete(text: PrincipleText) -> dict[str, Any]:
    row = {
        "grounding": "",
        "failures": [],
        "weight": 1.0,
        "gate": False,
        **text.model_dump(exclude_none=True),
    }
    missing = [key for key in ("name", "definition", "anchors") if key not in row]
    if missing:
        raise UserError(f"principles.add: '{text.id}' also needs {', '.join(missing)}")
    return row


@cache
def load_topics() -> dict[str, Topic]:
    """All 42 fine topics by id, in the order of the taxonomy."""
    return {row["id"]: Topic.model_validate(row) for row in _data("topics.toml")["topic"]}


def counselchat_topics() -> dict[str, tuple[str, ...]]:
    """counsel-chat's own topic names and the fine topics each may be read as, the primary one first."""
    return {name: tuple(keys) for name, keys in _data("topics.toml")["counselchat"].items()}


def overall_score(
    scores: Mapping[str, float | None], principles: tuple[Principle, ...], *, gated: bool
) -> float | None:
    """Weighted mean of the scored principles; with `gated`, a gate score of 1 gives 1 and of 2 at most 2.

    Returns None when no weighted principle has a score. The paper uses the plain, ungated mean of all seven.
    """
    scored = [(scores.get(p.id), p) for p in principles if p.weight > 0]
    present = [(score, p) for score, p in scored if score is not None]
    if not present:
        return None
    overall = sum(score * p.weight for score, p in present) / sum(p.weight for _, p in present)
    if gated:
        for principle in principles:
            score = scores.get(principle.id)
            if principle.gate and score is not None and score < 2.5:
                overall = 1.0 if score < 1.5 else min(overall, 2.0)
    return overall
