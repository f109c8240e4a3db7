"""The training loop: exact batches, exact resume, the best look at the dev split wins."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psychocounsel.errors import UserError
from psychocounsel.models.weights import device
from psychocounsel.progress import progress
from psychocounsel.recipe import Training
from psychocounsel.training.batches import Batch, Group, collate, micro_batches, steps
from psychocounsel.training.checkpoints import load_checkpoint, save_best, save_checkpoint

Compute = Callable[[Any, Batch], tuple[Tensor, dict[str, float]]]


@dataclass
class Task:
    """What is trained: data, how items are counted, and the summed loss of a batch (with summed figures to report)."""

    name: str
    train: Sequence[Group]
    dev: Sequence[Group]
    weigh: Callable[[Group], int]
    compute: Compute
    unit: Callable[[Batch], int]  # items the loss is averaged over: pairs, or reply tokens
    max_steps: int | None = None


def plan_steps(task: Task, settings: Training, seed: int) -> Iterator[list[Group]]:
    """All optimizer steps of a training, over whole and partial epochs."""
    per_epoch = len(list(steps(task.train, settings.batch, seed, 0, task.weigh)))
    total = math.ceil(per_epoch * settings.epochs)
    if task.max_steps is not None:
        total = min(total, task.max_steps)
    made = epoch = 0
    while made < total:
        for step in steps(task.train, settings.batch, seed, epoch, task.weigh):
            if made == total:
                return
            made += 1
            yield step
        epoch += 1


def train(model: Any, task: Task, settings: Training, seed: int, folder: Path, pad: int) -> dict[str, Any]:
    """Train `model` in place; returns the final state: step, best step and value, history of looks at dev.

    `folder` gets metrics.jsonl and, while training, checkpoints; a killed training continues from the last one with
    bitwise the same result on the same number of threads. Raises UserError when the loss stops being a number.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    plan = list(plan_steps(task, settings, seed))
    if not plan:
        raise UserError(
            f"{task.name}: nothing to train on (0 steps from {len(task.train)} prompts); check epochs and batch"
        )
    AcceleratorState._reset_state()  # it is one per process, and an earlier stage may have used another precision
    accelerator = Accelerator(mixed_precision=precision(settings), cpu=device() == "cpu")
    if accelerator.num_processes != 1:
        raise UserError(f"{task.name}: {accelerator.num_processes} processes; this version trains in one process")
    folder.mkdir(parents=True, exist_ok=True)
    model.float()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, betas=(0.9, 0.95)
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    bare = accelerator.unwrap_model(model)
    state = load_checkpoint(folder / "checkpoint", bare, optimizer) or {
        "step": 0,
        "best": None,
        "best_step": 0,
    }
    log = MetricsLog(folder / "metrics.jsonl", state["step"])
    bare.eval()  # dropout off: scores and log-probabilities mean the same everywhere; gradients still flow
    with progress(task.name, len(plan)) as advance:
        advance(state["step"])
        for number in range(state["step"] + 1, len(plan) + 1):
            rate = learning_rate(number, len(plan), settings)
            figures = _one_step(accelerator, model, optimizer, task, plan[number - 1], settings, rate, pad)
            log.add({"step": number, "lr": rate, **figures})
            if number % settings.evaluate_steps == 0 or number == len(plan):
                _look(model, task, settings, pad, state, number, log, folder)
            state["step"] = number
            if number % settings.checkpoint_steps == 0 and number < len(plan):
                save_checkpoint(folder / "checkpoint", bare, optimizer, state)
            advance(1, f"loss {figures['loss']:.3f}")
    if task.dev:
        bare.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
    return state


def _one_step(
    accelerator: Any,
    model: Any,
    optimizer: Any,
    task: Task,
    groups: list[Group],
    settings: Training,
    rate: float,
    pad: int,
) -> dict[str, float]:
    """One optimizer step; the loss is averaged over all items of the step, however it is cut into micro-batches."""
    for parameters in optimizer.param_groups:
        parameters["lr"] = rate
    batches = [collate(part, pad, accelerator.device) for part in micro_batches(groups, settings.micro_batch)]
    total = max(sum(task.unit(batch) for batch in batches), 1)
    sums: dict[str, float] = {}
    for batch in batches:
        with accelerator.autocast():
            loss, figures = task.compute(model, batch)
        if not torch.isfinite(loss):
            raise UserError(f"{task.name}: the loss became {loss.item()} {_where(groups)}")
        accelerator.backward(loss / total)
        for key, value in {"loss": loss.item(), **figures}.items():
            sums[key] = sums.get(key, 0.0) + value
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip)
    if not torch.isfinite(norm):
        raise UserError(f"{task.name}: the gradient's norm became {norm.item()} {_where(groups)}")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {
        **{key: round(value / total, 6) for key, value in sums.items()},
        "grad_norm": round(float(norm), 6),
    }


def _where(groups: list[Group]) -> str:
    names = [group.id for group in groups][:4]
    return f'on prompts {names}; lower the learning rate or use precision = "fp32"'


def _look(
    model: Any,
    task: Task,
    settings: Training,
    pad: int,
    state: dict[str, Any],
    number: int,
    log: MetricsLog,
    folder: Path,
) -> None:
    if not task.dev:
        return
    figures = evaluate(model, task, settings, pad)
    if not math.isfinite(figures["loss"]):
        raise UserError(f"{task.name}: after step {number} the dev loss is {figures['loss']}; lower the learning rate")
    log.add({"step": number, **{f"dev_{key}": value for key, value in figures.items()}})
    if state["best"] is None or figures["loss"] < state["best"]:
        state["best"], state["best_step"] = figures["loss"], number
        save_best(folder / "best.pt", model)


@torch.no_grad()
def evaluate(model: Any, task: Task, settings: Training, pad: int) -> dict[str, float]:
    """Loss and figures on the dev split, averaged over its items."""
    sums: dict[str, float] = {}
    total = 0
    for part in micro_batches(task.dev, settings.micro_batch * 2):
        batch = collate(part, pad, device())
        loss, figures = task.compute(model, batch)
        total += task.unit(batch)
        for key, value in {"loss": loss.item(), **figures}.items():
            sums[key] = sums.get(key, 0.0) + value
    return {key: round(value / max(total, 1), 6) for key, value in sums.items()}


def learning_rate(step: int, total: int, settings: Training) -> float:
    """Linear warm-up, then cosine or linear decay to 0, or constant. A pure function of the step."""
    warm = math.ceil(total * settings.warmup)
    if step <= warm:
        return settings.lr * step / max(warm, 1)
    done = (step - warm) / max(total - warm, 1)
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * (1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def precision(settings: Training) -> str:
    """'bf16' where asked for or where the hardware is good at it (a GPU with bf16, AMX); else 'no'."""
    if settings.precision != "auto":
        return "bf16" if settings.precision == "bf16" else "no"
    if device() == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if amx() else "no"


def use_threads(count: int) -> None:
    """Set torch's threads; 0 keeps its own choice, which follows OMP_NUM_THREADS and the processor's affinity."""
    if count:
        torch.set_num_threads(count)


class MetricsLog:
    """metrics.jsonl: one object per step; on resume, lines after the checkpoint are cut off and written anew."""

    def __init__(self, path: Path, step: int) -> None:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        kept = []
        for line in lines:
            try:
                if json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError):
                break  # the line a kill cut short
            kept.append(line)
        part = path.with_name(path.name + ".part")
        part.write_text("".join(kept), encoding="utf-8")
        part.replace(path)
        self.path = path

    def add(self, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
