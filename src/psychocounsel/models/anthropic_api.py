"""Anthropic's Messages API, natively: a thin adapter over the same HTTP client as every other endpoint."""

from __future__ import annotations

import json
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.chat import Completion, Request, TryAgain
from psychocounsel.models.openai_api import OPENAI_HEADERS
from psychocounsel.models.prices import DEFAULT_MAX_TOKENS
from psychocounsel.models.remote import LOST, Remote, key_from
from psychocounsel.recipe import ModelsTable
from psychocounsel.records import Finish

URL = "https://api.anthropic.com/v1"
VERSION = "2023-06-01"
FINISHES: dict[str | None, Finish] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refused",
}


class AnthropicModel(Remote):
    """`anthropic:MODEL`. The key comes from ANTHROPIC_API_KEY only and is never written.

    A schema is demanded as the input of a forced tool, which every model version honours.
    """

    def __init__(self, name: str, table: ModelsTable | None = None, url: str = URL) -> None:
        super().__init__(name, "anthropic" if url == URL else url, url, table or ModelsTable())
        self.model = name.partition(":")[2]
        self._key = key_from("ANTHROPIC_API_KEY", name)

    def _open(self) -> Any:
        # only the SDK's transport is used; the key goes into Anthropic's own header
        return self._sdk("unused", {"x-api-key": self._key, "anthropic-version": VERSION})

    def can_answer(self, request: Request) -> bool:
        return True

    async def send(self, request: Request) -> str:
        """The raw JSON body of the answer of one attempt."""
        import openai

        try:
            reply = await self.client().post(
                "/messages",
                body=message_body(self.model, request),
                options={"headers": dict.fromkeys(("Authorization", *OPENAI_HEADERS), openai.omit)},
                cast_to=openai.HttpxBinaryResponseContent,
            )
            return str(reply.response.content.decode("utf-8", "replace"))
        except openai.APIStatusError as error:
            kind = _error_type(error.body)
            code = "credit_balance_too_low" if kind == "billing_error" else kind
            retry_after = error.response.headers.get("retry-after")
            raise self.trouble(error.status_code, code, f"type {kind}" if kind else "", retry_after) from error
        except openai.APIConnectionError as error:
            raise TryAgain("no connection") from error

    def read(self, raw: str) -> Completion:
        """A Completion of a raw body; fields a server left out or broke are errors with a name."""
        try:
            body = json.loads(raw)
            blocks = body["content"]
            forced = [block["input"] for block in blocks if block["type"] == "tool_use"]
            text = "".join(block["text"] for block in blocks if block["type"] == "text")
            usage = body.get("usage") or {}
            return Completion(
                text=json.dumps(forced[0], ensure_ascii=False) if forced else text,
                finish=FINISHES.get(body.get("stop_reason"), "stop"),
                tokens_in=usage.get("input_tokens") or 0,
                tokens_out=usage.get("output_tokens") or 0,
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.name}: the server's reply is no Anthropic message ({type(error).__name__}); {LOST}"
            ) from error


def message_body(model: str, request: Request) -> dict[str, Any]:
    """The JSON body of a message request: the system text apart, the schema as a tool that must be used."""
    sampling = {"max_tokens": DEFAULT_MAX_TOKENS, **request.sampling}
    talk = [message for message in request.messages if message["role"] != "system"]
    rules = "\n\n".join(message["content"] for message in request.messages if message["role"] == "system")
    body: dict[str, Any] = {"model": model, "messages": talk, **sampling}
    if rules:
        body["system"] = rules
    if request.answer_schema:
        body["tools"] = [{"name": "answer", "description": "Give the answer.", "input_schema": request.answer_schema}]
        body["tool_choice"] = {"type": "tool", "name": "answer"}
    return body


def _error_type(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else None
    kind = error.get("type") if isinstance(error, dict) else None
    return kind[:60] if isinstance(kind, str) else ""
