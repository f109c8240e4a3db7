"""Tables of the recipe for what a policy samples and learns from its own replies: engine, limits, online."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from psychocounsel.recipe.tables import Fraction, Positive, Share, Table

REWARD = "reward"  # the model of the reward stage among rewards; as the only judge, the reward itself


class EngineTable(Table):
    """What samples replies from a policy. The prompts' tokens are the same in all of them."""

    name: Literal["transformers", "continuous", "vllm", "http"] = Field(
        default="transformers",
        description="transformers samples length-sorted batches anywhere; continuous is its continuous batching, for "
        "GPUs; vllm runs in a process of its own; http asks the servers of `urls`",
    )
    urls: list[str] = Field(default=[], description="OpenAI-compatible addresses (http://HOST/v1) of engine 'http'")
    rows: Positive = Field(default=64, description="replies sampled at once (transformers)")
    num_blocks: Annotated[int, Field(ge=0)] = Field(
        default=0, description="blocks of its cache (continuous); 0: as many as fit"
    )
    max_batch_tokens: Annotated[int, Field(ge=0)] = Field(
        default=0, description="tokens in one forward pass (continuous, vllm); 0: the engine's own choice"
    )
    memory: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.9, description="share of the graphics card's memory that vllm may take"
    )
    retries: Annotated[int, Field(ge=0)] = Field(
        default=2, description="how often replies that an engine still owes are asked for again"
    )


class LimitsTable(Table):
    """How far replies on the dev split may move from those of the policy the rounds started from; beyond, the rounds
    stop and the best one before is kept."""

    length: Annotated[float, Field(gt=1)] = Field(default=2.0, description="mean words, as a multiple")
    distinct: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="least share of its different word pairs that has to remain"
    )
    opening: Share = Field(default=0.3, description="rise of the share of replies with the same first five words")
    phrase: Share = Field(default=0.3, description="rise of the share of replies that hold the same five words")
    similarity: Share = Field(default=0.2, description="rise of the mean similarity of replies to different speeches")
    repetition: Share = Field(default=0.2, description="rise of the share of five-word runs that a reply repeats")
    truncated: Share = Field(default=0.3, description="rise of the share of replies that do not end")
    kl: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="KL divergence from that policy, in nats per reply; none sets no limit"
    )


class OnlineTable(Table):
    rounds: Annotated[int, Field(ge=0)] = 1
    start: Literal["offline", "base"] = Field(
        default="offline", description="the policy the first round starts from: offline, or the supervised model"
    )
    reference: Literal["previous", "initial"] = Field(
        default="previous", description="the reference of a round: the policy at its start, or that of the first round"
    )
    speeches: Positive = Field(default=6400, description="train speeches sampled per round, by content hash")
    samples: Annotated[int, Field(ge=2)] = Field(default=8, description="replies sampled per speech")
    steps: Positive = Field(default=100, description="most optimizer steps per round")
    lr: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="learning rate of the rounds; default: that of [policy]"
    )
    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_new_tokens: Positive = 512
    engine: EngineTable = EngineTable()

    rewards: list[str] = Field(
        default=["reward"],
        min_length=1,
        description="'reward' (the model of that stage), a folder or hub id, http://HOST/classify#MODEL, "
        "http://HOST/get_reward#MODEL, judge:NAME, or package.module:object; several are averaged on one scale",
    )
    pessimism: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="standard deviations among the rewards (of one model: its bootstrap heads) taken off the mean",
    )
    principles: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={}, description="weights of the reward model's principle heads, in place of its overall score"
    )
    max_missing: Fraction = Field(
        default=0.02, description="share of candidates that may be without a reward; beyond, the round stops"
    )
    gate: str = Field(
        default="rules",
        description="what bars a reply from being chosen, whatever its reward: 'rules' (patterns of unsafe conduct), "
        "package.module:object, or '' for nothing",
    )
    min_margin: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="least reward difference of best and worst"
    )
    length_control: bool = Field(
        default=False, description="rank by the part of the reward that length does not explain"
    )
    length_penalty: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="reward taken off for every hundred words"
    )
    length_ratio: Annotated[float, Field(ge=1)] | None = Field(
        default=None, description="most words of a pair's longer reply over its shorter one; none: any"
    )
    truncated: Literal["drop", "lose", "keep"] = Field(
        default="drop",
        description="replies that did not end: left out, or never chosen (they may lose a pair), or as any other",
    )

    dev_speeches: Positive = Field(default=200, description="most dev speeches answered after each round")
    dev_samples: Positive = Field(default=1, description="replies to each of them")
    hold_out: Fraction = Field(
        default=0.1, description="share of the train speeches that is kept for looks in a run without dev speeches"
    )
    judges: list[str] = Field(
        default=[],
        description="judges of a round's dev replies against those of the start, which choose the best round; none: "
        "those of [evaluate]; ['reward'] chooses by the reward itself",
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        default=0, description="rounds without a better one before they stop; 0 never stops early"
    )
    limits: LimitsTable = LimitsTable()
    keep: Literal["all", "best"] = Field(
        default="all", description="whose models stay on disk: those of all rounds, or of the best and the last one"
    )


def round_judges(online: OnlineTable, judges: list[str]) -> list[str]:
    """Names of the judges of looks; `judges` are those of [evaluate]. None when the reward itself chooses."""
    return [] if online.judges == [REWARD] else online.judges or judges


def engine_fault(where: str, engine: EngineTable) -> str:
    """What is wrong with an engine's settings, with the remedy; '' when nothing is."""
    if engine.name == "http" and not engine.urls:
        return f"{where}.name = 'http' needs {where}.urls, for example [\"http://localhost:8000/v1\"]"
    if engine.urls and engine.name != "http":
        return f"{where}.urls is read by {where}.name = 'http' only, not by '{engine.name}'; leave it out"
    return ""


def online_fault(online: OnlineTable, judges: list[str]) -> str:
    """What is wrong with the settings of the rounds, with the remedy; `judges` are those of [evaluate]."""
    if len(set(online.rewards)) < len(online.rewards):
        return "policy.online.rewards names one twice; it agrees with itself, name different ones"
    rewarding = {name.removeprefix("judge:") for name in online.rewards if name.startswith("judge:")}
    both = sorted(rewarding & set(round_judges(online, judges)))
    if online.rounds and both:
        return (
            f"policy.online: {both[0]} rewards the replies and would also judge the rounds; name another judge in "
            "policy.online.judges, or choose by the reward itself with ['reward']"
        )
    if REWARD in online.judges and online.judges != [REWARD]:
        return "policy.online.judges: 'reward' chooses by the reward itself and stands alone; name judges or 'reward'"
    return engine_fault("policy.online.engine", online.engine)
