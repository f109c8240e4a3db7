"""A language model or scorer that reads packs: every trained or scored token goes through here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from psychocounsel.training import attention
from psychocounsel.training.batches import Group
from psychocounsel.training.packs import Pack, make_pack

CHUNK = 1024  # reply tokens whose logits exist at once
KEEP = 1 << 26  # at most so many probabilities are kept for the way back; beyond, they are made again
OWN_STEPS = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # what families do after the output layer


class PackedModel(nn.Module):
    """The Hugging Face model inside, run over packs by shared-prefix attention, or row by row where it cannot.

    `shared` is False for a model that does not hand the layout on to its attention or treats positions in its own way;
    `opened` finds out. The model inside keeps its parameters' names under `model.`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.shared = True
        self._no_split_modules = getattr(self.bare, "_no_split_modules", None)  # what FSDP shards layer by layer
        for module in self.model.modules():  # log-probabilities mean the same in training and use
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            for name, value in vars(module).items():
                if "drop" in name and isinstance(value, float):  # rates that families keep as numbers
                    setattr(module, name, 0.0)

    def train(self, mode: bool = True) -> PackedModel:
        """Training mode only where gradient checkpointing looks for it: in that mode, routers of some families draw."""
        super().train(False)
        for module in self.modules():
            module.training = mode and (module is self or bool(getattr(module, "gradient_checkpointing", False)))
        return self

    @property
    def bare(self) -> Any:
        """The Hugging Face model inside adapters."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def states(self, pack: Pack, where: Tensor) -> Tensor:
        """Last hidden states at the places `where` of a pack (places of a pack's tokens); shape (places, hidden)."""
        base = self.bare.base_model
        if self.shared:
            found = base(
                input_ids=pack.ids[None], position_ids=pack.positions[None], use_cache=False, layout=pack.layout
            )
            hidden: Tensor = found.last_hidden_state[0]
            return hidden.index_select(0, where)
        ids, mask, places = rows(pack)
        hidden = base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.flatten(0, 1)
        return hidden.index_select(0, places[where])


class PackedPolicy(PackedModel):
    """A causal language model: a pack to the summed log-probability of each reply, float32, (replies,)."""

    def forward(self, pack: Pack) -> Tensor:
        head, config = self.bare.get_output_embeddings(), self.bare.config.get_text_config()
        hidden = self.states(pack, pack.sources)
        own = [getattr(config, name, None) for name in OWN_STEPS]
        if type(head) is nn.Linear and head.bias is None and not any(own):
            values: Tensor = _Logp.apply(hidden, head.weight, pack.targets)
        else:
            values = _checkpointed(hidden, pack.targets, lambda part: _logits(head(part), *own))
        return torch.zeros(pack.replies, device=values.device).index_add(0, pack.owners, values)


class PackedScorer(PackedModel):
    """A sequence classifier with one output, and further heads: a pack to scores, float32, (replies, 1 + heads).

    The first `guiding` heads shape the model as the overall score does. Others read hidden states without a gradient to
    them, so that they change nothing else.
    """

    def __init__(self, model: Any, heads: Sequence[str] = (), guiding: int = 0, seed: int = 0) -> None:
        super().__init__(model)
        self.names, self.guiding = tuple(heads), guiding
        width = self.bare.config.get_text_config().hidden_size
        self.heads = nn.Linear(width, len(heads), bias=False) if heads else None
        if self.heads is not None:
            draw = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                self.heads.weight.copy_(torch.randn(len(heads), width, generator=draw) * 0.02)
            self.heads.to(next(self.model.parameters()).device)

    def forward(self, pack: Pack) -> Tensor:
        hidden = self.states(pack, pack.ends)
        scores: Tensor = self.bare.score(hidden).float()
        if self.heads is None:
            return scores
        cut = self.guiding
        weight = self.heads.weight
        parts = [scores, F.linear(hidden, weight[:cut]).float(), F.linear(hidden.detach(), weight[cut:]).float()]
        return torch.cat(parts, 1)


def compiled(packed: PackedModel) -> PackedModel:
    """Compile each layer of a model; attention, whose shape is another in every pack, stays as it is."""
    kinds = packed._no_split_modules or []
    for module in packed.modules():
        if type(module).__name__ in kinds:
            module.compile(dynamic=True)
    return packed


def opened(packed: PackedModel) -> PackedModel:
    """Switch a packed model to shared-prefix attention if that gives what the plain model gives, else to rows.

    Two replies to one prompt are run both ways before anything else is. Call it before a model is sharded.
    """
    model = packed.bare
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = [(7 * number + 3) % vocabulary for number in range(14)]
    pack = make_pack([Group("probe", ids[:6], [ids[6:9], ids[9:14]])], next(model.parameters()).device)
    plain = model.config._attn_implementation
    if plain == attention.NAME:  # opened before
        plain = "eager"
        model.set_attn_implementation(plain)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            packed.shared = False
            expected = packed.states(pack, pack.sources).float()
            try:
                model.set_attn_implementation(attention.register())
                packed.shared = True
                found = packed.states(pack, pack.sources).float()
            except (ValueError, TypeError, RuntimeError, KeyError, AttributeError):
                found = torch.full_like(expected, torch.inf)
    finally:
        model.train(training)
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2
    if getattr(model.config, "attention_chunk_size", None) or not torch.allclose(
        found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())
    ):
        packed.shared = False
        model.set_attn_implementation(plain)
    return packed


