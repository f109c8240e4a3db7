"""Does training on real rated replies with our loop reach the held-out accuracy of TRL's trainers?

Reward model and DPO, on two sets of rated replies (accuracy_data.py), for five seeds. A seed makes its own split by
post, its own starting model and its own order. Both sides start from the same file and train on the same pairs with the
same settings (accuracy_sides.py); plain transformers scores the held-out pairs of both.

TRL draws pairs in random order, we group them by prompt in the order of hashes: two such runs are equal on average
only. So there is a third run, TRL given the batches of our steps. What lies between it and ours is the trainer and
rounding; what lies between it and TRL is the order alone. Rounding can grow from step to step until two trainings part,
so a fourth run is ours with smaller packs: the same mathematics, summed in another order. DPO has the third run for the
first seed only and no fourth, to save time.

    python benchmarks/accuracy_vs_trl.py [--save] [--seeds 5] [--sets mentalchat embedded] [--tasks reward dpo]

Takes about 20 minutes on one core. Every finished seed is kept in runs/accuracy_vs_trl.jsonl (scores, no texts); the
same command goes on from there.
Prints one JSON object as its last line, and exits 0 only when the goal is met.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from accuracy_data import GAP, HELD_OUT, MODEL, SETS, facts, rated_rows, split, starting_models
from accuracy_sides import Margins, Table, log_probabilities, margins, ours, reward_scores, theirs

from psychocounsel.evaluate.statistics import cluster_mean
from psychocounsel.recipe import PolicyTable, RewardTable
from psychocounsel.records import content_id

BATCH = 8
SHARED = {"batch": BATCH, "precision": "fp32", "max_length": 2048, "checkpoint_steps": 10**9}
# chosen on a split that is not among the five, with our side only
TABLES: dict[tuple[str, str], Table] = {
    ("mentalchat", "reward"): RewardTable(lr=5e-4, epochs=3, **SHARED),
    ("embedded", "reward"): RewardTable(lr=1e-3, epochs=2, **SHARED),
    ("mentalchat", "dpo"): PolicyTable(lr=5e-4, epochs=4, **SHARED),
    ("embedded", "dpo"): PolicyTable(lr=1e-3, epochs=1, **SHARED),
}
MARGIN = 0.05  # of accuracy; three of the 60 or so held-out pairs of the smaller set
STEPS, NEAR = 20, 1e-4  # of loss, where TRL has our order; later on rounding may have grown
SMALL = 1024  # tokens in a pack of the fourth run, in place of 8192
GOAL = (
    f"for each set and task: the 95 % interval over seeds of the difference in held-out accuracy contains 0, its mean "
    f"size is at most {MARGIN}, and TRL given our order has our loss to {NEAR} in each of the first {STEPS} steps"
)
KEPT = Path(__file__).parent.parent / "runs" / "accuracy_vs_trl.jsonl"
RESULT = Path(__file__).parent / "results" / "accuracy_vs_trl.json"
Run = dict[str, Any]


def one_seed(name: str, task: str, seed: int, folder: Path, others: tuple[str, ...], budget: int = 8192) -> Run:
    """Ours and others on one split from one starting model: margins of the held-out pairs by post, losses by step."""
    table, data = TABLES[name, task].model_copy(update={"token_budget": budget}), split(rated_rows(name), seed, BATCH)
    if not (folder / "start-reward").is_dir():
        starting_models(data, seed, folder)
    start = folder / "start" / "model" if task == "dpo" else folder / "start-reward"
    reference = log_probabilities(start, data.held_out) if task == "dpo" else None
    beta = table.beta if isinstance(table, PolicyTable) else 1.0

    def scored(model: Path) -> Margins:
        scores = log_probabilities(model, data.held_out) if task == "dpo" else reward_scores(model, data.held_out)
        return margins(scores, data.held_out, beta, reference)

    begin = time.perf_counter()
    found: Run = {"margins": {"ours": scored(ours(start, data.train, table, seed, folder / f"{task}-ours-{budget}"))}}
    rows = (folder / f"{task}-ours-{budget}" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found["losses"] = {"ours": [json.loads(row)["loss"] for row in rows]}
    for side in others:
        model, losses = theirs(start, data.train, table, seed, folder / f"{task}-{side}", side != "trl")
        found["margins"][side], found["losses"][side] = scored(model), losses
    longer = [[float(len(one.replies[i])) for i in range(len(one.replies))] for one in data.held_out]
    found["margins"]["longer"] = margins(longer, data.held_out)
    if task == "reward":
        found["margins"]["start"] = scored(start)
    from transformers import AutoTokenizer

    found["facts"] = facts(data, AutoTokenizer.from_pretrained(start))
    return {**found, "posts": [one.id for one in data.held_out], "seconds": round(time.perf_counter() - begin, 1)}


def flat(by_post: Margins) -> list[float]:
    return [value for values in by_post for value in values]


def credit(value: float) -> float:
    return 0.5 if value == 0 else float(value > 0)


def accuracy(by_post: Margins) -> float:
    values = flat(by_post)
    return sum(map(credit, values)) / len(values)


def loss(by_post: Margins) -> float:
    """Mean Bradley-Terry loss, stable for large margins."""
    values = flat(by_post)
    return sum(max(-value, 0.0) + math.log1p(math.exp(-abs(value))) for value in values) / len(values)


def over_seeds(values: list[float]) -> dict[str, Any]:
    """Mean with Student's 95 % interval, and the mean size."""
    import numpy as np
    from scipy.stats import t

    mean, n = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    low, high = (mean - half, mean + half) if n > 1 else (None, None)
    rounded = {"mean": mean, "low": low, "high": high, "mean_size": float(np.mean(np.abs(values)))}
    return {key: None if value is None else round(value, 4) for key, value in rounded.items()}


