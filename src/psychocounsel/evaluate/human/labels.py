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


def read_sets(sets: Mapping[str, Place], training: Iterable[str] = (), near: float = NEAR) -> dict[str, LabelledSet]:
    """The named sets (see SETS), from a file, folder or hub id, without items nearly equal to a training speech.

    `training`: what clients say in the speeches that a scorer, or what it was fitted on, was trained on (for a dialogue
    all of the client's turns, as `clean.client_text` gives it); what is left out is counted. Raises UserError for an
    unknown set, or a file that is not as published.
    """
    for name in sets:
        if name not in SETS:
            hint = nearest(name, list(SETS))
            raise UserError(f"human labels: unknown set '{name}'{hint}; known are {', '.join(SETS)}")
    read = [SETS[name](place) for name, place in sets.items()]
    seen = HeldOut(training, near)
    return {found.name: without_seen(found, seen) for found in read}


def human_labels(
    sets: Mapping[str, LabelledSet], scorer: Scorer, *, bootstrap: int = BOOTSTRAP, seed: int = 0
) -> dict[str, Any]:
    """Every test of the sets by one scorer, ready for JSON: `rows` hold the figures, `sets` what became of every row of
    a file, `macro` the mean over the tests that count of the figure minus the best trivial baseline."""
    if bootstrap < 1:
        raise UserError("human labels: an interval needs draws; give bootstrap 1 or more")
    rows = [row for found in sets.values() for row in measure(found, scorer, bootstrap=bootstrap, seed=seed)]
    return {
        "schema": SCHEMA,
        "bootstrap": bootstrap,
        "seed": seed,
        "sets": {name: _about(found) for name, found in sets.items()},
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
