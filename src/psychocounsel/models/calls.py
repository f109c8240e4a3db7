"""Asking models through the call store: once each, tried again when that helps, many at a time, within a budget."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from psychocounsel.errors import UserError
from psychocounsel.models.chat import ChatModel, Completion, Request, TryAgain
from psychocounsel.models.remote import LOST, MOST_WAIT_S, Remote
from psychocounsel.models.store import CallStore
from psychocounsel.recipe import ModelsTable

T = TypeVar("T")
Lane = tuple[int, Iterable[tuple[int, Coroutine[Any, Any, T]]]]
Fit = Callable[[ChatModel, Request, CallStore], Awaitable[Request]]
FIRST_WAIT_S = 1.0
PATIENCE_S = 900.0  # one call waits so long for a rate limit to lift; most limits count by the minute


async def ask(model: ChatModel, request: Request, store: CallStore) -> Completion:
    """Answer one request: from the store when the same call was made before, else by the model.

    Raises UserError when the model's endpoint fails for good, the reply is no answer, or the budget is reached.
    """
    call_id = request.key(model.kind, model.name)
    async with store.sending.setdefault(call_id, asyncio.Lock()):  # equal requests at once: the first one pays
        raw = store.find(call_id)
        if raw is not None:
            return model.read(raw).model_copy(update={"call_id": call_id, "cached": True})
        return (await _call(model, request, store, call_id)).model_copy(update={"call_id": call_id})


async def _call(model: ChatModel, request: Request, store: CallStore, call_id: str) -> Completion:
    """The answer to a call, tried as often as its endpoint allows."""
    _stop_if_stopping(store)
    most = await store.budget.reserve(model, request) if store.budget else 0.0
    try:
        store.begin(call_id, model, request)
        await store.saved()
        return await _persist(model, request, store, call_id)
    finally:
        if store.budget:
            store.budget.release(most)


async def _persist(model: ChatModel, request: Request, store: CallStore, call_id: str) -> Completion:
    """Attempts until one succeeds. A rate limit is no failure: it is waited out, and not counted as an attempt."""
    attempts = model.table.attempts if isinstance(model, Remote) else ModelsTable().attempts
    wait, waited = FIRST_WAIT_S, 0.0
    failures = tries = 0
    while True:
        try:
            return await _attempt(model, request, store, call_id)
        except TryAgain as trouble:
            tries += 1
            failures += not trouble.limited
            told = trouble.limited and trouble.wait > 0
            pause = min(max(trouble.wait, FIRST_WAIT_S if told else wait), MOST_WAIT_S)
            if failures == attempts or waited + pause > PATIENCE_S:
                raise UserError(f"{model.name}: {trouble.why} after {tries} attempts; {LOST}") from trouble
            await asyncio.sleep(pause)
            waited += pause
            wait *= 1 if told else 2


async def _attempt(model: ChatModel, request: Request, store: CallStore, call_id: str) -> Completion:
    """One attempt behind the endpoint's limiter. Once sent, it is waited for and stored whatever happens to us."""
    if isinstance(model, Remote):
        await model.limiter.enter()
    if store.stopping:
        if isinstance(model, Remote):
            model.limiter.leave()
        _stop_if_stopping(store)
    return await asyncio.shield(store.keep(_send(model, request, store, call_id)))


async def _send(model: ChatModel, request: Request, store: CallStore, call_id: str) -> Completion:
    """Send, then store what came: the raw body whether or not it can be read. The place behind the limiter is free
    again as soon as the answer is here, so that no endpoint waits for our disk."""
    try:
        raw = await _answer(model, request)
    except TimeoutError:
        await _lose(model, request, store, call_id, None)
        limit = model.table.timeout if isinstance(model, Remote) else None
        raise TryAgain(f"no answer within {limit:g} s" if limit else "no answer in time") from None
    raw = raw.encode("utf-8", "replace").decode()  # half a character cannot be stored, nor what is committed with it
    try:
        completion = model.read(raw)
    except UserError as error:
        await _lose(model, request, store, call_id, raw)
        if isinstance(model, Remote):
            raise TryAgain(str(error).removeprefix(f"{model.name}: ").removesuffix(f"; {LOST}")) from error
        raise
    store.finish(call_id, raw, completion, store.budget.settle(model, completion) if store.budget else None)
    await store.saved()
    return completion


async def _answer(model: ChatModel, request: Request) -> str:
    if not isinstance(model, Remote):
        return await model.send(request)
    try:
        async with asyncio.timeout(model.table.timeout):
            raw = await model.send(request)
        model.limiter.answered()
        return raw
    except TryAgain as trouble:
        if trouble.limited:
            model.limiter.refused(trouble.wait)
        raise
    finally:
        model.limiter.leave()


async def _lose(model: ChatModel, request: Request, store: CallStore, call_id: str, raw: str | None) -> None:
    store.lost(call_id, raw, store.budget.lost(model, request) if store.budget else None)
    await store.saved()


def _stop_if_stopping(store: CallStore) -> None:
    if store.stopping:  # another call failed for good: what was not sent is not paid for
        raise asyncio.CancelledError


def ask_all(
    jobs: Sequence[tuple[ChatModel, Request]],
    store: CallStore,
    done: Callable[[Completion], None] = lambda _: None,
    fit: Fit | None = None,
) -> list[Completion]:
    """Answer many requests, each model at its own concurrency, in the order of `jobs`. `fit` may change a request
    to what its endpoint takes, before it is asked."""
    models = {id(model): model for model, _ in jobs}

    async def one(model: ChatModel, request: Request) -> Completion:
        completion = await ask(model, await fit(model, request, store) if fit else request, store)
        done(completion)
        return completion

    def lane(name: int) -> Iterator[tuple[int, Coroutine[Any, Any, Completion]]]:
        return ((place, one(*job)) for place, job in enumerate(jobs) if id(job[0]) == name)

    return together([(model.concurrency, lane(name)) for name, model in models.items()], store, list(models.values()))


def together(lanes: Sequence[Lane[T]], store: CallStore, models: Iterable[ChatModel] = ()) -> list[T]:
    """Run numbered jobs, each lane at its own width, results in the order of the numbers (0 to n - 1).

    A lane is (width, jobs): jobs are drawn as workers get free, so a hundred thousand cost the memory of a few. The
    first failure (or Ctrl-C) stops the rest and is raised as it is; calls already sent are paid for: they are waited
    for and stored, but not tried again.
    """
    results: dict[int, T] = {}

    async def work(jobs: Iterator[tuple[int, Coroutine[Any, Any, T]]]) -> None:
        for place, job in jobs:
            try:
                results[place] = await job
            except BaseException:
                store.stopping = True
                raise

    async def everything() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for width, jobs in lanes:
                    shared = iter(jobs)
                    for _ in range(width):
                        group.create_task(work(shared))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            store.stopping = True
            if store.in_flight:
                await asyncio.wait(store.in_flight)
            for model in models:
                if isinstance(model, Remote):
                    await model.close()

    store.stopping = False
    gc.freeze()  # a hundred thousand speeches in memory need not be searched for garbage at every few calls
    try:
        asyncio.run(everything())
    finally:
        gc.unfreeze()
        store.stopping = False
    return [results[place] for place in range(len(results))]