def correlation(one: Margins, two: Margins) -> float | None:
    import numpy as np

    values = flat(one), flat(two)
    return round(float(np.corrcoef(*values)[0, 1]), 6) if all(map(np.ptp, values)) else None


def compared(runs: list[Run], one: str, two: str) -> dict[str, Any]:
    """Accuracy and loss of side `one` less those of side `two`, over seeds and pooled by post."""
    sides = [(run["margins"][one], run["margins"][two]) for run in runs if two in run["margins"]]
    posts = [
        post for run in runs for post, values in zip(run["posts"], run["margins"][one], strict=True) for _ in values
    ]
    pairs = [(a, b) for first, second in sides for a, b in zip(flat(first), flat(second), strict=True)]
    found: dict[str, Any] = {
        "seeds": len(sides),
        "accuracy": over_seeds([accuracy(a) - accuracy(b) for a, b in sides]),
        "loss": over_seeds([loss(a) - loss(b) for a, b in sides]),
        "correlation_of_margins": [correlation(a, b) for a, b in sides],
    }
    if len(pairs) == len(posts):  # a post that is held out by several seeds is one cluster
        pooled = cluster_mean([credit(a) - credit(b) for a, b in pairs], posts, "difference in share of pairs")
        found["accuracy_by_post"] = pooled.model_dump()
    return found


def apart(run: Run, other: Run, side: str) -> dict[str, float]:
    """How far `side` of another run is from ours, by the losses of steps and of held-out pairs, and by accuracy."""
    steps = [abs(a - b) for a, b in zip(run["losses"]["ours"], other["losses"][side], strict=True)]
    held = abs(loss(run["margins"]["ours"]) - loss(other["margins"][side]))
    credits = [accuracy(one) for one in (run["margins"]["ours"], other["margins"][side])]
    values = {"first_20_steps": max(steps[:STEPS]), "all_steps": max(steps), "held_out_loss": held}
    return {key: round(value, 7) for key, value in {**values, "accuracy": abs(credits[0] - credits[1])}.items()}


def by_seed(runs: list[Run], side: str, figure: Callable[[Margins], float]) -> list[float]:
    return [round(figure(run["margins"][side]), 4) for run in runs if side in run["margins"]]


