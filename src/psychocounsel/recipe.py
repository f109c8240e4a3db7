"""The recipe: one strict TOML file that says everything a run does. Unknown keys and wrong types are errors."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from psychocounsel.errors import UserError, nearest

DATA_VARIABLE = "PSYCHOCOUNSEL_DATA"
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]


class Table(BaseModel):
    """Base of all recipe tables: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PrincipleText(Table):
    """A new principle, or new words for an existing one (fields left out keep their text)."""

    id: str = Field(pattern=r"^[a-z][a-z_]*$")
    name: str | None = None
    definition: str | None = None
    grounding: str | None = None
    anchors: list[str] | None = Field(default=None, min_length=5, max_length=5)
    failures: list[str] | None = None
    weight: float | None = Field(default=None, ge=0)
    gate: bool | None = None


class PrinciplesTable(Table):
    drop: list[str] = Field(default=[], description="ids of principles to leave out")
    weight: dict[str, Annotated[float, Field(ge=0)]] = Field(default={}, description="id = weight in the overall score")
    reword: list[PrincipleText] = Field(default=[], description="new words for existing principles")
    add: list[PrincipleText] = Field(default=[], description="further principles")


class Source(Table):
    """Where speeches come from: 'embedded', a known data set, a CSV/JSONL/Parquet file, or a hub data set."""

    load: str = Field(
        min_length=1,
        description="'embedded', 'counselchat:FILE', 'fastchat:FILE', 'hub:OWNER/NAME', a known set or a file",
    )
    text: str = Field(default="", description="column that holds the client's words")
    id: str = Field(default="", description="column that holds an id")
    topic: str = Field(default="", description="column that holds a topic key")
    license: str = Field(default="", description="licence of the texts, stored on every record")
    limit: Positive | None = Field(default=None, description="read at most so many rows")


class SpeechesTable(Table):
    sources: list[Source] = Field(default=[Source(load="embedded")], min_length=1)
    min_chars: Positive = 100
    max_chars: Positive = 1000
    language: str = Field(default="en", description="keep this language (ISO 639-1); '' keeps all")
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.8, description="word 3-gram Jaccard from which the later row is dropped"
    )
    cluster: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.4, description="Jaccard from which two speeches share a cluster, so a split"
    )
    dev: Fraction = 0.1
    test: Fraction = 0.2
    topics: str = Field(default="tfidf", description="who fills missing topics: 'tfidf', 'none', or a model string")


class ResponsesTable(Table):
    models: list[str] = Field(default=["recorded:embedded"], min_length=1, description="the pool of candidate models")
    per_speech: Positive = Field(default=4, description="models drawn per speech, by content hash")
    temperature: Annotated[float, Field(ge=0)] = 0.8
    max_tokens: Positive = 512
    limit: Positive | None = Field(default=None, description="answer at most so many speeches (by content hash)")


class RatingsTable(Table):
    judges: list[str] = Field(default=["recorded:embedded"], min_length=1)
    max_tokens: Positive = 1200


class PairsTable(Table):
    rule: Literal["gate", "paper"] = "gate"
    gap: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="least difference of overall scores in a train pair"
    )
    test_gap: Annotated[float, Field(ge=0)] = Field(
        default=0.5, description="least difference of best and worst in a test pair"
    )


class Training(Table):
    """Settings shared by every trained stage."""

    lr: Annotated[float, Field(gt=0)]
    epochs: Annotated[float, Field(ge=0)]
    batch: Positive = Field(description="examples (replies or pairs) per optimizer step")
    warmup: Fraction = 0.1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] = 1.0
    max_length: Positive = Field(
        default=2048, description="tokens of a row; prompt (from its start) and reply are cut to half of it each"
    )
    micro_batch: Positive = Field(default=16, description="rows in memory at once")
    checkpoint_steps: Positive = Field(default=50, description="steps between checkpoints")
    evaluate_steps: Positive = Field(default=50, description="steps between looks at the dev split")
    precision: Literal["auto", "fp32", "bf16"] = "auto"


class EmbeddedModel(Table):
    """Size and first training of the model built on this machine when base = 'embedded'."""

    vocabulary: Positive = 2048
    hidden: Positive = 192
    layers: Positive = 4
    heads: Positive = 4
    context: Positive = 1024
    epochs: Annotated[float, Field(ge=0)] = Field(
        default=6, description="passes of language modelling over speeches and replies"
    )
    lr: Annotated[float, Field(gt=0)] = 3e-3
    batch: Positive = 16


class SupervisedTable(Training):
    lr: Annotated[float, Field(gt=0)] = 1e-5
    epochs: Annotated[float, Field(ge=0)] = Field(default=1, description="0 takes the base model as it is")
    batch: Positive = 16
    min_overall: Annotated[float, Field(ge=1, le=5)] = Field(
        default=3.5, description="replies rated at least this well are imitated"
    )
    embedded: EmbeddedModel = EmbeddedModel()