def rows(pack: Pack) -> tuple[Tensor, Tensor, Tensor]:
    """A pack as right-padded rows: ids and mask (replies, longest), and each pack token's place in the flat rows."""
    sequences = pack.sequences()
    width = max(len(prompt) + len(reply) for prompt, reply in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    places = torch.zeros(len(pack.ids), dtype=torch.long)
    branches = [branch for branch in pack.layout.branches if branch.prefix]
    for number, ((prompt, reply), branch) in enumerate(zip(sequences, branches, strict=True)):
        end = len(prompt) + len(reply)
        ids[number, :end] = torch.tensor(prompt + reply)
        mask[number, :end] = 1
        first = number * width
        places[branch.prefix_start : branch.prefix_start + len(prompt)] = torch.arange(first, first + len(prompt))
        places[branch.start : branch.start + len(reply)] = torch.arange(first + len(prompt), first + end)
    device = pack.ids.device
    return ids.to(device), mask.to(device), places.to(device)


class _Logp(torch.autograd.Function):
    """log softmax(hidden W^T)[target] of each token, float32, without ever holding all logits.

    With frozen weights the gradient of hidden is finished on the way there, and nothing of the vocabulary is kept.
    Otherwise probabilities are kept for the way back while they are few, and made again where they are many.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        device = hidden.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        states, matrix = hidden.to(kind), weight.to(kind)
        tokens = len(targets)
        out = torch.empty(tokens, device=hidden.device)
        most = torch.empty(tokens, 1, device=hidden.device)
        total = torch.empty(tokens, 1, device=hidden.device)
        wanted, frozen = ctx.needs_input_grad[0], not ctx.needs_input_grad[1]
        keep = not frozen and wanted and tokens * len(matrix) <= KEEP
        slopes = torch.empty_like(states) if frozen and wanted else states.new_empty(0)
        kept = []
        for start in range(0, tokens, CHUNK):
            part, target = slice(start, start + CHUNK), targets[start : start + CHUNK, None]
            logits = (states[part] @ matrix.t()).float()
            right = logits.gather(1, target)
            most[part] = logits.amax(1, keepdim=True)
            raised = logits.sub_(most[part]).exp_()  # in place, as every pass over the vocabulary costs
            total[part] = raised.sum(1, keepdim=True)
            out[part] = (right - most[part] - total[part].log())[:, 0]
            if keep:
                kept.append(raised.to(kind))
            elif frozen and wanted:
                slopes[part] = matrix[target[:, 0]] - (raised / total[part]).to(kind) @ matrix
        ctx.save_for_backward(slopes if frozen else hidden, weight, targets, most, total, *kept)
        ctx.kind, ctx.frozen, ctx.input_kind = kind, frozen, hidden.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        first, weight, targets, most, total, *kept = ctx.saved_tensors
        above = gradients[0][:, None]
        if ctx.frozen:
            return (first * above.to(first.dtype)).to(ctx.input_kind), None, None
        states, matrix = first.to(ctx.kind), weight.to(ctx.kind)
        for_states = torch.empty_like(states)
        for_matrix = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for number, start in enumerate(range(0, len(targets), CHUNK)):
            part, target = slice(start, start + CHUNK), targets[start : start + CHUNK, None]
            share = -above[part] / total[part]
            if kept:
                slope = kept[number] * share.to(ctx.kind)
            else:
                slope = (states[part] @ matrix.t()).float().sub_(most[part]).exp_().mul_(share).to(ctx.kind)
            slope.scatter_add_(1, target, above[part].to(ctx.kind))
            torch.mm(slope, matrix, out=for_states[part])
            if ctx.kind == torch.float32:
                for_matrix.addmm_(slope.t(), states[part])
            else:
                for_matrix += slope.t() @ states[part]
        return for_states.to(ctx.input_kind), for_matrix.to(weight.dtype), None


def _checkpointed(hidden: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
    """The same for any output layer, its logits made again chunk by chunk on the way back."""

    def chunk(states: Tensor, target: Tensor) -> Tensor:
        return -F.cross_entropy(logits(states).float(), target, reduction="none")

    parts = zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True)
    return torch.cat([checkpoint(chunk, states, target, use_reentrant=False) for states, target in parts])


def _logits(found: Tensor, cap: float | None, scale: float | None, divisor: float | None) -> Tensor:
    """What Gemma 2, Cohere and Granite do after their output layer."""
    found = found * scale if scale else found
    found = found / divisor if divisor else found
    return cap * torch.tanh(found / cap) if cap else found
