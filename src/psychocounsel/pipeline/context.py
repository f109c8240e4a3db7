"""A run in progress: its recipe, folder and call store, and readers of what earlier stages left."""

from __future__ import annotations

import json
from dataclasses import dataclass

from psychocounsel.models.store import CallStore
from psychocounsel.pairs import HARD_SETS
from psychocounsel.principles import Principle, load_principles
from psychocounsel.recipe import Recipe
from psychocounsel.records import Pair, Rating, Response, Speech, read_records
from psychocounsel.run import RunFolder


@dataclass
class Run:
    """A recipe and its folder; the readers below give what earlier stages left."""

    recipe: Recipe
    folder: RunFolder
    store: CallStore
    engine: str = "here"

    @property
    def principles(self) -> tuple[Principle, ...]:
        return load_principles(self.recipe.principles)

    @property
    def rubric(self) -> tuple[Principle, ...]:
        """The principles as judges see them: equal weights, no gates; those are decided when pairs are made."""
        return tuple(p.model_copy(update={"weight": 1.0, "gate": False}) for p in self.principles)

    def speeches(self) -> list[Speech]:
        return read_records(self.folder.stage("speeches") / "speeches.jsonl", Speech)

    def responses(self) -> list[Response]:
        return read_records(self.folder.stage("responses") / "responses.jsonl", Response)

    def ratings(self) -> list[Rating]:
        return read_records(self.folder.stage("ratings") / "ratings.jsonl", Rating)

    def pairs(self) -> dict[str, list[Pair]]:
        place = self.folder.stage("pairs")
        return {split: read_records(place / f"{split}.jsonl", Pair) for split in ("train", "dev", "test")}

    def hard_pairs(self) -> dict[str, list[Pair]]:
        place = self.folder.stage("pairs")
        return {name: read_records(place / f"test-{name}.jsonl", Pair) for name in HARD_SETS}

    def overall(self) -> dict[str, float]:
        found: dict[str, float] = json.loads((self.folder.stage("pairs") / "overall.json").read_text(encoding="utf-8"))
        return found
