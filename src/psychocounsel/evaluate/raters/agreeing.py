"""How far raters agree: people, judges and labels side by side, on ratings, choices, verdicts or rankings.

The bootstrap draws units of items (clusters of near-duplicate speeches), all raters of an item together. Nothing
chance-corrected is defined without variation: it is then None, with the reason, and never 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from psychocounsel.errors import UserError
from psychocounsel.evaluate.raters.answers import HUMAN, JUDGE, LABEL, OVERALL, Answers, Array, Roles, levels_of
from psychocounsel.evaluate.raters.each import accuracies, label_tests, replaceable, retest, severity
from psychocounsel.evaluate.raters.facing import (
    ALPHA,
    HEADLINE,
    Draws,
    Facing,
    facing,
    figures,
    measure,
    order_figures,
    panel,
    statistics,
)
from psychocounsel.evaluate.raters.procedures import fleiss_draws
from psychocounsel.ratings.agreement import MARGIN, mean_draws
from psychocounsel.ratings.reliability import estimate

GROUPS = ((HUMAN, HUMAN), (HUMAN, JUDGE), (JUDGE, JUDGE), (HUMAN, LABEL), (JUDGE, LABEL), (LABEL, LABEL))
MEAN = "mean"  # over the questions that are not the overall one
DEFAULT = Draws()
MOST_PAIRS = 45  # pairs of raters with intervals of their own (ten raters); above, only their values


def agree(answers: Answers, roles: Roles = Roles(), draws: Draws = DEFAULT) -> dict[str, Any]:  # noqa: B008
    """Everything about every question, ready for JSON. Raises UserError where no two raters share an item."""
    groups = dict(_groups(answers, roles))
    if not any(faced.n(name) for faced in groups.values() for name in answers.values):
        raise UserError(
            f"agree: no two of {len(answers.raters)} raters share an item; do they name items in the same way?"
        )
    measured = {key: measure(answers, faced, draws) for key, faced in groups.items()}
    pairs = _pairs(answers, roles, draws)
    passing = _passing(answers, roles, draws)
    return {
        "raters": {rater: roles.of(rater) for rater in answers.raters},
        "items": len(answers.items),
        "units": len(answers.units),
        "bootstrap": draws.bootstrap,
        "questions": {
            name: {
                **_about(answers, name),
                "groups": {
                    key: _group(answers, faced, measured[key], name, draws)
                    for key, faced in groups.items()
                    if faced.n(name)
                },
                "pairs": pairs[name],
                "judges": passing[name],
                "severity": severity(answers, name, draws),
                "accuracy": accuracies(answers, name, roles, draws),
                "label_tests": label_tests(answers, name, roles),
                "replaceable": replaceable(answers, name, roles),
                "test_retest": retest(answers, name, draws),
            }
            for name in answers.values
        },
        "mean": {key: row for key, faced in groups.items() if (row := _mean(answers, faced, measured[key]))},
        "mean_judges": passing[MEAN],
    }


def pair_rows(answers: Answers, roles: Roles) -> Iterator[tuple[str, str, str, str, float]]:
    """Group, question, row, unit, and share of pairs of raters who answer alike: the values behind `exact`."""
    for key, faced in _groups(answers, roles):
        for name, table in faced.tables.items():
            if answers.questions[name].kind not in ("nominal", "ordinal"):
                continue
            for item, who, values in zip(faced.rows, faced.who, levels_of(table), strict=True):
                known = values[np.isfinite(values)].tolist()
                if len(known) > 1:
                    met = [] if faced.panel else [answers.raters[k] for k in faced.pairs[who]]
                    alike = [a == b for a, b in combinations(known, 2)]
                    row = " / ".join([answers.items[item], *met])
                    yield key, name, row, answers.units[answers.unit[item]], sum(alike) / len(alike)


def _groups(answers: Answers, roles: Roles) -> Iterator[tuple[str, Facing]]:
    """The comparisons by who they are of: human_human, human_judge, ... Those without two raters are left out."""
    for one, other in GROUPS:
        mine, theirs = answers.role(roles, one), answers.role(roles, other)
        if one == other and len(mine) > 1:
            yield f"{one}_{other}", panel(answers, mine)
        elif one != other and mine and theirs:
            yield f"{one}_{other}", facing(answers, mine, theirs)


def _about(answers: Answers, name: str) -> dict[str, Any]:
    question, table = answers.questions[name], answers.values[name]
    return {
        "kind": question.kind,
        "levels": list(question.levels),
        "headline": HEADLINE[question.kind],
        "alpha": ALPHA.get(question.kind),
        "items": int(np.isfinite(table).any(axis=1).sum()),
        "answers": {rater: int(np.isfinite(table[:, k]).sum()) for k, rater in enumerate(answers.raters)},
    }


def _group(answers: Answers, faced: Facing, made: dict[str, Any], name: str, draws: Draws) -> dict[str, Any]:
    """One group on one question; with Fleiss' kappa for a panel of levels, and order where items compete."""
    table = answers.values[name]
    met = [(a, b) for a, b in faced.pairs if np.isfinite(table[:, [a, b]]).all(axis=1).any()]
    found = {"pairs": len(met), "n": faced.n(name), **figures(answers, faced, made, name)}
    question = answers.questions[name]
    if faced.raters > 2 and question.kind in ("nominal", "ordinal"):
        found["fleiss"] = _fleiss(answers, faced, name, draws)
    if name == OVERALL and question.kind != "nominal":
        found |= order_figures(answers, faced, name, draws)
    return found


