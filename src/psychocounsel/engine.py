"""Where the pure stages run: in this process, or over Ray Data on many cores and machines. The output is the same.

An engine maps a function over items in shards. A shard is known by its content, never by when it arrives.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import os
import pickle
import re
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from psychocounsel import __version__
from psychocounsel.errors import UserError, nearest
from psychocounsel.progress import progress

A = TypeVar("A")
B = TypeVar("B")
ENGINES = ("here", "ray")
SHARD = 2000
DIGEST = 16
REACH_S = 10.0


class Engine(Protocol):
    """Maps functions over items. The function is module-level or a partial of one, and gives one result per item."""

    name: str

    def map(
        self, step: str, function: Callable[[list[A]], list[B]], items: Sequence[A], shard: int = SHARD
    ) -> list[B]: ...


class InProcess:
    """The engine that is always there: shard after shard in this process."""

    name = "here"

    def map(self, step: str, function: Callable[[list[A]], list[B]], items: Sequence[A], shard: int = SHARD) -> list[B]:
        """One result per item, in the order of the items."""
        results: list[B] = []
        with progress(step, len(items)) as advance:
            for part in _shards(items, shard):
                results += _apply(step, function, part)
                advance(len(part))
        return results


HERE: Engine = InProcess()


class RayEngine:
    """Ray Data: `RAY_ADDRESS` names a cluster, else this machine's cores are used.

    `folder` is the ledger: the result of each shard is written there under the hash of its content and renamed into
    place, so that a killed run redoes no finished shard. Only the driver writes it; workers need no common disk.
    """

    name = "ray"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _start_ray()

    def map(self, step: str, function: Callable[[list[A]], list[B]], items: Sequence[A], shard: int = SHARD) -> list[B]:
        """One result per item, in the order of the items. A failure in a worker is raised here as it was there."""
        parts = _shards(items, shard)
        names = [f"{re.sub('[^a-z0-9]+', '-', step.lower())}-{_key(function, part)}" for part in parts]
        found = {name: _read_shard(self.folder / name, len(part)) for name, part in zip(names, parts, strict=True)}
        missing = {name: part for name, part in zip(names, parts, strict=True) if found[name] is None}
        with progress(step, len(items)) as advance:
            advance(len(items) - sum(map(len, missing.values())))
            for name, results in _over_ray(step, function, missing):
                _write_shard(self.folder / name, results)
                found[name] = results
                advance(len(results))
        return [result for name in names for result in found[name] or []]


def check_engine(name: str) -> None:
    """Raise a UserError when there is no such engine, or what it needs is not installed."""
    if name not in ENGINES:
        raise UserError(f"--engine {name}: no such engine{nearest(name, list(ENGINES)) or '.'} There are here and ray")
    if name == "ray":
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"{error.name} is not installed; --engine ray needs: pip install 'psychocounsel[ray]'"
            ) from error


@contextmanager
def open_engine(name: str, folder: Path) -> Iterator[Engine]:
    """The engine of that name; `folder` holds the ledger of one that keeps one. Raises UserError."""
    check_engine(name)
    if name == "here":
        yield HERE
        return
    import ray

    was_running = ray.is_initialized()
    try:
        yield RayEngine(folder)
    finally:
        if not was_running:
            ray.shutdown()


def _shards(items: Sequence[A], shard: int) -> list[list[A]]:
    return [list(items[start : start + shard]) for start in range(0, len(items), shard)]


def _apply(step: str, function: Callable[[list[A]], list[B]], part: list[A]) -> list[B]:
    results = list(function(part))
    if len(results) != len(part):
        raise ValueError(f"{step}: {len(results)} results for {len(part)} items; an engine needs one for each")
    return results


def _start_ray() -> None:
    """Join the cluster of RAY_ADDRESS or start one here, without dashboard, usage reports and noise."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns on machines without a GPU
    import logging

    import ray
    import ray.data

    if not ray.is_initialized():
        _check_address(os.environ.get("RAY_ADDRESS", ""))
        here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": os.cpu_count(), "include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **here)
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            place = os.environ.get("RAY_ADDRESS") or "on this machine"
            first = " ".join(str(error).split())[:200]
            raise UserError(f"--engine ray: Ray cannot start ({place}): {first}; check RAY_ADDRESS") from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _check_address(address: str) -> None:
    """Raise a UserError when nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=REACH_S).close()
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--engine ray: nobody answers at RAY_ADDRESS={address} ({error}); is it running?"
            ) from error


def _over_ray(
    step: str, function: Callable[[list[A]], list[B]], parts: Mapping[str, list[A]]
) -> Iterator[tuple[str, list[B]]]:
    """(name, results) of every shard, in the order in which workers finish them."""
    if not parts:
        return
    import ray.data

    rows = [{"name": name, "data": pickle.dumps(part)} for name, part in parts.items()]
    work = functools.partial(_work, step, function)
    for row in ray.data.from_items(rows, override_num_blocks=len(rows)).map(work).iter_rows():
        results, failure = pickle.loads(row["data"])
        if failure is not None:
            raise failure
        yield str(row["name"]), results


def _work(step: str, function: Callable[[list[A]], list[B]], row: dict[str, Any]) -> dict[str, Any]:
    """One shard in a worker. A failure travels as data: Ray would bury it in its own, and try again."""
    try:
        data = pickle.dumps((_apply(step, function, pickle.loads(row["data"])), None))
    except Exception as error:
        data = pickle.dumps((None, _portable(error)))
    return {"name": row["name"], "data": data}


def _portable(error: Exception) -> Exception:
    """The error itself where it survives pickling, with the worker's traceback as a note."""
    trace = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(f"in a worker:\n{trace}")
    return copy if isinstance(copy, Exception) else RuntimeError(str(error))


