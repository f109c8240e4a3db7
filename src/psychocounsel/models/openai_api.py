"""Any OpenAI-compatible endpoint, through the openai SDK; retries, limits and the budget are ours (calls.py)."""

from __future__ import annotations

import json
import os
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.chat import Completion, Request, TryAgain
from psychocounsel.models.decisions import Wire, decision_body, read_decision
from psychocounsel.models.remote import LOST, Remote, key_from
from psychocounsel.recipe import ModelsTable
from psychocounsel.records import Finish

OPENAI_URL = "https://api.openai.com/v1"
FILTER_CODES = ("content_filter", "content_policy_violation")
FILTERED = '{"choices": [{"finish_reason": "content_filter", "message": {"content": ""}}]}'
FINISHES: dict[str | None, Finish] = {"length": "length", "content_filter": "filtered"}
NO_KEY = "none"


class OpenAIModel(Remote):
    """One model behind one endpoint. The key comes from the environment only and is never written.

    `OPENAI_API_KEY` is used for api.openai.com alone; other endpoints get `PSYCHOCOUNSEL_API_KEY` if it is set.
    """

    def __init__(self, name: str, url: str | None, model: str, table: ModelsTable | None = None) -> None:
        super().__init__(name, url or "openai", url or OPENAI_URL, table or ModelsTable())
        self.model = model
        self.wire: Wire = "systemone"
        self.limit_name = "max_tokens"
        variable = "PSYCHOCOUNSEL_API_KEY" if url else "OPENAI_API_KEY"
        self._key = os.environ.get(variable) or NO_KEY if url else key_from(variable, name)

    @classmethod
    def from_name(cls, name: str, table: ModelsTable | None = None) -> OpenAIModel:
        """`openai:MODEL` or `http(s)://HOST/v1#MODEL`."""
        if name.startswith("openai:"):
            return cls(name, None, name.removeprefix("openai:"), table)
        url, _, model = name.partition("#")
        if not model:
            raise UserError(f"model '{name}': name the model after a #, for example {url}#my-model")
        return cls(name, url.rstrip("/"), model, table)

    def _open(self) -> Any:
        import openai

        seconds = self.table.timeout  # of silence; the whole call is timed in calls.py, against servers that drip
        return openai.AsyncOpenAI(  # base_url said outright: OPENAI_BASE_URL must not send the key elsewhere
            api_key=self._key,
            base_url=self.url,
            max_retries=0,
            timeout=seconds,
            http_client=openai.DefaultAioHttpClient(base_url=self.url, timeout=seconds),
        )

    def can_answer(self, request: Request) -> bool:
        return True

    async def send(self, request: Request) -> str:
        """The raw JSON body of the answer of one attempt."""
        if request.form == "decision":
            return await self.post(f"/{self.wire}", decision_body(self.wire, self.model, request))
        body = chat_body(self.model, request)
        if self.limit_name not in body and "max_tokens" in body:
            body[self.limit_name] = body.pop("max_tokens")
        return await self.post("/chat/completions", body)

    async def post(self, path: str, body: dict[str, Any]) -> str:
        """POST a JSON body, give back the raw text. Raises TryAgain or UserError by what went wrong."""
        import openai

        try:
            reply = await self.client().post(path, body=body, cast_to=openai.HttpxBinaryResponseContent)
            return str(reply.response.content.decode("utf-8", "replace"))
        except openai.APIStatusError as error:
            if error.code in FILTER_CODES:
                return FILTERED  # the prompt was filtered: a result to keep and count, not a failure
            if error.param == "max_tokens" and self.limit_name == "max_tokens":
                self.limit_name = "max_completion_tokens"  # newer OpenAI models know only this name
                raise TryAgain("max_tokens has another name there") from error
            retry_after = error.response.headers.get("retry-after")
            raise self.trouble(error.status_code, error.code, _short(error), retry_after) from error
        except openai.APIConnectionError as error:
            raise TryAgain("no connection") from error

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
