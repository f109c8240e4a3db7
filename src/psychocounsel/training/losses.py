"""Losses as functions of scores or log-probabilities, one value per pair (or per token), float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

DPOLoss = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None) -> Tensor:
    """-log sigma(r_chosen - r_rejected - margin) for scores of shape (pairs,); returns (pairs,).

    Bradley & Terry 1952; the margin is that of Llama 2 (Touvron et al. 2023, arXiv 2307.09288, eq. 2).
    """
    difference = chosen - rejected
    return -F.logsigmoid(difference if margin is None else difference - margin)


def dpo(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float) -> Tensor:
    """-log sigma(beta * ((log pi - log ref)(chosen) - (log pi - log ref)(rejected))), all of shape (pairs,).

    Inputs are summed log-probabilities of the reply tokens. Rafailov et al. 2023, arXiv 2305.18290, eq. 7.
    """
    return -F.logsigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected)))


def ipo(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float) -> Tensor:
    """((log-ratio of chosen - log-ratio of rejected) - 1/(2 beta))^2, shape (pairs,).

    Inputs are summed log-probabilities. Azar et al. 2023, arXiv 2310.12036, eq. 17.
    """
    return ((chosen - reference_chosen) - (rejected - reference_rejected) - 1 / (2 * beta)) ** 2


def centring(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(r_chosen + r_rejected)^2, shape (pairs,): keeps scores around 0. Eisenstein et al. 2023, arXiv 2312.09244."""
    return (chosen + rejected) ** 2


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target]: logits (..., vocabulary), targets (...); float32 in the shape of targets."""
    flat = F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


POLICY_LOSSES: dict[str, DPOLoss] = {"dpo": dpo, "ipo": ipo}


def sequence_log_probabilities(model: torch.nn.Module, ids: Tensor, mask: Tensor, reply: Tensor) -> Tensor:
    """Summed log-probability of the reply tokens of each row.

    `ids`, `mask` (attention) and `reply` (which tokens count) have shape (rows, length), right-padded; returns (rows,).
    Logits are made only from the shortest prompt's end on: the prompt's own logits are never needed.
    """
    return -(token_losses(model, ids, mask, reply)).sum(-1)


def token_losses(model: torch.nn.Module, ids: Tensor, mask: Tensor, reply: Tensor) -> Tensor:
    """Negative log-probabilities of reply tokens, 0 elsewhere; shape (rows, kept length)."""
    first = int(reply.int().argmax(-1).min())  # the earliest reply token of any row; its predictor sits one before
    kept = ids.shape[1] - first + 1
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=kept, use_cache=False).logits[:, :-1]
    return token_nll(logits, ids[:, first:]) * reply[:, first:]
