"""The tables about speed in README.md and docs/training.md, filled from benchmarks/results/*.json.

    python benchmarks/tables.py            says whether the texts are what the stored results give
    python benchmarks/tables.py --write    writes them

A part without a stored result leaves its place empty.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wording import KINDS, PEERS, SHAPES, SIDES, TASKS, Result, conditions, gib, number, percent, ranged, table, title

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PAGES = {"README.md": ("training",), "docs/training.md": ("ablation", "speed", "scaling", "scoring")}


def training(results: dict[str, Result]) -> str:
    """The short table of the README."""
    result = results.get("train_vs_trl", {})
    cells = result.get("figures", {}).get("speed", {})
    if not cells:
        return ""
    rows = []
    for name, cell in cells.items():
        sides, ratios = cell["sides"], cell["ratios"]
        mine = sides.get("ours")
        row = [", ".join(title(name)), f"{number(mine['steady']['median'])}, {gib(mine['memory'])}" if mine else "–"]
        for peer in PEERS:
            if peer in sides and peer in ratios:
                speed, memory = number(sides[peer]["steady"]["median"]), gib(sides[peer]["memory"])
                row.append(f"{speed}, {memory}; **{ranged(ratios[peer]['steady'], times=True)}**")
            else:
                row.append("–")
        rows.append(row)
    head = ["pairs/s, peak memory; times as fast", *(SIDES[side] for side in ("ours", *PEERS))]
    rounds = max(side["rounds"] for cell in cells.values() for side in cell["sides"].values())
    note = f"Medians of {rounds} rounds in turn, with least and most. " if rounds > 1 else "One round. "
    link = "[`train_vs_trl.json`](benchmarks/results/train_vs_trl.json)"
    return f"{table(head, rows)}\n{note}{conditions(result, 'speed')} All figures: {link}.\n"


def speed(results: dict[str, Result]) -> str:
    """Every side, every ratio, the goals, and what limits them."""
    result = results.get("train_vs_trl", {})
    figures = result.get("figures", {})
    if not figures.get("speed"):
        return ""
    use = figures["utilisation"]
    sides, ratios = [], []
    for name, cell in figures["speed"].items():
        for side, found in cell["sides"].items():
            share = use["cells"][name]["share_of_peak"].get(side)
            sides.append(
                [", ".join(title(name)), SIDES[side], ranged(found["steady"]), number(found["steady_cpu"]["median"]),
                 number(found["whole"]["median"]), f"{found['compile_cold_s']:.0f} s", gib(found["memory"]),
                 number(found["tokens_per_pair"]), percent(share), str(found["rounds"])]
            )  # fmt: skip
        for ours, kind in (("ours", "ratios"), ("ours_uncompiled", "ratios_uncompiled")):
            for peer, found in cell[kind].items():
                spreads = [ranged(found[key], times=True) for key in ("steady", "whole", "whole_compiling")]
                row = [", ".join(title(name)), f"{SIDES[ours]} / {SIDES[peer]}", *spreads]
                ratios.append([*row, ranged(found["memory"], times=True)])
    head = ["training", "side", "pairs/s", "pairs per processor second", "pairs/s, whole run", "compiling"]
    head += ["peak memory", "tokens a pair", "share of peak", "rounds"]
    ratio_head = ["training", "ratio", "steady", "whole run", "whole run with compiling", "memory"]
    parts = [table(head, sides), table(ratio_head, ratios), goals(figures["goals"]), tokens(use), limits(figures)]
    return "\n".join(parts) + f"\n{conditions(result, 'speed')}\n"


def goals(found: list[dict[str, Any]]) -> str:
    """What was to be reached, and what was."""
    rows = []
    for goal in found:
        sign = "at most" if goal["at_most"] else "at least"
        value = "not measured" if goal["value"] is None else number(goal["value"])
        against = SIDES[goal["against"]] if "against" in goal else ""
        verdict = "met" if goal["met"] else "not met"
        rows.append([named(goal), against, f"{sign} {number(goal['goal'])}", value, verdict])
    return table(["goal", "against", "wanted", "measured", ""], rows)


def named(goal: dict[str, Any]) -> str:
    """A goal in words."""
    if "task" in goal:
        return f"{TASKS[goal['task']]}, {SHAPES[goal['shape']]}: {KINDS[goal['figure']]}"
    return f"{goal['figure']}, most pairs over fewest" if goal["part"] == "scaling" else f"share of {goal['figure']}"


def tokens(use: Result) -> str:
    """Tokens of a pair, pair by pair and with each text once."""
    rows = [
        [", ".join(title(name)), number(cell["tokens_pair_by_pair"]), number(cell["tokens_needed_per_pair"]),
         f"{number(cell['token_ratio'])} ×"]
        for name, cell in use["cells"].items()
    ]  # fmt: skip
    return table(["training", "tokens a pair, each pair anew", "each text once", "times as few"], rows)


def limits(figures: Result) -> str:
    """One paragraph that explains the ratios by tokens and by how well the processor is used."""
    peak = figures["utilisation"]["peak_gflops"]
    measured = f" ({number(peak['median'])} billion operations a second here)" if peak else ""
    missed = [goal for goal in figures["goals"] if not goal["met"]]
    slow = [
        f"{named(goal)} against {SIDES[goal['against']]} is {number(goal['value'])} of {number(goal['goal'])} wanted, "
        f"and tokens alone give {number(cell['token_ratio'])}"
        for goal in missed
        if goal.get("figure") in ("steady", "whole") and goal["value"] is not None
        if (cell := figures["utilisation"]["cells"].get(f"{goal['task']} {goal['shape']}"))
    ]
    verdict = f"{len(missed)} of {len(figures['goals'])} goals are not met. " if missed else "All goals are met. "
    found = (
        "**What limits the ratios.** Two trainers that use the processor equally well differ by the tokens they read "
        "and by the work they leave out for each of them. The share of peak counts each needed token once (6 "
        "operations for each weight and token, the output layer for reply tokens only, attention by its shape) over "
        f"the fastest matrix product of the same threads and precision{measured}; what is computed twice does not "
        "count. A step of a few pairs cuts some prompts in two, which are then read in both steps. One pair in a "
        "forward pass holds little in memory, so TRL tuned by search needs less than in whole batches; the libraries' "
        "own memory is in all "
        f"figures. {verdict}{'; '.join(slow)}{'.' if slow else ''}"
    )
    return found.rstrip() + "\n"


def ablation(results: dict[str, Result]) -> str:
    """Each ingredient taken away."""
    result = results.get("train_vs_trl", {})
    found = result.get("figures", {}).get("ablation", {})
    rows = []
    for shape, variants in found.items():
        for name, row in variants.items():
            alone = name == "full"
            gain, whole, share = ("–",) * 3 if alone else (
                ranged(row[key], times=True) for key in ("gain", "gain_whole", "share_of_memory"))  # fmt: skip
            rows.append([SHAPES[shape], f"`{name}`", row["instead"], ranged(row["pairs_per_s"]), gain, whole, share])
    if not rows:
        return ""
    head = [
        "DPO",
        "variant",
        "instead",
        "pairs/s",
        "full is so many times as fast",
        "in the whole run",
        "full takes so much of its memory",
    ]
    return (
        f"{table(head, rows)}\nNothing is compiled except in the last row of each. {conditions(result, 'ablation')}\n"
    )


def scaling(results: dict[str, Result]) -> str:
    """Growth with the number of pairs."""
    found = results.get("train_vs_trl", {}).get("figures", {}).get("scaling", [])
    rows = [
        [f"{row['pairs']:,}", f"{number(row['ms_per_pair'])} ms", f"{number(row['memory'])} MiB",
         percent(row["encoding_and_packing"])]
        for row in found
    ]  # fmt: skip
    return table(["pairs", "time per pair", "peak memory", "encoding and packing"], rows) if rows else ""


def scoring(results: dict[str, Result]) -> str:
    """Scoring beside plain batches."""
    if "scoring" not in results:
        return ""
    result, figures = results["scoring"], results["scoring"]["figures"]
    speeds = figures["replies_per_s"]
    rows = [["one read for all replies of a prompt", ranged(speeds["ours"])],
            [f"plain, sorted, {figures['best_batch']} in a batch", ranged(speeds["plain"])],
            [f"plain, as they come, {figures['padded_batch']} in a batch", ranged(speeds["padded"])]]  # fmt: skip
    verdict = "met" if result["met"] else "not met"
    tokens_ratio, apart = number(figures["tokens_ratio"]), f"{figures['largest_difference']:.1g}"
    threads = f"{figures['threads']} thread{'s' if figures['threads'] > 1 else ''}"
    ratio, padded = (ranged(figures[name], times=True) for name in ("ratio", "ratio_padded"))
    return (
        f"{table(['scoring', 'replies/s'], rows)}\nThe ratio is {ratio} to sorted batches and {padded} to batches as "
        f"they come; the goal ({result['goal']}) is {verdict}. Reading a prompt once makes the tokens {tokens_ratio} "
        "times as few, which is "
        f"about all that can be gained where both sides use the processor well; scores lie {apart} apart at most. "
        f"Measured {result['date']} on {result['machine']['processor']}, {threads}, {figures['prompts']} prompts of 8 "
        "replies.\n"
    )


MADE = {"training": training, "speed": speed, "ablation": ablation, "scaling": scaling, "scoring": scoring}


def stored() -> dict[str, Result]:
    """The results that are there."""
    paths = (RESULTS / f"{name}.json" for name in ("train_vs_trl", "scoring"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()}


def filled(text: str, marks: Sequence[str], results: dict[str, Result]) -> str:
    """A page with everything between its marks replaced."""
    for mark in marks:
        inside = MADE[mark](results)
        pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.S)
        text, count = pattern.subn(lambda found, inside=inside: found[1] + inside + found[2], text)
        if count != 1:
            raise ValueError(f"{mark}: {count} places for it, not 1")
    return text


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args(arguments)
    results, old = stored(), []
    for page, marks in PAGES.items():
        before = (ROOT / page).read_text(encoding="utf-8")
        after = filled(before, marks, results)
        if after != before:
            old.append(page)
            if asked.write:
                (ROOT / page).write_text(after, encoding="utf-8")
    print(
        f"{'written' if asked.write else 'not what the results give'}: {', '.join(old)}" if old else "nothing to change"
    )
    return 0 if asked.write or not old else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
