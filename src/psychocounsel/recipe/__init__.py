"""The recipe: one strict TOML file that says everything a run does. Unknown keys and wrong types are errors."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from string import Template
from typing import Annotated, Any

from pydantic import Field, ValidationError

from psychocounsel.errors import UserError, nearest
from psychocounsel.recipe.online import EngineTable, LimitsTable, OnlineTable, engine_fault, online_fault
from psychocounsel.recipe.tables import (
    ModelsTable,
    PairsTable,
    PrinciplesTable,
    PrincipleText,
    PrivacyTable,
    PublishTable,
    RatingsTable,
    ResponsesTable,
    Source,
    SpeechesTable,
    Table,
)
from psychocounsel.recipe.training import (
    FREE,
    EmbeddedModel,
    EvaluateTable,
    LoraTable,
    MixSource,
    PolicyTable,
    RewardTable,
    SupervisedTable,
    Training,
    best_of_fault,
    loss_fault,
)

DATA_VARIABLE = "PSYCHOCOUNSEL_DATA"
SECRET = (
    "named by a URL with a user, a password or a '?' in it, and names of models are written into the run; leave that "
    "out and export the key as PSYCHOCOUNSEL_API_KEY"
)
__all__ = [
    "DATA_VARIABLE",
    "FREE",
    "SECRET",
    "EmbeddedModel",
    "EngineTable",
    "EvaluateTable",
    "LimitsTable",
    "LoraTable",
    "MixSource",
    "ModelsTable",
    "OnlineTable",
    "PairsTable",
    "PolicyTable",
    "PrincipleText",
    "PrinciplesTable",
    "PrivacyTable",
    "PublishTable",
    "RatingsTable",
    "Recipe",
    "ResponsesTable",
    "RewardTable",
    "Source",
    "SpeechesTable",
    "SupervisedTable",
    "Table",
    "Training",
    "apply_override",
    "data_path",
    "explain",
    "holds_secret",
    "load_recipe",
    "parse_recipe",
    "read_toml",
]


class Recipe(Table):
    """A complete recipe. The order of the stage tables is the order of the pipeline."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run folder")
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    base: str = Field(default="embedded", description="'embedded', a hub id, or a local folder in Hugging Face layout")
    threads: Annotated[int, Field(ge=0)] = Field(default=0, description="processor threads for training; 0 = all")
    principles: PrinciplesTable = PrinciplesTable()
    models: ModelsTable = ModelsTable()
    speeches: SpeechesTable = SpeechesTable()
    responses: ResponsesTable = ResponsesTable()
    ratings: RatingsTable = RatingsTable()
    pairs: PairsTable = PairsTable()
    supervised: SupervisedTable = SupervisedTable()
    reward: RewardTable = RewardTable()
    policy: PolicyTable = PolicyTable()
    evaluate: EvaluateTable = EvaluateTable()
    publish: PublishTable = PublishTable()


def data_path(text: str) -> Path:
    """A recipe's path with ~ and $VARIABLES filled in; $PSYCHOCOUNSEL_DATA defaults to ../shared/data."""
    filled = Template(text).safe_substitute({DATA_VARIABLE: "../shared/data", **os.environ})
    if "$" in filled:
        raise UserError(f"{text}: the environment variable in this path is not set")
    return Path(filled).expanduser()


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read, override (`table.key=value`) and validate a recipe. Raises UserError with file, key and remedy."""
    data = read_toml(path, "recipe")
    for override in overrides or []:
        apply_override(data, override)
    return parse_recipe(data, str(path))


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The data of a TOML file that people write; `what` it is, in one word. Raises UserError with file and remedy."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}; see the recipes/ folder for complete examples") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name a {what} file (*.toml)") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; {what}s are UTF-8 text") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a list in a list in a list
        raise UserError(f"{path}: not valid TOML: {error}") from None


def explain(error: ValidationError, where: str, root: type[Table]) -> UserError:
    """The first faults of a strict table as one line: key, what is wrong and, for an unknown key, the nearest one."""
    return UserError("; ".join(f"{where}: {_explain(problem, root)}" for problem in error.errors()[:3]))


def parse_recipe(data: dict[str, Any], where: str) -> Recipe:
    """Validate recipe data; errors name the key and, for unknown keys, the nearest known one."""
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise explain(error, where, Recipe) from None
    if recipe.speeches.min_chars > recipe.speeches.max_chars:
        raise UserError(f"{where}: speeches.min_chars is larger than speeches.max_chars; no speech could pass")
    if recipe.responses.samples > 1 and recipe.responses.temperature == 0:
        raise UserError(f"{where}: several responses.samples at responses.temperature = 0 would pay for equal replies")
    if recipe.speeches.dev + recipe.speeches.test >= 1:
        raise UserError(f"{where}: speeches.dev + speeches.test must be below 1; nothing is left to train on")
    online, evaluate = recipe.policy.online, recipe.evaluate
    fault = (
        loss_fault(recipe.policy)
        or online_fault(online, evaluate.judges)
        or engine_fault("evaluate.engine", evaluate.engine)
        or best_of_fault(evaluate)
    )
    if fault:
        raise UserError(f"{where}: {fault}")
    speeches = recipe.speeches
    named = [*recipe.responses.models, *recipe.ratings.judges, *evaluate.judges, *online.judges, *online.rewards]
    named = [name.removeprefix("judge:") for name in [*named, *online.engine.urls, *evaluate.engine.urls]]
    if any(map(holds_secret, [*named, speeches.topics, speeches.privacy.model])):
        raise UserError(f"{where}: a model is {SECRET}")
    return recipe


def holds_secret(text: str) -> bool:
    """Whether a model's URL carries what must not be written into a run."""
    return re.match(r"https?://(?:[^/#]*@|[^#]*\?)", text) is not None


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one `table.key=value` in recipe data; the value is TOML, or plain text where it is not."""
    match = re.fullmatch(r"([A-Za-z_][\w.]*)\s*=\s*(.*)", override, re.S)
    if not match:
        raise UserError(f"--set {override}: write it as table.key=value, for example --set pairs.gap=0.5")
    keys, text = match[1].split("."), match[2]
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = data
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {override}: '{key}' is not a table")
    table[keys[-1]] = value


def _explain(problem: Any, root: type[Table]) -> str:
    location = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{'.'.join(location)}'{nearest(location[-1], _known_keys(location[:-1], root))}"
    if problem["type"] == "missing":
        return f"'{'.'.join(location)}' is missing"
    return f"'{'.'.join(location)}': {problem['msg']} (found {problem['input']!r:.80})"


def _known_keys(location: list[str], root: type[Table]) -> list[str]:
    """Keys of the table at a location such as ['policy', 'online']; list positions are skipped."""
    table: Any = root
    for part in location:
        if part.isdigit():
            continue
        annotation = table.model_fields[part].annotation
        inner = [kind for kind in (annotation, *getattr(annotation, "__args__", ())) if hasattr(kind, "model_fields")]
        if not inner:
            return []
        table = inner[0]
    return list(table.model_fields)
