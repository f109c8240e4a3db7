"""Loading weights and tokenizers from a folder or the hub, with clear errors and the repairs training needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError


def require_training() -> None:
    """Raise a UserError when the `train` extra is not installed."""
    try:
        import accelerate  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; training needs: pip install 'psychocounsel[train]'") from error


def load_tokenizer(name: str) -> Any:
    """A tokenizer that has a chat template and a pad token different from its end token. Raises UserError."""
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer, name)
    if tokenizer.chat_template is None:
        raise UserError(f"{name}: the tokenizer has no chat template; use an instruction-tuned model")
    if tokenizer.eos_token is None:
        raise UserError(f"{name}: the tokenizer has no end token; replies could not be ended")
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        # A pad token equal to the end token makes scorers read the wrong last position.
        spare = tokenizer.unk_token if tokenizer.unk_token not in (None, tokenizer.eos_token) else "<|pad|>"
        tokenizer.add_special_tokens({"pad_token": spare})
    return tokenizer


def load_causal(name: str, quantisation: Any = None) -> Any:
    """A causal language model in its stored precision, or in 4 bits, on the best device."""
    from transformers import AutoModelForCausalLM

    if quantisation is not None:
        place = {"": device()}
        return _load(AutoModelForCausalLM, name, dtype="auto", quantization_config=quantisation, device_map=place)
    return _load(AutoModelForCausalLM, name, dtype="auto").to(device())


def load_policy(name: str, quantisation: Any = None) -> tuple[Any, Any]:
    """(tokenizer, causal model); the embeddings grow when the tokenizer got a pad token of its own."""
    tokenizer, model = load_tokenizer(name), load_causal(name, quantisation)
    _make_room(model, len(tokenizer), name)
    return tokenizer, model


def load_scorer(name: str, pad_token_id: int, vocabulary: int, seed: int = 0, quantisation: Any = None) -> Any:
    """A sequence classifier with one output (a reward model); the head is new when `name` is a causal model."""
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # "some weights are newly initialised" is what we ask for
    torch.manual_seed(seed)
    try:
        model = _load(
            AutoModelForSequenceClassification,
            name,
            num_labels=1,
            problem_type="regression",
            **({"quantization_config": quantisation, "device_map": {"": device()}} if quantisation else {}),
            dtype=torch.float32,
        )
    finally:
        logging.set_verbosity(level)
    model.config.pad_token_id = pad_token_id
    _make_room(model, vocabulary, name)
    return model if quantisation else model.to(device())


def _make_room(model: Any, vocabulary: int, name: str) -> None:
    """Grow the embeddings by the pad token that a tokenizer may have been given. Raises UserError for more tokens."""
    import torch

    known = model.get_input_embeddings().num_embeddings
    if vocabulary > known + 1:
        raise UserError(
            f"{name}: the tokenizer has {vocabulary} tokens and the model {known}; they do not belong together, or "
            "tokens were added and the model was saved without them (resize_token_embeddings)"
        )
    if vocabulary > known:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the new row is drawn: the same one at every loading
            model.resize_token_embeddings(vocabulary)


def device() -> str:
    """'cuda' where there is one, else 'cpu'."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(kind: Any, name: str, **settings: Any) -> Any:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # ours say what is loading and how long it takes
    from safetensors import SafetensorError

    folder = Path(name).expanduser()
    try:
        return kind.from_pretrained(str(folder) if folder.is_dir() else name, **settings)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # RuntimeError: weights of another shape
        first = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: no usable model there ({first}); name a folder in Hugging Face layout or a hub id, "
            "and check the network or HF_HUB_OFFLINE"
        ) from error
