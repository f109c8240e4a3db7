"""`transformers serve`, a server we did not write, in a process of its own."""

import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager

import pytest
from tiny_run import environment

START_S, STOP_S = 120, 20


@contextmanager
def transformers_serve(place):
    """The address and the log of a server that works in the folder `place`."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", place / "server.log"
    serve = [sys.executable, "-m", "transformers.cli.transformers", "serve"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*serve, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=place,
            env=environment() | {"HF_HUB_DISABLE_UPDATE_CHECK": "1", "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    try:
        wait_until_ready(process, url, log)
        yield url, log
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(process, url, log):
    """Wait for the server's health check, only while it lives and not for ever."""
    end = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            told = log.read_text(encoding="utf-8", errors="replace")[-3000:]
            if process.poll() is not None:
                pytest.fail(f"transformers serve ended with {process.returncode} before it was ready:\n{told}")
            if time.monotonic() > end:
                pytest.fail(f"transformers serve was not ready within {START_S} s:\n{told}")
            time.sleep(0.1)
