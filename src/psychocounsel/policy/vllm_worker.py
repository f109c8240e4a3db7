"""vLLM in a process of its own (`python -m psychocounsel.policy.vllm_worker`), which ends when nobody asks any more.

Standard input and output carry JSON lines; those that go out begin with MARK. The first line in says what to load and
is answered by {"ready": true}; each further one is a job, answered by {"replies": [[token ids, stopped] or null, ...]}.
Trouble is told as {"absent": module} or {"failed": words}.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

MARK = "psychocounsel-vllm:"
NUMBERS = re.compile(r"\[\s*\d+\s*(,[\s\d,]*)+(\.\.\.)?\]?")
SHOWN = 300  # characters of an error
GRACE_S = 30.0
FINISHES = {"stop": True, "length": False}


def main() -> int:
    """Load, then answer jobs until standard input ends. Returns the exit code."""
    answers = _own_output()
    settings = json.loads(sys.stdin.readline() or "null")
    if settings is None:
        return 0
    try:
        engine = load(settings)
        _say(answers, ready=True)
        for job in _jobs():
            _say(answers, replies=replies(engine, settings["adapter"], job))
    except ModuleNotFoundError as error:
        _say(answers, absent=error.name or "vllm")
        return 1
    except Exception as error:  # whatever it is, the other side has to explain it
        traceback.print_exc()
        _say(answers, failed=f"{type(error).__name__}: {without_numbers(str(error))[:SHOWN]}")
        return 1
    return 0


def load(settings: dict[str, Any]) -> Any:
    """The engine. The prompts share their beginnings, and K samples a whole prompt, so prefixes are cached. Nothing is
    taken from the model's generation_config.json: its top-k or penalties would sample from another policy."""
    from vllm import LLM

    more: dict[str, Any] = {}
    if settings["batch_tokens"]:
        more["max_num_batched_tokens"] = settings["batch_tokens"]
    if settings["adapter"]:
        more |= {"enable_lora": True, "max_lora_rank": settings["rank"]}
    if _context(settings["model"]) > settings["room"]:  # room for what is asked, and not for a context of 128k
        more["max_model_len"] = settings["room"]
    return LLM(
        model=settings["model"],
        tokenizer=settings["tokenizer"],
        generation_config="vllm",
        gpu_memory_utilization=settings["memory"],
        enable_prefix_caching=True,
        **more,
    )


def replies(engine: Any, adapter: str, job: dict[str, Any]) -> list[Any]:
    """[token ids, stopped] of each sample; None for one that vLLM gave up.

    The ids hold the end token (vllm/v1/engine/detokenizer.py keeps the stop token in token_ids, and leaves it out of
    the text only). Texts are decoded on the other side, as in every engine.
    """
    from vllm import SamplingParams

    settings = [
        SamplingParams(
            n=1, seed=seed, temperature=job["temperature"], top_p=1.0, top_k=-1, max_tokens=job["most"],
            stop_token_ids=job["ends"], detokenize=False,
        )
        for _, seed in job["samples"]
    ]  # fmt: skip
    prompts = [{"prompt_token_ids": job["prompts"][place]} for place, _ in job["samples"]]
    outputs = engine.generate(prompts, settings, use_tqdm=False, lora_request=_adapter(adapter))
    if len(outputs) != len(prompts):
        raise ValueError(f"{len(outputs)} outputs for {len(prompts)} prompts; which is whose cannot be told")
    return [_reply(output) for output in outputs]


def without_numbers(text: str) -> str:
    """A message without lists of token ids, which are a client's words, on one line."""
    return " ".join(NUMBERS.sub("[...]", text).split())


def _reply(output: Any) -> list[Any] | None:
    if not output.outputs or output.outputs[0].finish_reason not in FINISHES:
        return None
    answer = output.outputs[0]
    return [[int(token) for token in answer.token_ids], FINISHES[answer.finish_reason]]


def _adapter(path: str) -> Any:
    if not path:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("policy", 1, path)


def _context(model: str) -> int:
    """The longest context that the config of a model folder names, in tokens; 0 when it names none, or for a hub id."""
    path = Path(model) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    config = config.get("text_config") or config  # where the policy is a part of a model that also sees
    return int(config.get("max_position_embeddings") or 0)


def _own_output() -> IO[str]:
    """Standard output for answers alone: what vLLM and its processes print there goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _say(answers: IO[str], **answer: Any) -> None:
    answers.write(f"{MARK}{json.dumps(answer, separators=(',', ':'))}\n")
    answers.flush()


def _jobs() -> Iterator[dict[str, Any]]:
    """Jobs until standard input ends. When it ends during one, the process that asked is gone: this one ends too,
    with all it started, so that the graphics card is free again. The thread starts after vLLM's processes."""
    waiting: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            waiting.put(line)
        waiting.put("")
        time.sleep(GRACE_S)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    while line := waiting.get():
        yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main())
