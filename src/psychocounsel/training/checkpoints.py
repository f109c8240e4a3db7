"""Checkpoints that are complete or absent and load in any number of processes; final models in Hugging Face layout."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from psychocounsel.errors import UserError
from psychocounsel.training.adapters import merged, save_adapter
from psychocounsel.training.packed import PackedModel
from psychocounsel.training.processes import Prepared, main_process


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """torch, safetensors and tokenizers report a full disk as errors of their own; say what it is and what to do."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except OSError:  # the pipeline knows what to say
        raise
    except (Exception, CheckpointException) as error:  # tokenizers has no class of its own; torch's is no Exception
        first = _cause(error)
        raise UserError(
            f"{folder}: cannot be written ({str(first)[:120]}); free some disk space, then run the same command"
        ) from error


def _cause(error: BaseException) -> BaseException:
    """What went wrong inside torch's checkpoint functions, which wrap everything; Ctrl-C is raised again."""
    first = next((found for found, _ in getattr(error, "failures", {}).values()), error)
    if isinstance(first, KeyboardInterrupt):
        raise first from error
    return first


@contextmanager
def _one_process_will_do() -> Iterator[None]:
    """torch warns where a checkpoint is written or read by one process alone; that is what we want."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def save_checkpoint(folder: Path, prepared: Prepared, state: dict[str, Any] | None = None) -> None:
    """Write trained weights, with `state` the optimizer too, each process its shards; swap the folder in when whole.

    The older checkpoint goes last.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    if prepared.main:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    prepared.accelerator.wait_for_everyone()
    with _writing(folder), _one_process_will_do():
        save(_tensors(prepared, state is not None), checkpoint_id=part, no_dist=prepared.world == 1)
    if prepared.main:
        (part / "state.json").write_text(json.dumps(state), encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    prepared.accelerator.wait_for_everyone()


def load_checkpoint(folder: Path, prepared: Prepared, purpose: str = "") -> dict[str, Any] | None:
    """Restore the newest complete checkpoint and return its state, or None when there is none.

    With `purpose` the checkpoint must have been written for the same one. Raises UserError when it does not fit.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict import set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    old = folder.with_name(folder.name + ".old")
    if prepared.main and not folder.exists() and old.exists():  # killed between the two renames
        old.rename(folder)
    prepared.accelerator.wait_for_everyone()
    if not folder.exists():
        return None
    try:
        state: dict[str, Any] | None = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if state is not None and state["purpose"] != purpose:
            raise UserError(
                f"{folder}: this checkpoint belongs to other settings, data or another model; rerun the stage with "
                "--redo, or put the recipe back as it was"
            )
        tensors = _tensors(prepared, state is not None)
        with _one_process_will_do():
            load(tensors, checkpoint_id=folder, no_dist=prepared.world == 1)
        set_state_dict(
            prepared.model,
            _bare(prepared) if state is not None else (),
            model_state_dict=tensors["model"],
            optim_state_dict=tensors.get("optimizer", {}),
            options=_options(),
        )
    except UserError:
        raise
    except (CheckpointException, OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError,
            pickle.UnpicklingError) as error:  # fmt: skip
        first = " ".join(str(_cause(error)).split())[:120]
        raise UserError(f"{folder}: this checkpoint does not fit ({first}); rerun the stage with --redo") from error
    return {} if state is None else state


def _tensors(prepared: Prepared, with_optimizer: bool) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, optimizer = get_state_dict(prepared.model, _bare(prepared) if with_optimizer else (), options=_options())
    return {"model": model, "optimizer": optimizer} if with_optimizer else {"model": model}


def _options() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(ignore_frozen_params=True, strict=False)


def _bare(prepared: Prepared) -> Any:
    """The optimizer inside accelerate's."""
    return getattr(prepared.optimizer, "optimizer", prepared.optimizer)


Kind = TypeVar("Kind", bound=PackedModel)


def finished(prepared: Prepared, remake: Callable[[bool], Kind], adapter: Path | None = None) -> Kind | None:
    """The trained model on the main process, whole and with its adapters merged; None on other processes.

    `adapter` is a folder to save the adapters into before they are merged, if there are some.

    `remake(True)` gives the model as it was before training, to put gathered shards into, and `remake(False)` the same
    in full precision without adapters, to merge those of a quantised one into.
    """
    packed: Any = prepared.packed
    if prepared.sharded:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(prepared.model, options=options)
        if not prepared.main:
            return None
        packed = remake(True)
        packed.load_state_dict(weights)
    if not prepared.main:
        return None
    if adapter is not None:
        with _writing(adapter):
            save_adapter(adapter, packed.model)
    quantised = getattr(packed.bare, "is_loaded_in_4bit", False)
    packed.model = merged(packed.model, remake(False).bare if quantised else None)
    return cast(Kind, packed)


def save_model(folder: Path, model: Any, tokenizer: Any) -> None:
    """Save a model and its tokenizer in Hugging Face layout, atomically; of several processes, the first does it."""
    if not main_process():
        return
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # ours say what takes long; these would stand between their lines
    _name_ends(model, tokenizer)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with _writing(folder):
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _name_ends(model: Any, tokenizer: Any) -> None:
    """Let the saved generation settings name every token that ends a reply, so that a server stops where we do."""
    settings = getattr(model, "generation_config", None)
    if settings is None or tokenizer.chat_template is None:
        return
    from psychocounsel.training.encoding import Encoder

    named = settings.eos_token_id
    known = [] if named is None else named if isinstance(named, list) else [named]
    ends = list(dict.fromkeys([*known, *Encoder(tokenizer, 2).ends]))
    settings.eos_token_id = ends if len(ends) > 1 else ends[0]
