"""Any OpenAI-compatible endpoint, through the openai SDK; retries, limits and the budget are ours (calls.py)."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.chat import Completion, Request, TryAgain
from psychocounsel.models.decisions import WIRES, Wire, decision_body, read_decision
from psychocounsel.models.remote import LOST, Refused, Remote, key_from
from psychocounsel.recipe import SECRET, ModelsTable, holds_secret
from psychocounsel.records import Finish

OPENAI_URL = "https://api.openai.com/v1"
FILTER_CODES = ("content_filter", "content_policy_violation")
TOO_LONG_CODES = ("context_length_exceeded", "string_above_max_length")
FILTERED = '{"choices": [{"finish_reason": "content_filter", "message": {"content": ""}}]}'
FINISHES: dict[str | None, Finish] = {"length": "length", "content_filter": "filtered"}
TOO_LONG = '{"choices": [{"finish_reason": "length", "message": {"content": ""}}]}'
NO_KEY = "none"
OPENAI_HEADERS = ("OpenAI-Organization", "OpenAI-Project")  # set from the environment by the SDK: for OpenAI alone


class OpenAIModel(Remote):
    """One model behind one endpoint. The key comes from the environment only and is never written.

    `OPENAI_API_KEY` is used for api.openai.com alone; other endpoints get `PSYCHOCOUNSEL_API_KEY` if it is set.
    """

    def __init__(self, name: str, url: str | None, model: str, table: ModelsTable | None = None) -> None:
        super().__init__(name, url or "openai", url or OPENAI_URL, table or ModelsTable())
        self.model = model
        self.wire: Wire | None = None
        self.limit_name = "max_tokens" if url else "max_completion_tokens"  # OpenAI's reasoning models know no other
        self.no_temperature = False
        variable = "PSYCHOCOUNSEL_API_KEY" if url else "OPENAI_API_KEY"
        self._key = os.environ.get(variable) or NO_KEY if url else key_from(variable, name)

    @classmethod
    def from_name(cls, name: str, table: ModelsTable | None = None) -> OpenAIModel:
        """`openai:MODEL` or `http(s)://HOST/v1#MODEL`. Raises UserError for a URL with a key or password in it."""
        if name.startswith("openai:"):
            return cls(name, None, name.removeprefix("openai:"), table)
        if holds_secret(name):
            raise UserError(f"a model is {SECRET}")
        url, _, model = name.partition("#")
        if not model:
            raise UserError(f"model '{name}': name the model after a #, for example {url}#my-model")
        return cls(name, url.rstrip("/"), model, table)

    def _open(self) -> Any:
        import openai

        return self._sdk(self._key, {} if self.url == OPENAI_URL else dict.fromkeys(OPENAI_HEADERS, openai.omit))

    def can_answer(self, request: Request) -> bool:
        return True

    async def send(self, request: Request) -> str:
        """The raw JSON body of the answer of one attempt."""
        if request.form == "decision":
            return await self._decide(request)
        return await self.post("/chat/completions", chat_body(self.model, request))

    async def _decide(self, request: Request) -> str:
        """By the wire form that is known (capabilities.py), else by the first whose path is known there."""
        for wire in (self.wire,) if self.wire else WIRES:
            try:
                raw = await self.post(f"/{wire}", decision_body(wire, self.model, request))
            except Refused as error:
                if error.status in (404, 405) and wire not in (self.wire, WIRES[-1]):
                    continue
                raise
            self.wire = wire
            return raw
        raise AssertionError("unreachable")

    def fitted(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat body in the words this model knows."""
        fitted = {self.limit_name if name == "max_tokens" else name: value for name, value in body.items()}
        if self.no_temperature:
            fitted.pop("temperature", None)
        return fitted

    async def post(self, path: str, body: dict[str, Any]) -> str:
        """POST a JSON body, give back the raw text. Raises TryAgain or Refused by what went wrong."""
        import openai

        try:
            sent = self.fitted(body)
            reply = await self.client().post(path, body=sent, cast_to=openai.HttpxBinaryResponseContent)
            return str(reply.response.content.decode("utf-8", "replace"))
        except openai.APIStatusError as error:
            if (known := result_of(error.code)) is not None:
                return known
            if self._learnt(error, sent):
                return await self.post(path, body)
            retry_after = error.response.headers.get("retry-after")
            raise self.trouble(error.status_code, error.code, _short(error), retry_after) from error
        except openai.APIConnectionError as error:
            raise TryAgain("no connection") from error

    def _learnt(self, error: Any, sent: dict[str, Any]) -> bool:
        """Whether the refusal tells how to ask: reasoning models rename the limit and take no temperature."""
        if error.status_code != 400 or not isinstance(error.param, str) or error.param not in sent:
            return False
        if error.param == "max_tokens":
            self.limit_name = "max_completion_tokens"
        elif error.param == "temperature" and error.code in ("unsupported_parameter", "unsupported_value"):
            if not self.no_temperature:
                print(f"{self.name}: takes no temperature and is asked without one", file=sys.stderr)
            self.no_temperature = True
        else:
            return False
        return True

    def read(self, raw: str) -> Completion:
        """A Completion of a raw body; fields a server left out or broke are errors with a name."""
        try:
            if '"answers"' in raw and '"choices"' not in raw:
                return read_decision(raw)
            return read_chat(raw)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.name}: the server's reply is not a chat completion ({type(error).__name__}); {LOST}"
            ) from error


def result_of(code: str | None) -> str | None:
    """The body to keep for an error that is a result of its own: the prompt was filtered, or is longer than the model
    can read. Neither changes by asking again, and neither may stop a run of many others."""
    if code in FILTER_CODES:
        return FILTERED
    return TOO_LONG if code in TOO_LONG_CODES else None


def chat_body(model: str, request: Request) -> dict[str, Any]:
    """The JSON body of a chat completion. `n` is never sent: servers ignore it silently; k calls are k requests."""
    body: dict[str, Any] = {"model": model, "messages": list(request.messages), **request.sampling}
    if request.answer_schema:
        schema = {"name": "answer", "schema": request.answer_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif request.form == "json":
        body["response_format"] = {"type": "json_object"}
    return body


def read_chat(raw: str) -> Completion:
    """The first choice of a chat completion, whatever number of them the server sent."""
    body = json.loads(raw)
    choice = body["choices"][0]
    message = choice["message"]
    usage = body.get("usage") or {}
    text = message.get("content") or message.get("refusal") or ""
    return Completion(
        text=text.encode("utf-8", "replace").decode(),  # a reply cut inside an emoji ends in half of it
        finish="refused" if message.get("refusal") else FINISHES.get(choice.get("finish_reason"), "stop"),
        tokens_in=usage.get("prompt_tokens") or 0,
        tokens_out=usage.get("completion_tokens") or 0,
    )


def _short(error: Exception) -> str:
    """What kind of error it is. Not its message: servers echo the client's words, or the key, in it."""
    parts = [f"{name} {value}" for name in ("code", "type", "param") if (value := getattr(error, name, None))]
    return ", ".join(parts)[:200] or type(error).__name__
