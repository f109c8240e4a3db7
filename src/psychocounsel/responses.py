"""Stage 2: candidate responses. Each speech is answered by k models drawn from the pool by content hash."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from psychocounsel.errors import UserError
from psychocounsel.models.calls import ask_all
from psychocounsel.models.chat import ChatModel, Request
from psychocounsel.models.store import CallStore
from psychocounsel.principles.prompts import COUNSELLOR, chat_messages
from psychocounsel.progress import progress
from psychocounsel.recipe import ResponsesTable
from psychocounsel.records import Response, Speech, content_id


def response_request(speech: Speech, table: ResponsesTable) -> Request:
    """The request that asks for a counsellor's reply to a speech."""
    return Request(
        messages=tuple(chat_messages(speech.turns, COUNSELLOR)),
        sampling={"temperature": table.temperature, "max_tokens": table.max_tokens},
        subject={"speech_id": speech.id, "source_id": speech.source_id},
    )


def draw(
    speech: Speech, pool: Sequence[ChatModel], table: ResponsesTable, seed: int
) -> list[tuple[ChatModel, Request]]:
    """The k models of the pool that answer this speech, so many times each. Independent of order, so resume and
    shards agree. Several replies are several requests: servers ignore `n` without saying so."""
    request = response_request(speech, table)
    able = [model for model in pool if model.can_answer(request)]
    able.sort(key=lambda model: content_id([seed, speech.id, model.name]))
    requests = [request, *(request.model_copy(update={"sample": number}) for number in range(1, table.samples))]
    return [(model, asked) for model in able[: table.per_speech] for asked in requests]


def plan_responses(
    speeches: Sequence[Speech], pool: Sequence[ChatModel], table: ResponsesTable, seed: int
) -> list[tuple[ChatModel, Request]]:
    """Every call the stage will make."""
    return [job for speech in _asked(speeches, table, seed) for job in draw(speech, pool, table, seed)]


def _asked(speeches: Sequence[Speech], table: ResponsesTable, seed: int) -> list[Speech]:
    """The speeches that get replies. Arena speeches are left alone: nobody trains on them."""
    chosen = [speech for speech in speeches if speech.split != "arena"]
    if table.limit is not None:
        chosen = sorted(chosen, key=lambda speech: content_id([seed, "limit", speech.id]))[: table.limit]
        chosen.sort(key=lambda speech: speech.id)
    return chosen


def respond(
    speeches: Sequence[Speech], pool: Sequence[ChatModel], table: ResponsesTable, store: CallStore, seed: int
) -> list[Response]:
    """Ask for all candidate responses, through the call store. Refused, filtered and empty replies are kept as such.

    Raises UserError when no model of the pool can answer any speech, or all replies are empty.
    """
    jobs = plan_responses(speeches, pool, table, seed)
    if not jobs:
        raise UserError(
            "responses: no model of the pool can answer any of the speeches; do the recordings belong to them?"
        )
    asked, able = len(_asked(speeches, table, seed)), len({request.subject["speech_id"] for _, request in jobs})
    if able < asked:  # a recording by speech_id does not know a speech whose words were mended or got pseudonyms
        print(
            f"responses: {asked - able} of {asked} speeches get no reply, no model of the pool can answer them; "
            "recordings by source_id are found whatever became of the words",
            file=sys.stderr,
        )
    with progress("responses", len(jobs)) as advance:
        answers = ask_all(jobs, store, lambda _: advance(note=store.budget.told() if store.budget else ""))
    made = (
        Response(
            speech_id=request.subject["speech_id"],
            model=model.name,
            text=answer.text.strip(),
            sampling=request.sampling,
            finish=answer.finish,
            call_id=answer.call_id,
        )
        for (model, request), answer in zip(jobs, answers, strict=True)
    )
    responses = list({response.id: response for response in made}.values())  # a model may say the same twice
    if not any(response.text for response in responses):
        ends = dict(Counter(response.finish for response in responses))
        raise UserError(f"responses: none of {len(jobs)} replies has any text {ends}; check the models in [responses]")
    return responses
