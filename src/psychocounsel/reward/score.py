"""Score replies with a reward model: any sequence classifier with one output in Hugging Face layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_scorer, load_tokenizer
from psychocounsel.progress import progress
from psychocounsel.records import Speech
from psychocounsel.training.batches import Encoder, Group, collate


class RewardModel:
    """A loaded reward model. Higher is better; only differences between replies to one speech mean something."""

    def __init__(self, folder: Path | str, max_length: int = 2048) -> None:
        self.tokenizer = load_tokenizer(str(folder))
        self.model: Any = load_scorer(str(folder), self.tokenizer.pad_token_id, len(self.tokenizer)).eval()
        self.encoder = Encoder(self.tokenizer, max_length)

    @torch.inference_mode()
    def score(self, items: Sequence[tuple[Speech, str]], rows: int = 64, label: str = "scores") -> list[float]:
        """One score per (speech, reply), in order; batches are sorted by length. Raises UserError on NaN scores."""
        encoded = [
            Group(str(i), self.encoder.prompt(s), [self.encoder.reply(s, text)]) for i, (s, text) in enumerate(items)
        ]
        order = sorted(range(len(items)), key=lambda i: len(encoded[i].prompt) + len(encoded[i].replies[0]))
        scores = [0.0] * len(items)
        with progress(label, len(items)) as advance:
            for start in range(0, len(order), rows):
                part = order[start : start + rows]
                batch = collate([encoded[i] for i in part], self.tokenizer.pad_token_id, self.model.device)
                values = self.model(input_ids=batch.ids, attention_mask=batch.mask).logits[:, 0].float()
                if not torch.isfinite(values).all():
                    raise UserError("reward: the model gives scores that are not numbers; retrain it with a lower rate")
                for position, value in zip(part, values.tolist(), strict=True):
                    scores[position] = value
                advance(len(part))
        return scores
