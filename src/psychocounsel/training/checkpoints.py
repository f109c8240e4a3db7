"""Checkpoints that are complete or absent, and final models in Hugging Face layout."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from psychocounsel.errors import UserError


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """torch, safetensors and tokenizers report a full disk as errors of their own; say what it is and what to do."""
    try:
        yield
    except OSError:  # the pipeline knows what to say
        raise
    except Exception as error:  # tokenizers has no class of its own
        raise UserError(
            f"{folder}: cannot be written ({str(error)[:120]}); free some disk space, then run the same command"
        ) from error


def save_checkpoint(folder: Path, model: Any, optimizer: Any, state: dict[str, Any]) -> None:
    """Write weights, optimizer and state under a temporary name, then swap it in; the older one goes last."""
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with _writing(folder):
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, part / "tensors.pt")
    (part / "state.json").write_text(json.dumps(state), encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, model: Any, optimizer: Any) -> dict[str, Any] | None:
    """Restore the newest complete checkpoint and return its state, or None when there is none."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():  # killed between the two renames
        old.rename(folder)
    if not folder.exists():
        return None
    try:
        tensors = torch.load(folder / "tensors.pt", map_location="cpu", weights_only=True)
        model.load_state_dict(tensors["model"])
        optimizer.load_state_dict(tensors["optimizer"])
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = " ".join(str(error).split())[:120]
        raise UserError(f"{folder}: this checkpoint does not fit ({first}); rerun the stage with --redo") from error
    return state


def save_best(path: Path, model: Any) -> None:
    """Keep the weights of the best look at the dev split."""
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _writing(path):
        torch.save(model.state_dict(), part)
    part.replace(path)


def save_model(folder: Path, model: Any, tokenizer: Any) -> None:
    """Save a model and its tokenizer in Hugging Face layout, atomically."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # ours say what takes long; these would stand between their lines
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with _writing(folder):
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
