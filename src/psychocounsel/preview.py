"""What a recipe would do, before it spends anything: sources, calls, tokens, training."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from psychocounsel.errors import UserError
from psychocounsel.models import open_models
from psychocounsel.pipeline.preflight import preflight
from psychocounsel.principles import load_principles
from psychocounsel.principles.prompts import judge_prompt
from psychocounsel.ratings import SCORERS
from psychocounsel.recipe import Recipe
from psychocounsel.responses import plan_responses
from psychocounsel.run import STAGES
from psychocounsel.speeches import collect
from psychocounsel.speeches.sources import KNOWN_SETS, read_source

CHARS_PER_TOKEN = 4.0  # English text, common tokenizers; a preview, not a bill


def preview(recipe: Recipe) -> None:
    """Print the recipe's plan. Opens local sources and models, calls none. Raises UserError as a run would."""
    principles = load_principles(recipe.principles)
    preflight(recipe, STAGES)
    hub = [source.load for source in recipe.speeches.sources if _is_remote(source.load)]
    table = Table("stage", "plan", title=f"Recipe {recipe.name}", title_justify="left")
    table.add_row("principles", ", ".join(f"{p.id} x{p.weight:g}{' (gate)' if p.gate else ''}" for p in principles))
    if hub:
        table.add_row("speeches", f"from the hub, not counted here: {', '.join(hub)}")
        Console().print(table)
        return
    collection = collect(
        [s for source in recipe.speeches.sources for s in read_source(source)], recipe.speeches, recipe.seed
    )
    table.add_row(
        "speeches",
        f"{collection.read} read, {len(collection.speeches)} kept, dropped {collection.reasons() or 'none'}",
    )
    pool = [model for name in recipe.responses.models for model in open_models(name)]
    jobs = plan_responses(collection.speeches, pool, recipe.responses, recipe.seed)
    asked = sum(len(message["content"]) for _, request in jobs for message in request.messages) / CHARS_PER_TOKEN
    answered = len(jobs) * recipe.responses.max_tokens
    table.add_row(
        "responses",
        f"{len(jobs)} calls to {len(pool)} models, about {asked:,.0f} tokens in, at most {answered:,} out",
    )
    judges = sum(1 if name in SCORERS else len(open_models(name, "ratings")) for name in recipe.ratings.judges)
    rubric = len(judge_prompt(principles)) / CHARS_PER_TOKEN
    calls = len(jobs) * judges
    table.add_row(
        "ratings",
        f"at most {calls} calls to {judges} judges, {calls * (rubric + recipe.responses.max_tokens):,.0f} tokens in "
        f"({rubric:,.0f} of each are the same rubric) and {calls * recipe.ratings.max_tokens:,} out",
    )
    table.add_row(
        "training",
        f"base {recipe.base}: supervised {recipe.supervised.epochs:g} epochs, reward {recipe.reward.epochs:g}, "
        f"policy {recipe.policy.epochs:g} and {recipe.policy.online.rounds} online rounds",
    )
    table.add_row(
        "evaluate",
        f"judges {', '.join(recipe.evaluate.judges)} on splits {', '.join(recipe.evaluate.speeches)}",
    )
    Console().print(table)
    if "/" in recipe.base and not Path(recipe.base).exists() and os.environ.get("HF_HUB_OFFLINE") == "1":
        raise UserError(f"base '{recipe.base}': no such folder, and HF_HUB_OFFLINE=1 forbids the hub")


def _is_remote(load: str) -> bool:
    return load.startswith("hub:") or bool(KNOWN_SETS.get(load, ("",))[0])
