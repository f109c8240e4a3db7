"""What samples replies from a policy: prompts in, replies out, the same tokens in every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from psychocounsel.models.store import CallStore
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.recipe import EngineTable, ModelsTable
from psychocounsel.records import Finish, Speech, content_id
from psychocounsel.training.adapters import Start
from psychocounsel.training.encoding import Encoder


@dataclass(frozen=True)
class Prompt:
    """A dialogue as the policy reads it: chat messages that fit, their token ids, and the samples wanted by number."""

    id: str
    messages: list[dict[str, str]]
    ids: list[int]
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn; temperature 0 is greedy. No top-k and no top-p: what is sampled is the policy itself."""

    temperature: float
    max_new_tokens: int
    seed: int

    def seed_of(self, prompt: Prompt, number: int) -> int:
        """The seed of one sample (63 bits): it depends on the recipe's seed, the prompt and the number only."""
        return int(content_id([self.seed, prompt.id, number]), 16) >> 1


@dataclass(frozen=True)
class Sample:
    """One reply. `ids` are its tokens up to and with the end token, as they were sampled; () when an engine does not
    tell them, or when a special token stood inside the reply: the text is without it, and training takes the text that
    was judged. finish is 'length' when no end token came within the limit."""

    number: int
    text: str
    finish: Finish
    ids: tuple[int, ...] = ()


class Engine(Protocol):
    """A way to sample from one policy.

    `shared`: each of several processes samples a part; otherwise the first does all. `prompts_at_once` says how many
    prompts of so many samples make one call; what was sampled is on disk after each. `sample` may return fewer samples
    than a prompt asks for. Weights are loaded at the first call, and `close` frees them.
    """

    name: str
    shared: bool

    def prompts_at_once(self, samples: int) -> int: ...
    def sample(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sample]]: ...
    def close(self) -> None: ...


def read_prompts(
    encoder: Encoder, speeches: Sequence[Speech], samples: int, before: Sequence[dict[str, str]] = ()
) -> list[Prompt]:
    """Speeches as prompts, in their order, each with samples numbered from 0. `before`: messages put first (a system
    text, examples)."""
    found = []
    for speech in speeches:
        messages, ids = encoder.prompt([*before, *chat_messages(speech.turns)])
        found.append(Prompt(speech.id, messages, ids, tuple(range(samples))))
    return found


def read_sample(tokenizer: Any, number: int, ids: Sequence[int], ends: Sequence[int]) -> Sample:
    """One reply from its sampled tokens, which are read up to the first of `ends`."""
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    body = list(ids[:end])
    text = str(tokenizer.decode(body, skip_special_tokens=True))
    whole = str(tokenizer.decode(body, skip_special_tokens=False))
    kept = tuple(ids if end is None else ids[: end + 1]) if text == whole else ()
    return Sample(number, text.strip(), "length" if end is None else "stop", kept)


def open_engine(
    start: Start, table: EngineTable, store: CallStore | None = None, models: ModelsTable | None = None
) -> Engine:
    """The engine of the recipe for the policy `start`. Raises UserError when what it needs is not installed."""
    if table.name == "continuous":
        from psychocounsel.policy.continuous import ContinuousEngine

        return ContinuousEngine(start, table)
    if table.name == "vllm":
        from psychocounsel.policy.vllm_engine import VllmEngine

        return VllmEngine(start, table)
    if table.name == "http":
        from psychocounsel.policy.served import ServedEngine

        return ServedEngine(start, table, store, models)
    from psychocounsel.policy.generate import TransformersEngine

    return TransformersEngine(start, table)


def owed(engine: Engine, prompts: Sequence[Prompt], sampling: Sampling, retries: int) -> list[list[Sample]]:
    """Replies to prompts, by number. What an engine returns too few of is asked for again, `retries` times; what it
    then still owes is absent."""
    found: list[dict[int, Sample]] = [{} for _ in prompts]
    for _ in range(1 + retries):
        places = [place for place, prompt in enumerate(prompts) if len(found[place]) < len(prompt.numbers)]
        if not places:
            break
        open_ = [
            replace(prompts[place], numbers=tuple(n for n in prompts[place].numbers if n not in found[place]))
            for place in places
        ]
        for place, prompt, replies in zip(places, open_, engine.sample(open_, sampling), strict=True):
            found[place] |= {reply.number: reply for reply in replies if reply.number in prompt.numbers}
    return [[replies[number] for number in sorted(replies)] for replies in found]
