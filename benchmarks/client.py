"""Calls per second of our client against a bare httpx loop: the same local server, alternating, every call stored.

The server answers after 100 ms, in a process of its own. Ours goes through the openai SDK, the limiter, the budget and
the call store with its durable commits; the peer only posts and parses. Prints one JSON object as its last line.

    python benchmarks/client.py [--calls 100000] [--save]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Coroutine, Iterator
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx2 as httpx  # the httpx that the openai SDK itself is built on

from psychocounsel.models.calls import ask, together
from psychocounsel.models.chat import Request
from psychocounsel.models.openai_api import OpenAIModel
from psychocounsel.models.prices import Budget, load_prices
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles
from psychocounsel.principles.prompts import judge_prompt
from psychocounsel.recipe import ModelsTable

LATENCY_S = 0.1
ROUNDS = 3
SECONDS = 12  # of calls in a round, at the rate the latency allows
REPLY = json.dumps(
    {
        "id": "c",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 150}}],
        "usage": {"prompt_tokens": 1500, "completion_tokens": 200},
    }
).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(REPLY)


class Answering(asyncio.Protocol):
    """The least HTTP server: reads a request by its content length, answers after the latency."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        if len(body) >= length:
            self.buffer = body[length:]
            asyncio.get_running_loop().call_later(LATENCY_S, self.transport.write, HEAD + REPLY)


def serve(told: Connection) -> None:
    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=1024)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


def question(number: int, rubric: str) -> Request:
    """A question of the size of a rating: the rubric, a speech and a reply."""
    return Request(
        messages=({"role": "system", "content": rubric}, {"role": "user", "content": f"{number} {'word ' * 300}"}),
        sampling={"temperature": 0.0, "max_tokens": 400},
    )


def bare(url: str, concurrency: int, calls: int, rubric: str) -> float:
    """Calls per second of a loop of workers that post and parse."""

    async def run() -> float:
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            numbers = iter(range(calls))

            async def worker() -> None:
                for number in numbers:
                    user = {"role": "user", "content": f"{number} {'word ' * 300}"}
                    body = {"model": "m", "messages": [{"role": "system", "content": rubric}, user]}
                    reply = await client.post(f"{url}/chat/completions", json=body)
                    _ = reply.json()["choices"][0]["message"]["content"]

            start = time.perf_counter()
            await asyncio.gather(*[worker() for _ in range(concurrency)])
            return calls / (time.perf_counter() - start)

    return asyncio.run(run())


def ours(url: str, concurrency: int, calls: int, rubric: str, folder: Path, watch: bool = False) -> tuple[float, list]:
    """Calls per second through the whole client, and the process's memory in MiB at every tenth of the calls."""
    table = ModelsTable(concurrency=concurrency)
    model = OpenAIModel(f"{url}#m", url, "m", table)
    memory: list[float] = []
    done = 0

    async def one(number: int) -> None:
        nonlocal done
        await ask(model, question(number, rubric), store)
        done += 1
        if watch and done % (calls // 10) == 0:
            memory.append(round(resident(), 1))

    def jobs() -> Iterator[tuple[int, Coroutine[Any, Any, None]]]:
        return ((number, one(number)) for number in range(calls))

    with CallStore(folder / f"{time.monotonic_ns()}.sqlite", Budget(load_prices(table), None)) as store:
        start = time.perf_counter()
        together([(model.concurrency, jobs())], store, [model])
        return calls / (time.perf_counter() - start), memory


def resident() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure(calls: int) -> dict[str, Any]:
    """Both peers at both widths in alternating order, then the memory over many calls."""
    rubric = judge_prompt(load_principles())
    ear, mouth = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(mouth,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ear.recv()}/v1"
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for concurrency in (64, 256):
            number = int(min(concurrency / LATENCY_S, 1000) * SECONDS)
            rates: dict[str, list[float]] = {"httpx": [], "ours": []}
            for turn in range(ROUNDS):
                for peer in ("httpx", "ours") if turn % 2 == 0 else ("ours", "httpx"):
                    if peer == "httpx":
                        rates[peer].append(bare(url, concurrency, number, rubric))
                    else:
                        rates[peer].append(ours(url, concurrency, number, rubric, Path(place))[0])
            ratios = [a / b for a, b in zip(rates["ours"], rates["httpx"], strict=True)]
            found[f"concurrency_{concurrency}"] = {
                "httpx_per_s": [round(rate) for rate in rates["httpx"]],
                "ours_per_s": [round(rate) for rate in rates["ours"]],
                "ratio_median": round(statistics.median(ratios), 3),
                "ratios": [round(ratio, 3) for ratio in ratios],
            }
        rate, memory = ours(url, 256, calls, rubric, Path(place), watch=True)
        found["memory"] = {"calls": calls, "per_s": round(rate), "mib_at_each_tenth": memory}
    server.terminate()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="calls of the memory measurement")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/client.json")
    options = parser.parse_args()
    found = {"benchmark": "client", **measure(options.calls)}
    found |= {"date": str(date.today()), "cores": os.cpu_count(), "machine": platform.processor() or platform.machine()}
    if options.save:
        target = Path(__file__).parent / "results" / "client.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