def summed(runs: list[Run]) -> tuple[dict[str, Any], bool]:
    """The figures of one set and task, and whether they meet the goal."""
    sides = {name for run in runs for name in run["margins"]}
    same = [run for run in runs if "trl_our_order" in run["margins"]]
    difference, exact = compared(runs, "ours", "trl"), [apart(run, run, "trl_our_order") for run in same]
    packs = [apart(run, run["small_packs"], "ours") for run in runs if "small_packs" in run]
    figures = {
        "facts": [run["facts"] for run in runs],
        "accuracy": {side: by_seed(runs, side, accuracy) for side in sorted(sides)},
        "loss": {side: by_seed(runs, side, loss) for side in sorted(sides - {"longer"})},
        "ours_less_trl": difference,
        "order_alone": compared(same, "trl_our_order", "trl") if same else None,
        "ours_and_trl_in_our_order": exact,
        "ours_and_ours_in_small_packs": packs,
        "seconds": [run["seconds"] for run in runs],
    }  # fmt: skip
    gap = difference["accuracy"]
    met = gap["low"] is not None and gap["low"] <= 0 <= gap["high"] and gap["mean_size"] <= MARGIN
    close = bool(exact) and all(one["first_20_steps"] <= NEAR for one in exact)
    return figures, met and close


def kept_runs(path: Path) -> dict[str, Run]:
    """Finished seeds by key; a line that a kill cut short is left out."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row["key"]] = row["run"]
    return found


def measure(sets: list[str], tasks: list[str], seeds: int, path: Path) -> dict[tuple[str, str], list[Run]]:
    """Every seed of every set and task, from `path` where it stands there already."""
    done, found = kept_runs(path), {(name, task): [] for name in sets for task in tasks}
    path.parent.mkdir(parents=True, exist_ok=True)

    def kept(name: str, task: str, seed: int, folder: Path, same: bool, budget: int = 8192) -> Run:
        settings = [TABLES[name, task].model_dump(mode="json"), MODEL.model_dump(), GAP, HELD_OUT, same]
        key = f"{name} {task} {seed} {content_id(settings)}" + (f" {budget}" if budget != 8192 else "")
        if key not in done:
            others = () if budget != 8192 else ("trl", "trl_our_order") if same else ("trl",)
            done[key] = one_seed(name, task, seed, folder, others, budget)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "run": done[key]}) + "\n")
        score = {side: round(accuracy(by_post), 3) for side, by_post in done[key]["margins"].items()}
        print(f"{name} {task} seed {seed}: {score}, {done[key]['seconds']} s", flush=True)
        return done[key]

    for seed in range(seeds):
        for name in sets:
            with tempfile.TemporaryDirectory() as folder:
                for task in tasks:
                    run = {**kept(name, task, seed, Path(folder), task == "reward" or seed == 0)}
                    if task == "reward":
                        run["small_packs"] = kept(name, task, seed, Path(folder), False, SMALL)
                    found[name, task].append(run)
    return found


def machine() -> str:
    from importlib.metadata import version

    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    return f"{platform.machine()}, 1 thread, Python {platform.python_version()}, {libraries}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/accuracy_vs_trl.json")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--tasks", nargs="+", choices=("reward", "dpo"), default=["reward", "dpo"])
    parser.add_argument("--kept", type=Path, default=KEPT, help="where finished seeds are kept")
    asked = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(1)
    sets = [name for name in asked.sets if rated_rows(name)]
    for name in set(asked.sets) - set(sets):
        print(f"{name}: left out, $PSYCHOCOUNSEL_DATA holds no ratings")
    figures, met = {}, []
    for (name, task), runs in measure(sets, asked.tasks, asked.seeds, asked.kept).items():
        figures[f"{name}.{task}"], fine = summed(runs)
        met.append(fine)
    body = {"benchmark": "accuracy_vs_trl", "figures": figures, "goal": GOAL, "met": bool(met) and all(met)}
    if asked.save:
        stored = {"date": str(date.today()), "machine": machine(), **body}
        RESULT.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(body))
    return 0 if body["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
