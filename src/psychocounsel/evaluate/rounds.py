"""What the report and the results say about online rounds, from what the policy stage left of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluate.statistics import Figure, count
from psychocounsel.records import SECONDS, read_rows

ROUNDS = "online.json"  # in the folder of the policy stage
MONITORS = {
    "kl": "KL to the start, nats per reply",
    "words": "words per reply",
    "distinct_1": "different words",
    "distinct_2": "different word pairs",
    "distinct_3": "different word triples",
    "opening": "same first five words",
    "phrase": "same five words anywhere",
    "similarity": "similarity of replies",
    "repetition": "repetition in a reply",
    "truncated": "replies that do not end",
    "empty": "empty replies",
}
PARTS = ("sample", "score", "train", "look")


def read_rounds(folder: Path) -> dict[str, Any] | None:
    """What a policy stage left of its rounds, or None. Raises UserError for a file that is not whole."""
    path = folder / ROUNDS
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = {look["round"] for look in found["looks"]}
        if found["best"] in known:
            for look in found["looks"]:
                times = folder / f"online-{look['round']}" / SECONDS
                look["seconds"] = next(iter(read_rows(times)))[1] if times.is_file() else {}
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path}: does not hold the looks at the online rounds; make them anew with --redo policy")


def round_figures(online: Mapping[str, Any]) -> dict[str, Figure]:
    """Figures for results.json: the kept round, how many there were, and reward gain and win rate of each."""
    looks = online["looks"]
    found = {
        "online.best_round": count(online["best"], "round; 0 is the start", len(looks) - 1),
        "online.rounds": count(len(looks) - 1, "rounds", len(looks) - 1),
    }
    for look in looks:
        for name in ("reward", "judge"):
            if name in look["figures"]:
                figure = look["figures"][name]
                found[f"online.{name}_{look['round']}"] = Figure(**{key: figure[key] for key in Figure.model_fields})
    return found


def round_sentences(online: Mapping[str, Any]) -> list[str]:
    """What came of the rounds, in words."""
    rounds = len(online["looks"]) - 1
    if online["best"] == 0:
        lines = [
            f"None of {rounds} online round{'' if rounds == 1 else 's'} beat the policy they started from on the dev "
            "split: that policy is kept, and 'online' below is the same model."
        ]
    else:
        lines = [f"Round {online['best']} of {rounds} is kept as the online policy: the best one on the dev split."]
    if online["stopped"]:
        lines.append(f"The rounds ended early: {online['stopped'].rstrip('.')}.")
    raised = sum(bool(look["alarms"]) for look in online["looks"])
    if raised:
        lines.append(f"{raised} of {len(online['looks'])} looks raised an alarm; the table says which.")
    return lines


def throughput(looks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each round and part of it: seconds, share of the round's time, and tokens a second where tokens are known."""
    rows = []
    for look in looks:
        seconds, tokens = look.get("seconds", {}), look.get("tokens", {})
        total = sum(seconds.get(part, 0.0) for part in PARTS)
        for part in PARTS:
            spent = seconds.get(part)
            if spent is not None and total > 0:
                rate = tokens[part] / spent if part in tokens and spent > 0 else None
                rows.append({"round": look["round"], "part": part, "seconds": spent, "share": spent / total,
                             "rate": rate})  # fmt: skip
    return rows


def series(looks: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, Mapping[str, Any]]]:
    """(round, figure) wherever a look has the figure and it is defined."""
    return [
        (look["round"], look["figures"][name])
        for look in looks
        if look["figures"].get(name, {}).get("value") is not None
    ]
