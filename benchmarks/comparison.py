"""What rounds of runs amount to: medians, ratios round by round, and whether the goals are met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from side_by_side import PEERS, Run

Rounds = dict[str, list[Run | None]]  # of each side, round by round; None where a run is missing
Spread = dict[str, float]

# task, shape, figure -> at least so many times plain, and tuned; memory: at most this share of tuned
GOALS: tuple[tuple[str, str, str, dict[str, float]], ...] = (
    ("dpo", "paper", "steady", {"plain": 5.0, "tuned": 2.4, "batched": 2.4}),
    ("dpo", "paper", "memory", {"tuned": 1 / 3, "batched": 1 / 3}),
    ("dpo", "all", "steady", {"plain": 10.0, "tuned": 4.8, "batched": 4.8}),
    ("dpo", "all", "memory", {"tuned": 1 / 4, "batched": 1 / 4}),
    ("dpo", "paper", "whole", {"plain": 4.0, "tuned": 2.8, "batched": 2.8}),
    ("reward", "paper", "steady", {"plain": 3.8, "tuned": 1.9, "batched": 1.9}),
    ("reward", "paper", "memory", {"tuned": 1 / 2, "batched": 1 / 2}),
    ("reward", "all", "steady", {"plain": 7.0, "tuned": 3.0, "batched": 3.0}),
    ("reward", "all", "memory", {"tuned": 1 / 2, "batched": 1 / 2}),
)
FLAT = 1.15  # time per pair and memory at the most pairs, over those at the fewest
SHARE = 0.05  # of the time may go into encoding and packing
GOAL = (
    "the ratios of the goals table hold against TRL as it comes, tuned by search, and tuned in whole batches; time per "
    "pair and memory do not grow with the number of pairs; encoding and packing take under 5 % of the time"
)

# from a run: more is better, except for memory
FIGURES: dict[str, Callable[[Run], float]] = {
    "steady": lambda run: run["pairs_per_s"],
    "steady_cpu": lambda run: run["pairs_per_cpu_s"],
    "whole": lambda run: run["pairs"] * run["epochs"] / (run["whole_s"] - run["compile_s"]),
    "whole_compiling": lambda run: run["pairs"] * run["epochs"] / run["whole_s"],
    "memory": lambda run: run["peak_mib"] + run["resident_before_mib"],
    "memory_above": lambda run: run["peak_mib"],
}
SECONDS = ("whole_s", "reference_s", "compile_s")


def spread(values: Sequence[float], digits: int = 3) -> Spread:
    """Median, least and most, and how many there are."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return {"median": round(middle, digits), "low": round(low, digits), "high": round(high, digits), "n": len(values)}


def side(runs: Sequence[Run | None]) -> dict[str, Any]:
    """Medians over the rounds of one side; nothing when it has no run."""
    done = [run for run in runs if run is not None]
    if not done:
        return {}
    found: dict[str, Any] = {name: spread([of(run) for run in done]) for name, of in FIGURES.items()}
    found |= {name: round(statistics.median(run[name] for run in done), 2) for name in SECONDS}
    found["compile_cold_s"] = round(max(run["compile_s"] for run in done), 2)  # later rounds find compiled code
    if "encoding_s" in done[0]:
        shares = [(run["encoding_s"] + run["packing_s"]) / (run["whole_s"] - run["compile_s"]) for run in done]
        found["encoding_and_packing"] = round(statistics.median(shares), 4)
        found["tokens_per_pair"] = round(done[0]["tokens"] / (done[0]["pairs"] * done[0]["epochs"]), 1)
    else:
        found["tokens_per_pair"] = round(done[0]["tokens_with_padding"] / (done[0]["pairs"] * done[0]["epochs"]), 1)
    return found | {"rounds": len(done), "load_before": [run["load_before"] for run in done]}


def ratios(ours: Sequence[Run | None], theirs: Sequence[Run | None]) -> dict[str, Spread]:
    """Ours over theirs in each round that has both; nothing when none has."""
    both = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    return {name: spread([of(a) / of(b) for a, b in both]) for name, of in FIGURES.items()} if both else {}


def cell(rounds: Rounds) -> dict[str, Any]:
    """One task and shape: every side, and ours against each of TRL's."""
    sides = {name: found for name, runs in rounds.items() if (found := side(runs))}
    found_of = {ours: against(rounds, ours) for ours in ("ours", "ours_uncompiled")}
    return {"sides": sides, "ratios": found_of["ours"], "ratios_uncompiled": found_of["ours_uncompiled"]}


def against(rounds: Rounds, ours: str) -> dict[str, dict[str, Spread]]:
    """Ours over each of TRL's sides."""
    pairs = {name: ratios(rounds[ours], rounds[name]) for name in PEERS if ours in rounds and name in rounds}
    return {name: found for name, found in pairs.items() if found}


def judged(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """Every goal with the median found and whether it is met; a goal without a figure is not met."""
    found = []
    for task, shape, figure, limits in GOALS:
        for peer, limit in limits.items():
            spread_of = cells.get(f"{task} {shape}", {}).get("ratios", {}).get(peer, {}).get(figure)
            value = spread_of["median"] if spread_of else None
            met = value is not None and (value <= limit if figure == "memory" else value >= limit)
            found.append(
                {"part": "speed", "task": task, "shape": shape, "figure": figure, "against": peer,
                 "goal": round(limit, 3), "at_most": figure == "memory", "value": value, "met": met}
            )  # fmt: skip
    return found


def judged_growth(scaling: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether time per pair, memory and the share of encoding stay flat from the fewest to the most pairs."""
    few, many = (scaling[0], scaling[-1]) if len(scaling) > 1 else ({}, {})
    wanted = {
        "time per pair": (FLAT, many and many["ms_per_pair"] / few["ms_per_pair"]),
        "memory": (FLAT, many and many["memory"] / few["memory"]),
    }
    return [
        {"part": "scaling", "figure": name, "goal": goal, "at_most": True, "value": round(value, 3) if value else None,
         "met": bool(value) and value <= goal}
        for name, (goal, value) in wanted.items()
    ]  # fmt: skip


def judged_share(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """Whether encoding and packing take little of the time, in the cell where they take most."""
    shares = [one["sides"]["ours"]["encoding_and_packing"] for one in cells.values() if "ours" in one["sides"]]
    value = max(shares, default=None)
    met = value is not None and value < SHARE
    told = {"part": "speed", "figure": "encoding and packing", "goal": SHARE, "at_most": True}
    return [{**told, "value": value, "met": met}]


def ablation_row(full: Sequence[Run | None], without: Sequence[Run | None]) -> dict[str, Any]:
    """How many times as fast the full form is, and its share of the memory, round by round."""
    found = ratios(full, without)
    if not found:
        return {}
    runs = [run for run in without if run is not None]
    return {
        "pairs_per_s": spread([run["pairs_per_s"] for run in runs]),
        "memory": spread([FIGURES["memory"](run) for run in runs]),
        "gain": found["steady"],
        "gain_whole": found["whole"],
        "share_of_memory": found["memory"],
    }
