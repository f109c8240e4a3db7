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
    `ends` holds what ends a reply: the token that closes a turn in the chat template, then the end token where that is
    another one. Replies are trained on up to and with the first; sampling stops at any.
    """

    tokenizer: Any
    max_length: int
    too_long: str = "cut"
    counts: Counter[str] = field(default_factory=Counter)
    control: tuple[str, ...] = field(init=False)
    ends: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.control = control_tokens(self.tokenizer)
        self.ends = _ends(self.tokenizer, self.control)
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
        """Token ids of a reply as the template continues the prompt `start`, ending with the token that closes a turn.

        The template is applied once to the whole dialogue, so that what is trained on is what generation emits; what
        it writes behind that token is left off. A reply that does not fit is cut before its end token, or is None
        under too_long = "drop".
        """
        whole = self._encode([*messages, {"role": "assistant", "content": text}])
        if whole[: len(start)] != start:
            raise UserError(
                "the chat template changes the prompt when a reply follows; replies cannot be trained as generated"
            )
        ids = whole[len(start) :]
        end = next((token for token in self.ends if token in ids), None)
        return self.fitted(start, [*ids, self.ends[0]] if end is None else ids[: ids.index(end) + 1])

    def fitted(self, start: list[int], ids: list[int]) -> list[int] | None:
        """The tokens of a reply to the prompt `start` if they fit; else cut and ended, or None, and counted."""
        room = self.max_length - len(start)
        if len(ids) > room:
            self.counts["replies cut" if self.too_long == "cut" else "replies left out, too long"] += 1
            return [*ids[: room - 1], self.ends[0]] if self.too_long == "cut" else None
        return ids

    def whole(self, messages: Messages) -> list[int]:
        """Token ids of a whole chat, cut at the maximum length."""
        return self._encode(messages)[: self.max_length]

    def group(self, example: Example) -> Group | None:
        """The example as token ids; a reply that holds the tokens it was sampled as is trained on exactly these.

        What cannot be trained on is left out and counted: empty replies, and pairs whose replies are the same to the
        model. None when no pair is left, or no reply of an example without pairs.
        """
        messages, prompt = self.prompt(example.messages)
        group = Group(example.id, prompt)
        places: dict[int, int] = {}
        for number, text in enumerate(example.replies):
            if not text.strip():
                self.counts["empty replies"] += 1
                continue
            sampled = list(example.tokens[number]) if number < len(example.tokens) else []
            ids = self.fitted(prompt, sampled) if sampled else self.reply(messages, prompt, text)
            if ids is not None:
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


def _ends(tokenizer: Any, control: Sequence[str]) -> tuple[int, ...]:
    """The first control token that the template writes behind a reply, and the end token if it is another.

    Gemma closes a turn with <end_of_turn>, ChatML with <|im_end|>, and either may have another end token; a template
    that writes nothing behind a reply leaves the end token alone. Raises UserError where it cannot write a reply.
    """
    said = "I see."
    chat = [{"role": "user", "content": "Good morning."}, {"role": "assistant", "content": said}]
    try:
        shown = str(tokenizer.apply_chat_template(chat, tokenize=False))
    except Exception as error:  # a template raises what it likes
        first = " ".join(str(error).split())[:120]
        raise UserError(
            f"the chat template cannot write a user's message and a reply ({first}); use an instruction-tuned model"
        ) from error
    names = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    known = {names[text] for text in control if text in names}
    behind = tokenizer.encode(shown[shown.rfind(said) + len(said) :], add_special_tokens=False) if said in shown else []
    found = [token for token in behind if token in known][:1]
    return tuple(dict.fromkeys([*found, tokenizer.eos_token_id]))


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
