"""Sample replies from a policy in length-sorted batches, with seeds that do not depend on what ran before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from psychocounsel.principles.prompts import chat_messages
from psychocounsel.progress import progress
from psychocounsel.records import Finish, Speech, content_id
from psychocounsel.training.encoding import Encoder


def generate(
    model: Any,
    tokenizer: Any,
    speeches: Sequence[Speech],
    *,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    max_length: int,
    seed: int,
    label: str = "replies",
    rows: int = 64,
) -> list[list[tuple[str, Finish]]]:
    """`samples` replies per speech as (text, finish), in the order of the speeches; temperature 0 is greedy.

    finish is 'length' when the end token did not come within `max_new_tokens`.
    """
    encoder = Encoder(tokenizer, max_length)
    prompts = [encoder.prompt(chat_messages(speech.turns))[1] for speech in speeches]
    order = sorted(range(len(speeches)), key=lambda i: (-len(prompts[i]), speeches[i].id))
    jobs = [i for i in order for _ in range(samples)]
    replies: list[list[tuple[str, Finish]]] = [[] for _ in speeches]
    model.eval()
    with progress(label, len(jobs)) as advance:
        for start in range(0, len(jobs), rows):
            part = jobs[start : start + rows]
            torch.manual_seed(int(content_id([seed, label, start, [speeches[i].id for i in part]])[:8], 16))
            tokens = _sample(model, tokenizer, [prompts[i] for i in part], temperature, max_new_tokens)
            for i, ids in zip(part, tokens, strict=True):
                ended = tokenizer.eos_token_id in ids
                ids = ids[: ids.index(tokenizer.eos_token_id)] if ended else ids
                text = tokenizer.decode(ids, skip_special_tokens=True).strip()
                replies[i].append((text, "stop" if ended else "length"))
            advance(len(part))
    return replies


@torch.inference_mode()
def _sample(model: Any, tokenizer: Any, prompts: list[list[int]], temperature: float, most: int) -> list[list[int]]:
    """New token ids of left-padded prompts."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), tokenizer.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    choice = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature > 0
        else {"do_sample": False}
    )
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=most,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **choice,
    )
    new: list[list[int]] = output[:, width:].tolist()
    return new
