"""One rater at a time: strictness, accuracy by the others and by a label, a second answer, the alternative test."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import clusters_of
from psychocounsel.evaluate.raters.answers import HUMAN, JUDGE, LABEL, Answers, Array, Roles, levels_of
from psychocounsel.evaluate.raters.facing import HEADLINE, Draws, Facing, figures, measure
from psychocounsel.evaluate.raters.procedures import alternative_test, mcnemar_exact
from psychocounsel.evaluate.statistics import mean_figure

FEW_LEVELS = 3  # up to so many levels two answers are alike or not; above, they are more or less near


def severity(answers: Answers, name: str, draws: Draws) -> dict[str, Any]:
    """Each rater's answers minus the mean of the others' on the same items; `z` in standard deviations of all answers.

    Below 0 is the stricter one. {} for questions whose values have no order or are ranks.
    """
    if answers.questions[name].kind not in ("ordinal", "interval"):
        return {}
    table = answers.values[name]
    spread = float(table[np.isfinite(table)].std())
    known = np.isfinite(table)
    totals, counts = np.where(known, table, 0.0).sum(axis=1), known.sum(axis=1)
    found = {}
    for k, rater in enumerate(answers.raters):
        rows = np.flatnonzero(known[:, k] & (counts > 1))
        apart = table[rows, k] - (totals[rows] - table[rows, k]) / (counts[rows] - 1)
        figure = _mean(answers, apart, rows, "levels", draws, share=False)
        z = None if figure["value"] is None or not spread else round(figure["value"] / spread, 4)
        found[rater] = {**figure, "z": z}
    return found


def accuracies(answers: Answers, name: str, roles: Roles, draws: Draws) -> dict[str, Any]:
    """How often each rater gives the answer that most of the others give, he or she left out.

    The others are the people where there are two or more of them, else all raters; labels are none of them. Two or
    more others must have answered. Where several answers are equally frequent, giving one of them counts its share.
    """
    if answers.questions[name].kind not in ("nominal", "ordinal"):
        return {}
    table, people = levels_of(answers.values[name]), answers.role(roles, HUMAN)
    crowd = people if len(people) > 1 else answers.role(roles, HUMAN, JUDGE)
    levels = range(1, len(answers.questions[name].levels) + 1)
    found = {}
    for k, rater in enumerate(answers.raters):
        others = table[:, [other for other in crowd if other != k]]
        rows = np.flatnonzero((np.isfinite(others).sum(axis=1) > 1) & np.isfinite(table[:, k]))
        if not len(rows):
            continue
        counts = np.stack([(others[rows] == level).sum(axis=1) for level in levels], axis=1)
        most = counts == counts.max(axis=1, keepdims=True)
        own = most[np.arange(len(rows)), table[rows, k].astype(np.int64) - 1]
        found[rater] = _mean(answers, own / most.sum(axis=1), rows, "share of items", draws, share=True)
    return found


def label_tests(answers: Answers, name: str, roles: Roles) -> list[dict[str, Any]]:
    """Of every two raters, who is right by the label more often: McNemar's exact test on the items of all three."""
    if answers.questions[name].kind not in ("nominal", "ordinal"):
        return []
    table, labels = levels_of(answers.values[name]), answers.role(roles, LABEL)
    found = []
    for label in labels:
        for a, b in combinations([k for k in range(len(answers.raters)) if k not in labels], 2):
            rows = table[np.isfinite(table[:, [label, a, b]]).all(axis=1)]
            if not len(rows):
                continue
            right = [rows[:, k] == rows[:, label] for k in (a, b)]
            tested = mcnemar_exact(right[0], right[1])
            shares = {answers.raters[k]: round(float(one.mean()), 6) for k, one in zip((a, b), right, strict=True)}
            found.append({"label": answers.raters[label], "n": len(rows), "right": shares, **tested.model_dump()})
    return found


def replaceable(answers: Answers, name: str, roles: Roles) -> dict[str, Any]:
    """The alternative annotator test of every judge against the people; the reason where it cannot be made.

    Answers of up to three levels are compared by equality, others by their distance, as the test's authors have it.
    """
    question, people = answers.questions[name], answers.role(roles, HUMAN)
    if len(people) < 2 or question.kind == "ranked":
        return {}
    plain = question.kind == "nominal" or (question.kind == "ordinal" and len(question.levels) <= FEW_LEVELS)
    clusters = {item: answers.units[unit] for item, unit in zip(answers.items, answers.unit, strict=True)}
    said = [_said(answers, answers.values[name][:, k]) for k in range(len(answers.raters))]
    found: dict[str, Any] = {}
    for k in answers.role(roles, JUDGE):
        try:
            tested = alternative_test(
                said[k], {answers.raters[p]: said[p] for p in people}, clusters=clusters,
                measure="accuracy" if plain else "rmse",
            )  # fmt: skip
            found[answers.raters[k]] = tested.model_dump(mode="json")
        except UserError as error:
            found[answers.raters[k]] = {"not_tested": str(error)}
    return found


def retest(answers: Answers, name: str, draws: Draws) -> dict[str, Any]:
    """How far each rater agrees with a second answer of his or her own: the swapped order, or a repeated item."""
    question, found = answers.questions[name], {}
    for k, rater in enumerate(answers.raters):
        both = answers.twice[name][:, k]
        rows = np.flatnonzero(np.isfinite(both).all(axis=1))
        if not len(rows) or question.kind == "ranked":
            continue
        faced = Facing(rows, {name: both[rows]}, 2, ((k, k),), np.zeros(len(rows), dtype=np.int64), panel=True)
        told = figures(answers, faced, measure(answers, faced, draws), name)
        keys = [key for key in ("exact", HEADLINE[question.kind]) if key in told]
        found[rater] = {"n": len(rows), "statistic": HEADLINE[question.kind], **{key: told[key] for key in keys}}
    return found


def _said(answers: Answers, column: Array) -> dict[str, float]:
    return {answers.items[int(row)]: float(column[row]) for row in np.flatnonzero(np.isfinite(column))}


def _mean(answers: Answers, values: Array, rows: Any, unit: str, draws: Draws, *, share: bool) -> dict[str, Any]:
    """A mean over units as JSON; without any value it is None."""
    clusters = clusters_of([answers.units[answers.unit[row]] for row in rows])
    return mean_figure(values, clusters, unit, share=share, bootstrap=draws.bootstrap, seed=draws.seed).model_dump()
