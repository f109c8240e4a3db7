"""The continuous batching of transformers as an engine: a reply that ends makes room for the next, in paged memory."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_policy
from psychocounsel.policy.generate import free_memory, longest_reply, positions, reply_ends
from psychocounsel.policy.sampling import Prompt, Sample, Sampling, read_sample
from psychocounsel.recipe import EngineTable
from psychocounsel.records import content_id
from psychocounsel.training.adapters import Start

AT_ONCE = 4096  # replies in one call: enough to fill a card, minutes of work to lose
WAIT_S = 1.0
INSTEAD = "choose policy.online.engine.name = 'transformers' for this model or machine"


class ContinuousEngine:
    """Samples by the continuous batching of transformers (5.10 to 5.24), which is made for graphics cards.

    Its random numbers belong to the batch and not to a reply: they are seeded anew for every call, from what the call
    asks for, but which number a reply gets depends on what runs beside it. Greedy replies are the same in every
    company; sampled ones need not come again. What is on disk stays, so a round that goes on is not touched by this.
    """

    name = "continuous"
    shared = True

    def __init__(self, start: Start, table: EngineTable) -> None:
        self.start, self.table = start, table
        self._policy: tuple[Any, Any] | None = None

    def prompts_at_once(self, samples: int) -> int:
        return max(1, AT_ONCE // samples)

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sample]]:
        """Samples by prompt; one that failed is absent. Raises UserError when the model cannot run or all failed."""
        if not prompts:
            return []
        self._policy = self._policy or load_policy(self.start.model)
        tokenizer, model = self._policy
        ends, room = reply_ends(tokenizer, model), positions(model)
        asked = {
            f"{place}-{number}": (place, number, longest_reply(prompt, sampling.max_new_tokens, room))
            for place, prompt in enumerate(prompts)
            for number in prompt.numbers
        }
        order = sorted(asked, key=lambda name: (-len(prompts[asked[name][0]].ids), asked[name]))
        done: dict[str, list[int]] = {}
        why = ""
        with self._manager(model, tokenizer.pad_token_id, ends, prompts, sampling) as manager:
            for name in order:  # replies to one prompt beside each other, so that blocks of the prompt are shared
                place, _, most = asked[name]
                manager.add_request(prompts[place].ids, name, most, eos_token_id=list(ends))
            manager.start()  # in 5.10 its thread may fail when it finds no request
            for name, ids, error in _results(manager, len(order)):
                if error is None:
                    done[name] = ids
                why = why or (error or "")
        if not done:
            raise UserError(self._all_failed(len(order), why))
        found: list[list[Sample]] = [[] for _ in prompts]
        for name, (place, number, _) in asked.items():
            if name in done:
                found[place].append(read_sample(tokenizer, number, done[name], ends))
        return found

    def close(self) -> None:
        """Let go of the model and of the graphics card's memory it took."""
        self._policy = None
        free_memory()

    @contextmanager
    def _manager(
        self, model: Any, pad: int, ends: Sequence[int], prompts: Sequence[Prompt], sampling: Sampling
    ) -> Iterator[Any]:
        """The running manager of a call; what it changes in the model and in torch's random numbers is put back."""
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig
        from transformers.generation.continuous_batching.utils import WorkloadHints

        drawn = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0} if sampling.temperature else {}
        settings = GenerationConfig(do_sample=bool(drawn), eos_token_id=list(ends), pad_token_id=pad, **drawn)
        batching = ContinuousBatchingConfig(
            num_blocks=self.table.num_blocks or None,
            max_batch_tokens=self.table.max_batch_tokens or None,
            seed=int(content_id([sampling.seed, [[prompt.id, prompt.numbers] for prompt in prompts]])[:7], 16),
        )
        hints = WorkloadHints(max(len(prompt.ids) for prompt in prompts), sampling.max_new_tokens)
        card = model.device.type == "cuda"
        with torch.random.fork_rng(devices=[model.device] if card else []), torch.no_grad():
            try:
                manager = model.init_continuous_batching(settings, batching, hints)
                if card:
                    manager.warmup()
            except Exception as error:  # each thing that it cannot do has an error of its own kind
                first = " ".join(str(error).split())[:200]
                raise UserError(f"engine 'continuous' cannot run {self.start.model} ({first}); {INSTEAD}") from error
            try:
                yield manager
            finally:
                _stop(manager)

    def _all_failed(self, count: int, why: str) -> str:
        first = " ".join(why.split())[:200] or "its thread ended"
        if "out of memory" in first:
            advice = "lower policy.online.engine.num_blocks or max_batch_tokens"
        else:
            advice = f"raise policy.online.engine.num_blocks if prompts do not fit, or {INSTEAD}"
        return f"engine 'continuous': all {count} replies failed ({first}); {advice}"


def _stop(manager: Any) -> None:
    """End its thread and free its memory; requests that Ctrl-C left behind are not waited for where it can do so."""
    at_once = {"hard_stop": True} if "hard_stop" in inspect.signature(manager.stop).parameters else {}
    manager.stop(block=True, **at_once)
    if hasattr(manager, "destroy"):  # before, `stop` does all of it
        manager.destroy()


def _results(manager: Any, count: int) -> Iterator[tuple[str, list[int], str | None]]:
    """(name, token ids, error) of each reply as it is done, until all are or the manager's thread has ended."""
    while count:
        result = manager.get_result(timeout=WAIT_S)
        if result is not None:
            count -= 1
            yield result.request_id, list(result.generated_tokens), result.error
        elif not manager.is_running():
            return
