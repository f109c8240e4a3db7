"""A chat server that misbehaves on purpose. What it answers depends on the question alone, so that a run through any
number of faults ends with the same answers as one without; every question that reaches it is written to a log at once.

Runs in a process of its own (`python fault_server.py PORT LOG FAULTS`), so that clients can be killed and it stays.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
from pathlib import Path

PRINCIPLES = ("empathy", "relevance", "clarity", "safety", "exploration", "autonomy", "staging")
FAULTS = ("429", "429-after", "500", "hang", "reset", "truncated", "drip", "none", "none", "none")
DRIP_S = 0.02
LATENCY_S = 0.02


def digest(text: str) -> int:
    return int(hashlib.blake2b(text.encode(), digest_size=6).hexdigest(), 16)


def answer(body: dict) -> tuple[str, dict, int]:
    """(finish, message, tokens) of a question: a reply, a rating, sometimes a refusal, a filter or noise."""
    asked = "\n".join(message["content"] for message in body["messages"])
    number = digest(body["model"] + asked)
    if "You rate one counselling reply" in asked:
        repair = "could not be used" in asked
        if number % 29 == 0:
            return "content_filter", {"content": ""}, 0
        if number % 31 == 0:
            return "stop", {"content": None, "refusal": "I would rather not rate this."}, 8
        if number % 7 == 0 and not repair:
            return "stop", {"content": '{"empathy": {"score": 6'}, 9
        scores = {name: {"reason": "seen", "score": 1 + digest(f"{name}{asked}") % 5} for name in PRINCIPLES}
        return "stop", {"content": json.dumps({"stage": "contemplation", "risk": "none", **scores})}, 120
    if number % 23 == 0:
        return "content_filter", {"content": ""}, 0
    words = " ".join(f"word{digest(f'{number}{place}') % 500}" for place in range(20 + number % 60))
    return "stop", {"content": f"You say a lot in few words. {words} What matters most to you?"}, 60


class Server:
    """`faulty` False answers everything at once. Which fault a question meets, and how often, is drawn by its hash."""

    def __init__(self, log: Path, faulty: bool) -> None:
        self.log, self.faulty = log.open("a", buffering=1), faulty
        self.tries: dict[str, int] = {}

    def fault(self, key: str) -> str:
        """The fault of this try; after the second try of a question there is none."""
        self.tries[key] = self.tries.get(key, 0) + 1
        if not self.faulty or self.tries[key] > 2:
            return "none"
        return FAULTS[digest(f"{key}{self.tries[key]}") % len(FAULTS)]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)[1])
                body = await reader.readexactly(length)
                if not head.startswith(b"POST /v1/chat/completions"):
                    await self.send(writer, 404, b'{"error": {"message": "no such path"}}')
                else:
                    await self.answer(writer, json.loads(body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter, body: dict) -> None:
        key = hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=12).hexdigest()
        fault = self.fault(key)
        self.log.write(json.dumps({"key": key, "fault": fault}) + "\n")
        if fault == "429":
            return await self.send(writer, 429, b'{"error": {"code": "rate_limit_exceeded", "message": "too many"}}')
        if fault == "429-after":
            headers = b"retry-after: 0.05\r\n"
            return await self.send(writer, 429, b'{"error": {"code": "rate_limit_exceeded"}}', headers)
        if fault == "500":
            return await self.send(writer, 500, b"<html>oops</html>")
        if fault == "hang":
            return await asyncio.sleep(30)
        if fault == "reset":
            return writer.transport.abort()
        finish, message, tokens = answer(body)
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}
        usage = {"prompt_tokens": 50, "completion_tokens": tokens}
        extra = [{**choice, "index": 1, "message": {"role": "assistant", "content": "a choice nobody asked for"}}]
        whole = json.dumps({"id": key, "choices": [choice, *extra], "usage": usage}).encode()
        if fault == "truncated":
            return await self.send(writer, 200, whole[: len(whole) // 2])
        if fault == "drip":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(whole))
            for start in range(0, len(whole)):  # slower than any client's patience, though never silent for long
                writer.write(whole[start : start + 1])
                await writer.drain()
                await asyncio.sleep(DRIP_S)
        else:
            await asyncio.sleep(LATENCY_S)
            await self.send(writer, 200, whole)

    async def send(self, writer: asyncio.StreamWriter, status: int, body: bytes, headers: bytes = b"") -> None:
        length = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        writer.write(b"HTTP/1.1 %d X\r\n" % status + length + headers + b"\r\n" + body)
        await writer.drain()


async def main(port: int, log: Path, faulty: bool) -> None:
    server = await asyncio.start_server(Server(log, faulty).handle, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "faulty"))
