"""Train a Bradley-Terry reward model on preference pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_scorer, load_tokenizer
from psychocounsel.recipe import RewardTable
from psychocounsel.records import Pair, Response, Speech
from psychocounsel.training.batches import Batch, Encoder, Group
from psychocounsel.training.checkpoints import save_model
from psychocounsel.training.loop import Task, train
from psychocounsel.training.losses import bradley_terry, centring


def pair_groups(
    encoder: Encoder, pairs: Sequence[Pair], speeches: Mapping[str, Speech], responses: Mapping[str, Response]
) -> list[Group]:
    """Pairs grouped by speech, each reply encoded once however many pairs it is in."""
    groups: dict[str, Group] = {}
    places: dict[str, int] = {}
    for pair in pairs:
        speech = speeches[pair.speech_id]
        group = groups.get(speech.id)
        if group is None:
            group = groups[speech.id] = Group(speech.id, encoder.prompt(speech), [])
        for response_id in (pair.chosen, pair.rejected):
            if response_id not in places:
                places[response_id] = len(group.replies)
                group.replies.append(encoder.reply(speech, responses[response_id].text))
        group.pairs.append((places[pair.chosen], places[pair.rejected]))
        group.gaps.append(pair.gap)
    return list(groups.values())


def reward_task(train_groups: Sequence[Group], dev_groups: Sequence[Group], table: RewardTable) -> Task:
    """Bradley-Terry over all pairs of a prompt from one forward; steps and averages count pairs.

    Weights by gap have mean 1 over the train pairs, not over a batch: a pair weighs the same wherever it stands.
    """
    scale = mean_gap(train_groups) if table.weight_by_gap else 1.0

    def compute(model: Any, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        scores = model(input_ids=batch.ids, attention_mask=batch.mask).logits[:, 0].float()
        chosen, rejected = scores[batch.chosen], scores[batch.rejected]
        weight = batch.gaps / scale if table.weight_by_gap else None
        losses = bradley_terry(chosen, rejected, batch.gaps if table.margin else None, weight)
        if table.centre:
            losses = losses + table.centre * centring(chosen, rejected)
        difference = (chosen - rejected).detach()
        return losses.sum(), {"accuracy": float((difference > 0).sum()), "margin": float(difference.sum())}

    return Task(
        "reward",
        train_groups,
        dev_groups,
        lambda group: len(group.pairs),
        compute,
        lambda batch: len(batch.chosen),
    )


def mean_gap(groups: Sequence[Group]) -> float:
    """Mean rated gap of all pairs. Raises UserError when it is no positive number."""
    gaps = [gap for group in groups for gap in group.gaps]
    mean = math.fsum(gaps) / max(len(gaps), 1)
    if not 0 < mean < math.inf:
        raise UserError(f"reward.weight_by_gap: the mean gap of the train pairs is {mean}; it must be above 0")
    return mean


def train_reward(
    pairs: Mapping[str, Sequence[Pair]],
    speeches: Mapping[str, Speech],
    responses: Mapping[str, Response],
    base: str,
    table: RewardTable,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Make `folder/model`, a sequence classifier with one output; dev pairs choose the checkpoint."""
    if not pairs["train"]:
        raise UserError("reward: there are no train pairs; lower pairs.gap or rate more responses")
    tokenizer = load_tokenizer(base)
    model = load_scorer(base, tokenizer.pad_token_id, len(tokenizer), seed)
    encoder = Encoder(tokenizer, table.max_length)
    groups = {split: pair_groups(encoder, pairs[split], speeches, responses) for split in ("train", "dev")}
    state = train(
        model, reward_task(groups["train"], groups["dev"], table), table, seed, folder, tokenizer.pad_token_id
    )
    save_model(folder / "model", model, tokenizer)
    return {"pairs": len(pairs["train"]), "dev_pairs": len(pairs["dev"]), "truncated": encoder.truncated,
            "steps": state["step"], "best_step": state["best_step"], "dev_loss": state["best"]}  # fmt: skip
