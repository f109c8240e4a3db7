"""OpenAI-compatible servers as an engine: each reply is a stored call, and the work of a dead server goes to others."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.calls import ask, together
from psychocounsel.models.chat import Completion, Request, TryAgain
from psychocounsel.models.openai_api import FILTERED, TOO_LONG, OpenAIModel, chat_body
from psychocounsel.models.remote import LOST, Refused
from psychocounsel.models.store import CallStore
from psychocounsel.policy.fingerprint import place_of, policy_fingerprint
from psychocounsel.policy.reply_tokens import ReplyTokens
from psychocounsel.policy.sampling import Prompt, Sample, Sampling
from psychocounsel.progress import progress
from psychocounsel.recipe import SECRET, EngineTable, ModelsTable, holds_secret
from psychocounsel.records import content_id
from psychocounsel.training.adapters import Start

AT_ONCE = 2048  # replies in one call; each is on disk as soon as it came
ATTEMPTS = 3  # of one call where other servers can take it
SEED_BITS = 31
UNKNOWN = (400, 422)  # a field the server does not know
UNABLE = (400, 404, 405, 422, 501)  # of a server that loads no adapters
UNLOAD_S = 10.0


class ServedEngine:
    """Samples from the policy where it is served: one request per reply, `seed` in it, spread over `urls`.

    A prompt's home is drawn by content hash, so that a server caches its beginning; K replies are K requests, because
    servers ignore `n`. Calls are stored under the policy's fingerprint, not under an address: the same command uses
    them again wherever they were made, and other weights in the same folder are other calls. Each server applies its
    own chat template; its count of prompt tokens (or their ids, where it tells them) must be ours. Without a `store`,
    calls are kept only until `close`. Raises UserError for addresses that cannot be used.
    """

    name = "http"
    shared = False

    def __init__(
        self, start: Start, table: EngineTable, store: CallStore | None = None, models: ModelsTable | None = None
    ) -> None:
        for url in table.urls:
            if holds_secret(url):
                raise UserError(f"an engine's address is {SECRET}")
            if not url.startswith(("http://", "https://")) or "#" in url:
                raise UserError(f"engine 'http': '{url}' is no address; write http://HOST/v1, without a model's name")
        if not table.urls:
            raise UserError("engine 'http': urls is empty; name the servers, for example http://localhost:8000/v1")
        self.start, self.models = start, models or ModelsTable()
        self.urls = list(dict.fromkeys(url.rstrip("/") for url in table.urls))
        self._store, self._own = store, store is None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._tokens: ReplyTokens | None = None
        self._served: list[ServedPolicy] = []

    def prompts_at_once(self, samples: int) -> int:
        return max(1, AT_ONCE // samples)

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sample]]:
        """Replies by prompt, all of them. Raises UserError when no server is left, or one serves another policy."""
        store, tokens, served = self._opened()
        for policy in served:
            policy.begin(prompts)
        asked = [(place, number) for place, prompt in enumerate(prompts) for number in prompt.numbers]
        homes = [order_of(prompt.id, served) for prompt in prompts]
        messages = [tokens.messages(prompt) for prompt in prompts]
        with progress("replies", len(asked)) as advance:

            async def one(place: int, number: int) -> Completion:
                request = request_of(prompts[place], messages[place], number, sampling)
                completion = await first_answer(homes[place], request, store)
                advance()
                return completion

            def lane(policy: ServedPolicy) -> Iterator[tuple[int, Coroutine[Any, Any, Completion]]]:
                return ((at, one(*job)) for at, job in enumerate(asked) if homes[job[0]][0] is policy)

            answers = together([(policy.concurrency, lane(policy)) for policy in served], store, served)
        found: list[list[Sample]] = [[] for _ in prompts]
        for (place, number), answer in zip(asked, answers, strict=True):
            found[place].append(sample_of(number, answer, store.find(answer.call_id), tokens))
        return found

    def close(self) -> None:
        """Take adapters off the servers that were given one, as far as they answer."""
        loaded, self._served = [policy for policy in self._served if policy.loaded], []
        if loaded:
            asyncio.run(_unload(loaded))
        if self._own and self._store is not None:
            self._store.__exit__(None, None, None)
            self._store = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _opened(self) -> tuple[CallStore, ReplyTokens, list[ServedPolicy]]:
        if self._store is None:
            self._folder = tempfile.TemporaryDirectory()
            self._store = CallStore(Path(self._folder.name) / "calls.sqlite")
        self._tokens = tokens = self._tokens or ReplyTokens(self.start.model)
        if not self._served:
            mark = policy_fingerprint(self.start)
            few = self.models.model_copy(update={"attempts": min(self.models.attempts, ATTEMPTS)})
            table = self.models if len(self.urls) == 1 else few
            self._served = [ServedPolicy(url, self.start, mark, tokens, table) for url in self.urls]
        return self._store, tokens, self._served


class ServedPolicy(OpenAIModel):
    """The policy at one server. `dead` says why it answers no more; '' while it does.

    Named by the policy's fingerprint alone (`policy:FINGERPRINT#policy`; a price list may have a model "policy").
    """

    def __init__(self, url: str, start: Start, mark: str, tokens: ReplyTokens, table: ModelsTable) -> None:
        super().__init__(f"policy:{mark}#policy", url, place_of(start.model), table)
        self.kind = "http"
        self.start, self.mark, self.tokens = start, mark, tokens
        self.prompts: dict[str, Prompt] = {}
        self.dead, self.loaded = "", ""
        self.forms, self.form = _forms(tokens.ends), 0
        self._asked = False
        self._asking = asyncio.Lock()
        self._told: set[str] = set()

    def begin(self, prompts: Sequence[Prompt]) -> None:
        """Get ready for one call of these prompts, in an event loop of its own. A server that was dead may be back."""
        self.dead, self.prompts, self._asking = "", {prompt.id: prompt for prompt in prompts}, asyncio.Lock()

    def trouble(self, status: int, code: str | None, short: str, retry_after: str | None) -> Exception:
        """As of any endpoint, but told by its address; and a model it does not have is told with how to serve it."""
        found = super().trouble(status, code, short, retry_after)
        if not isinstance(found, Refused):
            return found
        if status == 404:
            return Refused(f"{self.url}: {self._absent()}; {LOST}", status)
        return Refused(str(found).replace(self.name, self.url, 1), status, spent=found.spent)

    def _absent(self) -> str:
        start = self.start
        lora = f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve {place_of(start.base)} --enable-lora --max-lora-rank R"
        how = f"{lora}, or " if start.adapter else ""
        return f"does not serve {self.model}; run {how}transformers serve, or vllm serve {place_of(start.model)} there"

    async def send(self, request: Request) -> str:
        """One attempt, in the words this server knows; an answer to another prompt than ours is none."""
        await self._load()
        body = chat_body(self.model, request)
        place = self.form
        while True:
            try:
                raw = await self.post("/chat/completions", body | self.forms[place])
                break
            except Refused as refusal:
                if refusal.status not in UNKNOWN or place + 1 == len(self.forms):
                    raise
                place = max(place + 1, self.form)  # other calls may have found out meanwhile
        self.form = max(place, self.form)
        self._check(raw, self.prompts[request.subject["speech_id"]].ids)
        return raw

    async def _load(self) -> None:
        """Give the server the policy's adapter, once, where it takes some; else it is asked for the folder."""
        async with self._asking:
            if self._asked or not (self.start.adapter and self.start.base):
                return
            name, path = f"policy-{self.mark}", place_of(self.start.adapter)
            try:
                await self.post("/load_lora_adapter", {"lora_name": name, "lora_path": path})
            except TryAgain as trouble:
                if trouble.why != "500":
                    raise
                told = f"cannot load the adapter {path}; is it readable there, and its rank within --max-lora-rank?"
                raise Refused(f"{self.url}: {told} See its log; {LOST}", 500) from None
            except Refused as refusal:
                if "already" not in str(refusal.__cause__):
                    if refusal.status not in UNABLE:
                        raise
                    self._asked = True
                    return
            self.model, self.loaded, self._asked = name, name, True

    def _check(self, raw: str, ours: list[int]) -> None:
        """Raises UserError when the server has read another prompt than the one that is trained on."""
        body = _json(raw)
        if raw in (FILTERED, TOO_LONG) or not body.get("choices"):
            return  # a result without a prompt, or none, which `read` tells
        theirs = body.get("prompt_token_ids")
        usage = body.get("usage")
        told = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        count = len(theirs) if isinstance(theirs, list) else told
        if not count:
            self._tell("does not count prompt tokens; whether its chat template is the policy's cannot be checked")
        elif count != len(ours) or (isinstance(theirs, list) and theirs != ours):
            what = f"{count} tokens where the policy's own chat template makes {len(ours)}"
            if count == len(ours):
                what = f"{count} tokens as ours, but other ones"
            raise UserError(
                f"{self.url}: read a prompt as {what}; its chat template or tokenizer is not the policy's, serve "
                f"{place_of(self.start.model)} with its own ({LOST})"
            )
        if not self.forms[self.form]:
            self._tell("takes neither top_k nor generation_config; its own defaults for them shape what is sampled")

    def _tell(self, words: str) -> None:
        if words not in self._told:
            print(f"{self.url}: {words}", file=sys.stderr)
        self._told.add(words)


