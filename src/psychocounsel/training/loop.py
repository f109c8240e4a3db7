"""The training loop: exact batches, exact resume, the best look at the dev split wins."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psychocounsel.errors import UserError
from psychocounsel.progress import progress
from psychocounsel.recipe import FREE, Training
from psychocounsel.records import content_id
from psychocounsel.training.batches import Group, Share, Unit, entries_of, steps
from psychocounsel.training.checkpoints import load_checkpoint, save_checkpoint
from psychocounsel.training.packs import Pack
from psychocounsel.training.processes import Prepared, total_norm, within_memory
from psychocounsel.training.trackers import Trackers

Compute = Callable[[Any, Pack], tuple[Tensor, dict[str, float]]]
OnStep = Callable[[int, dict[str, float]], None]


@dataclass
class Task:
    """What is trained: data, what a step counts, and the summed loss of a pack (with summed figures to report)."""

    name: str
    train: Sequence[Group]
    dev: Sequence[Group]
    unit: Unit
    compute: Compute
    over: Callable[[Group], int]  # what the loss is averaged over: pairs, or reply tokens
    max_steps: int | None = None


def plan_steps(task: Task, settings: Training, seed: int) -> Iterator[list[Share]]:
    """All optimizer steps of a training."""
    return steps(entries_of(task.train), task.unit, settings.batch, seed, settings.epochs, _most(task, settings))


def count_steps(task: Task, settings: Training) -> int:
    """The number of these steps."""
    entries = entries_of(task.train)
    found = sum(entry.pairs if task.unit == "pairs" else entry.replies for entry in entries)
    whole = math.ceil(math.ceil(found * settings.epochs - 1e-9) / settings.batch)
    most = _most(task, settings)
    return whole if most is None else min(whole, most)


def _most(task: Task, settings: Training) -> int | None:
    """The most steps that the task or the recipe allows."""
    return min((value for value in (task.max_steps, settings.steps) if value is not None), default=None)


def train(prepared: Prepared, task: Task, seed: int, folder: Path, on_step: OnStep | None = None) -> dict[str, Any]:
    """Train the model in place; returns the final state: step, best step and value, looks since the best one.

    `folder` gets metrics.jsonl and, while training, checkpoints; a killed training continues from the last one with
    bitwise the same result on the same number of threads. Raises UserError when the loss stops being a number (the
    batch is then in stopped.jsonl) or memory runs out.
    """
    settings = prepared.settings
    total = count_steps(task, settings)
    if not total:
        raise UserError(
            f"{task.name}: nothing to train on (0 steps from {len(task.train)} prompts); check epochs and batch"
        )
    folder.mkdir(parents=True, exist_ok=True)
    purpose = _purpose(task, settings, seed)
    state = load_checkpoint(folder / "checkpoint", prepared, purpose) or {
        "step": 0, "best": None, "best_step": 0, "waited": 0, "purpose": purpose,
    }  # fmt: skip
    restore_random(state.pop("random", None))
    log = MetricsLog(folder / "metrics.jsonl", state["step"], prepared.main)
    told = {**settings.model_dump(), "purpose": purpose}  # only numbers are sent; the rest tells runs apart
    trackers = Trackers(settings.report_to, folder, task.name, told, state["step"], prepared.main)
    with closing(trackers), within_memory(task.name, settings), progress(task.name, total) as advance:
        advance(state["step"])
        for number, step in enumerate(islice(plan_steps(task, settings, seed), state["step"], None), state["step"] + 1):
            if _stopped(state, settings):
                break
            rate = learning_rate(number, total, settings)
            figures = {"lr": rate, **_one_step(prepared, task, step, rate, folder)}
            log.add({"step": number, **figures})
            trackers.log(figures, number)
            if task.dev and (number % settings.evaluate_steps == 0 or number == total):
                found = _look(prepared, task, state, number, folder)
                log.add({"step": number, **found})
                trackers.log(found, number)
            state["step"] = number
            if number % settings.checkpoint_steps == 0 and number < total:
                save_checkpoint(folder / "checkpoint", prepared, {**state, "random": random_state()})
            if on_step:
                on_step(number, figures)
            advance(1, f"loss {figures['loss']:.3f}")
    if task.dev and load_checkpoint(folder / "best", prepared) is None:
        raise UserError(f"{folder / 'best'}: the best weights are gone; rerun the stage with --redo")
    return {key: value for key, value in state.items() if key != "purpose"}


def _purpose(task: Task, settings: Training, seed: int) -> str:
    """What a checkpoint was written for: settings that shape the result, data and seed."""
    data = [list(entry) for groups in (task.train, task.dev) for entry in entries_of(groups)]
    return content_id([task.name, settings.model_dump(mode="json", exclude=set(FREE)), seed, task.max_steps, data])


def _stopped(state: dict[str, Any], settings: Training) -> bool:
    return bool(settings.patience and state["waited"] >= settings.patience)


def _one_step(prepared: Prepared, task: Task, step: list[Share], rate: float, folder: Path) -> dict[str, float]:
    """One optimizer step; the loss is averaged over all items of the step, however packs and processes cut it."""
    for parameters in prepared.optimizer.param_groups:
        parameters["lr"] = rate
    groups = [task.train[share.place].part(task.unit, share.start, share.stop) for share in step]
    sums, total = _gradients(prepared, task, groups)
    norm = total_norm([value for value in prepared.packed.parameters() if value.requires_grad])
    for what, value in (("loss", sums["loss"]), ("gradient's norm", float(norm))):
        if not math.isfinite(value):
            _stop(prepared, task, what, value, groups, folder)
    clip = prepared.settings.clip / (float(norm) + 1e-6)
    if clip < 1:
        with torch.no_grad():
            for parameter in prepared.packed.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(clip)
    prepared.optimizer.step()
    prepared.optimizer.zero_grad(set_to_none=True)
    return {**{key: round(value / total, 6) for key, value in sums.items()}, "grad_norm": round(float(norm), 6)}


def _gradients(prepared: Prepared, task: Task, groups: list[Group]) -> tuple[dict[str, float], float]:
    """Add up the gradients of a step's mean loss. Returns summed loss and figures, and what they are summed over."""
    total = float(max(sum(task.over(group) for group in groups), 1))
    sums: dict[str, float] = {}
    for pack, _, last in prepared.packs(groups):
        with prepared.quiet(last):
            with prepared.accelerator.autocast():
                loss, figures = task.compute(prepared.model, pack)
            share = prepared.world / total if pack.counts else 0.0  # processes' gradients are averaged
            prepared.accelerator.backward(loss * share)
        for key, value in {"loss": loss.item(), **figures}.items():
            sums[key] = sums.get(key, 0.0) + (value if pack.counts else 0.0)
    return prepared.summed(sums), total


