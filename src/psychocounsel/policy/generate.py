"""Sample replies from a policy in this process, with seeds that do not depend on what ran before or beside."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_policy
from psychocounsel.policy.decoding import Decoder, Row
from psychocounsel.policy.sampling import Prompt, Sample, Sampling, read_sample
from psychocounsel.recipe import EngineTable
from psychocounsel.training.adapters import Start
from psychocounsel.training.encoding import Encoder
from psychocounsel.training.processes import out_of_memory


class Replies:
    """A loaded policy that replies: prompts sorted by length, `rows` replies at once."""

    def __init__(self, tokenizer: Any, model: Any, rows: int) -> None:
        self.tokenizer, self.rows = tokenizer, rows
        self.decoder = Decoder(model, tokenizer.pad_token_id, reply_ends(tokenizer, model))
        self.room = positions(model)

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sample]]:
        """The samples of each prompt in the order of its numbers. Raises UserError when memory runs out."""
        asked = [(place, number) for place, prompt in enumerate(prompts) for number in prompt.numbers]
        asked.sort(key=lambda one: (-len(prompts[one[0]].ids), prompts[one[0]].id, one))
        found: list[dict[int, Sample]] = [{} for _ in prompts]
        for start in range(0, len(asked), self.rows):
            part = asked[start : start + self.rows]
            rows = [self._row(prompts[place], number, sampling) for place, number in part]
            for (place, number), ids in zip(part, self._decode(rows, sampling.temperature), strict=True):
                found[place][number] = read_sample(self.tokenizer, number, ids, self.decoder.ends)
        return [[done[number] for number in prompt.numbers] for prompt, done in zip(prompts, found, strict=True)]

    def _row(self, prompt: Prompt, number: int, sampling: Sampling) -> Row:
        most = longest_reply(prompt, sampling.max_new_tokens, self.room)
        return Row(tuple(prompt.ids), sampling.seed_of(prompt, number), most)

    def _decode(self, rows: Sequence[Row], temperature: float) -> list[list[int]]:
        try:
            return self.decoder.decode(rows, temperature)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise UserError(
                f"sampling {len(rows)} replies at once: memory ran out; lower policy.online.engine.rows "
                f"(now {self.rows}), or max_new_tokens"
            ) from error


class TransformersEngine:
    """Samples in this process, on any machine. Prompts of a call are sorted by length; several processes share them."""

    name = "transformers"
    shared = True

    def __init__(self, start: Start, table: EngineTable) -> None:
        self.start, self.table = start, table
        self._replies: Replies | None = None

    def prompts_at_once(self, samples: int) -> int:
        """As many prompts as make one batch of `rows` replies."""
        return max(1, self.table.rows // samples)

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sample]]:
        """All samples that the prompts ask for. Raises UserError when the model cannot be loaded or used."""
        if not prompts:
            return []
        self._replies = self._replies or Replies(*load_policy(self.start.model), self.table.rows)
        return self._replies.sample(prompts, sampling)

    def close(self) -> None:
        """Let go of the model and of the graphics card's memory it took."""
        self._replies = None
        free_memory()


def reply_ends(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """What ends a reply: the tokens of `Encoder.ends`, then others that the model's generation settings name."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    named = [] if named is None else named if isinstance(named, list) else [named]
    return tuple(dict.fromkeys([*Encoder(tokenizer, 2).ends, *map(int, named)]))


def positions(model: Any) -> int | None:
    """How many tokens a model can tell apart by position; None when nothing limits them."""
    found = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(found) if found else None


def longest_reply(prompt: Prompt, most: int, room: int | None) -> int:
    """`most` tokens, or as many as the model's `room` positions leave. Raises UserError when that is none."""
    left = most if room is None else min(most, room - len(prompt.ids))
    if left < 1:
        raise UserError(
            f"sampling: a prompt of {len(prompt.ids)} tokens fills the model's {room} positions; lower max_length, or "
            "take a model with a longer context"
        )
    return left


def free_memory() -> None:
    """Give back the memory of a model that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