class RewardTable(Training):
    lr: Annotated[float, Field(gt=0)] = 9e-6
    epochs: Annotated[float, Field(gt=0)] = 2
    batch: Positive = 128
    base: str = Field(default="", description="another starting model; '' starts from the supervised model")
    margin: bool = Field(default=False, description="demand a score difference in proportion to the rated gap")
    centre: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight of (r_chosen + r_rejected)^2, keeps scores around 0"
    )


class OnlineTable(Table):
    rounds: Annotated[int, Field(ge=0)] = 1
    speeches: Positive = Field(default=6400, description="train speeches sampled per round, by content hash")
    samples: Annotated[int, Field(ge=2)] = Field(default=8, description="replies sampled per speech")
    steps: Positive = Field(default=100, description="most optimizer steps per round")
    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_new_tokens: Positive = 512
    min_margin: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="least reward difference of best and worst"
    )
    length_control: bool = Field(
        default=False, description="rank by the part of the reward that length does not explain"
    )
    drop_truncated: bool = Field(default=True, description="leave out replies that did not end")
    lr: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="learning rate of the rounds; default: that of [policy]"
    )


class PolicyTable(Training):
    lr: Annotated[float, Field(gt=0)] = 5e-7
    epochs: Annotated[float, Field(gt=0)] = 3
    batch: Positive = 64
    beta: Annotated[float, Field(gt=0)] = 0.1
    loss: Literal["dpo", "ipo"] = "dpo"
    length_normalised: bool = Field(default=False, description="mean instead of summed log-probabilities of a reply")
    online: OnlineTable = OnlineTable()


class EvaluateTable(Table):
    judges: list[str] = Field(default=["embedded"], min_length=1)
    speeches: list[Literal["arena", "test"]] = Field(
        default=["arena", "test"], description="splits whose speeches the policies answer"
    )
    limit: Positive | None = None
    samples: Positive = Field(
        default=1, description="replies of each policy per speech; more of them narrow the intervals"
    )
    temperature: Annotated[float, Field(ge=0)] = 0.7
    max_new_tokens: Positive = 512
    tie: Annotated[float, Field(ge=0)] = Field(
        default=0.05, description="overall scores closer than this are a tie (scoring judges)"
    )
    bootstrap: Positive = 10_000
    allow_dependent: bool = Field(
        default=False, description="let a judge grade that shares a family with the labels; stamps the report"
    )


class Recipe(Table):
    """A complete recipe. The order of the stage tables is the order of the pipeline."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run folder")
    seed: int = 0
    base: str = Field(default="embedded", description="'embedded', a hub id, or a local folder in Hugging Face layout")
    threads: Annotated[int, Field(ge=0)] = Field(default=0, description="processor threads for training; 0 = all")
    principles: PrinciplesTable = PrinciplesTable()
    speeches: SpeechesTable = SpeechesTable()
    responses: ResponsesTable = ResponsesTable()
    ratings: RatingsTable = RatingsTable()
    pairs: PairsTable = PairsTable()
    supervised: SupervisedTable = SupervisedTable()
    reward: RewardTable = RewardTable()
    policy: PolicyTable = PolicyTable()
    evaluate: EvaluateTable = EvaluateTable()


def data_path(text: str) -> Path:
    """A recipe's path with ~ and $VARIABLES filled in; $PSYCHOCOUNSEL_DATA defaults to ../shared/data."""
    filled = Template(text).safe_substitute({DATA_VARIABLE: "../shared/data", **os.environ})
    if "$" in filled:
        raise UserError(f"{text}: the environment variable in this path is not set")
    return Path(filled).expanduser()


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read, override (`table.key=value`) and validate a recipe. Raises UserError with file, key and remedy."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe; see the recipes/ folder for complete examples") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name a recipe file (*.toml)") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; recipes are UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    for override in overrides or []:
        apply_override(data, override)
    return parse_recipe(data, str(path))


def parse_recipe(data: dict[str, Any], where: str) -> Recipe:
    """Validate recipe data; errors name the key and, for unknown keys, the nearest known one."""
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError("; ".join(f"{where}: {_explain(problem)}" for problem in error.errors()[:3])) from None
    if recipe.speeches.min_chars > recipe.speeches.max_chars:
        raise UserError(f"{where}: speeches.min_chars is larger than speeches.max_chars; no speech could pass")
    if recipe.speeches.dev + recipe.speeches.test >= 1:
        raise UserError(f"{where}: speeches.dev + speeches.test must be below 1; nothing is left to train on")
    return recipe


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


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{'.'.join(location)}'{nearest(location[-1], _known_keys(location[:-1]))}"
    if problem["type"] == "missing":
        return f"'{'.'.join(location)}' is missing"
    return f"'{'.'.join(location)}': {problem['msg']} (found {problem['input']!r})"


def _known_keys(location: list[str]) -> list[str]:
    """Keys of the table at a location such as ['policy', 'online']; list positions are skipped."""
    table: Any = Recipe
    for part in location:
        if part.isdigit():
            continue
        annotation = table.model_fields[part].annotation
        inner = [kind for kind in (annotation, *getattr(annotation, "__args__", ())) if hasattr(kind, "model_fields")]
        if not inner:
            return []
        table = inner[0]
    return list(table.model_fields)
