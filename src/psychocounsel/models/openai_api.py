"""Any OpenAI-compatible endpoint, through the openai SDK with retries of our own."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.chat import Completion, Request
from psychocounsel.records import Finish

OPENAI_URL = "https://api.openai.com/v1"
ATTEMPTS = 6
FILTER_CODES = ("content_filter", "content_policy_violation")
FILTERED = '{"choices": [{"finish_reason": "content_filter", "message": {"content": ""}}]}'
FIRST_WAIT_S = 1.0
TIMEOUT_S = 120.0
FINISHES: dict[str | None, Finish] = {"length": "length", "content_filter": "filtered"}
NO_KEY = "none"
LOST = "the calls answered so far are kept, the same command continues"


class OpenAIModel:
    """One model behind one endpoint. The key comes from the environment only and is never written.

    `OPENAI_API_KEY` is used for api.openai.com alone; other endpoints get `PSYCHOCOUNSEL_API_KEY` if it is set.
    """

    concurrency = 8

    def __init__(self, name: str, url: str | None, model: str) -> None:
        import openai

        self.name, self.model = name, model
        self.kind = url or "openai"
        place = url or OPENAI_URL  # said outright: OPENAI_BASE_URL must not send the key elsewhere
        variable = "PSYCHOCOUNSEL_API_KEY" if url else "OPENAI_API_KEY"
        key = os.environ.get(variable) or (NO_KEY if url else "")
        if not key:
            raise UserError(f"{name}: {variable} is not set; export it in your shell (it is never written anywhere)")
        close = {"Connection": "close"}  # a kept connection would outlive the event loop it belongs to
        self.client = openai.AsyncOpenAI(
            api_key=key, base_url=place, max_retries=0, timeout=TIMEOUT_S, default_headers=close
        )

    @classmethod
    def from_name(cls, name: str) -> OpenAIModel:
        """`openai:MODEL` or `http(s)://HOST/v1#MODEL`."""
        if name.startswith("openai:"):
            return cls(name, None, name.removeprefix("openai:"))
        url, _, model = name.partition("#")
        if not model:
            raise UserError(f"model '{name}': name the model after a #, for example {url}#my-model")
        return cls(name, url, model)

    def can_answer(self, request: Request) -> bool:
        return True

    async def send(self, request: Request) -> str:
        """The raw JSON body of the answer. Rate limits, server errors and time-outs are retried with growing waits."""
        import openai

        fields: dict[str, Any] = {"model": self.model, "messages": list(request.messages), **request.sampling}
        if request.answer_schema:
            schema = {"name": "answer", "schema": request.answer_schema, "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        wait = FIRST_WAIT_S
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = await self.client.chat.completions.with_raw_response.create(**fields)
                return str(response.http_response.text)
            except openai.APIStatusError as error:
                if error.code in FILTER_CODES:
                    return FILTERED  # the prompt was filtered: a result to keep and count, not a failure
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    raise UserError(f"{self.name}: {error.status_code} {self._short(error)}; {LOST}") from error
                if attempt == ATTEMPTS:
                    raise UserError(f"{self.name}: {error.status_code} after {ATTEMPTS} attempts; {LOST}") from error
                wait = max(wait, _retry_after(error.response.headers.get("retry-after")))
            except openai.APIConnectionError as error:
                if attempt == ATTEMPTS:
                    raise UserError(f"{self.name}: no connection after {ATTEMPTS} attempts; {LOST}") from error
            await asyncio.sleep(wait)
            wait *= 2
        raise AssertionError("unreachable")

    def _short(self, error: Exception) -> str:
        """What kind of error it is. Not its message: servers echo the client's words, or the key, in it."""
        parts = [f"{name} {value}" for name in ("code", "type", "param") if (value := getattr(error, name, None))]
        return ", ".join(parts)[:200] or type(error).__name__

    def read(self, raw: str) -> Completion:
        """A Completion of a raw body; fields a server left out or broke are errors with a name."""
        try:
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
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.name}: the server's reply is not a chat completion ({error!r:.200}); {LOST}"
            ) from error


def _retry_after(value: str | None) -> float:
    try:
        return min(float(value or 0), 300.0)
    except ValueError:
        return 0.0
