"""Offline preference learning (DPO and relatives); reference log-probabilities are computed once, by the same code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_tokenizer
from psychocounsel.recipe import PolicyTable
from psychocounsel.reward.train import mean_gap
from psychocounsel.training.adapters import Start, policy_maker
from psychocounsel.training.batches import Group, pairs_of
from psychocounsel.training.checkpoints import finished, save_model
from psychocounsel.training.encoding import Encoder, group_files
from psychocounsel.training.examples import Example
from psychocounsel.training.loop import Task, train
from psychocounsel.training.losses import preferred_share
from psychocounsel.training.packed import opened
from psychocounsel.training.packs import Pack
from psychocounsel.training.policy_losses import open_loss
from psychocounsel.training.processes import open_accelerator, prepare, together
from psychocounsel.training.reference import add_reference, frozen


def policy_task(
    name: str,
    train_groups: Sequence[Group],
    dev_groups: Sequence[Group],
    table: PolicyTable,
    max_steps: int | None = None,
) -> Task:
    """A preference loss over all pairs of a prompt from one forward; groups carry their reference log-probabilities.

    The implicit reward is beta * (log pi - log ref), and beta * log pi for a loss without a reference.
    """
    loss = open_loss(table)
    scale = mean_gap(train_groups) if table.weight_by_gap else 1.0

    def compute(model: Any, pack: Pack) -> tuple[Tensor, dict[str, float]]:
        logp = model(pack)
        reference = pack.reference if loss.reference else torch.zeros_like(logp)
        if table.length_normalised:
            logp, reference = logp / pack.lengths, reference / pack.lengths
        read = (logp, reference) if loss.reference else (logp,)
        shares = {"share": preferred_share(pack.differences)} if loss.share else {}
        losses = loss.function(*(values[side] for values in read for side in (pack.chosen, pack.rejected)), **shares)
        if table.weight_by_gap:
            losses = losses * pack.gaps / scale
        rewards = table.beta * (logp - reference).detach()
        margin = rewards[pack.chosen] - rewards[pack.rejected]
        figures = {
            "accuracy": float((margin > 0).sum()),
            "margin": float(margin.sum()),
            "chosen_reward": float(rewards[pack.chosen].sum()),
        }
        return losses.sum(), figures

    return Task(name, train_groups, dev_groups, "pairs", compute, lambda group: len(group.pairs), max_steps)


def train_policy(
    name: str,
    start: Start,
    examples: tuple[Iterable[Example], Iterable[Example]],
    table: PolicyTable,
    seed: int,
    folder: Path,
    max_steps: int | None = None,
    cache: Path | None = None,
    reference: str = "",
) -> dict[str, Any]:
    """Make `folder/model` (with LoRA also `folder/adapter`) from the policy `start` and (train, dev) examples.

    The reference is `start` itself, or the model named by `reference`. `cache` keeps reference log-probabilities by
    content, for other runs and losses. Every process calls it.
    """
    loss = open_loss(table)  # one that cannot work is refused before anything is read
    accelerator = open_accelerator(table)
    encoder = open_encoder(start.model, table)
    train_groups, dev_groups = group_files(accelerator, folder, encoder, examples)
    if not train_groups:
        raise UserError(
            f"{name}: there are no train pairs ({dict(encoder.counts)}); lower pairs.gap or the least margin"
        )

    if loss.reference and reference:
        add_reference(frozen(reference, table, accelerator), [train_groups, dev_groups], cache)
    made = policy_maker(start, table.lora, seed)
    prepared = prepare(opened(made(True)), table, accelerator)
    if loss.reference and not reference:
        add_reference(prepared, [train_groups, dev_groups], cache)
    state = train(prepared, policy_task(name, train_groups, dev_groups, table, max_steps), seed, folder)
    packed = finished(prepared, made, folder / "adapter")
    if packed is not None:
        save_model(folder / "model", packed.model, encoder.tokenizer)
    together()
    tokens = sum(entry.tokens for entry in train_groups.entries) * state["step"] * table.batch / pairs_of(train_groups)
    return {"pairs": pairs_of(train_groups), "dev_pairs": pairs_of(dev_groups), "left_out": dict(encoder.counts),
            "steps": state["step"], "best_step": state["best_step"], "dev_loss": state["best"], "tokens": round(tokens),
            "shared_prefix": prepared.packed.shared}  # fmt: skip


def open_encoder(start: str, table: PolicyTable) -> Encoder:
    """The encoder that belongs to a starting model."""
    return Encoder(load_tokenizer(start), table.max_length, table.too_long)
