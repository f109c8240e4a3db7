"""Calls of a stage as batch files, and back: half the price at most services, or a whole vLLM machine at night."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.models import open_models
from psychocounsel.models.batch import Planned, batched_only, export_calls, import_calls
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
    left: set[str] = set()
    with _store(recipe, runs, stage) as store:
        lines = export_calls(batched_only(_planned(recipe, runs, stage, store), left), store, folder, stage)
    for path, count in sorted(lines.items()):
        print(f"{count:>7} calls: {path}")
    if left:
        print(f"not in a file, because only OpenAI-compatible endpoints take them: {', '.join(sorted(left))}")
    if not lines:
        print(f"{stage}: no call of this stage waits for a batch")


def import_batch(recipe: Recipe, runs: Path, stage: str, paths: Sequence[Path]) -> None:
    """Put batch results into the run's call store; the stage then finds them there."""
    with _store(recipe, runs, stage) as store:
        counts = import_calls(batched_only(_planned(recipe, runs, stage, store), set()), store, paths)
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
    return iter(plan_responses(run.speeches(), pool, recipe.responses, recipe.seed))