def _fleiss(answers: Answers, faced: Facing, name: str, draws: Draws) -> dict[str, Any]:
    """Fleiss' kappa over the items that every rater of the panel answered."""
    complete = np.isfinite(faced.tables[name]).all(axis=1)
    if not complete.any():
        return {"value": None, "low": None, "high": None, "n": 0, "why": "no item that all rated"}
    table = levels_of(faced.tables[name][complete])
    counts = np.stack([(table == k + 1).sum(axis=1) for k in range(len(answers.questions[name].levels))], axis=1)
    _, units = np.unique(answers.unit[faced.rows[complete]], return_inverse=True)
    made = fleiss_draws(counts, units.astype(np.int64), bootstrap=draws.bootstrap, seed=draws.seed)
    found: dict[str, Any] = {**estimate(made), "n": len(table)}
    return found if found["value"] is not None else {**found, "why": "no variation"}


def _mean(answers: Answers, faced: Facing, made: dict[str, dict[str, Array]]) -> dict[str, Any]:
    """The mean over questions of each coefficient they share; {} for fewer than two questions of one kind."""
    names = _averaged(answers)
    if len(names) < 2 or not made:
        return {}
    n = len(np.unique(faced.rows))
    answered = sum(bool(faced.n(name)) for name in names)
    found: dict[str, Any] = {"n": n, "questions": answered}
    for key in statistics(answers.questions[names[0]], faced):
        found[key] = {**estimate(mean_draws([made[name][key] for name in names])), "n": n}
        if found[key]["value"] is None:
            found[key]["why"] = "not defined on any question"
    return found


def _averaged(answers: Answers) -> list[str]:
    """The questions a mean is taken of: all but the overall one, if they are of one kind with the same levels."""
    names = [name for name in answers.values if name != OVERALL]
    alike = len({(q.kind, len(q.levels), q.tie) for q in (answers.questions[name] for name in names)}) == 1
    return names if alike and answers.questions[names[0]].kind != "ranked" else []


