"""How the tables about speed say things: numbers, ranges, names of tasks and sides, and what was measured where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TASKS = {"dpo": "DPO", "reward": "reward model"}
SHAPES = {"paper": "1 to 3 pairs a prompt", "all": "all 6 pairs of 4 replies"}
SIDES = {
    "ours": "ours",
    "ours_uncompiled": "ours, not compiled",
    "plain": "TRL as it comes",
    "tuned": "TRL tuned by search",
    "batched": "TRL tuned, whole batches",
}
PEERS = ("plain", "tuned", "batched")
KINDS = {"steady": "speed", "whole": "whole run", "memory": "memory"}

Result = dict[str, Any]
Spread = dict[str, float]


def number(value: float) -> str:
    """Three digits that count: 0.0312, 1.52, 13.4, 1,230."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def ranged(found: Spread | None, times: bool = False) -> str:
    """A median with its least and most; one round has no range."""
    if not found:
        return "–"
    sign = " ×" if times else ""
    inside = f" ({number(found['low'])} to {number(found['high'])})" if found["n"] > 1 else ""
    return f"{number(found['median'])}{sign}{inside}"


def gib(found: Spread) -> str:
    return f"{number(found['median'] / 1024)} GiB"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def title(cell: str) -> list[str]:
    task, shape = cell.split()
    return [TASKS[task], SHAPES[shape]]


def conditions(result: Result, part: str) -> str:
    """Where and with what it was measured."""
    machine, told = result["machine"], result["figures"]["settings"][part]
    flags = "with AMX" if "amx_bf16" in machine["flags"] else "without AMX"
    libraries = ", ".join(
        f"{name} {result['versions'][name]}" for name in ("torch", "trl") if name in result["versions"]
    )
    texts = {"mentalchat": "posts and replies of MentalChat16K", "embedded": "the embedded texts"}[told["source"]]
    return (
        f"Measured {result['date']} on {machine['processor']} ({machine['cores']} cores, {flags}), "
        f"{told['threads']} thread{'s' if told['threads'] > 1 else ''}, {told['precision']}, {libraries}. A random "
        f"Llama of {told['layers']} layers, width {told['hidden']} and {told['vocabulary']:,} tokens; {told['pairs']} "
        f"pairs made of {texts}, {told['batch']} in a step."
    )
