"""Low-rank adapters: put on a loaded model, trained in place of its weights, merged into them before it is saved."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psychocounsel.errors import UserError, nearest
from psychocounsel.models.weights import load_policy
from psychocounsel.recipe.training import LoraTable
from psychocounsel.training.packed import PackedPolicy

HEADS = ["lm_head", "embed_out", "score", "classifier"]  # output layers, which stay in full precision
SHOWN = 12  # layer names in one error


@dataclass(frozen=True)
class Start:
    """A policy to go on from: a model folder or hub id. `base` and `adapter` are the same policy in parts, where it was
    trained by adapters: engines that load adapters, and further training, take these."""

    model: str
    base: str = ""
    adapter: str = ""


def add_adapters(model: Any, table: LoraTable, seed: int) -> Any:
    """The model with adapters on the linear layers of its backbone; with rank 0 the model itself.

    Adapters start as the identity, so outputs are unchanged until the first step, and their random half depends on
    `seed` only. Trained are the adapters (float32) and, of a classifier, everything above the backbone, such as its
    score head; a causal model's output layer stays frozen. Call it once the embeddings have their final size and
    before the model is prepared for several processes. Experts stored as one tensor are no linear layers and get no
    adapter. Raises UserError when a target is not there or the rank exceeds what a target can hold.
    Hu et al. 2021, arXiv 2106.09685.
    """
    if table.rank == 0:
        return model
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    layers = _linear_layers(model)
    chosen = _chosen(layers, table)
    model = _ready_in_four_bits(model)
    config = LoraConfig(
        r=table.rank,
        lora_alpha=table.alpha,
        lora_dropout=0.0,
        target_modules=list(chosen),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in chosen.values()),  # GPT-2 keeps weights transposed
    )
    with torch.random.fork_rng(devices=[]):  # peft draws on the CPU, wherever the model is
        torch.manual_seed(seed)
        return _wrapped(model, config)


def policy_maker(start: Start, table: LoraTable, seed: int) -> Callable[[bool], PackedPolicy]:
    """How to make a policy: with adapters to train (True), those of `start` if it has some, or without any, in full
    precision (False).

    `training.checkpoints.finished` takes it to make the model again.
    """
    parts = bool(table.rank and start.adapter)

    def made(adapted: bool) -> PackedPolicy:
        _, model = load_policy(start.base if parts else start.model, quantisation(table) if adapted else None)
        if adapted:
            model = _adapted(model, start.adapter) if parts else add_adapters(model, table, seed)
        return PackedPolicy(model)

    return made


def _adapted(model: Any, adapter: str) -> Any:
    """The model with adapters that were trained before, to be trained further."""
    from peft import PeftModel

    with _peft_quiet():
        return PeftModel.from_pretrained(_ready_in_four_bits(model), adapter, is_trainable=True)


def _ready_in_four_bits(model: Any) -> Any:
    """A model in 4 bits made ready to train adapters: norms and head in float32, without which training is unstable
    (arXiv 2305.14314). Any other model as it is."""
    if not _in_four_bits(model):
        return model
    from peft import prepare_model_for_kbit_training

    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    for layer in _linear_layers(model).values():
        # On processors with AVX512-BF16, bitsandbytes 0.50 repacks the weights of a model in eval mode (as ours
        # is while it trains) for a kernel without gradients: what is below would silently learn nothing.
        layer.support_avx512bf16_for_cpu = False
    return model


@contextmanager
def _peft_quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # peft 0.21 reads a property that transformers 5.24 has renamed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def save_adapter(folder: Path, model: Any) -> None:
    """Save a model's adapters in peft's layout, atomically; a model without adapters saves none."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    # embeddings that grew by a pad token are frozen and made again at every loading; engines take no others
    model.save_pretrained(part, save_embedding_layers=False)
    (part / "README.md").unlink(missing_ok=True)  # peft's card is an empty form
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def merged(model: Any, base: Any = None) -> Any:
    """The plain Hugging Face model with its adapters added to the weights; a model without adapters comes back as is.

    The trained model is used up. One in 4 bits cannot take the adapters without loss: give `base`, the same model
    loaded again in full precision (with the same added tokens), and the adapters and head are merged into that.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model
    if base is not None:
        full = _wrapped(base, copy.deepcopy(model.peft_config["default"]))
        load_adapter_state(full, adapter_state(model))
        model = full
    elif _in_four_bits(model):
        raise ValueError("a model in 4 bits is merged into its base in full precision; give `base`")
    return model.merge_and_unload().requires_grad_(True)


def adapter_state(model: Any) -> dict[str, Tensor]:
    """What training changes: name to tensor of every trainable parameter. Enough for a checkpoint next to the base."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def load_adapter_state(model: Any, state: dict[str, Tensor]) -> None:
    """Copy an `adapter_state` into a model with the same adapters. Raises KeyError naming what does not match."""
    own = adapter_state(model)
    if own.keys() != state.keys():
        raise KeyError(f"adapters do not match: {sorted(own.keys() ^ state.keys())[:4]}")
    for name, value in own.items():
        value.copy_(state[name])


