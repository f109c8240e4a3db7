"""What can be known of a reward model without loading its weights: whether it has a trained head, and one output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_tokenizer

HEADS, WEIGHTS = "heads.json", "heads.safetensors"
HEAD = "score.weight"  # the head of every decoder family's sequence classifier in transformers
CLASSIFIER = "ForSequenceClassification"


def check_scorer(name: str) -> bool:
    """Look at config, tokenizer and the headers of the weights of a reward model: a folder, or a hub id that was
    downloaded before. False for a hub id that is not on this machine yet: loading it is the check.

    Raises UserError for a model that would load and then score wrongly: a causal model, whose head would be drawn
    anew; several outputs; another model's tokenizer; no chat template or end token; no pad token of its own, because
    whoever trained it so read its scores before the end token, and they are read at it here.
    """
    folder = _on_this_machine(name)
    if folder is None:
        return False
    config = _config(name, folder)
    _check_head(name, folder, config)
    load_tokenizer(str(folder))  # says what it lacks
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))  # as it is stored, without our repairs
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        raise UserError(
            f"{name}: the reward model's tokenizer has no pad token of its own, so that its scores may have been "
            "learnt before the end token, where nobody reads them here; save it with another pad token than the end "
            "token (tokenizer.add_special_tokens, model.resize_token_embeddings), or train one with the reward stage"
        )
    known = config.get_text_config().vocab_size
    if len(tokenizer) > known:
        raise UserError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens and the reward model {known}; they do not belong "
            "together; put the tokenizer it was trained with into its folder"
        )
    return True


def read_heads(folder: Path) -> tuple[list[str], int]:
    """Names of a reward model's further heads, and how many of them, the first ones, are principles; the rest are
    bootstrap heads. ([], 0) for a model of others. Raises UserError for a file that does not say it."""
    path = folder / HEADS
    if not path.is_file():
        return [], 0
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [str(head) for head in found["heads"]], int(found["guiding"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: does not name the model's heads ({type(error).__name__}); copy the whole folder again"
        ) from error


def _on_this_machine(name: str) -> Path | None:
    """The folder of a model, or of its newest download; None for a hub id that was not downloaded."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError as error:
        raise UserError(
            f"{name}: no such folder, and no hub id; name a reward model's folder, or OWNER/NAME"
        ) from error
    return Path(found).parent if isinstance(found, str) else None


def _config(name: str, folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: no reward model there ({first}); name a folder in Hugging Face layout, with config.json"
        ) from error


def _check_head(name: str, folder: Path, config: Any) -> None:
    """Raise UserError without a trained head of one output. Weights of an old kind cannot be looked into: there the
    config's word is taken."""
    shapes = _shapes(name, folder)
    if shapes is None:
        told = any(CLASSIFIER in kind for kind in config.architectures or ())
        outputs: int | None = config.num_labels if told else None
    else:
        found = [shape for key, shape in shapes.items() if key == HEAD or key.endswith(f".{HEAD}")]
        outputs = (found[0] or (config.num_labels,))[0] if found else None
    if outputs is None:
        raise UserError(
            f"{name}: its weights have no trained score head ({HEAD}), and a new one would be drawn at random; name a "
            f"reward model (...{CLASSIFIER}), or make one of this model with the reward stage (reward.base)"
        )
    if outputs != 1:
        raise UserError(
            f"{name}: gives {outputs} numbers for a reply (num_labels = {outputs}); a reward model has one output"
        )


def _shapes(name: str, folder: Path) -> dict[str, tuple[int, ...]] | None:
    """Shapes of weights by name, () where only the name is known; None when not even that can be read cheaply."""
    files = [path for path in sorted(folder.glob("*.safetensors")) if path.name != WEIGHTS]
    index = folder / "pytorch_model.bin.index.json"
    if not files and index.is_file():
        return dict.fromkeys(json.loads(index.read_text(encoding="utf-8"))["weight_map"], ())
    if not files:
        if any(folder.glob("*.bin")):
            return None
        raise UserError(f"{name}: no weights there (*.safetensors); was the model saved, or its download cut off?")
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with safe_open(str(path), "pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    shapes[key] = tuple(file.get_slice(key).get_shape())
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: cannot be read ({error}); copy or download the model again") from error
    return shapes
