"""Attention over shared-prefix packs, for every model of transformers that calls its attention through the interface.

Two forms of the same mathematics: batched matrix products branch by branch (processors; reads each prompt's keys where
they lie), and FlexAttention with a block mask over the whole pack (graphics cards).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from psychocounsel.training.packs import Branch, Layout

NAME = "shared_prefix"
QUERIES = 128  # queries worked through at once by the branch form
BLOCK = 128  # FlexAttention's block; packs on a graphics card are filled up to a multiple of it


def register() -> str:
    """Make the form known to transformers and return the name for `model.set_attn_implementation`."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    whole = torch.compiler.disable(shared_prefix_attention)  # type: ignore[no-untyped-call]
    AttentionInterface.register(NAME, whole)
    AttentionMaskInterface.register(NAME, _window)
    return NAME


def _window(*arguments: Any, local_size: int | None = None, **settings: Any) -> int | None:
    """In place of a mask: its sliding window. The layout says all else; not every family repeats it to attention."""
    return local_size


def shared_prefix_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **ignored: Any,
) -> tuple[Tensor, None]:
    """Attention of one pack: query (1, heads, tokens, width), key and value (1, key heads, tokens, width).

    Returns (1, tokens, heads, width). `sliding_window` counts positions of a sequence, not places in the pack. Dropout
    is left out, as everywhere in training. Raises ValueError without a layout.
    """
    if layout is None:
        raise ValueError("shared-prefix attention needs the layout of a pack; this model does not hand it on")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = attention_mask if isinstance(attention_mask, int) else sliding_window
    window = window if window and window < layout.longest else None
    if query.device.type == "cuda":
        return _flex(query, key, value, layout, scale, window, softcap).transpose(1, 2), None
    if torch.is_autocast_enabled(query.device.type):  # rotary embeddings may have left float32
        kind = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(kind), key.to(kind), value.to(kind)
    mask = causal_mask(layout, window, value.dtype)
    cap = softcap or 0.0
    out: Tensor = _Branches.apply(query[0], key[0], value[0], mask, layout.branches, scale, cap)  # type: ignore[no-untyped-call]
    return out.transpose(0, 1)[None], None


def causal_mask(layout: Layout, window: int | None, kind: torch.dtype) -> Tensor:
    """0 where a query may look and -inf elsewhere, (longest, longest); the mask of each branch is a block of it."""
    found = layout.made.get((window, kind))
    if found is None:
        size, device = layout.longest, layout.positions.device
        hidden = torch.ones(size, size, dtype=torch.bool, device=device).triu(1)
        if window is not None:
            hidden |= torch.ones_like(hidden).tril(-window)
        found = torch.zeros(size, size, dtype=kind, device=device).masked_fill_(hidden, float("-inf"))
        layout.made[window, kind] = found
    kept: Tensor = found
    return kept


