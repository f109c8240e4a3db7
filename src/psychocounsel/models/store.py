"""The call store: every model call of a run in one SQLite file, so that nothing is ever paid for twice."""

from __future__ import annotations

import asyncio
import fcntl
import json
import sqlite3
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from psychocounsel.errors import UserError
from psychocounsel.models.chat import ChatModel, Completion, Request
from psychocounsel.records import content_id

if TYPE_CHECKING:
    from psychocounsel.models.prices import Budget

VERSION = 2
DAMAGED = "put a copy from before the damage in its place"
TABLES = """
CREATE TABLE IF NOT EXISTS texts (id TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS calls (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, model TEXT NOT NULL, request TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('pending', 'done')), raw TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS endpoints (id TEXT PRIMARY KEY, found TEXT NOT NULL) WITHOUT ROWID;
"""
OLD_AS_NEW = """
CREATE TEMP VIEW calls AS SELECT *, 0 AS tokens_in, 0 AS tokens_out, NULL AS cost FROM main.calls;
CREATE TEMP TABLE endpoints (id TEXT, found TEXT);
"""
SINCE_1 = ("tokens_in INTEGER NOT NULL DEFAULT 0", "tokens_out INTEGER NOT NULL DEFAULT 0", "cost REAL")
ADDED = "cost = COALESCE(cost + ?, ?, cost)"
Statement = tuple[str, tuple[Any, ...]]


