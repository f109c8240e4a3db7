"""Optimizers by name: AdamW, with its moments in 32 or in 8 bits."""

from __future__ import annotations

from typing import Any

import torch

from psychocounsel.errors import UserError
from psychocounsel.recipe.training import Training

BETAS = (0.9, 0.95)


def open_optimizer(model: Any, settings: Training) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101) over the trainable parameters of `model`.

    Only parameters with two or more dimensions decay: pulling a norm or a bias to zero regularises nothing. The fused
    kernel is used where there is one: on a processor a step on 20M float32 parameters took 28 ms instead of 76 (one
    thread; 15 instead of 46 with two), is bitwise the same in every run, on one thread or two, and after a resume,
    and differs from the plain one by 2.4e-7 after six steps. Raises UserError when 8 bits cannot be had here.
    """
    parameters = [value for value in model.parameters() if value.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [value for value in parameters if value.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [value for value in parameters if value.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    devices = {value.device.type for value in parameters}
    if settings.optimizer == "adamw_8bit":
        eight_bit = _eight_bit(devices)
        return eight_bit(groups, lr=settings.lr, betas=BETAS)  # type: ignore[no-any-return]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=BETAS, fused=devices <= {"cpu", "cuda"})


def _eight_bit(devices: set[str]) -> Any:
    """The class of AdamW with moments in 8 bits (Dettmers et al. 2021, arXiv 2110.02861), tried on every device.

    Tensors of fewer than 4096 numbers keep moments in 32 bits; whether a device is supported depends on the release
    of bitsandbytes, so one step tells.
    """
    try:
        from bitsandbytes.optim import AdamW8bit

        for device in devices:
            trial = torch.nn.Parameter(torch.ones(4096, device=device))
            trial.grad = torch.ones_like(trial)
            AdamW8bit([trial]).step()
    except ImportError as error:
        raise UserError(
            "optimizer = 'adamw_8bit' needs bitsandbytes: pip install 'psychocounsel[quantised]', "
            "or set optimizer = 'adamw'"
        ) from error
    except Exception as error:  # it has no class of its own for a device without a kernel or a library that misfits
        first = " ".join(str(error).split())[:120]
        raise UserError(
            f"optimizer = 'adamw_8bit': the installed bitsandbytes does not work on {', '.join(sorted(devices))} "
            f"({first}); update it, use a GPU that it supports, or set optimizer = 'adamw'"
        ) from error
    return AdamW8bit