def _pairs(answers: Answers, roles: Roles, draws: Draws) -> dict[str, list[dict[str, Any]]]:
    """Every two raters with an item in common, by question."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in answers.values}
    couples = list(combinations(range(len(answers.raters)), 2))
    own = draws if len(couples) <= MOST_PAIRS else Draws(0, draws.seed)
    for a, b in couples:
        faced = facing(answers, [a], [b])
        made = measure(answers, faced, own)
        for name in answers.values:
            if not faced.n(name):
                continue
            row = {
                "raters": [answers.raters[a], answers.raters[b]],
                "roles": [roles.of(answers.raters[a]), roles.of(answers.raters[b])],
                "n": faced.n(name),
                **figures(answers, faced, made, name),
                "two_by_two": _two_by_two(faced.tables[name]) if len(answers.questions[name].levels) == 2 else None,
            }
            if name == OVERALL and answers.questions[name].kind != "nominal":
                row |= order_figures(answers, faced, name, own)
            found[name].append(row)
    return found


def _two_by_two(table: Array) -> dict[str, Any]:
    """Counts and the agreement on either level: 2a / (2a + b + c), as Cicchetti and Feinstein (1990) advise."""
    high = levels_of(table[np.isfinite(table).all(axis=1)]) == 2
    a, d = int(high.all(axis=1).sum()), int((~high).all(axis=1).sum())
    b, c = int((high[:, 0] & ~high[:, 1]).sum()), int((~high[:, 0] & high[:, 1]).sum())
    positive = round(2 * a / (2 * a + b + c), 6) if 2 * a + b + c else None
    negative = round(2 * d / (2 * d + b + c), 6) if 2 * d + b + c else None
    return {"both": a, "only_first": b, "only_second": c, "neither": d, "positive": positive, "negative": negative}


def _passing(answers: Answers, roles: Roles, draws: Draws) -> dict[str, dict[str, Any]]:
    """Does each judge agree with people as well as they do with each other, on the same items? By question and mean."""
    found: dict[str, dict[str, Any]] = {name: {} for name in (*answers.values, MEAN)}
    people = answers.role(roles, HUMAN)
    averaged = _averaged(answers)
    for judge in answers.role(roles, JUDGE) if people else []:
        own = facing(answers, [judge], people)
        among = panel(answers, people, np.unique(own.rows)) if len(people) > 1 else None
        if among is not None and len(among.rows):
            own = facing(answers, [judge], people, among.rows)
        if not len(own.rows):
            continue
        mine, theirs = measure(answers, own, draws), measure(answers, among, draws) if among else {}
        rater = answers.raters[judge]
        for name in answers.values:
            if not own.n(name):
                continue
            key = HEADLINE[answers.questions[name].kind]
            told = [
                order_figures(answers, one, name, draws).get(key) if key == "tau" else _headline(made, name, key)
                for one, made in ((own, mine), (among, theirs))
                if one is not None
            ]
            found[name][rater] = _verdict(key, own.n(name), *told)
        if len(averaged) > 1:
            key = HEADLINE[answers.questions[averaged[0]].kind]
            means = [_over(made, averaged, key) for made in (mine, theirs) if made]
            found[MEAN][rater] = _verdict(key, len(np.unique(own.rows)), *means)
    return found


def _headline(made: dict[str, dict[str, Array]], name: str, key: str) -> dict[str, float | None] | None:
    return estimate(made[name][key]) if made else None


def _over(made: dict[str, dict[str, Array]], names: Sequence[str], key: str) -> dict[str, float | None]:
    return estimate(mean_draws([made[name][key] for name in names]))


def _verdict(key: str, n: int, judge: dict[str, Any] | None, people: dict[str, Any] | None = None) -> dict[str, Any]:
    """A judge passes when its lower bound with people is no more than .05 below what people reach."""
    judge = judge or {"value": None, "low": None, "high": None}
    bar = people["value"] if people else None
    passes = None if bar is None or judge["low"] is None else bool(judge["low"] >= bar - MARGIN)
    why = ""
    if passes is None:
        why = "people are not compared with each other on its items" if bar is None else "too few units for an interval"
    return {"statistic": key, "n": n, "with_humans": judge, "humans": people, "passes": passes, "why": why}
