"""Losses as functions of scores or log-probabilities, one value per pair (or per token), float32.

No loss here mixes pairs, so that packs and processes change nothing. Nothing is clamped: NaN and infinity come out as
such, and the training loop stops on them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bradley_terry(
    chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """-weight log sigma(r_chosen - r_rejected - margin) for scores of shape (pairs,); returns (pairs,).

    Bradley & Terry 1952; the margin is that of Llama 2 (Touvron et al. 2023, arXiv 2307.09288, eq. 2), the weight that
    of the scaled loss of HelpSteer2-Preference (Wang et al. 2024, arXiv 2410.01257).
    """
    difference = chosen - rejected
    losses = -F.logsigmoid(difference if margin is None else difference - margin)
    return losses if weight is None else weight * losses


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


def cdpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
    smoothing: float,
) -> Tensor:
    """-(1 - e) log sigma(d) - e log sigma(-d), d = beta * difference of log-ratios, e = smoothing; shape (pairs,).

    Conservative DPO: least where the policy prefers the chosen reply with probability 1 - e. Inputs as in `dpo`.
    Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO" (ericmitchell.ai/cdpo.pdf).
    """
    right = dpo(chosen, rejected, reference_chosen, reference_rejected, beta)
    wrong = dpo(rejected, chosen, reference_rejected, reference_chosen, beta)
    return (1 - smoothing) * right + smoothing * wrong


def robust_dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
    smoothing: float,
) -> Tensor:
    """(-(1 - e) log sigma(d) + e log sigma(-d)) / (1 - 2e), d and e as in `cdpo`, e below 1/2; shape (pairs,).

    Its expectation over labels flipped at rate e is the DPO loss of the true labels. It falls without bound as d grows.
    Chowdhury et al. 2024, arXiv 2403.00409.
    """
    right = dpo(chosen, rejected, reference_chosen, reference_rejected, beta)
    wrong = dpo(rejected, chosen, reference_rejected, reference_chosen, beta)
    return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)


def hinge(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """max(0, 1 - beta * difference of log-ratios), shape (pairs,). Inputs as in `dpo`.

    SLiC's loss (Zhao et al. 2023, arXiv 2305.10425) on log-ratios (Liu et al. 2023, arXiv 2309.06657).
    """
    return torch.relu(1 - beta * ((chosen - reference_chosen) - (rejected - reference_rejected)))


def apo_zero(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """1 - sigma(beta * log-ratio of chosen) + sigma(beta * log-ratio of rejected), shape (pairs,). Inputs as in `dpo`.

    The form of KTO's loss (Ethayarajh et al. 2024, arXiv 2402.01306) that is defined on a pair: KTO measures each reply
    against an average over the batch, here that point is 0. D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7.
    """
    return torch.sigmoid(-beta * (chosen - reference_chosen)) + torch.sigmoid(beta * (rejected - reference_rejected))


def simpo(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """-log sigma(beta * (chosen - rejected) - gamma), shape (pairs,), without a reference.

    Inputs are mean log-probabilities of the reply tokens. Meng et al. 2024, arXiv 2405.14734.
    """
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


def centring(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(r_chosen + r_rejected)^2, shape (pairs,): keeps scores around 0. Eisenstein et al. 2023, arXiv 2312.09244."""
    return (chosen + rejected) ** 2


def principle_dpo(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, share: Tensor, beta: float
) -> Tensor:
    """-s log sigma(d) - (1 - s) log sigma(-d), d as in `dpo`; shape (pairs,).

    s, `share` of shape (pairs,), is the share of principles on which the chosen reply was rated better, ties half: the
    mean of one DPO loss per principle, each with its own label (linear scalarisation of several objectives, as in
    MODPO, Zhou et al. 2023, arXiv 2310.03708, but with labels instead of reward models).
    """
    right = dpo(chosen, rejected, reference_chosen, reference_rejected, beta)
    wrong = dpo(rejected, chosen, reference_rejected, reference_chosen, beta)
    return share * right + (1 - share) * wrong


def preferred_share(differences: Tensor) -> Tensor:
    """Share of principles with a positive difference, ties half, NaN left out: (pairs, principles) to (pairs,).

    A pair without any score is taken at its word: 1.
    """
    known = ~differences.isnan()
    votes = (differences > 0).float() + 0.5 * (differences == 0).float()
    return torch.where(known.any(1), (votes * known).sum(1) / known.sum(1).clamp(min=1), 1.0)


def principle_heads(chosen: Tensor, rejected: Tensor, differences: Tensor) -> Tensor:
    """Bradley-Terry loss of one head per principle, each with its own label; (pairs, principles) to (pairs,).

    Averaged over principles; a principle on which both replies were rated alike, or not at all, gives nothing.
    """
    losses = -F.logsigmoid(differences.sign() * (chosen - rejected))
    return torch.where((differences != 0) & ~differences.isnan(), losses, 0.0).sum(1) / differences.shape[1]


def resample_weights(draws: Tensor, heads: int) -> Tensor:
    """How often each pair stands in each bootstrap resample: Poisson(1) counts of shape (pairs, heads), float32.

    A pure function of the pair's own number `draws` (pairs,), int64, so that batches, order and machines do not matter.
    Oza & Russell 2001, "Online bagging and boosting".
    """
    mixed = draws[:, None] + torch.arange(1, heads + 1, device=draws.device) * 0x1E3779B97F4A7C15
    for shift, factor in ((30, 0x3F58476D1CE4E5B9), (27, 0x14D049BB133111EB), (31, 1)):  # splitmix64's steps
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * factor
    uniform = (mixed & ((1 << 53) - 1)).double() / (1 << 53)
    limits = torch.tensor([0.367879, 0.735759, 0.919699, 0.981012, 0.996340, 0.999406], device=draws.device)
    return (uniform[..., None] >= limits).sum(-1).float()
