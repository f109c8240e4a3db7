"""All sets of human labels at hand, put to one scorer: rows for results.json, a table, and macro-OOD."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from psychocounsel.errors import UserError, nearest
from psychocounsel.evaluate.human.annomi import read_annomi
from psychocounsel.evaluate.human.counselbench import read_counselbench
from psychocounsel.evaluate.human.counselchat import read_counselchat
from psychocounsel.evaluate.human.epitome import read_epitome
from psychocounsel.evaluate.human.items import LabelledSet
from psychocounsel.evaluate.human.measure import Row, measure
from psychocounsel.evaluate.human.mindeval import read_mindeval
from psychocounsel.evaluate.human.reading import Place
from psychocounsel.evaluate.human.resampling import figure
from psychocounsel.evaluate.human.scoring import Scorer
from psychocounsel.evaluate.human.siri import read_siri
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.speeches.held_out import HeldOut

SCHEMA = "psychocounsel-human-labels/1"
NEAR = 0.4  # Jaccard of word 3-grams from which an item counts as seen in training
BOOTSTRAP = 10_000
SETS: dict[str, Callable[[Place], LabelledSet]] = {
    "epitome": read_epitome,
    "annomi": read_annomi,
    "siri-2": read_siri,
    "counselchat": read_counselchat,
    "counselbench": read_counselbench,
    "mindeval": read_mindeval,
}


def human_labels(
    sets: Mapping[str, Place],
    scorer: Scorer,
    *,
    training: Iterable[str] = (),
    near: float = NEAR,
    bootstrap: int = BOOTSTRAP,
    seed: int = 0,
) -> dict[str, Any]:
    """Every test of the named sets by one scorer, ready for JSON. `sets`: name (see SETS) to file, folder or hub id.

    `training`: what clients say in the speeches that the scorer, or what it was fitted on, was trained on (for a
    dialogue all of the client's turns, as `clean.client_text` gives it); items nearly equal to one are left out and
    counted. `rows` hold the figures, `sets` what became of every row of a file, `macro` the mean over the tests that
    count of the figure minus the best trivial baseline. Raises UserError for an unknown set, or a file that is not as
    published.
    """
    for name in sets:
        if name not in SETS:
            hint = nearest(name, list(SETS))
            raise UserError(f"human labels: unknown set '{name}'{hint}; known are {', '.join(SETS)}")
    if bootstrap < 1:
        raise UserError("human labels: an interval needs draws; give bootstrap 1 or more")
    read = [SETS[name](place) for name, place in sets.items()]  # all files are looked at before anything is scored
    seen = HeldOut(training, near)
    rows: list[Row] = []
    about: dict[str, Any] = {}
    for found in read:
        kept = without_seen(found, seen)
        about[found.name] = _about(kept)
        rows += measure(kept, scorer, bootstrap=bootstrap, seed=seed)
    return {
        "schema": SCHEMA,
        "bootstrap": bootstrap,
        "seed": seed,
        "near": near,
        "trained_on": len(seen.sizes),
        "sets": about,
        "rows": [row.cells for row in rows],
        "macro": macro(rows).model_dump(),
    }


def without_seen(found: LabelledSet, seen: HeldOut) -> LabelledSet:
    """The set without items whose client text is nearly a training speech, and without their pairs; both counted."""
    known: dict[str, bool] = {}
    items = []
    for item in found.items:
        said = item.said
        if said not in known:
            known[said] = seen.holds(said)
        if not known[said]:
            items.append(item)
    ids = {item.id for item in items}
    duels = [duel for duel in found.duels if duel.better in ids and duel.worse in ids]
    counts = found.counts.copy()
    counts["items left out: nearly a training speech"] = len(found.items) - len(items)
    counts["pairs left out: nearly a training speech"] = len(found.duels) - len(duels)
    return replace(found, items=items, duels=duels, counts=counts)


def macro(rows: Iterable[Row]) -> Figure:
    """Macro-OOD: the mean over the tests that count of (AUC or accuracy) minus the best trivial baseline.

    No interval when one of them has none: a constant among draws would make the interval too narrow.
    """
    gains = [row.gains for row in rows if row.cells["in_macro"] and row.gains is not None]
    gains = [draws for draws in gains if np.isfinite(draws[0])]
    if not gains:
        return Figure(value=None, n=0, unit="test")
    shortest = min(len(draws) for draws in gains)
    return figure(np.mean([draws[:shortest] for draws in gains], axis=0), len(gains), "test")


def human_table(found: Mapping[str, Any]) -> str:
    """The rows as a Markdown table, and below it macro-OOD; no text of any set is in it."""
    lines = [
        "| set | test | figure | scorer | raw | longer | shorter | ? | TF-IDF | others | gain | n | units | licence |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        low = [_cell(row["baselines"].get(name), False) for name in ("longer", "shorter", "question mark", "TF-IDF")]
        others = ", ".join(f"{name} {_cell(value, False)}" for name, value in row["shown"].items()) or "–"
        units = f"{row['units']} {row['unit']}s"
        star = "" if row["in_macro"] else " *"
        cells = [row["set"], row["test"] + star, row["metric"], _cell(row["score"]), _cell(row["raw"], False), *low]
        cells += [others, _cell(row["gain"]), str(row["n"]), units, row["license"]]
        lines.append("| " + " | ".join(cells) + " |")
    total = found["macro"]
    lines += ["", f"Macro-OOD over {total['n']} tests: {_cell(total)}. * does not count towards it."]
    return "\n".join(lines) + "\n"


def _cell(value: Mapping[str, Any] | None, interval: bool = True) -> str:
    if value is None or value["value"] is None:
        return "–"
    bounds = f" [{value['low']:.3f}, {value['high']:.3f}]" if interval and value["low"] is not None else ""
    return f"{value['value']:.3f}{bounds}"


def _about(found: LabelledSet) -> dict[str, Any]:
    return {
        "license": found.license,
        "origin": found.origin,
        "unit": found.unit,
        "items": len(found.items),
        "counts": dict(sorted((name, count) for name, count in found.counts.items() if count)),
        "ceiling": found.ceiling,
        "note": found.note,
    }
