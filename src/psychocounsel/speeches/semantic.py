"""The semantic pass: texts that say the same in other words, by the cosine of a local encoder's embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from psychocounsel.engine import HERE, Engine
from psychocounsel.errors import UserError
from psychocounsel.models.weights import device

if TYPE_CHECKING:
    import torch

MOST_TOKENS = 512
BLOCK = 1024  # rows of embeddings compared at once with so many others


def semantic_clusters(
    texts: Sequence[str], encoder: str, join_at: float, batch: int = 32, engine: Engine = HERE
) -> list[tuple[int, int, float]]:
    """Pairs (first, second, cosine), first < second, that join all texts linked by cosines of `join_at` or more.

    `encoder` is a folder or hub id of a text encoder. At most one pair less than there are texts is given, also where
    everything is alike: for each two clusters that grow together, the first pair met. `dedup.merged` takes the pairs.
    Raises UserError without torch, without a usable encoder, and for embeddings that are not finite.
    """
    if len(texts) < 2:
        return []
    rows = engine.map("embeddings", partial(_embedded, encoder=encoder, batch=batch), texts)
    vectors = np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(texts), -1)
    root = list(range(len(texts)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    pairs = []
    for first, second, cosine in _alike(vectors, join_at, find):
        low, high = sorted((find(first), find(second)))
        if low != high:
            root[high] = low
            pairs.append((first, second, round(cosine, 6)))
    return pairs


def _embedded(texts: Sequence[str], encoder: str, batch: int) -> list[bytes]:
    return [row.tobytes() for row in embed(texts, encoder, batch).numpy().astype("<f4")]


def embed(texts: Sequence[str], encoder: str, batch: int = 32) -> torch.Tensor:
    """Embeddings of shape (texts, width): last hidden states averaged over a text's tokens, of length 1; float32.

    A text is read up to MOST_TOKENS tokens, or as many as the encoder takes. Raises UserError.
    """
    tokenizer, model = _load(encoder)
    import torch
    from torch.nn.functional import normalize

    most = _most_tokens(tokenizer, model.config)
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))  # batches of one length waste no padding
    vectors = torch.zeros(len(texts), int(model.config.hidden_size))
    with torch.inference_mode():
        for start in range(0, len(texts), batch):
            rows = order[start : start + batch]
            tokens = tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=most,
                               return_tensors="pt").to(model.device)  # fmt: skip
            hidden = model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            vectors[rows] = normalize(mean, dim=1).cpu()
    if not bool(torch.isfinite(vectors).all()):
        raise UserError(f"speeches.encoder: {encoder} gives embeddings that are not finite; use another encoder")
    return vectors


def _alike(
    embeddings: NDArray[np.float32], join_at: float, find: Callable[[int], int]
) -> Iterator[tuple[int, int, float]]:
    """(first, second, cosine) of pairs at or above `join_at`, block by block; what `find` has joined is passed over."""
    import torch

    vectors = torch.from_numpy(embeddings.copy()).to(device())
    for low in range(0, len(vectors), BLOCK):
        one = vectors[low : low + BLOCK]
        for start in range(low, len(vectors), BLOCK):
            other = vectors[start : start + BLOCK]
            cosines = one @ other.T
            rows = torch.tensor([find(low + i) for i in range(len(one))], device=vectors.device)
            columns = torch.tensor([find(start + i) for i in range(len(other))], device=vectors.device)
            if start == low:
                cosines = cosines.triu(1)
            first, second = torch.nonzero((cosines >= join_at) & (rows[:, None] != columns), as_tuple=True)
            found = cosines[first, second].tolist()
            yield from zip((first + low).tolist(), (second + start).tolist(), found, strict=True)


def _load(name: str) -> tuple[Any, Any]:
    try:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise UserError(
            f"speeches.encoder: {error.name} is not installed; the semantic pass needs: "
            "pip install 'psychocounsel[train]'"
        ) from error
    disable_progress_bar()
    folder = Path(name).expanduser()
    place = str(folder) if folder.is_dir() else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        model = AutoModel.from_pretrained(place, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(
            f"speeches.encoder: {name}: no usable encoder there ({first}); name a folder in Hugging Face layout or a "
            "hub id, and check the network or HF_HUB_OFFLINE"
        ) from error
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise UserError(f"speeches.encoder: {name}: its tokenizer has no token to pad with; use another encoder")
    tokenizer.padding_side = "right"
    return tokenizer, model.to(device()).eval()


def _most_tokens(tokenizer: Any, config: Any) -> int:
    """What tokenizer and positions allow; RoBERTa and its kin lose the positions up to their padding token's."""
    positions = getattr(config, "max_position_embeddings", None) or MOST_TOKENS + 2
    return int(min(MOST_TOKENS, tokenizer.model_max_length, max(positions - 2, 1)))