class CallStore:
    """A folder's `calls.sqlite`. A pending row goes in before sending, the raw body before parsing.

    One process writes at a time (a lock beside the file); any number may read (`read_only`). Rows of calls that run
    side by side are committed together, each call waiting until its own row is on the disk.
    """

    def __init__(self, path: Path, budget: Budget | None = None, *, read_only: bool = False) -> None:
        self.path, self.budget, self.read_only = path, budget, read_only
        self.sending: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.in_flight: set[asyncio.Task[Completion]] = set()
        self.stopping = False
        self._queue: list[Statement] = []
        self._saving: asyncio.Task[None] | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._known: set[str] = set()
        self._lock: IO[str] | None = None
        try:
            if read_only:
                self.reader = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
                missing = self._missing(self.reader)
                self.reader.execute("SELECT 1 FROM calls LIMIT 1")
                if missing:  # an earlier version, read as if it were this one
                    self.reader.executescript(OLD_AS_NEW)
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
            self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            missing = self._missing(self.connection)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")
            self.connection.executescript(TABLES)
            for column in missing:
                self.connection.execute(f"ALTER TABLE calls ADD COLUMN {column}")
            if self.connection.execute("PRAGMA user_version").fetchone() != (VERSION,):
                self.connection.execute(f"PRAGMA user_version = {VERSION}")
            self.reader = sqlite3.connect(path, isolation_level=None)  # never waits for the disk, sees whole commits
        except (sqlite3.Error, OSError) as error:
            self._close()
            raise UserError(
                f"{path}: cannot be used as a call store ({error}); is it damaged, or the disk full?"
            ) from error
        except UserError:
            self._close()
            raise

    def _missing(self, connection: sqlite3.Connection) -> list[str]:
        """The columns that an earlier version's file has not. Raises UserError for a later one and for other files."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
        present = {row[1] for row in connection.execute("PRAGMA table_info(calls)")}
        if tables and not present >= {"id", "kind", "model", "request", "status", "raw"}:
            raise UserError(f"{self.path}: a database of something else, no call store; name another file")
        if version > VERSION:
            raise UserError(
                f"{self.path}: made by a later version of psychocounsel (store version {version}, this one knows "
                f"{VERSION}); update the package, or start a run with another name"
            )
        return [column for column in SINCE_1 if column.split()[0] not in present]

    def __enter__(self) -> CallStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        finally:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.shutdown()
        for connection in (getattr(self, "reader", None), getattr(self, "connection", None)):
            if connection is not None:
                connection.close()
        if self._lock is not None:
            self._lock.close()

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            return self.reader.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise UserError(f"{self.path}: cannot be read ({error}); {DAMAGED}, then run the same command") from error

    def find(self, call_id: str) -> str | None:
        """The raw body of a finished call, or None."""
        rows = self._rows("SELECT raw FROM calls WHERE id = ? AND status = 'done'", call_id)
        return str(rows[0][0]) if rows else None

    def begin(self, call_id: str, model: ChatModel, request: Request) -> None:
        """Note that a call is about to be sent; on disk after `saved`. Long prompts are stored once."""
        slim = []
        for message in request.messages:
            text = message["content"]
            key = content_id(text)
            slim.append({"role": message["role"], "text": key})
            if key not in self._known:
                self._queue.append(("INSERT OR IGNORE INTO texts VALUES (?, ?)", (key, text)))
                if message["role"] == "system":  # the few that come again and again
                    self._known.add(key)
        body: dict[str, Any] = {"messages": slim, "sampling": request.sampling, "schema": request.answer_schema}
        body |= {"sample": request.sample, "form": request.form, "questions": request.questions}
        insert = (
            "INSERT INTO calls (id, kind, model, request, status) VALUES (?, ?, ?, ?, 'pending') "
            "ON CONFLICT (id) DO UPDATE SET status = 'pending', raw = NULL"  # what its lost tries cost stays
        )
        self._queue.append((insert, (call_id, model.kind, model.name, json.dumps(body))))

    def finish(self, call_id: str, raw: str, completion: Completion, cost: float | None) -> None:
        """Keep the raw body of a call, its tokens and what it cost; on disk after `saved`."""
        counts = (completion.tokens_in, completion.tokens_out)
        query = f"UPDATE calls SET status = 'done', raw = ?, tokens_in = ?, tokens_out = ?, {ADDED} WHERE id = ?"
        self._queue.append((query, (raw, *counts, cost, cost, call_id)))

    def lost(self, call_id: str, raw: str | None, cost: float | None) -> None:
        """A try brought no answer: what came stays to be looked at, its cost is counted, the call is asked again."""
        query = f"UPDATE calls SET status = 'pending', raw = ?, {ADDED} WHERE id = ?"
        self._queue.append((query, (raw, cost, cost, call_id)))

    async def saved(self) -> None:
        """Wait until everything noted so far is on the disk. Calls that wait together share one commit."""
        if self._saving is None:
            self._saving = asyncio.create_task(self._save())
        await asyncio.shield(self._saving)

    async def _save(self) -> None:
        try:
            await asyncio.sleep(0)  # let the calls that are ready in this turn of the loop join
        finally:
            self._saving = None
        rows = self._take()
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "call-store")
        await asyncio.get_running_loop().run_in_executor(self._writer, self._commit, rows)

    def flush(self) -> None:
        """Put everything noted so far on the disk, now."""
        rows = self._take()
        if self._writer is None:
            self._commit(rows)
        else:  # after what is being written there
            self._writer.submit(self._commit, rows).result()

    def _take(self) -> list[Statement]:
        rows, self._queue = self._queue, []
        return rows

    def _commit(self, rows: Sequence[Statement]) -> None:
        if not rows:
            return
        try:
            with self.connection:
                self.connection.execute("BEGIN IMMEDIATE")
                for query, values in rows:
                    self.connection.execute(query, values)
        except sqlite3.Error as error:
            full = isinstance(error, sqlite3.OperationalError)
            remedy = "free some disk space" if full else DAMAGED
            raise UserError(f"{self.path}: cannot write ({error}); {remedy}, then run the same command") from error

    def keep(self, sending: Coroutine[Any, Any, Completion]) -> asyncio.Task[Completion]:
        """Send in a task of its own, known to the store until it is done."""
        task = asyncio.create_task(sending)
        self.in_flight.add(task)
        task.add_done_callback(self.in_flight.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever asked may be gone
        return task

    def by_model(self) -> list[tuple[str, str, int, int]]:
        """(model, endpoint, answered, pending) of every model asked, by name."""
        done, pending = "SUM(status = 'done')", "SUM(status = 'pending')"
        query = f"SELECT model, kind, {done}, {pending} FROM calls GROUP BY model, kind ORDER BY model, kind"
        return self._rows(query)

    def tokens(self) -> dict[tuple[str, str], tuple[int, int, float | None]]:
        """(tokens in, tokens out, US dollars or None) by (model, endpoint)."""
        query = "SELECT model, kind, SUM(tokens_in), SUM(tokens_out), SUM(cost) FROM calls GROUP BY model, kind"
        return {(model, kind): (used, made, cost) for model, kind, used, made, cost in self._rows(query)}

    def spent(self) -> float:
        """US dollars of all calls whose price was known."""
        return float(self._rows("SELECT COALESCE(SUM(cost), 0) FROM calls")[0][0])

    def endpoint(self, name: str) -> dict[str, Any] | None:
        """What was found out about an endpoint, or None when it was never probed."""
        rows = self._rows("SELECT found FROM endpoints WHERE id = ?", name)
        return dict(json.loads(rows[0][0])) if rows else None

    def note_endpoint(self, name: str, found: dict[str, Any]) -> None:
        """Keep what was found out about an endpoint; on disk after `saved`."""
        self._queue.append(("INSERT OR REPLACE INTO endpoints VALUES (?, ?)", (name, json.dumps(found))))


def _locked(path: Path) -> IO[str]:
    """The lock of a store; it goes with the process."""
    file = path.with_name(path.name + ".lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"{path}: another process is writing to this call store; wait for it, or name another store"
        ) from None
    return file


def copy_calls(source: Path, target: Path) -> None:
    """Copy a call store through SQLite, so that calls still in its write-ahead log come along."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        try:
            old.backup(new)
        except sqlite3.Error as error:
            raise UserError(f"{source}: cannot be copied to {target} ({error})") from error
