"""What an endpoint honours, found out by asking: servers ignore what they do not know without saying so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Container
from datetime import date
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.calls import FIRST_WAIT_S
from psychocounsel.models.chat import Answer, ChatModel, Request, TryAgain
from psychocounsel.models.decisions import WIRES, Wire, decision_body, read_decision
from psychocounsel.models.openai_api import OpenAIModel, chat_body, read_chat
from psychocounsel.models.remote import LOST, Refused
from psychocounsel.models.store import CallStore
from psychocounsel.records import Record

UNKNOWN_FORM = (400, 415, 422)
UNKNOWN_PATH = range(400, 500)  # gateways say 401 or 403 of a path they do not know; the chat calls tell a bad key
TASK = "Write one short sentence about the sea."
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
QUESTION = {"calm": {"instructions": "How calm is the sea?", "levels": ["stormy", "rough", "moving", "quiet", "still"]}}


class Capabilities(Record):
    """What one model behind one endpoint honours. `decision` is the wire form of its decision endpoint, if any."""

    decision: Wire | None
    strict_schema: bool
    json_mode: bool
    probed: date

    @property
    def strictest(self) -> Answer:
        """The form of answer that leaves least to parse."""
        if self.decision:
            return "decision"
        return "schema" if self.strict_schema else "json" if self.json_mode else "text"


async def capabilities(model: OpenAIModel, store: CallStore) -> Capabilities:
    """The stored record of the model's endpoint, or a new one from four small calls (which are not stored).

    Raises UserError when the endpoint cannot be reached, does not know the model or does not take the key: that says
    nothing of what it honours, and is not recorded.
    """
    name = f"{model.kind}#{model.model}"
    async with store.sending.setdefault(f"probe {name}", asyncio.Lock()):
        known = store.endpoint(name)
        if known is not None:
            found = Capabilities.model_validate(known)
        else:
            found = Capabilities(
                strict_schema=_object(await _chat(model, store, SCHEMA)) == {"colour": "blue"},  # within the budget
                json_mode=_object(await _chat(model, store, None)) is not None,
                decision=await _decision(model),
                probed=date.today(),
            )
            store.note_endpoint(name, found.model_dump(mode="json"))
            await store.saved()
    if found.decision:
        model.wire = found.decision
    return found


async def fitted(model: ChatModel, request: Request, store: CallStore) -> Request:
    """The request as the model's endpoint takes it: after its schema, as any JSON, or as text. Others take a schema."""
    if not request.answer_schema or not isinstance(model, OpenAIModel):
        return request
    found = await capabilities(model, store)
    if found.strict_schema:
        return request
    return request.model_copy(update={"answer_schema": None, "form": "json" if found.json_mode else "text"})


async def _decision(model: OpenAIModel) -> Wire | None:
    request = Request(messages=({"role": "user", "content": TASK},), form="decision", questions=QUESTION)
    for wire in WIRES:
        raw = await _post(model, f"/{wire}", decision_body(wire, model.model, request), UNKNOWN_PATH)
        try:
            if raw is not None and len(read_decision(raw).levels["calm"]) == len(QUESTION["calm"]["levels"]):
                return wire
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            continue
    return None


async def _chat(model: OpenAIModel, store: CallStore, schema: dict[str, Any] | None) -> str:
    """The text of an answer asked for after a schema, or as any JSON; '' when the endpoint will not be asked so."""
    task = {"role": "user", "content": TASK if schema else f"{TASK} Answer in JSON."}
    sampling = {"max_tokens": 200}
    request = Request(messages=(task,), sampling=sampling, form="text" if schema else "json", answer_schema=schema)
    most = await store.budget.reserve(model, request) if store.budget else 0.0
    try:
        raw = await _post(model, "/chat/completions", chat_body(model.model, request), UNKNOWN_FORM)
        answer = None if raw is None else read_chat(raw)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ""
    finally:
        if store.budget:
            store.budget.release(most)
    if answer and store.budget:
        store.budget.settle(model, answer)
    return answer.text if answer else ""


async def _post(model: OpenAIModel, path: str, body: dict[str, Any], unknown: Container[int]) -> str | None:
    """The reply, or None for a status that says the path or form is `unknown`. Raises UserError for other trouble."""
    wait = FIRST_WAIT_S
    for attempt in range(model.table.attempts):
        try:
            async with model.limiter, asyncio.timeout(model.table.timeout):
                return await model.post(path, body)
        except Refused as refusal:
            if refusal.spent or refusal.status not in unknown:
                raise
            return None
        except (TryAgain, TimeoutError) as trouble:
            if isinstance(trouble, TryAgain) and trouble.why == "501":
                return None
            if attempt + 1 == model.table.attempts:
                raise UserError(
                    f"{model.name}: {trouble or 'no answer'} while it was probed (POST {path}); {LOST}, or name a "
                    "form of answer: ratings.answer"
                ) from trouble
            await asyncio.sleep(max(wait, getattr(trouble, "wait", 0.0)))
            wait *= 2
    raise AssertionError("unreachable")


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