def request_of(prompt: Prompt, messages: tuple[dict[str, str], ...], number: int, sampling: Sampling) -> Request:
    """The call of one reply. Its seed has 31 bits: some servers take no more."""
    return Request(
        messages=messages,
        sampling={
            "temperature": sampling.temperature,
            "top_p": 1.0,
            "max_tokens": sampling.max_new_tokens,
            "seed": sampling.seed_of(prompt, number) >> (63 - SEED_BITS),
        },
        sample=number,
        subject={"speech_id": prompt.id},
    )


async def first_answer(order: Sequence[ServedPolicy], request: Request, store: CallStore) -> Completion:
    """The answer of the first server in `order` that lives. One that failed as often as it may counts as dead."""
    for policy in order:
        if policy.dead:
            continue
        try:
            return await ask(policy, request, store)
        except UserError as error:
            if not isinstance(error.__cause__, TryAgain):  # a refusal, the budget, the disk: it stops the run
                raise
            if not policy.dead and len(order) > 1:
                print(f"{policy.url}: {error.__cause__.why}; its work goes to the others", file=sys.stderr)
            policy.dead = error.__cause__.why
    told = "; ".join(f"{policy.url}: {policy.dead}" for policy in order)
    raise UserError(f"engine 'http': no server answers ({told}); start one that serves {order[0].model}; {LOST}")


