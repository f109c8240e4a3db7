"""Tables of the recipe for what is trained and measured: supervised, reward, policy, evaluate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from psychocounsel.errors import nearest
from psychocounsel.recipe.online import EngineTable, OnlineTable
from psychocounsel.recipe.tables import Fraction, Positive, Table

# the policy losses and what each needs besides beta; their functions are in training/, which is too heavy to read here
LOSSES: dict[str, tuple[str, ...]] = {
    "dpo": (),
    "ipo": (),
    "cdpo": ("smoothing",),
    "robust": ("smoothing",),
    "hinge": (),
    "apo_zero": (),
    "simpo": ("gamma",),
    "principles": (),
}


class LoraTable(Table):
    """Low-rank adapters instead of all weights (Hu et al. 2021, arXiv 2106.09685); merged when the model is saved."""

    rank: Annotated[int, Field(ge=0)] = Field(default=0, description="rank of the adapters; 0 trains all weights")
    alpha: Annotated[float, Field(gt=0)] = Field(default=32.0, description="adapters are scaled by alpha / rank")
    targets: list[str] = Field(
        default=[], description="names of the linear layers that get adapters; none: all but the output layer"
    )
    quantised: bool = Field(
        default=False, description="keep the frozen weights in 4 bits (QLoRA, arXiv 2305.14314); needs bitsandbytes"
    )


FREE = frozenset({"token_budget", "gradient_checkpointing", "compile", "checkpoint_steps", "report_to"})


class Training(Table):
    """Settings shared by every trained stage. Those in FREE change how it is trained, but not what comes out."""

    lr: Annotated[float, Field(gt=0)]
    epochs: Annotated[float, Field(ge=0)]
    steps: Positive | None = Field(default=None, description="most optimizer steps; none: as many as epochs give")
    batch: Positive = Field(description="examples (replies or pairs) per optimizer step, over all processes")
    warmup: Fraction = 0.1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        default="adamw", description="adamw_8bit keeps the moments in 8 bits (arXiv 2110.02861); needs bitsandbytes"
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] = 1.0
    max_length: Annotated[int, Field(ge=8)] = Field(
        default=2048, description="tokens of prompt and reply; a prompt may fill half of it and loses its oldest turns"
    )
    too_long: Literal["cut", "drop"] = Field(
        default="cut",
        description="a reply that does not fit is cut and ended, or left out; both are counted",
    )
    token_budget: Positive = Field(
        default=8192, description="tokens in memory at once, in each process; does not change the result"
    )
    gradient_checkpointing: bool = Field(default=False, description="less memory for a third more time")
    compile: bool = Field(
        default=False,
        description="fuse what lies between matrix products (torch.compile); a minute or more to begin with",
    )
    lora: LoraTable = LoraTable()
    checkpoint_steps: Positive = Field(default=50, description="steps between checkpoints")
    evaluate_steps: Positive = Field(default=50, description="steps between looks at the dev split")
    patience: Annotated[int, Field(ge=0)] = Field(
        default=0, description="looks at the dev split without a better one before training stops; 0 never stops early"
    )
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default=[], description="trackers that get every figure of metrics.jsonl; never texts"
    )


class MixSource(Table):
    """A general preference set, mixed into the train pairs so that general judgement is kept."""

    load: str = Field(min_length=1, description="a .jsonl, .json or .parquet file, a folder in hub layout, or a hub id")
    split: str = Field(default="train", description="the split to take of a folder or hub id")
    limit: Positive | None = Field(default=None, description="take so many pairs, chosen by content hash")
    license: str = Field(default="", description="licence of the texts, kept in the run's manifest")


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
    weight_by_gap: bool = Field(
        default=False, description="weigh each pair by its rated gap over the mean gap of the train pairs"
    )
    principles: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight of the loss of one more head per principle; 0 makes none"
    )
    bootstrap: Annotated[int, Field(ge=0)] = Field(
        default=0, description="heads that each learn from another resample of the pairs; their spread is uncertainty"
    )
    mix: list[MixSource] = Field(default=[], description="general preference sets mixed into the train pairs")


class PolicyTable(Training):
    lr: Annotated[float, Field(gt=0)] = 5e-7
    epochs: Annotated[float, Field(gt=0)] = 3
    batch: Positive = 64
    beta: Annotated[float, Field(gt=0)] = 0.1
    loss: str = Field(default="dpo", description="a name in LOSSES, or package.module:object for a function of yours")
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] | None = Field(
        default=None, description="share of pairs taken to be labelled the wrong way round (cdpo, robust)"
    )
    gamma: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="margin that beta times the difference of mean log-probabilities should pass (simpo)"
    )
    length_normalised: bool = Field(default=False, description="mean instead of summed log-probabilities of a reply")
    weight_by_gap: bool = Field(
        default=False, description="weigh each pair by its rated gap over the mean gap of the train pairs"
    )
    mix: list[MixSource] = Field(default=[], description="general preference sets mixed into the train pairs")
    online: OnlineTable = OnlineTable()


def loss_fault(table: PolicyTable) -> str:
    """What is wrong with a policy's loss and its settings, with the remedy; '' when nothing is."""
    module, colon, attribute = table.loss.partition(":")
    own = bool(module and colon and attribute)
    if table.loss not in LOSSES and not own:
        return (
            f"'policy.loss': '{table.loss}' is not a known loss{nearest(table.loss, list(LOSSES))}; known are "
            f"{', '.join(LOSSES)}, or write package.module:object for a function of yours"
        )
    needed = LOSSES.get(table.loss, ())
    for name, example in (("smoothing", 0.1), ("gamma", 0.5)):
        if name in needed and getattr(table, name) is None:
            return f"policy.loss = '{table.loss}' needs policy.{name}, for example {example}"
        if name not in needed and getattr(table, name) is not None:
            readers = " or ".join(loss for loss, names in LOSSES.items() if name in names)
            return f"policy.{name} is read by {readers} only, not by policy.loss = '{table.loss}'; leave it out"
    if table.loss == "simpo" and not table.length_normalised:
        return (
            "policy.loss = 'simpo' compares mean log-probabilities; set policy.length_normalised = true, and "
            "policy.beta to 2 or more"
        )
    return ""


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
    engine: EngineTable = EngineTable()
    baselines: list[Literal["prompt", "few-shot", "best-of-n"]] = Field(
        default=[],
        description="policies that need no training, all of the starting model: a system text written from the "
        "principles, that with examples, and the best of several replies by the reward model",
    )
    best_of: Annotated[int, Field(ge=0, le=64)] = Field(
        default=0,
        description="largest N of the best-of-N curve, and the N of the baseline 'best-of-n'; 0 draws no curve",
    )
    tie: Annotated[float, Field(ge=0)] = Field(
        default=0.05, description="overall scores closer than this are a tie (scoring judges)"
    )
    bootstrap: Positive = 10_000
    families: dict[str, str] = Field(
        default={}, description="whose model a name is, where the name does not tell: {name: family}"
    )
    allow_dependent: bool = Field(
        default=False, description="let a judge grade that shares a family with the labels; stamps the report"
    )


def best_of_fault(table: EvaluateTable) -> str:
    """What is wrong with best-of-N settings, with the remedy; '' when nothing is."""
    if "best-of-n" in table.baselines and table.best_of < 2:
        return "evaluate.baselines: 'best-of-n' needs evaluate.best_of, for example 16"
    return ""
