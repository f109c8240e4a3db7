"""Score replies with a reward model: any sequence classifier with one output in Hugging Face layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_scorer, load_tokenizer
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.progress import progress
from psychocounsel.records import Speech, write_rows
from psychocounsel.reward.checks import HEADS, WEIGHTS, read_heads
from psychocounsel.training.attention import BLOCK
from psychocounsel.training.batches import Group
from psychocounsel.training.checkpoints import save_model
from psychocounsel.training.encoding import Encoder
from psychocounsel.training.packed import PackedScorer, opened
from psychocounsel.training.packs import bins, make_pack

BUDGET = 8192  # tokens scored at once


@dataclass(frozen=True)
class Scored:
    """What a reward model says of a reply. Only differences between replies to one prompt mean something.

    `principles` has a score per principle head, `resamples` one per bootstrap head; `tokens` counts prompt and reply.
    """

    reward: float
    principles: dict[str, float]
    resamples: tuple[float, ...]
    tokens: int
    truncated: bool

    @property
    def finite(self) -> bool:
        """Whether every head gave a number."""
        return all(map(isfinite, (self.reward, *self.principles.values(), *self.resamples)))


class RewardModel:
    """A loaded reward model, with its further heads if it has any."""

    def __init__(self, folder: Path | str, max_length: int = 2048, budget: int = BUDGET) -> None:
        self.tokenizer = load_tokenizer(str(folder))
        model = load_scorer(str(folder), self.tokenizer.pad_token_id, len(self.tokenizer))
        names, guiding = read_heads(Path(folder))
        self.packed = PackedScorer(model, names, guiding)
        if self.packed.heads is not None:
            from safetensors.torch import load_file

            self.packed.heads.load_state_dict(load_file(str(Path(folder) / WEIGHTS)))
            self.packed.heads.to(model.device)
        opened(self.packed).eval()
        self.encoder = Encoder(self.tokenizer, max_length)
        self.budget = budget
        self._broken = False

    def read(
        self,
        items: Sequence[tuple[Sequence[dict[str, str]], Sequence[str]]],
        label: str = "scores",
        *,
        finite: bool = True,
    ) -> list[list[Scored]]:
        """Scores of (chat messages ending with the user, replies), in order; a prompt is read once for its replies.

        Raises UserError for scores that are not numbers; with `finite` False they are given as they are, and do not
        spoil those of other replies.
        """
        found: list[list[Scored]] = [[] for _ in items]
        with progress(label, sum(len(replies) for _, replies in items)) as advance:
            for part in self._parts(items):
                groups = [group for _, group, _ in part]
                for (place, group, cut), scores in zip(part, self._scores(groups, finite), strict=True):
                    found[place] += [
                        self._scored(row, len(group.prompt) + len(reply), was_cut)
                        for row, reply, was_cut in zip(scores, group.replies, cut, strict=True)
                    ]
                    advance(len(group.replies))
        return found

    def score(self, items: Sequence[tuple[Speech, str]], label: str = "scores") -> list[float]:
        """One score per (speech, reply), in order; replies to one speech are scored together."""
        by_speech: dict[str, list[int]] = {}
        for place, (speech, _) in enumerate(items):
            by_speech.setdefault(speech.id, []).append(place)
        asked = [
            (chat_messages(items[places[0]][0].turns), [items[place][1] for place in places])
            for places in by_speech.values()
        ]
        scores = [0.0] * len(items)
        for places, found in zip(by_speech.values(), self.read(asked, label), strict=True):
            for place, scored in zip(places, found, strict=True):
                scores[place] = scored.reward
        return scores

    def _parts(self, items: Sequence[Any]) -> Iterator[list[tuple[int, Group, list[bool]]]]:
        """Encoded items, several packs' worth at a time."""
        part, held = [], 0
        for place, (messages, replies) in enumerate(items):
            before = sum(self.encoder.counts.values())
            kept, prompt = self.encoder.prompt(messages)
            prompt_cut = sum(self.encoder.counts.values()) > before
            group, cut = Group(str(place), prompt), []
            for text in replies:
                before = sum(self.encoder.counts.values())
                group.replies.append(self.encoder.reply(kept, prompt, text) or [])
                cut.append(prompt_cut or sum(self.encoder.counts.values()) > before)
            part.append((place, group, cut))
            held += group.tokens
            if held >= 8 * self.budget:
                yield part
                part, held = [], 0
        if part:
            yield part

    @torch.inference_mode()
    def _scores(self, groups: list[Group], finite: bool) -> list[list[list[float]]]:
        """Scores of every head for every reply of each group."""
        found: list[list[list[float]]] = [[] for _ in groups]
        for places in bins([group.tokens for group in groups], self.budget):
            packed = [groups[place] for place in places]
            values = self._pack(packed)
            if not all(map(isfinite, chain(*values))):
                if finite:
                    raise UserError("reward: the model gives scores that are not numbers; retrain it with a lower rate")
                values = self._apart(packed, values)
            rows = iter(values)
            for place in places:
                found[place] = [next(rows) for _ in groups[place].replies]
        return found

    def _pack(self, groups: list[Group]) -> list[list[float]]:
        device = self.packed.bare.device
        pack = make_pack(groups, device, BLOCK if device.type == "cuda" else 1)
        values: list[list[float]] = self.packed(pack).tolist()
        return values

    def _apart(self, groups: list[Group], values: list[list[float]]) -> list[list[float]]:
        """The rows of a pack, those that are no numbers once more from a pack of their own: one reply's NaN can reach
        the others of its pack. When that brings back none, it is the weights, and is not tried again."""
        lost = [place for place, row in enumerate(values) if not all(map(isfinite, row))]
        if self._broken or len(values) == 1:
            return values
        alone = [Group(group.id, group.prompt, [reply]) for group in groups for reply in group.replies]
        values = list(values)
        for place in lost:
            values[place] = self._pack([alone[place]])[0]
        self._broken = all(not all(map(isfinite, values[place])) for place in range(len(values)))
        return values

    def _scored(self, row: list[float], tokens: int, truncated: bool) -> Scored:
        guiding = self.packed.guiding
        named = dict(zip(self.packed.names[:guiding], row[1:], strict=False))
        return Scored(row[0], named, tuple(row[1 + guiding :]), tokens, truncated)


def save_reward(folder: Path, packed: PackedScorer, tokenizer: Any) -> None:
    """Save a reward model as any other library loads it, with the weights of further heads beside it."""
    save_model(folder, packed.model, tokenizer)
    if packed.heads is not None:
        from safetensors.torch import save_file

        save_file({"weight": packed.heads.weight.detach().float().cpu().contiguous()}, str(folder / WEIGHTS))
        write_rows(folder / HEADS, [{"heads": list(packed.names), "guiding": packed.guiding}])
