"""From texts to token rows: encoded as in generation, grouped by prompt, dealt out by content hash."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from psychocounsel.errors import UserError
from psychocounsel.models.control_tokens import control_tokens, plain_messages
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.records import Speech, content_id


@dataclass
class Group:
    """One prompt, its unique replies, and preferences among them as (chosen, rejected) positions."""

    id: str
    prompt: list[int]
    replies: list[list[int]]
    pairs: list[tuple[int, int]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)  # reference log-probability of each reply


@dataclass
class Batch:
    """Right-padded rows. `reply` marks reply tokens; `chosen` and `rejected` are row numbers of each pair."""

    ids: Tensor
    mask: Tensor
    reply: Tensor
    chosen: Tensor
    rejected: Tensor
    gaps: Tensor
    reference: Tensor

    @property
    def tokens(self) -> int:
        """Reply tokens in the batch."""
        return int(self.reply.sum())


@dataclass
class Encoder:
    """Encodes dialogues with one tokenizer. Counts what had to be cut.

    Control tokens that a text spells out are taken apart: a client or a reply can neither end nor open a turn.
    """

    tokenizer: Any
    max_length: int
    truncated: int = 0
    control: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.control = control_tokens(self.tokenizer)

    def prompt(self, speech: Speech) -> list[int]:
        """Token ids of a dialogue up to where the reply begins, cut from the start to leave room for a reply."""
        ids = self._encode(chat_messages(speech.turns), add_generation_prompt=True)
        room = self.max_length // 2
        if len(ids) > room:
            self.truncated += 1
            ids = ids[-room:]
        return ids

    def whole(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a whole chat, cut at the maximum length."""
        return self._encode(messages)[: self.max_length]

    def reply(self, speech: Speech, text: str) -> list[int]:
        """Token ids of a reply as the template continues the prompt, ending with the end token.

        The template is applied once to the whole dialogue, so that what is trained on is what generation emits.
        """
        messages = chat_messages(speech.turns)
        start = self._encode(messages, add_generation_prompt=True)
        whole = self._encode([*messages, {"role": "assistant", "content": text}])
        if whole[: len(start)] != start:
            raise UserError(
                "the chat template changes the prompt when a reply follows; replies cannot be trained as generated"
            )
        ids = whole[len(start) :]
        end = self.tokenizer.eos_token_id
        ids = ids[: ids.index(end) + 1] if end in ids else [*ids, end]
        room = self.max_length // 2
        if len(ids) > room:
            self.truncated += 1
            ids = [*ids[: room - 1], end]
        return ids

    def _encode(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> list[int]:
        plain = plain_messages(messages, self.control)
        encoded = self.tokenizer.apply_chat_template(plain, add_generation_prompt=add_generation_prompt)
        return list(encoded if isinstance(encoded, list) else encoded["input_ids"])


def steps(
    groups: Sequence[Group], size: int, seed: int, epoch: int, weigh: Callable[[Group], int]
) -> Iterator[list[Group]]:
    """One epoch as optimizer steps: groups in the order of a content hash, each step about `size` items by `weigh`.

    The order depends on ids, seed and epoch only, so a resumed run and another machine see the same steps.
    """
    order = sorted(groups, key=lambda group: content_id([seed, epoch, group.id]))
    step: list[Group] = []
    count = 0
    for group in order:
        step.append(group)
        count += weigh(group)
        if count >= size:
            yield step
            step, count = [], 0
    if count * 2 >= size or (step and len(step) == len(order)):
        yield step  # a short last step would weigh its few items too much


def micro_batches(groups: Sequence[Group], rows: int) -> Iterator[list[Group]]:
    """Groups of similar length together, at most `rows` replies at once (one group is never split)."""
    order = sorted(groups, key=lambda group: (-_length(group), group.id))
    part: list[Group] = []
    count = 0
    for group in order:
        if part and count + len(group.replies) > rows:
            yield part
            part, count = [], 0
        part.append(group)
        count += len(group.replies)
    if part:
        yield part


def _length(group: Group) -> int:
    return len(group.prompt) + max(len(reply) for reply in group.replies)


def collate(groups: Sequence[Group], pad: int, device: Any = "cpu") -> Batch:
    """Rows of prompt + reply, right-padded; every reply stands once however many pairs it is in."""
    rows = [(group.prompt, reply) for group in groups for reply in group.replies]
    length = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids = torch.full((len(rows), length), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    marks = torch.zeros((len(rows), length), dtype=torch.bool)
    for number, (prompt, reply) in enumerate(rows):
        end = len(prompt) + len(reply)
        ids[number, :end] = torch.tensor(prompt + reply)
        mask[number, :end] = 1
        marks[number, len(prompt) : end] = True
    chosen, rejected, start = [], [], 0
    for group in groups:
        chosen += [start + pair[0] for pair in group.pairs]
        rejected += [start + pair[1] for pair in group.pairs]
        start += len(group.replies)
    return Batch(
        ids.to(device),
        mask.to(device),
        marks.to(device),
        torch.tensor(chosen, dtype=torch.long, device=device),
        torch.tensor(rejected, dtype=torch.long, device=device),
        torch.tensor([gap for group in groups for gap in group.gaps], dtype=torch.float32, device=device),
        torch.tensor([value for group in groups for value in group.reference], dtype=torch.float32, device=device),
    )
