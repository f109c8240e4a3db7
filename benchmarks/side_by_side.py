"""Runs of our trainer and of TRL's, each in a process of its own, kept in a file so that the same command continues."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trl_settings import KEEP_MEMORY, TUNED

from psychocounsel.records import content_id, file_hash

HERE = Path(__file__).parent
SOURCES = HERE.parent / "src" / "psychocounsel"
CODE = (  # what decides how long a run takes; when it changes, runs are made anew
    *sorted(HERE.glob("*_peer.py")),
    *(HERE / f"{name}.py" for name in ("measurement", "training_data", "training_models", "trl_settings", "flops")),
    *sorted(path for part in ("training", "policy", "reward") for path in (SOURCES / part).glob("*.py")),
    SOURCES / "models" / "weights.py",
)
BUDGET = 1000  # tokens of our packs
OURS = ("our_peer.py", "--budget", str(BUDGET))
SIDES: dict[str, tuple[str, ...]] = {
    "ours": (*OURS, "--compile", "1"),
    "ours_uncompiled": (*OURS, "--compile", "0"),
    "plain": ("trl_peer.py", "--variant", "plain"),
    "tuned": ("trl_peer.py", "--variant", "tuned"),
    "batched": ("trl_peer.py", "--variant", "batched"),
}
PEERS = ("plain", "tuned", "batched")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")

Run = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """One run: its name in the state file, the script with its arguments, and whether freed memory is kept."""

    name: str
    command: tuple[str, ...]
    keep_memory: bool = True

    def digest(self, code: str) -> str:
        return content_id([list(self.command), self.keep_memory, code])


@dataclass
class Runner:
    """Runs plans until time is up. What a run measured is saved at once; a run that failed is tried again next time."""

    folder: Path
    budget_s: float
    run_s: float = 1800.0
    threads: int = 1
    start: float = field(default_factory=time.monotonic)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "state.json"
        self.code = content_id([file_hash(path) for path in CODE] + [TUNED.is_file() and file_hash(TUNED)])
        self.state: dict[str, Run] = json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {}

    def get(self, plan: Plan) -> Run | None:
        """What a plan's run measured, now or earlier; None when it failed, cannot be had, or time is up."""
        known = self.state.get(plan.name)
        if known is None or known["digest"] != plan.digest(self.code) or "error" in known:
            if time.monotonic() - self.start >= self.budget_s:
                self.skipped.append(plan.name)
                return None
            known = self.state[plan.name] = self.run(plan)
            self.save()
        if "error" in known:
            self.failed.append(plan.name)
            return None
        return None if "skipped" in known["found"] else {**known["found"], "load_before": known["load_before"]}

    def run(self, plan: Plan) -> Run:
        """One run in a process of its own."""
        load = round(os.getloadavg()[0], 2)
        told = {
            "digest": plan.digest(self.code),
            "load_before": load,
            "at": datetime.now().isoformat(timespec="minutes"),
        }
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as place:
            out = Path(place) / "out.json"
            command = [sys.executable, str(HERE / plan.command[0]), *plan.command[1:], "--out", str(out)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=self.run_s, env=self.environment(plan)
                )
                error = done.stderr[-1500:] if done.returncode else ""
            except subprocess.TimeoutExpired:
                error = f"stopped after {self.run_s:.0f} s"
            took = round(time.monotonic() - begin, 1)
            found = {} if error or not out.is_file() else json.loads(out.read_text(encoding="utf-8"))
        speed = f"{found['pairs_per_s']:.2f} pairs/s" if "pairs_per_s" in found else found.get("skipped", "")
        print(f"{plan.name}: {took} s, load {load}, {speed or error}".rstrip(" ,"), flush=True)
        return {**told, "took_s": took, **({"found": found} if found else {"error": error or "it wrote nothing"})}

    def environment(self, plan: Plan) -> dict[str, str]:
        """Threads as asked, compiled code of this plan only, and freed memory kept or given back."""
        kept = {name: value for name, value in os.environ.items() if name not in KEEP_MEMORY}
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        compiled = self.folder / "compiled" / content_id([plan.name.rpartition(" round ")[0], self.code])
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TORCHINDUCTOR_CACHE_DIR": str(compiled)}
        return kept | threads | offline | (KEEP_MEMORY if plan.keep_memory else {})

    def save(self) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.state, indent=1) + "\n", encoding="utf-8")
        part.replace(self.file)


def build_data(folder: Path, prompts: int, size: tuple[int, int, int, int], source: str = "auto") -> dict[str, Any]:
    """The folder that both sides read, built where it is absent or of another size; its length statistics."""
    hidden, layers, heads, intermediate = map(str, size)
    asked = ["--prompts", str(prompts), "--hidden", hidden, "--layers", layers, "--heads", heads]
    asked += ["--intermediate", intermediate, "--source", source]
    made = folder / "asked.json"
    if not made.is_file() or json.loads(made.read_text(encoding="utf-8")) != asked:
        command = [sys.executable, str(HERE / "training_data.py"), str(folder), *asked]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        made.write_text(json.dumps(asked), encoding="utf-8")
    found: dict[str, Any] = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    return found


def processor() -> dict[str, Any]:
    """Name, cores and matrix abilities of the processor where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = set(told.get("flags", "").split())
    return {
        "processor": told.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "flags": [name for name in FLAGS if name in flags],
    }


def best_precision() -> str:
    """bf16 where the processor multiplies matrices in it (AMX), else fp32."""
    return "bf16" if "amx_bf16" in processor()["flags"] else "fp32"


def settle(threads: int, script: str, arguments: list[str]) -> None:
    """Start the script once more unless its threads and its memory are settled: both have to be before torch loads."""
    settled = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    wanted = KEEP_MEMORY | settled | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if not wanted.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, script, *arguments], os.environ | wanted)


def save_result(path: Path, body: dict[str, Any]) -> None:
    """Write a benchmark's figures with date, machine and versions."""
    stamped = {"date": datetime.now().date().isoformat(), "machine": processor(), "versions": versions(), **body}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(stamped, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "trl", "accelerate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