def quantisation(table: LoraTable) -> Any:
    """What `from_pretrained(quantization_config=...)` takes to hold weights in 4 bits; None when they are not to be.

    NormalFloat with doubly quantised constants, computed in bfloat16 (QLoRA, Dettmers et al. 2023, arXiv 2305.14314).
    Raises UserError when bitsandbytes is missing or nothing would be trained.
    """
    if not table.quantised:
        return None
    if table.rank == 0:
        raise UserError("lora.quantised: weights in 4 bits cannot be trained; set lora.rank, for example to 16")
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # it fails in its own ways where its library does not fit
        first = " ".join(str(error).split())[:120]
        raise UserError(
            f"lora.quantised needs bitsandbytes ({first}): pip install 'psychocounsel[quantised]', "
            "or set lora.quantised = false"
        ) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=HEADS,  # read for 4 bits too; a classifier's head is not left out by default
    )


def _in_four_bits(model: Any) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False))


def _linear_layers(model: Any) -> dict[str, Any]:
    """Name to module of every linear layer of the backbone; what is above it, such as the output layer, is not in."""
    from transformers.pytorch_utils import Conv1D

    backbone = {id(module) for module in model.base_model.modules()} - {id(model.get_output_embeddings())}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and id(module) in backbone
    }


def _chosen(layers: dict[str, Any], table: LoraTable) -> dict[str, Any]:
    """The layers that a target names in full or by their last parts; all when there are no targets."""
    short = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    known = ", ".join(short[:SHOWN]) + (", ..." if len(short) > SHOWN else "")
    wanted: dict[str, Any] = {}
    for target in table.targets or list(layers):
        found = {name: layer for name, layer in layers.items() if f".{name}".endswith(f".{target}")}
        if not found:
            raise UserError(
                f"lora.targets: no linear layer '{target}' under the output layer{nearest(target, short)}; the model "
                f"has {known}; leave lora.targets out for all of them"
            )
        wanted |= found
    name, room = min(((name, _room(layer)) for name, layer in wanted.items()), key=lambda pair: pair[1])
    if table.rank > room:
        raise UserError(
            f"lora.rank = {table.rank}: layer '{name}' has rank {room} at most; set lora.rank to {room} or less "
            "(8 to 64 is usual), or to 0 to train all weights"
        )
    return wanted


def _room(layer: Any) -> int:
    """The highest rank a linear layer's weights can have."""
    # the weight of a Linear in 4 bits is packed, so its shape says nothing; a Conv1D has no other
    return int(min((layer.in_features, layer.out_features) if hasattr(layer, "in_features") else layer.weight.shape))


def _wrapped(model: Any, config: Any) -> Any:
    """peft freezes the model and adds adapters; a classifier's parts above the backbone are trained whole again."""
    from peft import get_peft_model

    causal = model.get_output_embeddings() is not None
    backbone = {id(value) for value in model.base_model.parameters()}
    above = [value for value in model.parameters() if id(value) not in backbone]
    with _peft_quiet():
        wrapped = get_peft_model(model, config)
    for value in [] if causal else above:
        value.requires_grad_(True)
    return wrapped
