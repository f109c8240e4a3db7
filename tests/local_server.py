"""A real HTTP server on this machine whose answers the test decides."""

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Request, Response


def chat(text="Hello.", finish="stop", tokens=(7, 2), **message):
    """The body of a chat completion."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def error(code=None, kind=None, param=None, words="no"):
    return {"error": {"message": words, "type": kind, "code": code, "param": param}}


class LocalServer:
    """`answer(path, body)` gives a body, or (status, body, headers); it may be a coroutine function.

    Keeps what it was asked (`asked`: path, body, headers) and how many calls it had at once (`most`).
    """

    def __init__(self, answer):
        self.answer, self.asked, self.times, self.now, self.most = answer, [], [], 0, 0
        self.app = FastAPI()
        self.app.post("/{path:path}")(self.handle)

    async def handle(self, path: str, request: Request):
        body = json.loads(await request.body())
        self.asked.append((f"/{path}", body, dict(request.headers)))
        self.times.append(time.monotonic())
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            found = self.answer(f"/{path}", body)
            if asyncio.iscoroutine(found):
                found = await found
        finally:
            self.now -= 1
        status, content, headers = found if isinstance(found, tuple) else (200, found, {})
        text = content if isinstance(content, str) else json.dumps(content)
        return Response(text, status, headers, media_type="application/json")

    def paths(self):
        return [path for path, _, _ in self.asked]


@contextmanager
def running(app):
    """The root (http://127.0.0.1:PORT) of an app while it is served."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none", lifespan="off")
    runner = uvicorn.Server(config)
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    while not runner.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{runner.servers[0].sockets[0].getsockname()[1]}"
    finally:
        runner.should_exit = True
        thread.join()


@contextmanager
def serving(answer):
    """A LocalServer at work, with its `root` (http://127.0.0.1:PORT) and `url` (root/v1)."""
    server = LocalServer(answer)
    with running(server.app) as server.root:
        server.url = f"{server.root}/v1"
        yield server