class _Branches(torch.autograd.Function):
    """Attention branch by branch. Query heads that share a key head are stacked, so that each product is one call.

    A long branch is worked through in blocks of queries, each with the keys up to its end: what lies above the diagonal
    is never computed. Probabilities are saved through autograd, so that gradient checkpointing can drop them.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, branches: list[Branch], scale: float, cap: float
    ) -> Tensor:
        out = torch.empty_like(q)
        shared, saved = q.shape[0] // k.shape[0], []
        scaled = q * scale
        for branch in branches:
            keys, values = _with_prefix(k, branch), _with_prefix(v, branch)
            for span, seen, block in _blocks(branch, mask):
                block = block if shared == 1 else block.repeat(shared, 1)
                rows, sides = _stacked(scaled, span, shared), keys[:, :seen].transpose(1, 2)
                if cap:
                    scores = torch.bmm(rows, sides).div_(cap).tanh_()
                    saved.append(scores.square().neg_().add_(1))  # the slope of the cap, for the way back
                    scores = scores.mul_(cap).add_(block)
                else:
                    scores = torch.baddbmm(block, rows, sides)
                weights = torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype)
                saved.append(weights)
                out[:, span] = torch.bmm(weights, values[:, :seen]).view(q.shape[0], span.stop - span.start, -1)
        ctx.save_for_backward(scaled, k, v, mask, *saved)
        ctx.branches, ctx.scale, ctx.cap = branches, scale, cap
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scaled, k, v, mask, *rest = ctx.saved_tensors
        saved = iter(rest)
        shared = scaled.shape[0] // k.shape[0]
        dq, dk, dv = torch.empty_like(scaled), torch.empty_like(k), torch.empty_like(v)
        for branch in ctx.branches:  # a prompt before its replies: what it sets, they add to
            keys, values = _with_prefix(k, branch), _with_prefix(v, branch)
            for_keys, for_values = keys, values  # replaced by the first block
            blocks = [
                (span, seen, next(saved) if ctx.cap else None, next(saved)) for span, seen, _ in _blocks(branch, mask)
            ]
            for span, seen, slope, weights in reversed(blocks):  # the last block sees, and so sets, every key
                above = _stacked(gradients[0], span, shared)
                inner = torch.bmm(above, values[:, :seen].transpose(1, 2))
                inner = torch._softmax_backward_data(inner, weights, -1, weights.dtype)
                if slope is not None:
                    inner.mul_(slope)
                dq[:, span] = torch.bmm(inner, keys[:, :seen]).view(scaled.shape[0], span.stop - span.start, -1)
                rows = _stacked(scaled, span, shared)
                if seen == keys.shape[1]:
                    for_values, for_keys = (
                        torch.bmm(weights.transpose(1, 2), above),
                        torch.bmm(inner.transpose(1, 2), rows),
                    )
                else:
                    for_values[:, :seen].baddbmm_(weights.transpose(1, 2), above)
                    for_keys[:, :seen].baddbmm_(inner.transpose(1, 2), rows)
            for total, part in ((dk, for_keys), (dv, for_values)):
                total[:, branch.start : branch.start + branch.length] = part[:, branch.prefix :]
                if branch.prefix:
                    total[:, branch.prefix_start : branch.prefix_start + branch.prefix] += part[:, : branch.prefix]
        return dq.mul_(ctx.scale), dk, dv, None, None, None, None


def _blocks(branch: Branch, mask: Tensor) -> Iterator[tuple[slice, int, Tensor]]:
    """Query blocks of a branch: their place in the pack, the keys they may see, and their part of the mask."""
    for start in range(0, branch.length, QUERIES):
        stop = min(start + QUERIES, branch.length)
        seen = branch.prefix + stop
        yield slice(branch.start + start, branch.start + stop), seen, mask[branch.prefix + start : seen, :seen]


def _stacked(rows: Tensor, span: slice, shared: int) -> Tensor:
    """(heads, tokens, width) at `span`, as (key heads, shared * span, width)."""
    part = rows[:, span]
    return part if shared == 1 else part.reshape(part.shape[0] // shared, shared * part.shape[1], part.shape[2])


def _with_prefix(rows: Tensor, branch: Branch) -> Tensor:
    """Keys or values that a branch sees: its prompt's, then its own."""
    own = rows[:, branch.start : branch.start + branch.length]
    if not branch.prefix:
        return own
    return torch.cat((rows[:, branch.prefix_start : branch.prefix_start + branch.prefix], own), 1)


def _flex(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """(1, heads, tokens, width) by FlexAttention; the block mask is made once for all layers of a pack."""
    mask = layout.made.get(("flex", window))
    if mask is None:
        mask = layout.made["flex", window] = block_mask(layout, window)
    score = None
    if softcap:

        def score(found: Tensor, *place: Tensor) -> Tensor:
            return softcap * torch.tanh(found / softcap)

    out: Tensor = _compiled_flex()(
        query, key, value, score_mod=score, block_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out


def block_mask(layout: Layout, window: int | None) -> Any:
    """FlexAttention's block mask of a pack: a token sees earlier positions of its own branch and of its prompt."""
    from torch.nn.attention.flex_attention import create_block_mask

    own, parent = layout.owners()
    positions = layout.positions

    def visible(batch: Tensor, head: Tensor, at: Tensor, to: Tensor) -> Tensor:
        seen = ((own[at] == own[to]) | (parent[at] == own[to])) & (positions[to] <= positions[at])
        return seen if window is None else seen & (positions[at] - positions[to] < window)

    return create_block_mask(visible, None, None, layout.tokens, layout.tokens, device=str(positions.device))


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if torch.cuda.is_available() else flex_attention
