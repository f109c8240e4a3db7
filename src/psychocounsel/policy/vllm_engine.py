"""vLLM as an engine: offline, in a process of its own, so that its memory is free again before training."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.policy.fingerprint import place_of
from psychocounsel.policy.reply_tokens import ReplyTokens
from psychocounsel.policy.sampling import Prompt, Sample, Sampling
from psychocounsel.policy.vllm_worker import MARK, without_numbers
from psychocounsel.recipe import EngineTable
from psychocounsel.training.adapters import Start

WORKER = "psychocounsel.policy.vllm_worker"
AT_ONCE = 4096  # replies in one call: enough to fill a card, minutes of work to lose
ROOM = 2048  # context lengths are whole multiples of it, so that a slightly longer prompt loads nothing anew
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's max_lora_rank knows these (vllm/config/lora.py)
START_S, ANSWER_S = 3600.0, 7200.0  # then it counts as hung
STOP_S, POLL_S, TELL_S = 60.0, 0.5, 60.0
TAIL_LINES, TAIL_BYTES, TAIL_SHOWN = 3, 8192, 400
ABSENT = "vLLM is not installed; pip install 'psychocounsel[vllm]' (it needs a GPU), or choose another engine"
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
            "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT")  # fmt: skip


class VllmEngine:
    """Samples by vLLM. The process starts at the first call, or anew when prompts need a longer context.

    A policy trained by adapters is its base with the adapter; where vLLM cannot take the adapter (DoRA, layers trained
    whole, a rank above 512) it is the merged model. Raises UserError when vLLM is not installed.
    """

    name = "vllm"
    shared = False

    def __init__(self, start: Start, table: EngineTable) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise UserError(f"engine 'vllm': {ABSENT}")
        self.start, self.table = start, table
        self.rank = adapter_rank(start.adapter) if start.base and start.adapter else 0
        self._tokens: ReplyTokens | None = None
        self._process: WorkerProcess | None = None
        self._room = 0

    def prompts_at_once(self, samples: int) -> int:
        return max(1, AT_ONCE // samples)

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sample]]:
        """Replies by prompt; one that vLLM gave up is absent. Raises UserError when the process fails."""
        if not prompts:
            return []
        self._tokens = tokens = self._tokens or ReplyTokens(self.start.model)
        asked = [(place, number) for place, prompt in enumerate(prompts) for number in prompt.numbers]
        job = {
            "prompts": [prompt.ids for prompt in prompts],
            "samples": [(place, sampling.seed_of(prompts[place], number)) for place, number in asked],
            "temperature": sampling.temperature,
            "most": sampling.max_new_tokens,
            "ends": list(tokens.ends),
        }
        try:
            process = self._ready(max(len(prompt.ids) for prompt in prompts) + sampling.max_new_tokens)
            replies = process.ask(job, ANSWER_S, f"sampling {len(asked)} replies")["replies"]
        except BaseException:  # Ctrl-C too: what is still at work would hold the card
            self._end(0.0)
            raise
        found: list[list[Sample]] = [[] for _ in prompts]
        for (place, number), reply in zip(asked, replies, strict=True):
            if reply is not None:
                found[place].append(tokens.sample(number, *reply))
        return found

    def close(self) -> None:
        """End the process; its memory is free when this returns."""
        self._end(STOP_S)

    def _ready(self, room: int) -> WorkerProcess:
        """The process, loaded, with a context of at least `room` tokens."""
        if self._process is None or self._room < room:
            self.close()
            self._room = -(-room // ROOM) * ROOM
            self._process = WorkerProcess()
            model = place_of(self.start.base if self.rank else self.start.model)
            settings = {
                "model": model, "tokenizer": place_of(self.start.model), "room": self._room, "rank": self.rank,
                "adapter": place_of(self.start.adapter) if self.rank else "", "memory": self.table.memory,
                "batch_tokens": self.table.max_batch_tokens,
            }  # fmt: skip
            self._process.ask(settings, START_S, f"loading {model}")
        return self._process

    def _end(self, patience: float) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end(patience)


class WorkerProcess:
    """A running worker: questions and answers over pipes, its standard error in a file of which errors show the end."""

    def __init__(self) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        self.process = subprocess.Popen(
            [sys.executable, "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=_environment(),
            start_new_session=True,  # vLLM's own processes end with it, by one signal to the group
        )
        self.lines: queue.Queue[bytes | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK.encode()):  # anything else is not meant for us
                self.lines.put(line)
        self.lines.put(None)

    def ask(self, message: dict[str, Any], limit: float, what: str) -> dict[str, Any]:
        """Its answer to a message, waited for `limit` seconds. Raises UserError when none comes, or one of trouble."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone, and the wait for its answer tells how
            self.process.stdin.write(f"{json.dumps(message)}\n".encode())
            self.process.stdin.flush()
        answer = self._answer(limit, what)
        if "absent" in answer:
            missing = ABSENT if answer["absent"] == "vllm" else f"the module {answer['absent']} that it needs is absent"
            raise UserError(f"engine 'vllm': {missing}")
        if "failed" in answer:
            raise UserError(f"engine 'vllm': {what} failed ({answer['failed']}); {self._tail()}")
        return answer

    def _answer(self, limit: float, what: str) -> dict[str, Any]:
        start = told = time.monotonic()
        while True:
            ended = self.process.poll() is not None
            try:
                line = self.lines.get(timeout=POLL_S)
            except queue.Empty:
                now = time.monotonic()
                if ended:  # a process that it started may keep the pipe open
                    raise UserError(self._death(what)) from None
                if now - start > limit:
                    raise UserError(
                        f"engine 'vllm': {what} took more than {limit:g} s and counts as hung; {self._tail()}"
                    ) from None
                if now - told > TELL_S:
                    told = now
                    print(f"  vllm: {what}, for {now - start:.0f} s so far", file=sys.stderr, flush=True)
                continue
            try:
                return dict(json.loads((line or b"")[len(MARK) :]))
            except ValueError:  # nothing more, or half a line
                raise UserError(self._death(what)) from None

    def _death(self, what: str) -> str:
        """How the process ended, in one line."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(POLL_S)
        code = self.process.poll()
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += " (out of memory?); lower the engine's memory share or free memory"
        else:
            how = "closed its output" if code is None else f"ended with exit code {code}"
        return f"engine 'vllm': {what}: its process {how}; {self._tail()}"

    def _tail(self) -> str:
        """The last lines of its standard error, without lists of token ids."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - TAIL_BYTES))
        lines = self.log.read().decode("utf-8", "replace").splitlines()
        last = [line.strip() for line in lines if line.strip()][-TAIL_LINES:]
        return f"its last lines: {without_numbers(' | '.join(last))[-TAIL_SHOWN:]}" if last else "it printed nothing"

    def end(self, patience: float) -> None:
        """Close its input, wait up to `patience` seconds, then end it and all it started."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(STOP_S)
        if not self.reader.is_alive():
            self.process.stdout.close()
        self.log.close()


def adapter_rank(adapter: str) -> int:
    """The rank of vLLM's that an adapter folder fits in; 0 when vLLM cannot take it. Raises UserError without one."""
    path = Path(adapter).expanduser() / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        rank = max(int(config["r"]), *map(int, (config.get("rank_pattern") or {"": 1}).values()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no adapter of peft can be read there ({type(error).__name__})") from error
    if config.get("use_dora") or config.get("modules_to_save") or config.get("bias", "none") != "none":
        return 0
    return next((known for known in RANKS if known >= rank), 0)


def _environment() -> dict[str, str]:
    """Without a launcher's variables: vLLM would take itself for one of the processes that train."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in LAUNCHER and not name.startswith(("TORCHELASTIC_", "ACCELERATE_"))
    }
