"""Reward models behind HTTP: vLLM's /classify and OpenRLHF's /get_reward, asked through the call store.

`http://HOST/classify#MODEL` sends token ids, so that the server applies no template and adds no tokens of its own.
`http://HOST/get_reward#MODEL` takes texts only: the dialogue in MODEL's chat template, ended by its end token.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from urllib.parse import urlsplit

from psychocounsel.errors import UserError
from psychocounsel.models.calls import ask, together
from psychocounsel.models.chat import Completion, Request
from psychocounsel.models.control_tokens import plain_messages
from psychocounsel.models.openai_api import FILTERED, TOO_LONG, OpenAIModel
from psychocounsel.models.remote import LOST, Refused
from psychocounsel.models.store import CallStore
from psychocounsel.models.weights import load_tokenizer
from psychocounsel.policy.reward_sources import EXAMPLE, REPLIES
from psychocounsel.policy.rewards import NOT_A_NUMBER, Reading
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.progress import progress
from psychocounsel.recipe import SECRET, ModelsTable, holds_secret
from psychocounsel.records import Speech, Turn, content_id
from psychocounsel.training.encoding import Encoder

Shape = Literal["classify", "get_reward"]
SHAPES: dict[str, Shape] = {"classify": "classify", "get_reward": "get_reward"}
AT_ONCE = 32  # replies in one request
SAID_NOTHING = {FILTERED: "the server filters it", TOO_LONG: "too long for the server"}


@dataclass(frozen=True)
class Rendered:
    """What a request holds: the replies to one prompt as token ids or, for /get_reward, as texts."""

    prompt: str
    inputs: list[list[int]] | list[str]


class RewardServer(OpenAIModel):
    """The client of one reward server. Its key is PSYCHOCOUNSEL_API_KEY where that is set.

    What a request asks lies in `waiting` under the hash of its content, which is part of the call store's key: token
    ids or texts, and so the template, decide what is the same call. With MODEL's weights in a folder, their files do
    too: the name of a model does not change when it is trained again.
    """

    def __init__(self, name: str, table: ModelsTable | None) -> None:
        if holds_secret(name):
            raise UserError(f"policy.online.rewards: a model is {SECRET}")
        url, _, model = name.partition("#")
        root, _, last = url.rstrip("/").rpartition("/")
        if last not in SHAPES or not urlsplit(root).hostname or not model:
            raise UserError(
                f"policy.online.rewards: '{name}' is no reward server; write http://HOST/classify#MODEL (vLLM) or "
                "http://HOST/get_reward#MODEL (OpenRLHF), MODEL being the folder or hub id of its tokenizer"
            )
        super().__init__(name, root, model, table)
        self.shape = SHAPES[last]
        self.waiting: dict[str, Rendered] = {}
        self._weights = _files(model)

    def request(self, messages: Sequence[dict[str, str]], replies: Sequence[str], rendered: Rendered) -> Request:
        """The request for some replies to a dialogue; what is sent waits under its hash."""
        key = content_id([self._weights, rendered.prompt, rendered.inputs])
        self.waiting[key] = rendered
        said = ({"role": "assistant", "content": reply} for reply in replies)
        return Request(messages=(*messages, *said), sampling={"input": key})

    async def send(self, request: Request) -> str:
        """The number of replies asked about, and the raw JSON body of one attempt."""
        rendered = self.waiting[request.sampling["input"]]
        raw = await self.post(f"/{self.shape}", _body(self.shape, self.model, rendered))
        if self.shape == "classify" and (classes := _classes(raw)) > 1:
            raise UserError(f"{self.name}: gives {classes} numbers for a reply; a reward model has one output")
        return json.dumps({"replies": len(rendered.inputs), "answer": raw})

    def read(self, raw: str) -> Completion:
        """A Completion whose text is a JSON list: for each reply a number, or the reason why there is none.

        Raises UserError for a body that is short, long or of another shape.
        """
        try:
            kept = json.loads(raw)
            if kept["answer"] in SAID_NOTHING:
                return Completion(text=json.dumps([SAID_NOTHING[kept["answer"]]] * kept["replies"]))
            body = json.loads(kept["answer"])
            found = _classified(body) if self.shape == "classify" else list(body["rewards"])
            if len(found) != kept["replies"]:
                raise ValueError(f"{len(found)} numbers for {kept['replies']} replies")
            usage = body.get("usage") or {}
            return Completion(text=json.dumps(list(map(_number, found))), tokens_in=usage.get("prompt_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            what = str(error) if type(error) is ValueError else type(error).__name__
            raise UserError(f"{self.name}: the server's reply is no list of rewards ({what}); {LOST}") from error


class ServedRewards:
    """A reward model behind HTTP, as a source of rewards.

    MODEL's tokenizer and chat template render the dialogue as training does, cut to `max_length` tokens. Several
    replies to a speech are one request. Attempts, limits and time-outs are those of `[models]`.
    """

    shared = False

    def __init__(self, name: str, max_length: int, store: CallStore, table: ModelsTable | None = None) -> None:
        self.name, self.store = name, store
        self.server = RewardServer(name, table)
        self.encoder = Encoder(load_tokenizer(self.server.model), max_length)

    def check(self) -> None:
        """Ask for the rewards of two replies to an invented sentence. Raises UserError when they cannot be used.

        vLLM applies a sigmoid to the one output of a model whose config does not say problem_type = "regression",
        unless asked not to, as it is here; releases that do not know that field do it all the same. Numbers between 0
        and 1 do not prove it, so they are only pointed out.
        """
        speech = Speech(turns=(Turn(role="client", text=EXAMPLE),), source="example")
        try:  # not from the store of the run: the server may be another one than yesterday
            with TemporaryDirectory() as folder, CallStore(Path(folder) / "calls.sqlite") as store:
                [found] = self._score([(speech, REPLIES)], "reward server", store)
        except Refused as error:
            if error.status in (400, 404, 405, 422):
                raise UserError(f"{error} ({_HINTS[self.server.shape]})") from error
            raise
        values = [reading.reward for reading in found if reading.reward is not None]
        if len(values) < len(REPLIES):
            why = next(reading.why for reading in found if reading.reward is None)
            raise UserError(f"{self.name}: gives no reward for a reply of one sentence ({why}); see the server's log")
        if len(set(values)) == 1:
            raise UserError(
                f"{self.name}: gives two different replies the same reward ({values[0]:g}); a softmax over one output "
                'does that: serve a model whose config.json says "problem_type": "regression"'
            )
        if all(0 <= value <= 1 for value in values):
            print(
                f"{self.name}: its rewards lie between 0 and 1; if the server applies a sigmoid, differences of good "
                'replies shrink: serve a model whose config.json says "problem_type": "regression"',
                file=sys.stderr,
            )

    def score(self, items: Sequence[tuple[Speech, Sequence[str]]], label: str) -> list[list[Reading]]:
        """Rewards by speech and reply. Raises UserError when the server fails for good; what came before is kept."""
        return self._score(items, label, self.store)

    def _score(
        self, items: Sequence[tuple[Speech, Sequence[str]]], label: str, store: CallStore
    ) -> list[list[Reading]]:
        jobs = [(place, at) for place, (_, texts) in enumerate(items) for at in range(0, len(texts), AT_ONCE)]
        with progress(label, sum(len(texts) for _, texts in items)) as advance:

            async def one(place: int, start: int) -> list[Reading]:
                speech, texts = items[place]
                found = await self._answer(self._request(speech, texts[start : start + AT_ONCE]), store)
                advance(len(found), note=store.budget.told() if store.budget else "")
                return found

            def lane() -> Iterator[tuple[int, Coroutine[Any, Any, list[Reading]]]]:
                return ((number, one(*job)) for number, job in enumerate(jobs))

            try:
                answers = together([(self.server.concurrency, lane())], store, [self.server])
            finally:
                self.server.waiting.clear()
        found: list[list[Reading]] = [[] for _ in items]
        for (place, _), readings in zip(jobs, answers, strict=True):
            found[place] += readings
        return found

    async def _answer(self, request: Request, store: CallStore) -> list[Reading]:
        """Rewards of one request. A stored answer that lacks one is asked for once more: the server may be mended."""
        while True:
            answer = await ask(self.server, request, store)
            found = [_reading(value) for value in json.loads(answer.text)]
            if not answer.cached or all(reading.reward is not None for reading in found):
                return found
            request = request.model_copy(update={"sample": request.sample + 1})

    def close(self) -> None:
        """Nothing is held."""

    def _request(self, speech: Speech, texts: Sequence[str]) -> Request:
        messages = chat_messages(speech.turns)
        kept, prompt = self.encoder.prompt(messages)
        replies = [self.encoder.reply(kept, prompt, text) or [] for text in texts]
        if self.server.shape == "classify":
            rendered = Rendered("", [prompt + reply for reply in replies])
        else:
            begun = self._text(kept, add_generation_prompt=True)
            whole = zip(texts, replies, strict=True)
            rendered = Rendered(begun, [self._whole(kept, begun, text, len(prompt), reply) for text, reply in whole])
        return self.server.request(messages, texts, rendered)

    def _whole(self, kept: list[dict[str, str]], begun: str, text: str, used: int, reply: list[int]) -> str:
        """The text of prompt and reply up to its end token; that of the token ids where the reply was cut."""
        tokenizer = self.encoder.tokenizer
        end = str(tokenizer.eos_token)
        whole = self._text([*kept, {"role": "assistant", "content": text}])
        if used + len(reply) >= self.encoder.max_length or not whole.startswith(begun):
            return begun + str(tokenizer.decode(reply, skip_special_tokens=False))
        said, ended, _ = whole[len(begun) :].partition(end)
        return begun + said + (ended or end)

    def _text(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = False) -> str:
        plain = plain_messages(messages, self.encoder.control)
        return str(
            self.encoder.tokenizer.apply_chat_template(
                plain, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )


_HINTS: dict[Shape, str] = {
    "classify": "vLLM answers /classify for a sequence classifier served under the name after the #; it takes "
    "token ids since the end of 2025, and needs room for policy.max_length of them",
    "get_reward": "OpenRLHF's serve_rm answers /get_reward",
}


def _body(shape: Shape, model: str, rendered: Rendered) -> dict[str, Any]:
    """The JSON body of a request. `use_activation` is vLLM's word for the sigmoid; its older `activation` is not sent,
    because releases that know both turn the sigmoid on whenever that one is there."""
    if shape == "classify":
        return {"model": model, "input": rendered.inputs, "use_activation": False}
    count = len(rendered.inputs)
    return {"model": model, "query": rendered.inputs, "prompts": [rendered.prompt] * count, "labels": [""] * count}


def _classes(raw: str) -> int:
    """The most numbers that a body of /classify gives for one text; 0 for a body that cannot be read."""
    try:
        return max(len(row["probs"]) for row in json.loads(raw)["data"])
    except (ValueError, KeyError, TypeError):
        return 0


def _classified(body: Any) -> list[Any]:
    """The one number of each text, by `index`: servers need not keep the order."""
    rows = sorted(body["data"], key=lambda row: int(row["index"]))
    if [row["index"] for row in rows] != list(range(len(rows))):
        raise ValueError("an index that is there twice, or missing")
    return [row["probs"] for row in rows]


def _number(value: Any) -> float | str:
    """A finite number, or the reason why it is none. Raises ValueError for anything else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return "the server gave none"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a {type(value).__name__} in place of a number")
    return float(value) if math.isfinite(value) else NOT_A_NUMBER


def _reading(value: float | str) -> Reading:
    return Reading(None, why=value) if isinstance(value, str) else Reading(value)


def _files(model: str) -> list[Any]:
    """Names, sizes and times of the weights in a folder; none for a hub id, which counts by its name."""
    folder = Path(model).expanduser()
    found = [path.stat() for path in sorted(folder.glob("*.safetensors"))] if folder.is_dir() else []
    return [[stat.st_size, stat.st_mtime_ns] for stat in found]
