"""The call store: every model call of a run in one SQLite file, so that nothing is ever paid for twice."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from psychocounsel.errors import UserError
from psychocounsel.models.chat import ChatModel, Completion, Request
from psychocounsel.records import content_id

T = TypeVar("T")

TABLES = """
CREATE TABLE IF NOT EXISTS texts (id TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS calls (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, model TEXT NOT NULL, request TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('pending', 'done')), raw TEXT) WITHOUT ROWID;
"""


class CallStore:
    """A folder's `calls.sqlite`. A pending row goes in before sending, the raw body before parsing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sending: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.in_flight: set[asyncio.Task[str]] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")
            self.connection.executescript(TABLES)
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{path}: cannot be used as a call store ({error}); is it damaged, or the disk full?"
            ) from error

    def __enter__(self) -> CallStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def find(self, call_id: str) -> str | None:
        """The raw body of a finished call, or None."""
        row = self.connection.execute("SELECT raw FROM calls WHERE id = ? AND status = 'done'", (call_id,)).fetchone()
        return None if row is None else str(row[0])

    def begin(self, call_id: str, model: ChatModel, request: Request) -> None:
        """Note that a call is about to be sent. Long prompts are stored once."""
        texts = [(content_id(message["content"]), message["content"]) for message in request.messages]
        slim = [{"role": m["role"], "text": key} for m, (key, _) in zip(request.messages, texts, strict=True)]
        body = {
            "messages": slim,
            "sampling": request.sampling,
            "schema": request.answer_schema,
            "sample": request.sample,
        }
        with self._writing():
            self.connection.execute("BEGIN")
            self.connection.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?)", texts)
            self.connection.execute(
                "INSERT OR REPLACE INTO calls VALUES (?, ?, ?, ?, 'pending', NULL)",
                (call_id, model.kind, model.name, json.dumps(body)),
            )

    def finish(self, call_id: str, raw: str) -> None:
        """Keep the raw body of a call."""
        with self._writing():
            self.connection.execute("UPDATE calls SET status = 'done', raw = ? WHERE id = ?", (raw, call_id))

    def reopen(self, call_id: str) -> None:
        """The body of this call is no answer: it stays to be looked at, and the next run asks again."""
        with self._writing():
            self.connection.execute("UPDATE calls SET status = 'pending' WHERE id = ?", (call_id,))

    def keep(self, sending: Coroutine[Any, Any, str]) -> asyncio.Task[str]:
        """Send in a task of its own, known to the store until it is done."""
        task = asyncio.create_task(sending)
        self.in_flight.add(task)
        task.add_done_callback(self.in_flight.discard)
        return task

    def by_model(self) -> list[tuple[str, str, int, int]]:
        """(model, endpoint, answered, pending) of every model asked, by name."""
        done, pending = "SUM(status = 'done')", "SUM(status = 'pending')"
        query = f"SELECT model, kind, {done}, {pending} FROM calls GROUP BY model, kind ORDER BY model, kind"
        return self.connection.execute(query).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self.connection:
                yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self.path}: cannot write ({error}); free some disk space, then run the same command"
            ) from error


def copy_calls(source: Path, target: Path) -> None:
    """Copy a call store through SQLite, so that calls still in its write-ahead log come along."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        try:
            old.backup(new)
        except sqlite3.Error as error:
            raise UserError(f"{source}: cannot be copied to {target} ({error})") from error


async def ask(model: ChatModel, request: Request, store: CallStore) -> Completion:
    """Answer one request: from the store when the same call was made before, else by the model."""
    call_id = request.key(model.kind, model.name)
    async with store.sending.setdefault(call_id, asyncio.Lock()):  # equal requests at once: the first one pays
        raw = store.find(call_id)
        cached = raw is not None
        if raw is None:
            await asyncio.sleep(0)  # a failure that made room for this call ends it here, before it is sent
            store.begin(call_id, model, request)
            raw = await asyncio.shield(store.keep(_send(model, request, store, call_id)))
    try:
        completion = model.read(raw)
    except UserError:
        store.reopen(call_id)
        raise
    return completion.model_copy(update={"call_id": call_id, "cached": cached})


async def _send(model: ChatModel, request: Request, store: CallStore, call_id: str) -> str:
    raw = await model.send(request)
    store.finish(call_id, raw)
    return raw


def ask_all(
    jobs: Sequence[tuple[ChatModel, Request]], store: CallStore, done: Callable[[Completion], None] = lambda _: None
) -> list[Completion]:
    """Answer many requests at once (each model's own concurrency), in the order of `jobs`."""
    gates = {id(model): asyncio.Semaphore(model.concurrency) for model, _ in jobs}

    async def one(model: ChatModel, request: Request) -> Completion:
        async with gates[id(model)]:
            completion = await ask(model, request, store)
        done(completion)
        return completion

    return together([one(model, request) for model, request in jobs], store)


def together(jobs: Sequence[Coroutine[Any, Any, T]], store: CallStore) -> list[T]:
    """Run coroutines together, results in their order.

    The first failure (or Ctrl-C) stops the rest and is raised as it is. Calls already sent are paid for: they are
    waited for and stored.
    """

    async def everything() -> list[T]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(job) for job in jobs]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            if store.in_flight:
                await asyncio.wait(store.in_flight)
        return [task.result() for task in tasks]

    return asyncio.run(everything())
