"""Train a Bradley-Terry reward model on preference pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_scorer, load_tokenizer
from psychocounsel.recipe import LoraTable, RewardTable
from psychocounsel.reward.score import save_reward
from psychocounsel.training.adapters import add_adapters, quantisation
from psychocounsel.training.batches import Group, pairs_of
from psychocounsel.training.checkpoints import finished
from psychocounsel.training.encoding import Encoder, group_files
from psychocounsel.training.examples import Example
from psychocounsel.training.loop import Task, train
from psychocounsel.training.losses import bradley_terry, centring, principle_heads, resample_weights
from psychocounsel.training.packed import PackedScorer, opened
from psychocounsel.training.packs import Pack
from psychocounsel.training.processes import open_accelerator, prepare, together


def reward_task(train_groups: Sequence[Group], dev_groups: Sequence[Group], table: RewardTable, heads: int = 0) -> Task:
    """Bradley-Terry over all pairs of a prompt from one forward; steps and averages count pairs.

    Weights by gap have mean 1 over the train pairs, not over a batch: a pair weighs the same wherever it stands. The
    first `heads` columns after the overall score are the principles', the rest the resamples'.
    """
    scale = mean_gap(train_groups) if table.weight_by_gap else 1.0

    def compute(model: Any, pack: Pack) -> tuple[Tensor, dict[str, float]]:
        scores = model(pack)
        chosen, rejected = scores[pack.chosen], scores[pack.rejected]
        weight = pack.gaps / scale if table.weight_by_gap else None
        losses = bradley_terry(chosen[:, 0], rejected[:, 0], pack.gaps if table.margin else None, weight)
        if table.centre:
            losses = losses + table.centre * centring(chosen[:, 0], rejected[:, 0])
        difference = (chosen - rejected).detach()
        figures = {"accuracy": float((difference[:, 0] > 0).sum()), "margin": float(difference[:, 0].sum())}
        if heads:
            own = principle_heads(chosen[:, 1 : 1 + heads], rejected[:, 1 : 1 + heads], pack.differences)
            losses = losses + table.principles * own
            figures["principles_loss"] = float(own.detach().sum())
        figures["loss"] = float(losses.detach().sum())
        loss = losses.sum()
        if table.bootstrap and torch.is_grad_enabled():  # a loss of its own: the heads change nothing else
            drawn = resample_weights(pack.draws, table.bootstrap)
            loss = loss + (drawn * bradley_terry(chosen[:, 1 + heads :], rejected[:, 1 + heads :])).sum()
        return loss, figures

    return Task("reward", train_groups, dev_groups, "pairs", compute, lambda group: len(group.pairs))


def mean_gap(groups: Iterable[Group]) -> float:
    """Mean rated gap of all pairs. Raises UserError when it is no positive number."""
    gaps = [gap for group in groups for gap in group.gaps]
    mean = math.fsum(gaps) / max(len(gaps), 1)
    if not 0 < mean < math.inf:
        raise UserError(f"weight_by_gap: the mean gap of the train pairs is {mean}; it must be above 0")
    return mean


def train_reward(
    examples: tuple[Iterable[Example], Iterable[Example]],
    base: str,
    table: RewardTable,
    seed: int,
    folder: Path,
    principles: Sequence[str] = (),
) -> dict[str, Any]:
    """Make `folder/model`, a sequence classifier with one output; dev pairs choose the checkpoint.

    `examples` are those to train on and those to choose by; they may be iterators over any number of texts. With
    `table.principles` or `table.bootstrap`, further heads lie beside the model. Every process calls it.
    """
    accelerator = open_accelerator(table)
    tokenizer = load_tokenizer(base)
    encoder = Encoder(tokenizer, table.max_length, table.too_long)
    train_groups, dev_groups = group_files(accelerator, folder, encoder, examples)
    if not train_groups:
        raise UserError(
            f"reward: there are no train pairs ({dict(encoder.counts)}); lower pairs.gap or rate more responses"
        )
    names = [*(principles if table.principles else ()), *(f"resample {i + 1}" for i in range(table.bootstrap))]
    guiding = len(names) - table.bootstrap

    def made(quantised: bool = True) -> PackedScorer:
        bits = quantisation(table.lora) if quantised else None
        model = load_scorer(base, tokenizer.pad_token_id, len(tokenizer), seed, bits)
        return PackedScorer(add_adapters(model, table.lora if quantised else LoraTable(), seed), names, guiding, seed)

    prepared = prepare(opened(made()), table, accelerator)
    state = train(prepared, reward_task(train_groups, dev_groups, table, guiding), seed, folder)
    packed = finished(prepared, made)
    if packed is not None:
        save_reward(folder / "model", packed, tokenizer)
    together()
    return {"pairs": pairs_of(train_groups), "dev_pairs": pairs_of(dev_groups), "left_out": dict(encoder.counts),
            "steps": state["step"], "best_step": state["best_step"], "dev_loss": state["best"],
            "shared_prefix": prepared.packed.shared}  # fmt: skip