def order_of(prompt: str, served: Sequence[ServedPolicy]) -> list[ServedPolicy]:
    """The servers of a prompt, its home first, by content hash: what one leaves is spread over all others."""
    return sorted(served, key=lambda policy: content_id([policy.url, prompt]))


def sample_of(number: int, answer: Completion, raw: str | None, tokens: ReplyTokens) -> Sample:
    """A reply by its token ids where the server tells them, else by its text."""
    body = _json(raw or "")
    ids = (body.get("choices") or [{}])[0].get("token_ids") if body else None
    if answer.finish in ("stop", "length") and ids and all(isinstance(token, int) for token in ids):
        return tokens.sample(number, ids, answer.finish == "stop")
    return Sample(number, answer.text.strip(), answer.finish)


def _forms(ends: Sequence[int]) -> list[dict[str, Any]]:
    """Fields that keep a server from its defaults, which would sample from another policy: as vLLM, SGLang and others
    know them, as `transformers serve` does, and none at all."""
    plain = {"do_sample": True, "top_k": 0, "top_p": 1.0, "eos_token_id": list(ends)}
    return [
        {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": list(ends), "return_token_ids": True},
        {"generation_config": json.dumps(plain)},
        {},
    ]


async def _unload(served: Sequence[ServedPolicy]) -> None:
    for policy in served:
        with suppress(UserError, TryAgain, TimeoutError):
            async with asyncio.timeout(UNLOAD_S):
                await policy.post("/unload_lora_adapter", {"lora_name": policy.loaded})
        await policy.close()


def _json(raw: str) -> dict[str, Any]:
    with suppress(ValueError):
        found = json.loads(raw)
        return found if isinstance(found, dict) else {}
    return {}