def _stop(prepared: Prepared, task: Task, what: str, value: float, groups: list[Group], folder: Path) -> None:
    """Save the batch and say where training stopped."""
    path = folder / "stopped.jsonl"
    if prepared.main:
        rows = (
            {"id": group.id, "prompt": group.prompt, "replies": group.replies, "pairs": group.pairs} for group in groups
        )
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    broken = [name for name, parameter in prepared.packed.named_parameters() if not torch.isfinite(parameter).all()]
    if broken:
        raise UserError(
            f"{task.name}: the {what} became {value} because weights are not numbers ({broken[0]} and "
            f"{len(broken) - 1} more); take another base model or an earlier checkpoint"
        )
    names = [group.id for group in groups][:4]
    raise UserError(
        f"{task.name}: the {what} became {value} on prompts {names} (token ids in {path}); "
        'lower the learning rate or use precision = "fp32"'
    )


def _look(prepared: Prepared, task: Task, state: dict[str, Any], number: int, folder: Path) -> dict[str, float]:
    figures = evaluate(prepared, task)
    if not math.isfinite(figures["loss"]):
        raise UserError(f"{task.name}: after step {number} the dev loss is {figures['loss']}; lower the learning rate")
    state["waited"] += 1
    if state["best"] is None or figures["loss"] < state["best"]:
        state.update(best=figures["loss"], best_step=number, waited=0)
        save_checkpoint(folder / "best", prepared)
    return {f"dev_{key}": value for key, value in figures.items()}


@torch.no_grad()
def evaluate(prepared: Prepared, task: Task) -> dict[str, float]:
    """Loss and figures on the dev split, averaged over its items."""
    sums: dict[str, float] = {}
    for groups in chunks(task.dev, prepared.settings.token_budget * prepared.world):
        for pack, held, _ in prepared.packs(groups):
            with prepared.accelerator.autocast():
                loss, figures = task.compute(prepared.model, pack)
            for key, value in {"items": sum(map(task.over, held)), "loss": loss.item(), **figures}.items():
                sums[key] = sums.get(key, 0.0) + (value if pack.counts else 0.0)
    sums = prepared.summed(sums)
    total = max(sums.pop("items"), 1.0)
    return {key: round(value / total, 6) for key, value in sums.items()}


def chunks(groups: Sequence[Group], budget: int) -> Iterator[list[Group]]:
    """Groups in their order, read a few packs' worth at a time, so that any number of them fits in memory."""
    part: list[Group] = []
    held = 0
    for place, entry in enumerate(entries_of(groups)):
        part.append(groups[place])
        held += entry.tokens
        if held >= 8 * budget:
            yield part
            part, held = [], 0
    if part:
        yield part


def learning_rate(step: int, total: int, settings: Training) -> float:
    """Linear warm-up, then cosine or linear decay to 0, or constant. A pure function of the step."""
    warm = math.ceil(total * settings.warmup)
    if step <= warm:
        return settings.lr * step / max(warm, 1)
    done = (step - warm) / max(total - warm, 1)
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * (1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def random_state() -> str:
    """torch's random state as hex. Nothing here draws from it, but a user's loss may."""
    return bytes(torch.get_rng_state().tolist()).hex()


def restore_random(state: str | None) -> None:
    if state:
        torch.set_rng_state(torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8))


class MetricsLog:
    """metrics.jsonl: one object per step; on resume, lines after the checkpoint are cut off and written anew."""

    def __init__(self, path: Path, step: int, main: bool = True) -> None:
        self.path, self.main = path, main
        if not main:
            return
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

    def add(self, row: dict[str, Any]) -> None:
        if self.main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
