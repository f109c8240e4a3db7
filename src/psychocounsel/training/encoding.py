"""From texts to token ids: encoded as in generation, cut or left out openly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.control_tokens import control_tokens, plain_messages
from psychocounsel.records import content_id
from psychocounsel.training.batches import Group, GroupFile, write_groups
from psychocounsel.training.examples import Example

Messages = Sequence[dict[str, str]]


@dataclass
class Encoder:
    """Encodes dialogues with one tokenizer. `counts` says what was cut or left out, and how often.

    Control tokens that a text spells out are taken apart: a client or a reply can neither end nor open a turn.
    """

    tokenizer: Any
    max_length: int
    too_long: str = "cut"
    counts: Counter[str] = field(default_factory=Counter)
    control: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.control = control_tokens(self.tokenizer)
        told = getattr(self.tokenizer, "deprecation_warnings", {})  # what is too long is cut here, and counted
        told["sequence-length-is-longer-than-the-specified-maximum"] = True

    def prompt(self, messages: Messages) -> tuple[list[dict[str, str]], list[int]]:
        """A dialogue that fits, and its token ids up to where the reply begins.

        A prompt longer than half of `max_length` loses its oldest turns; if the last message alone is too long, its
        beginning. System messages stay. Raises UserError when even that cannot fit.
        """
        room = self.max_length // 2
        kept = [dict(message) for message in messages]
        ids = self._encode(kept, add_generation_prompt=True)
        if len(ids) <= room:
            return kept, ids
        while len(ids) > room and (shorter := _without_oldest(kept)):
            kept = shorter
            ids = self._encode(kept, add_generation_prompt=True)
        self.counts["prompts that lost turns" if len(ids) <= room else "prompts cut"] += 1
        return self._shortened(kept, ids, room)

    def _shortened(
        self, messages: list[dict[str, str]], ids: list[int], room: int
    ) -> tuple[list[dict[str, str]], list[int]]:
        """Take tokens off the beginning of the last message until the prompt fits."""
        words = self.tokenizer.encode(messages[-1]["content"], add_special_tokens=False)
        while len(ids) > room:
            words = words[len(ids) - room :]
            if not words:
                raise UserError(
                    f"max_length = {self.max_length} leaves no room for a prompt: the chat template and the system "
                    f"text alone take {len(ids)} tokens, and a prompt may fill half; raise max_length"
                )
            messages = [*messages[:-1], {**messages[-1], "content": self.tokenizer.decode(words).strip()}]
            ids = self._encode(messages, add_generation_prompt=True)
        return messages, ids

    def reply(self, messages: Messages, start: list[int], text: str) -> list[int] | None:
        """Token ids of a reply as the template continues the prompt `start`, ending with the end token.

        The template is applied once to the whole dialogue, so that what is trained on is what generation emits. A reply
        that does not fit is cut before its end token, or is None under too_long = "drop".
        """
        whole = self._encode([*messages, {"role": "assistant", "content": text}])
        if whole[: len(start)] != start:
            raise UserError(
                "the chat template changes the prompt when a reply follows; replies cannot be trained as generated"
            )
        ids = whole[len(start) :]
        end = self.tokenizer.eos_token_id
        ids = ids[: ids.index(end) + 1] if end in ids else [*ids, end]
        room = self.max_length - len(start)
        if len(ids) > room:
            self.counts["replies cut" if self.too_long == "cut" else "replies left out, too long"] += 1
            return [*ids[: room - 1], end] if self.too_long == "cut" else None
        return ids

    def whole(self, messages: Messages) -> list[int]:
        """Token ids of a whole chat, cut at the maximum length."""
        return self._encode(messages)[: self.max_length]

    def group(self, example: Example) -> Group | None:
        """The example as token ids. What cannot be trained on is left out and counted: empty replies, and pairs whose
        replies are the same to the model. None when no pair is left, or no reply of an example without pairs."""
        messages, prompt = self.prompt(example.messages)
        group = Group(example.id, prompt)
        places: dict[int, int] = {}
        for number, text in enumerate(example.replies):
            if not text.strip():
                self.counts["empty replies"] += 1
            elif (ids := self.reply(messages, prompt, text)) is not None:
                places[number] = len(group.replies)
                group.replies.append(ids)
        for number, (chosen, rejected) in enumerate(example.pairs):
            if chosen not in places or rejected not in places:
                self.counts["pairs without both replies"] += 1
            elif group.replies[places[chosen]] == group.replies[places[rejected]]:
                self.counts["pairs of identical replies"] += 1
            else:
                group.pairs.append((places[chosen], places[rejected]))
                group.gaps.append(example.gaps[number])
                if example.differences:
                    group.differences.append(example.differences[number])
                texts = [example.id, example.replies[chosen], example.replies[rejected]]
                group.draws.append(int(content_id(texts)[:15], 16))
        return group if group.pairs or (group.replies and not example.pairs) else None

    def groups(self, examples: Iterable[Example]) -> Iterator[Group]:
        """The groups of all examples that leave something to train on."""
        for example in examples:
            group = self.group(example)
            if group is not None:
                yield group

    def _encode(self, messages: Messages, add_generation_prompt: bool = False) -> list[int]:
        plain = plain_messages(messages, self.control)
        encoded = self.tokenizer.apply_chat_template(plain, add_generation_prompt=add_generation_prompt)
        return list(encoded if isinstance(encoded, list) else encoded["input_ids"])


def _without_oldest(messages: list[dict[str, str]]) -> list[dict[str, str]] | None:
    """The dialogue without its oldest turns up to the next one of the user, or None when only one is left."""
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    if len(users) < 2:
        return None
    return [*(m for m in messages[: users[1]] if m["role"] == "system"), *messages[users[1] :]]


def group_files(
    accelerator: Any, folder: Path, encoder: Encoder, examples: tuple[Iterable[Example], Iterable[Example]]
) -> tuple[GroupFile, GroupFile]:
    """Encode what to train on and what to choose by into `folder`, once for all processes, and open both files."""
    paths = folder / "train.arrow", folder / "dev.arrow"
    if accelerator.is_main_process:
        for path, found in zip(paths, examples, strict=True):
            write_groups(path, encoder.groups(found))
    accelerator.wait_for_everyone()
    return GroupFile(paths[0]), GroupFile(paths[1])