def _write_shard(path: Path, results: list[Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # texts as they came: for their owner alone
    data = pickle.dumps(results)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(hashlib.blake2b(data, digest_size=DIGEST).digest() + data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _read_shard(path: Path, count: int) -> list[Any] | None:
    """The results of a finished shard, or None when there are none or the file is damaged."""
    if not path.is_file():
        return None
    data = path.read_bytes()
    if data[:DIGEST] != hashlib.blake2b(data[DIGEST:], digest_size=DIGEST).digest():
        return None
    results: list[Any] = pickle.loads(data[DIGEST:])
    return results if len(results) == count else None


def _key(function: Callable[..., Any], part: list[Any]) -> str:
    """32 hex digits over the function, the file it stands in, our version and the shard's content."""
    digest = hashlib.blake2b(digest_size=16)
    for piece in _pieces([__version__, function, part]):
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    """A value as bytes that equal values share (pickles of equal values may differ)."""
    if isinstance(value, functools.partial):
        yield from _pieces(["partial", value.func, value.args, value.keywords])
    elif inspect.isroutine(value):
        yield from (b"function", value.__module__.encode(), value.__qualname__.encode(), _source(value.__module__))
    elif hasattr(value, "model_dump_json"):  # a record
        yield from (type(value).__name__.encode(), value.model_dump_json().encode())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _pieces(
            [type(value).__name__, *((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))]
        )
    elif isinstance(value, Mapping):
        yield from _pieces(["mapping", *sorted(value.items(), key=repr)])
    elif isinstance(value, (set, frozenset)):
        yield from _pieces(["set", *sorted(value, key=repr)])
    elif isinstance(value, (list, tuple)):
        yield b"[%d" % len(value)
        for item in value:
            yield from _pieces(item)
    elif isinstance(value, (str, bytes, int, float, bool, type(None))):
        yield f"{type(value).__name__}:{value!r}".encode("utf-8", "backslashreplace")
    else:
        yield pickle.dumps(value)


@functools.cache
def _source(module: str) -> bytes:
    """Hash of the code a function may call, so that results of older code are not taken for those of today's: all of
    this package for its own functions, else the module's file."""
    if module.partition(".")[0] == __name__.partition(".")[0]:
        files = sorted(path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".toml", ".txt"))
    else:
        place = getattr(sys.modules.get(module), "__file__", None)
        files = [Path(place)] if place else []
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        digest.update(path.read_bytes())
    return digest.digest()
