"""Calls of a stage as batch files, and back: half the price at most services, or a whole vLLM machine at night."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.models import open_models
from psychocounsel.models.batch import Planned, export_calls, import_calls, remote_only
from psychocounsel.models.prices import Budget, load_prices
from psychocounsel.models.store import CallStore
from psychocounsel.pipeline.context import Run
from psychocounsel.ratings import plan_ratings
from psychocounsel.recipe import Recipe
from psychocounsel.responses import plan_responses
from psychocounsel.run import RunFolder

BATCHED = {"responses": ("speeches",), "ratings": ("speeches", "responses")}


def export_batch(recipe: Recipe, runs: Path, stage: str, folder: Path) -> None:
    """Write the calls of a stage that are still open into `folder`. Raises UserError when its inputs are not made."""
    with _store(recipe, runs, stage) as store:
        lines = export_calls(_planned(recipe, runs, stage, store), store, folder, stage)
    for path, count in sorted(lines.items()):
        print(f"{count:>7} calls: {path}")
    if not lines:
        print(f"{stage}: every remote call of this stage is in the call store already")


def import_batch(recipe: Recipe, runs: Path, stage: str, paths: Sequence[Path]) -> None:
    """Put batch results into the run's call store; the stage then finds them there."""
    with _store(recipe, runs, stage) as store:
        counts = import_calls(_planned(recipe, runs, stage, store), store, paths)
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "the files hold no results")
    if counts["failed"] or counts["unreadable"]:
        print(f"what failed is asked again: psychocounsel {stage} RECIPE, or export once more")


def _store(recipe: Recipe, runs: Path, stage: str) -> CallStore:
    folder = RunFolder(runs / recipe.name)
    if stage not in BATCHED:
        raise UserError(f"--stage {stage}: only {' and '.join(BATCHED)} can be asked in batches")
    for needed in BATCHED[stage]:
        if folder.manifest(needed) is None:
            raise UserError(f"{folder.path}: stage {needed} is not finished; run psychocounsel {needed} first")
    store = CallStore(folder.path / "calls.sqlite")
    store.budget = Budget(load_prices(recipe.models), None, store.spent())
    return store


def _planned(recipe: Recipe, runs: Path, stage: str, store: CallStore) -> Iterator[Planned]:
    run = Run(recipe, RunFolder(runs / recipe.name), store)
    if stage == "ratings":
        return plan_ratings(run.speeches(), run.responses(), run.rubric, recipe.ratings, recipe.models)
    pool = [model for name in recipe.responses.models for model in open_models(name, table=recipe.models)]
    planned: list[Planned] = plan_responses(run.speeches(), pool, recipe.responses, recipe.seed)
    return remote_only(planned)
