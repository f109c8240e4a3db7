"""Offline preference learning (DPO and relatives); reference log-probabilities are computed once, by the same code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psychocounsel.errors import UserError
from psychocounsel.models.weights import device, load_policy, load_tokenizer
from psychocounsel.progress import progress
from psychocounsel.recipe import PolicyTable
from psychocounsel.training.batches import Batch, Encoder, Group, collate, micro_batches
from psychocounsel.training.checkpoints import save_model
from psychocounsel.training.loop import Task, precision, train
from psychocounsel.training.losses import sequence_log_probabilities
from psychocounsel.training.policy_losses import open_loss


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

    def compute(model: Any, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        logp = sequence_log_probabilities(model, batch.ids, batch.mask, batch.reply).float()
        reference = batch.reference if loss.reference else torch.zeros_like(logp)
        if table.length_normalised:
            length = batch.reply.sum(-1)
            logp, reference = logp / length, reference / length
        read = (logp, reference) if loss.reference else (logp,)
        losses = loss.function(*(values[rows] for values in read for rows in (batch.chosen, batch.rejected)))
        rewards = table.beta * (logp - reference).detach()
        margin = rewards[batch.chosen] - rewards[batch.rejected]
        figures = {
            "accuracy": float((margin > 0).sum()),
            "margin": float(margin.sum()),
            "chosen_reward": float(rewards[batch.chosen].sum()),
        }
        return losses.sum(), figures

    def pairs(group: Group) -> int:
        return len(group.pairs)

    return Task(name, train_groups, dev_groups, pairs, compute, lambda batch: len(batch.chosen), max_steps)


@torch.no_grad()
def add_reference(model: Any, groups: Sequence[Group], pad: int, rows: int) -> None:
    """Fill `reference` of all groups with the log-probabilities of `model` (the policy before training)."""
    model.eval()
    with progress("reference", len(groups)) as advance:
        for part in micro_batches(groups, rows):
            batch = collate(part, pad, model.device)
            values = sequence_log_probabilities(model, batch.ids, batch.mask, batch.reply).float().tolist()
            for group in part:
                group.reference, values = values[: len(group.replies)], values[len(group.replies) :]
            advance(len(part))


def train_policy(
    name: str,
    start: str,
    groups: tuple[Sequence[Group], Sequence[Group]],
    table: PolicyTable,
    seed: int,
    folder: Path,
    max_steps: int | None = None,
) -> dict[str, Any]:
    """Make `folder/model` from the model `start` and (train, dev) groups. The reference is `start` itself."""
    train_groups, dev_groups = groups
    if not train_groups:
        raise UserError(f"{name}: there are no train pairs; lower pairs.gap or the least margin")
    task = policy_task(name, train_groups, dev_groups, table, max_steps)
    tokenizer, model = load_policy(start)
    model.float()
    if open_loss(table).reference:
        with torch.autocast(device(), torch.bfloat16, enabled=precision(table) == "bf16"):  # as in training
            add_reference(model, [*train_groups, *dev_groups], tokenizer.pad_token_id, table.micro_batch)
    state = train(model, task, table, seed, folder, tokenizer.pad_token_id)
    save_model(folder / "model", model, tokenizer)
    return {"pairs": sum(len(group.pairs) for group in train_groups), "steps": state["step"],
            "best_step": state["best_step"], "dev_loss": state["best"]}  # fmt: skip


def open_encoder(start: str, table: PolicyTable) -> Encoder:
    """The encoder that belongs to a starting model."""
    return Encoder(load_tokenizer(start), table.max_length)
