"""How the labels a chat model names agree with those of people: rows of figures beside what always one level gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psychocounsel.evaluate.human import resampling
from psychocounsel.evaluate.human.asking import Answers, Question, questions
from psychocounsel.evaluate.human.items import LabelledSet
from psychocounsel.evaluate.human.resampling import Draws, figure
from psychocounsel.records import content_id

Array = NDArray[np.float64]


def answered_rows(found: LabelledSet, answers: Answers, *, bootstrap: int, seed: int) -> list[dict[str, Any]]:
    """One row for each label and figure. `most_frequent` is the same figure for always naming the most frequent level
    (on a scale: the mean label, rounded); `missing` counts items with a label and no answer."""
    rows: list[dict[str, Any]] = []
    for label, question in questions(found.name).items():
        labelled = [item for item in found.items if label in item.labels and len(item.parts) == 1]
        items = [item for item in labelled if label in answers.said.get(item.id, {})]
        if not items:
            continue
        said = np.array([answers.said[item.id][label] for item in items], dtype=np.float64)
        true = np.array([item.labels[label] for item in items])
        units = [item.unit for item in items]
        draws = Draws(units, bootstrap, int(content_id([seed, found.name, label]), 16) >> 1)
        made = _scale if question.scale else _levels
        for metric, value, flat in made(said, true, units, draws, question):
            rows.append(
                {
                    "set": found.name,
                    "label": label,
                    "metric": metric,
                    "score": figure(value, len(items), found.unit).model_dump(),
                    "most_frequent": figure(flat, len(items), found.unit).model_dump(),
                    "n": len(items),
                    "missing": len(labelled) - len(items),
                    "license": found.license,
                }
            )
    return rows


def _levels(
    said: Array, true: Array, units: list[str], draws: Draws, question: Question
) -> list[tuple[str, Array, Array]]:
    levels = np.arange(question.levels[0], question.levels[1] + 1, dtype=np.float64)
    names, counts = np.unique(true, return_counts=True)
    flat = np.full_like(true, names[counts.argmax()])
    ours, plain = (resampling.level_agreement(row, true, units, draws, levels) for row in (said, flat))
    metrics = ["accuracy", "macro-F1", *(["quadratic kappa"] if question.ordered else [])]
    return [(metric, ours[metric], plain[metric]) for metric in metrics]


def _scale(
    said: Array, true: Array, units: list[str], draws: Draws, question: Question
) -> list[tuple[str, Array, Array]]:
    """Mean distance, its sum over items (SIRI-2's own score, the lower the better), and the signed bias: do judges
    overrate? Where the scale passes 0, the bias on items that people rate below 0 as well."""
    flat = np.full_like(true, np.round(true.mean()))

    def both(measure: Callable[[Array], Array]) -> tuple[Array, Array]:
        return measure(said), measure(flat)

    rows: list[tuple[str, Array, Array]] = [
        ("mean distance", *both(lambda row: resampling.mean(np.abs(row - true), units, draws))),
        ("sum of distances", *both(lambda row: len(true) * resampling.mean(np.abs(row - true), units, draws))),
        ("bias", *both(lambda row: resampling.mean(row - true, units, draws))),
    ]
    low = true < 0
    if question.levels[0] < 0 and low.any():
        kept = [unit for unit, below in zip(units, low, strict=True) if below]
        found = both(lambda row: resampling.mean((row - true)[low], kept, draws))
        rows.append(("bias where people rate below 0", *found))
    return rows
