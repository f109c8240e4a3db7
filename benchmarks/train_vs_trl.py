"""Our training beside TRL's: pairs per second, whole runs, memory; what each ingredient gives; growth with the data.

DPO and reward model, on pairs as the paper has them (1 to 3 of each prompt) and on all six pairs of four replies. Both
sides get the same data, random model, learning rate, threads, precision and batch of 8 pairs; each run has a process
of its own, and the order turns round after each round. TRL runs as it comes (plain), as a search found it fastest
(tuned: one pair in a forward pass), and with a whole batch in one forward pass (batched). Freed memory is kept by the
C library on our side as on the tuned ones. Compiled code is new in the first round and found in the later ones; whole
runs are compared without the seconds of compilation, which a long run does not notice.

    python benchmarks/train_vs_trl.py [--parts speed ablation scaling] [--rounds 3] [--budget-minutes 180] [--save]

Every run is saved in FOLDER/state.json when it ends: the same command continues, and --budget-minutes only ends a
sitting. Ratios are taken round by round; tables have their median, least and most. The last line is one JSON object.
The exit code is 1 while a goal is not met. That is to be expected: some goals against tuned TRL ask for more than the
tokens that sharing saves; docs/training.md says which and why.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from comparison import (
    FIGURES,
    GOAL,
    Rounds,
    ablation_row,
    cell,
    judged,
    judged_growth,
    judged_share,
    spread,
)
from flops import Need, need
from our_peer import ABLATIONS
from side_by_side import BUDGET, OURS, SIDES, Plan, Runner, best_precision, build_data, processor, versions
from training_data import SHAPES, read_pairs

FOLDER = Path(__file__).parent.parent / "runs" / "train_vs_trl"
RESULT = Path(__file__).parent / "results" / "train_vs_trl.json"
TASKS = ("dpo", "reward")
EPOCHS = {"dpo": 3, "reward": 2}  # the whole run of DPO has three
PARTS = ("speed", "ablation", "scaling")
LEAST_PROMPTS = 24


class Benchmark:
    """All runs of the benchmark, and what they amount to."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.runner = Runner(asked.folder, asked.budget_minutes * 60, asked.run_minutes * 60, asked.threads)
        self.data = asked.folder / "data"
        size = (asked.hidden, asked.layers, asked.heads, asked.intermediate)
        self.statistics = build_data(self.data, max(asked.pairs, LEAST_PROMPTS), size, asked.source)

    def plan(self, name: str, script: tuple[str, ...], task: str, shape: str, pairs: int, epochs: int,
             data: Path | None = None) -> Plan:  # fmt: skip
        """A run of one peer."""
        asked = self.asked
        told = {"task": task, "shape": shape, "pairs": pairs, "epochs": epochs, "batch": asked.batch,
                "threads": asked.threads, "precision": asked.precision, "data": data or self.data}  # fmt: skip
        command = (*script, *(str(part) for key, value in told.items() for part in (f"--{key}", value)))
        return Plan(name, command, keep_memory="plain" not in script)

    def turns(self, names: list[str]) -> Iterator[tuple[int, str]]:
        """Every name in every round; odd rounds go backwards."""
        for number in range(self.asked.rounds):
            for name in names[:: 1 - 2 * (number % 2)]:
                yield number, name

    def speed(self) -> tuple[dict[str, Any], list[float]]:
        """Every task and shape; the first round of all comes before the second of any."""
        asked = self.asked
        cells = [(task, shape) for task in asked.tasks for shape in asked.shapes]
        found: dict[tuple[str, str], Rounds] = {one: {name: [] for name in asked.sides} for one in cells}
        peaks = []
        for number in range(asked.rounds):
            line = ("flops.py", "--threads", str(asked.threads), "--precision", asked.precision)
            if peak := self.runner.get(Plan(f"peak round {number}", line)):
                peaks.append(peak["gflops"])
            for task, shape in cells:
                for name in asked.sides[:: 1 - 2 * (number % 2)]:
                    told = f"speed {task} {shape} {name} round {number}"
                    epochs = asked.epochs or EPOCHS[task]
                    run = self.runner.get(self.plan(told, SIDES[name], task, shape, asked.pairs, epochs))
                    found[task, shape][name].append(run)
        return {f"{task} {shape}": cell(rounds) for (task, shape), rounds in found.items()}, peaks

    def utilisation(self, cells: dict[str, Any], peaks: list[float]) -> dict[str, Any]:
        """Useful operations in a second as a share of the peak, and tokens of a pair on both sides."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.data / "lm")
        config = json.loads((self.data / "lm" / "config.json").read_text(encoding="utf-8"))
        peak = spread(peaks, 1) if peaks else None
        found: dict[str, Any] = {"peak_gflops": peak, "cells": {}}
        for name, one in cells.items():
            task, shape = name.split()
            wanted: Need = need(read_pairs(self.data / f"{shape}.jsonl", self.asked.pairs), tokenizer)
            per_pair = wanted.flops(config, task == "dpo") / wanted.pairs
            found["cells"][name] = {
                "tokens_needed_per_pair": round(wanted.tokens / wanted.pairs, 1),
                "tokens_pair_by_pair": round(wanted.tokens_pair_by_pair / wanted.pairs, 1),
                "token_ratio": round(wanted.tokens_pair_by_pair / wanted.tokens, 3),
                "gflop_per_pair": round(per_pair / 1e9, 3),
                "share_of_peak": {
                    side: round(figures["steady"]["median"] * per_pair / 1e9 / peak["median"], 4)
                    for side, figures in one["sides"].items()
                    if peak
                },
            }
        return found

    def ablation(self) -> dict[str, Any]:
        """DPO without each ingredient, beside all of them; nothing compiled, and then compiled as one more row."""
        asked = self.asked
        variants = {name: (*OURS, "--variant", name) for name in ABLATIONS} | {"compiled": SIDES["ours"]}
        shapes = [shape for shape in ("all", "paper") if shape in asked.shapes]
        runs: dict[str, Rounds] = {shape: {name: [] for name in variants} for shape in shapes}
        for number, name in self.turns(list(variants)):
            for shape in shapes:
                told = f"ablation {shape} {name} round {number}"
                plan = self.plan(told, variants[name], "dpo", shape, asked.pairs, asked.epochs or 2)
                runs[shape][name].append(self.runner.get(plan))
        told_of = ABLATIONS | {"compiled": "layers compiled, beside the same without"}
        found: dict[str, Any] = {}
        for shape, rounds in runs.items():
            rows = {name: ablation_row(rounds["full"], one) for name, one in rounds.items()}
            found[shape] = {name: {"instead": told_of[name], **row} for name, row in rows.items() if row}
        return found

    def scaling(self) -> list[dict[str, Any]]:
        """One epoch of DPO with a small model over more and more pairs."""
        asked, data = self.asked, self.asked.folder / "scaling"
        build_data(data, -(-max(asked.scaling_pairs) // 4) * 3 + LEAST_PROMPTS, (128, 2, 2, 256), asked.source)
        found = []
        for pairs in sorted(asked.scaling_pairs):
            plans = [
                self.plan(f"scaling {pairs} round {number}", OURS, "dpo", "paper", pairs, 1, data)
                for number in range(asked.rounds)
            ]
            runs = [run for plan in plans if (run := self.runner.get(plan))]
            if runs:
                steady, memory = (spread([FIGURES[name](run) for run in runs]) for name in ("steady", "memory"))
                shares = spread([(run["encoding_s"] + run["packing_s"]) / run["whole_s"] for run in runs], 4)
                found.append({"pairs": pairs, "ms_per_pair": round(1000 / steady["median"], 2), "steady": steady,
                              "memory": memory["median"], "encoding_and_packing": shares["median"],
                              "rounds": len(runs)})  # fmt: skip
        return found


def measure(asked: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """All figures, with what is met of the goals in `goals`."""
    benchmark = Benchmark(asked)
    told = told_settings(asked, benchmark.statistics)
    figures: dict[str, Any] = {"settings": dict.fromkeys(asked.parts, told)}
    goals: list[dict[str, Any]] = []
    if "speed" in asked.parts:
        figures["speed"], peaks = benchmark.speed()
        figures["utilisation"] = benchmark.utilisation(figures["speed"], peaks)
        goals += judged(figures["speed"]) + judged_share(figures["speed"])
    if "ablation" in asked.parts:
        figures["ablation"] = benchmark.ablation()
    if "scaling" in asked.parts:
        figures["scaling"] = benchmark.scaling()
        goals += judged_growth(figures["scaling"])
    runner = benchmark.runner
    figures |= {"goals": goals, "runs_left": len(runner.skipped), "runs_failed": runner.failed}
    return figures, bool(goals) and all(goal["met"] for goal in goals)


def told_settings(asked: argparse.Namespace, statistics: dict[str, Any]) -> dict[str, Any]:
    """What was the same on both sides."""
    names = ("batch", "pairs", "threads", "precision", "rounds", "hidden", "layers", "heads", "intermediate")
    epochs = {task: asked.epochs or EPOCHS[task] for task in asked.tasks}
    return {**{name: getattr(asked, name) for name in names}, "epochs": epochs, "token_budget": BUDGET,
            "source": statistics["source"], "vocabulary": statistics["vocabulary"]}  # fmt: skip


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--ablation", action="store_true", help="the ablation only")
    parser.add_argument("--scaling", action="store_true", help="the scaling only")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=0, help="not given: 3 for DPO, 2 for reward and ablation")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=best_precision())
    parser.add_argument("--scaling-pairs", type=int, nargs="+", default=[100, 400, 1600])
    for name, default in (("hidden", 384), ("layers", 8), ("heads", 6), ("intermediate", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--source", choices=("auto", "mentalchat", "embedded"), default="auto")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="data, compiled code and finished runs")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="no new run after so long")
    parser.add_argument("--run-minutes", type=float, default=30.0, help="one run is ended after so long")
    parser.add_argument("--redo", action="store_true", help="forget finished runs")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name} with date and machine")
    asked = parser.parse_args(arguments)
    only = [name for name in ("ablation", "scaling") if getattr(asked, name)]
    asked.parts = only or asked.parts
    return asked


def save(body: dict[str, Any], parts: list[str], target: Path = RESULT) -> None:
    """Write the result; parts that were not asked for stay as they are stored."""
    stored = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    before, now = stored.get("figures", {}), body["figures"]
    goals = now["goals"] + [goal for goal in before.get("goals", []) if goal["part"] not in parts]
    figures = {**before, **now, "settings": before.get("settings", {}) | now["settings"], "goals": goals}
    target.parent.mkdir(exist_ok=True)
    stamp = {"date": date.today().isoformat(), "machine": processor(), "versions": versions()}
    whole = {**stamp, **body, "figures": figures, "met": all(goal["met"] for goal in goals)}
    target.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    asked = parsed(arguments)
    if asked.redo:
        shutil.rmtree(asked.folder / "compiled", ignore_errors=True)
        (asked.folder / "state.json").unlink(missing_ok=True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    figures, met = measure(asked)
    body = {"benchmark": "train_vs_trl", "figures": figures, "goal": GOAL, "met": met}
    if asked.save:
        save(body, asked.parts)
    print(json.dumps(body))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
