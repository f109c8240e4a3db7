"""SIRI-2: two helper replies to each of 24 remarks, rated by suicidologists (Neimeyer & Bonnelle 1997).

The instrument is not ours to share, so its file is the user's: a CSV with one row a reply and the columns
`scenario` (its number), `client` (the remark), `reply`, and `expert_mean` (-3, highly inappropriate, to +3).
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

from psychocounsel.evaluate.human.items import Duel, Item, LabelledSet, Part, Task, message
from psychocounsel.evaluate.human.reading import Place, labelled_rows, number, text
from psychocounsel.rows import file_origin

LICENSE = "unknown (the instrument belongs to its authors)"
COLUMNS = ("scenario", "client", "reply", "expert_mean")
WHAT = "a CSV with one SIRI-2 reply a row and the columns scenario, client, reply, expert_mean"
UNSCORED = "14"  # the authors do not score this scenario: their experts disagreed
HIGHEST = 3.0


def read_siri(path: Place) -> LabelledSet:
    """The user's file. Pairs within a scenario, the reply with the higher expert mean first; equal means make none."""
    path = Path(path)
    counts: Counter[str] = Counter()
    items: dict[str, Item] = {}
    for line, row in labelled_rows(path, COLUMNS, WHAT):
        counts["rows"] += 1
        mean = number(row, "expert_mean", f"{path}: row {line}", -HIGHEST, HIGHEST)
        scenario, client, reply = (text(row, column) for column in COLUMNS[:3])
        if not (scenario and client and reply):
            counts["left out: no scenario or no text"] += 1
            continue
        if scenario.lstrip("0") == UNSCORED:
            counts[f"left out: scenario {UNSCORED} is not scored"] += 1
            continue
        item = Item(parts=(Part(turns=message(client), reply=reply),), unit=scenario, labels={"expert": mean})
        if item.id in items:
            counts["left out: repeated"] += 1
        items.setdefault(item.id, item)
    return LabelledSet(
        name="siri-2",
        license=LICENSE,
        origin=file_origin(path),
        unit="scenario",
        items=list(items.values()),
        tests=(
            Task("expert-preferred", "pairs", counts=True),
            Task("expert mean", "rank", "expert"),
            Task("expert scale", "scale", "expert"),
        ),
        duels=_duels(list(items.values()), counts),
        counts=counts,
    )


def _duels(items: list[Item], counts: Counter[str]) -> list[Duel]:
    found = []
    for one, other in combinations(items, 2):
        if one.unit != other.unit:
            continue
        gap = one.labels["expert"] - other.labels["expert"]
        if not gap:
            counts["pairs left out: equal expert means"] += 1
            continue
        better, worse = (one, other) if gap > 0 else (other, one)
        found.append(Duel(test="expert-preferred", better=better.id, worse=worse.id, unit=one.unit))
    return found
