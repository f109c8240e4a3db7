"""An honest search for the settings in which TRL trains fastest, for the 'tuned' variant of trl_peer.py.

The search goes through STAGES. A stage holds alternatives, each a change of the best settings so far. All alternatives
of a stage run in turn, forwards and backwards, REPEATS times, each run in a process of its own; one that is slower
than three quarters of the best after its first run is not repeated. The best median wins; among those as fast to
within TIE, which is less than the noise, the one with the least memory. Speed is pairs in a second
of processor time unless asked otherwise, so that other work on the machine blurs it less; both are written down, with
the spread between repeats.

    python benchmarks/tune_trl.py --data FOLDER [--tasks dpo reward] [--pairs 48] [--repeats 3] [--threads 1] [--save]

prints one JSON object as its last line; --save writes benchmarks/results/trl_tuned.json, which trl_peer.py reads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from neardup import cpu
from trl_settings import BY_HAND, TUNED

PEER = Path(__file__).parent / "trl_peer.py"
HOPELESS = 0.75  # of the best speed: not run again
TIE = 0.03

Change = dict[str, Any]


def grid(**values: list[Any]) -> list[Change]:
    """Every combination of the values."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


STAGES = {
    "memory": grid(keep_memory=[1, 0]),
    "micro_batch": grid(micro_batch=[1, 2, 4, 8]),
    "attention": grid(attention=["sdpa", "eager"]),
    "shapes": grid(compile=[0, 1], pad_multiple=[0, 64]),
    "order": grid(group_by_length=[1, 0]),
    "checkpointing": grid(checkpointing=[0, 1]),
    "reference": grid(reference_batch=[1, 4, 16]),  # judged by the reference pass
}


def run(asked: argparse.Namespace, task: str, settings: Change) -> dict[str, Any]:
    """One run of the peer; what it measured."""
    epochs = asked.epochs + settings["compile"]  # new shapes may be compiled in the second epoch too
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, PEER, "--task", task, "--data", asked.data, "--out", out, "--shape", asked.shape]
        command += ["--variant", "tuned", "--pairs", asked.pairs, "--epochs", epochs, "--batch", asked.batch]
        command += ["--threads", asked.threads, "--precision", asked.precision]
        for name, value in settings.items():
            command += [f"--{name.replace('_', '-')}", value]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{task} {settings}: {done.stderr[-800:]}")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found


def speeds(found: dict[str, Any], stage: str) -> dict[str, float]:
    """What a run is judged by: steady training, or the pass over the reference model."""
    if stage != "reference":
        return {"cpu": found["pairs_per_cpu_s"], "wall": found["pairs_per_s"]}
    return {"cpu": found["pairs"] / found["reference_cpu_s"], "wall": found["pairs"] / found["reference_s"]}


def search_stage(asked: argparse.Namespace, task: str, stage: str, best: Change) -> list[dict[str, Any]]:
    """The alternatives of a stage with their figures, the fastest first."""
    tried = [{"change": change, "runs": []} for change in STAGES[stage] if change.get("micro_batch", 1) <= asked.batch]
    for turn in range(asked.repeats):
        fastest = max((median(one, asked.by) for one in tried if one["runs"]), default=0.0)
        for one in tried[:: 1 - 2 * (turn % 2)]:
            if one["runs"] and median(one, asked.by) < HOPELESS * fastest:
                continue
            found = run(asked, task, best | one["change"])
            one["runs"].append(speeds(found, stage) | {"peak_mib": found["peak_mib"]})
            print(f"{task} {stage} {one['change']}: {one['runs'][-1]}", flush=True)
    tried.sort(key=lambda one: -median(one, asked.by))
    return tried


def winner(tried: list[dict[str, Any]], by: str) -> dict[str, Any]:
    """The fastest alternative; of several that are as fast, the one with the lowest peak of memory."""
    enough = (1 - TIE) * max(median(one, by) for one in tried)
    return min((one for one in tried if median(one, by) >= enough), key=lambda one: median(one, "peak_mib"))


def median(one: dict[str, Any], of: str) -> float:
    return statistics.median(run[of] for run in one["runs"])


def summary(one: dict[str, Any]) -> dict[str, Any]:
    """Medians over the repeats, and how far they lay apart as a share of the median."""
    figures: dict[str, Any] = {"change": one["change"], "runs": len(one["runs"])}
    for of in ("cpu", "wall"):
        values = [run[of] for run in one["runs"]]
        figures[f"pairs_per_{of}_s"] = round(statistics.median(values), 3)
        figures[f"spread_{of}"] = round((max(values) - min(values)) / statistics.median(values), 3)
    return figures | {"peak_mib": round(median(one, "peak_mib"))}


def search(asked: argparse.Namespace, task: str) -> dict[str, Any]:
    """The best settings of a task and what every stage found; saved after every stage where asked.

    It starts from what is saved, so that stages can be searched one by one.
    """
    saved = read_saved()
    best = {**asdict(BY_HAND), "precompute": int(task == "dpo"), **saved["best"].get(task, {})}
    names = ("shape", "pairs", "epochs", "batch", "repeats", "threads", "precision", "by")
    told = {name: getattr(asked, name) for name in names}
    stages = saved["search"].get(task, {}).get("stages", {})
    found: dict[str, Any] = {"date": date.today().isoformat(), "machine": machine(), **told, "stages": stages}
    for stage in asked.stages:
        if stage == "reference" and task == "reward":
            continue
        tried = search_stage(asked, task, stage, best)
        best = best | winner(tried, asked.by)["change"]
        load = round(os.getloadavg()[1], 1)  # of the last five minutes, ours included
        stages[stage] = {"load": load, "alternatives": [summary(one) for one in tried]}
        if asked.save:
            save(task, best, found)
    return {"best": best, "search": found}


def read_saved() -> dict[str, Any]:
    """What earlier searches saved."""
    empty: dict[str, Any] = {"best": {}, "search": {}}
    return json.loads(TUNED.read_text(encoding="utf-8")) if TUNED.is_file() else empty


def save(task: str, best: Change, found: dict[str, Any]) -> None:
    """Write a task's part of the file that trl_peer.py reads; the other task's part stays."""
    TUNED.parent.mkdir(exist_ok=True)
    kept = read_saved()
    parts = {"best": {**kept["best"], task: best}, "search": {**kept["search"], task: found}}
    TUNED.write_text(json.dumps({"benchmark": "tune_trl", **parts}, indent=1) + "\n", encoding="utf-8")


def machine() -> str:
    import torch
    import transformers
    import trl

    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{cpu()}, {versions}, trl {trl.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder that training_data.py wrote")
    parser.add_argument("--tasks", nargs="+", choices=("dpo", "reward"), default=["dpo", "reward"])
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--shape", choices=("paper", "all"), default="paper")
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=2, help="one more where compiling")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--by", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--save", action="store_true", help=f"write {TUNED.name} after every stage")
    asked = parser.parse_args()
    found = {task: search(asked, task) for task in asked.tasks}
    figures = {task: one["search"] | {"best": one["best"]} for task, one in found.items()}
    print(json.dumps({"benchmark": "tune_trl", "figures": figures, "goal": "none: a search", "met": True}))


if __name__ == "__main__":
    main()
