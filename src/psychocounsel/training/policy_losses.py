"""The preference losses by the names a recipe gives them; a user's own is tried on two small inputs before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from psychocounsel.errors import UserError
from psychocounsel.recipe import PolicyTable
from psychocounsel.recipe.functions import load_function
from psychocounsel.recipe.training import LOSSES, loss_fault
from psychocounsel.training.losses import apo_zero, cdpo, dpo, hinge, ipo, principle_dpo, robust_dpo, simpo


@dataclass(frozen=True)
class PolicyLoss:
    """A loss of log-probabilities (chosen, rejected, reference chosen, reference rejected), each (pairs,) -> (pairs,).

    Without `reference` it takes the first two only, and no reference is computed. With `share` it also takes the share
    of principles on which the chosen reply is better, (pairs,).
    """

    function: Callable[..., Tensor]
    reference: bool = True
    share: bool = False


POLICY_LOSSES = {
    "dpo": PolicyLoss(dpo),
    "ipo": PolicyLoss(ipo),
    "cdpo": PolicyLoss(cdpo),
    "robust": PolicyLoss(robust_dpo),
    "hinge": PolicyLoss(hinge),
    "apo_zero": PolicyLoss(apo_zero),
    "simpo": PolicyLoss(simpo, reference=False),
    "principles": PolicyLoss(principle_dpo, share=True),
}


def open_loss(table: PolicyTable) -> PolicyLoss:
    """The loss of a recipe with beta and its own settings filled in.

    `package.module:object` is a function with the arguments of `dpo`, beta last. Raises UserError when it
    cannot be used.
    """
    if fault := loss_fault(table):
        raise UserError(fault)
    if table.loss in POLICY_LOSSES:
        loss = POLICY_LOSSES[table.loss]
        own = {name: getattr(table, name) for name in LOSSES[table.loss]}
        return PolicyLoss(partial(loss.function, beta=table.beta, **own), loss.reference, loss.share)
    return PolicyLoss(_user_loss(table.loss, table.beta))


def _user_loss(name: str, beta: float) -> Callable[..., Tensor]:
    function = load_function("policy.loss", name)

    def loss(*log_probabilities: Tensor) -> Tensor:
        value: Tensor = function(*log_probabilities, beta)
        return value

    _try(name, loss)
    return loss


def _try(name: str, loss: Callable[..., Tensor]) -> None:
    """Call a loss as training will, on three pairs and on each alone: shape, numbers, gradients, pairs kept apart."""
    rows = torch.tensor([[-20.0, -31.5, -12.0], [-25.0, -30.0, -12.0], [-22.0, -30.0, -13.0], [-23.0, -32.0, -13.0]])
    leaves = [row.clone().requires_grad_(place < 2) for place, row in enumerate(rows)]
    try:
        found = loss(*leaves)
        alone = [loss(*(row[pair : pair + 1] for row in leaves)) for pair in range(3)]
    except Exception as error:
        raise UserError(f"policy.loss '{name}': failed on three pairs of numbers ({error!r})") from error
    fault = ""
    if not isinstance(found, Tensor) or found.shape != (3,):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        fault = f"returned {shape} for three pairs; one value per pair, shape (3,), is needed"
    elif not torch.isfinite(found).all():
        fault = f"returned {found.tolist()} for three ordinary pairs; the values must be finite"
    elif not found.requires_grad:
        fault = "its values do not depend on the policy's log-probabilities, or were detached; it cannot be trained on"
    elif not all(
        getattr(one, "shape", None) == (1,) and torch.allclose(one, found[i : i + 1]) for i, one in enumerate(alone)
    ):
        fault = (
            "a pair's value depends on the other pairs of the batch; the packs it is cut into would change the result"
        )
    else:
        gradients = torch.autograd.grad(found.sum(), leaves[:2], allow_unused=True)
        if any(gradient is None or not torch.isfinite(gradient).all() for gradient in gradients):
            fault = "its gradient of chosen or rejected is missing or not finite on three ordinary pairs"
    if fault:
        raise UserError(f"policy.loss '{name}': {fault}")
