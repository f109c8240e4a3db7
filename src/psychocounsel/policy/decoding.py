"""The tokens of sampled replies: every row from a seed of its own, prompts read once, ended rows out of the batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from psychocounsel.errors import UserError
from psychocounsel.policy.growing import grow, keep_rows


@dataclass(frozen=True)
class Row:
    """One reply to draw: the prompt's token ids, the seed, and the most tokens."""

    prompt: tuple[int, ...]
    seed: int
    most: int


class Decoder:
    """Draws replies from a causal language model; the model's own generation settings have no part in it.

    A reply depends on its row alone, up to rounding of the logits: step t takes number t of a Philox stream that the
    row's seed keys (Salmon et al. 2011), and inverts the distribution function of the next token. Rows with one prompt
    share one reading of it, and a row that has ended leaves the batch. Models whose cache cannot be divided into rows,
    or that prepare their inputs in a way of their own, go through `model.generate` with the same numbers.
    """

    def __init__(self, model: Any, pad: int, ends: Sequence[int]) -> None:
        self.model, self.pad, self.ends = model.eval(), pad, tuple(ends)
        self.names = set(inspect.signature(model.forward).parameters)
        self.cache = "cache" if "cache" in self.names else "past_key_values"  # renamed in transformers 5.24
        self.shares = self.cache in self.names and _usual_inputs(model)

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row], temperature: float) -> list[list[int]]:
        """New token ids of each row, up to and with an end token. Raises UserError when logits are not finite."""
        found = self._by_rows(rows, temperature) if self.shares else None
        if found is not None:
            return found
        self.shares = False
        order = sorted(range(len(rows)), key=lambda place: rows[place].most)
        drawn: list[list[int]] = [[] for _ in rows]
        for most, places in groupby(order, key=lambda place: rows[place].most):
            part = list(places)
            for place, ids in zip(part, self._by_generate([rows[i] for i in part], temperature, most), strict=True):
                drawn[place] = ids
        return drawn

    def _by_rows(self, rows: Sequence[Row], temperature: float) -> list[list[int]] | None:
        """By a loop of our own; None when the cache cannot be divided into rows."""
        steps, device = max(row.most for row in rows), self.model.device
        numbers = draws([row.seed for row in rows], steps).to(device)
        prompts = list(dict.fromkeys(row.prompt for row in rows))
        at = {prompt: place for place, prompt in enumerate(prompts)}
        places = torch.tensor([at[row.prompt] for row in rows], device=device)
        ids, seen = padded(prompts, self.pad, steps)
        width, seen = ids.shape[1], seen.to(device)
        logits, cache = self._forward(ids.to(device), seen[:, :width], None)
        if not grow(cache, places, steps):
            return None
        logits, seen = logits[places], seen[places]
        found: list[list[int]] = [[] for _ in rows]
        live = list(range(len(rows)))
        for step in range(steps):
            tokens = choose(logits, numbers[live, step], temperature)
            for place, token in zip(live, chosen := known(tokens), strict=True):
                found[place].append(token)
            keep = [
                spot
                for spot, (place, token) in enumerate(zip(live, chosen, strict=True))
                if token not in self.ends and step + 1 < rows[place].most
            ]
            if not keep:
                break
            if len(keep) < len(live):
                order = keep_rows(cache, keep)
                live, picked = [live[spot] for spot in order], torch.tensor(order, device=device)
                tokens, seen = tokens[picked], seen[picked]
            logits, cache = self._forward(tokens[:, None], seen[:, : width + step + 1], cache)
        return found

    def _forward(self, ids: Tensor, seen: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits of the last position, (rows, vocabulary), and the cache."""
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": seen, "use_cache": True}
        if "position_ids" in self.names:
            given["position_ids"] = (seen.cumsum(-1) - 1).clamp_(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in self.names:
            given["logits_to_keep"] = 1
        if cache is not None:
            given[self.cache] = cache
        output = self.model(**given)
        return output.logits[:, -1], getattr(output, self.cache)

    def _by_generate(self, rows: Sequence[Row], temperature: float, most: int) -> list[list[int]]:
        """By `model.generate`, for models of every kind; all rows have the same limit."""
        device = self.model.device
        ids, seen = padded([row.prompt for row in rows], self.pad)
        width = ids.shape[1]
        numbers = draws([row.seed for row in rows], most).to(device)

        def only_chosen(input_ids: Tensor, scores: Tensor) -> Tensor:
            tokens = choose(scores, numbers[:, input_ids.shape[1] - width], temperature)
            known(tokens)
            return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)

        with _bare_settings(self.model):
            output = self.model.generate(
                input_ids=ids.to(device),
                attention_mask=seen.to(device),
                logits_processor=[only_chosen],
                do_sample=False,
                max_new_tokens=most,
                pad_token_id=self.pad,
                eos_token_id=list(self.ends),
            )
        return [self._ended(new) for new in output[:, width:].tolist()]

    def _ended(self, ids: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        return ids[: end + 1]


def draws(seeds: Sequence[int], steps: int) -> Tensor:
    """Uniform numbers of [0, 1), (seeds, steps): 53 bits each of a Philox stream, the same on every machine."""
    import numpy as np

    bits = [np.random.Philox(key=seed).random_raw(steps) >> np.uint64(11) for seed in seeds]
    return torch.from_numpy(np.stack(bits) * 2.0**-53)


def choose(logits: Tensor, numbers: Tensor, temperature: float) -> Tensor:
    """One token for each row of logits, (rows,): the most likely at temperature 0, else where the distribution function
    passes the row's number. -1 where a row's logits are not finite."""
    best, tokens = logits.max(-1)
    if temperature > 0:
        chances = (logits.float() / temperature).softmax(-1)
        reached = chances.cumsum(-1, dtype=torch.float64)
        whole = reached[:, -1:].contiguous()  # 1 but for rounding
        found = torch.searchsorted(reached, numbers[:, None] * whole, right=True)
        last = torch.searchsorted(reached, whole)  # a number just under 1 may round up to the whole
        tokens = torch.minimum(found, last)[:, 0]
    return torch.where(best.isfinite(), tokens, -1)


def known(tokens: Tensor) -> list[int]:
    """The chosen tokens. Raises UserError when one could not be chosen."""
    chosen: list[int] = tokens.tolist()
    if min(chosen) < 0:
        raise UserError(
            "sampling: the policy's outputs are not finite numbers; its weights are broken, or it has to be stored in "
            "bfloat16 or float32 instead of float16"
        )
    return chosen


def padded(prompts: Sequence[Sequence[int]], pad: int, room: int = 0) -> tuple[Tensor, Tensor]:
    """Prompts padded on the left, (prompts, width), and their mask with `room` more columns of ones."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    seen = torch.ones((len(prompts), width + room), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        seen[row, : width - len(prompt)] = 0
    return ids, seen


def _usual_inputs(model: Any) -> bool:
    """Whether a model prepares its inputs as most do; others change what they are given, or their cache (Phi-3)."""
    from transformers.generation import GenerationMixin

    own = getattr(type(model), "prepare_inputs_for_generation", None)
    return own is GenerationMixin.prepare_inputs_for_generation


@contextmanager
def _bare_settings(model: Any) -> Iterator[None]:
    """The model without generation settings of its own: `generate` reads them for whatever it is not told."""
    from transformers import GenerationConfig

    kept = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = kept
