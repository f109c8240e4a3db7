"""Who is compared with whom, and the coefficients of that: panels of raters, and raters of one role facing another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from psychocounsel.evaluate.raters.answers import Answers, Array, Codes, Question
from psychocounsel.evaluate.raters.ranked import order_between
from psychocounsel.ratings.reliability import coefficients, estimate

NOMINAL = ("exact", "kappa", "alpha_nominal", "ac1")
ORDINAL = ("exact", "kappa", "kappa_quadratic", "alpha", "ac1", "ac2")
INTERVAL = ("kappa_quadratic", "alpha_interval")
RELIABILITY = ("icc", "icc_mean", "icc_one_way")
ORDER = ("tau", "spearman", "alike", "gamma", "three_way")
HEADLINE = {"nominal": "kappa", "ordinal": "kappa_quadratic", "interval": "kappa_quadratic", "ranked": "tau"}
ALPHA = {"nominal": "alpha_nominal", "ordinal": "alpha", "interval": "alpha_interval"}
OF_SCALE = (-1, 1)  # the two levels that stand for a scale without levels; what counts levels is not shown there


@dataclass(frozen=True)
class Draws:
    """How intervals are drawn."""

    bootstrap: int = 5_000
    seed: int = 0


@dataclass(frozen=True)
class Facing:
    """A comparison of `raters` raters, with `tables` (rows, columns) by question.

    `rows` are items, `pairs` which raters meet, `who` the pair of each row (0 in a panel). In a `panel` each column is
    a rater, and no item is repeated.
    """

    rows: Codes
    tables: Mapping[str, Array]
    raters: int
    pairs: tuple[tuple[int, int], ...]
    who: Codes
    panel: bool

    def n(self, question: str) -> int:
        """Items on which two raters or more meet."""
        met = np.isfinite(self.tables[question]).sum(axis=1) > 1
        return len(np.unique(self.rows[met]))


def panel(answers: Answers, members: Sequence[int], only: Codes | None = None) -> Facing:
    """All raters of a panel at once, gaps allowed, on items that two of them answered (among `only`)."""
    answered = [np.isfinite(table[:, members]).sum(axis=1) > 1 for table in answers.values.values()]
    rows = np.flatnonzero(np.any(answered, axis=0))
    rows = rows if only is None else np.intersect1d(rows, only)
    tables = {name: table[rows][:, members] for name, table in answers.values.items()}
    return Facing(
        rows, tables, len(members), tuple(combinations(members, 2)), np.zeros(len(rows), dtype=np.int64), panel=True
    )


def facing(answers: Answers, mine: Sequence[int], theirs: Sequence[int], only: Codes | None = None) -> Facing:
    """Each of `mine` against each of `theirs`: a row for each item and pair of raters."""
    pairs = [(a, b) for a in mine for b in theirs]
    found: dict[str, list[Array]] = {name: [] for name in answers.values}
    rows, who = [], []
    for number, (a, b) in enumerate(pairs):
        both = [np.isfinite(table[:, [a, b]]).all(axis=1) for table in answers.values.values()]
        shared = np.flatnonzero(np.any(both, axis=0))
        shared = shared if only is None else np.intersect1d(shared, only)
        rows.append(shared)
        who.append(np.full(len(shared), number))
        for name, table in answers.values.items():
            part = table[shared][:, [a, b]]
            part[~np.isfinite(part).all(axis=1)] = np.nan
            found[name].append(part)
    tables = {name: np.vstack(parts) for name, parts in found.items()}
    return Facing(np.concatenate(rows), tables, 2, tuple(pairs), np.concatenate(who), panel=len(pairs) == 1)


def statistics(question: Question, faced: Facing) -> tuple[str, ...]:
    """What is told of such a comparison."""
    if question.kind == "ranked":
        return ()
    names = {"nominal": NOMINAL, "ordinal": ORDINAL, "interval": INTERVAL}[question.kind]
    if question.tie is not None:
        names = (*names, "two_way")
    if len(question.levels) == 2:
        names = (*names, "pabak")
    return (*names, *RELIABILITY) if question.kind != "nominal" and faced.panel else names


def measure(answers: Answers, faced: Facing, draws: Draws) -> dict[str, dict[str, Array]]:
    """Every coefficient of every question, as (value, draws); all questions see the same draws."""
    _, units = np.unique(answers.unit[faced.rows], return_inverse=True)
    batches: dict[tuple[int, ...], list[tuple[str, bool, Array]]] = defaultdict(list)
    for name, table in faced.tables.items():
        question = answers.questions[name]
        if question.kind == "ranked" or not len(faced.rows):
            continue
        if question.kind == "interval":
            batches[OF_SCALE].append((name, False, _standardised(table, answers.values[name])))
            continue
        levels = tuple(range(1, max(len(question.levels), 2) + 1))
        batches[levels].append((name, False, table))
        if question.tie is not None:
            decided = np.where(table == question.tie, np.nan, table)
            batches[levels].append((name, True, decided))
    found: dict[str, dict[str, Array]] = {}
    for levels, batch in batches.items():
        made = coefficients(
            [table for _, _, table in batch], units.astype(np.int64), raters=faced.raters, levels=levels,
            bootstrap=draws.bootstrap, seed=draws.seed,
        )  # fmt: skip
        for (name, decided_only, _), one in zip(batch, made, strict=True):
            if decided_only:
                found[name]["two_way"] = one["exact"]
            else:
                found[name] = {**one, "pabak": 2 * one["exact"] - 1}
    return found


def figures(answers: Answers, faced: Facing, made: Mapping[str, Mapping[str, Array]], name: str) -> dict[str, Any]:
    """The figures of one question, each {"value", "low", "high", "n"} and, without a value, "why" there is none."""
    question, n = answers.questions[name], faced.n(name)
    complete = int(np.isfinite(faced.tables[name]).all(axis=1).sum())
    found: dict[str, Any] = {}
    for key in statistics(question, faced):
        of_panel = key in ("icc", "icc_mean")
        figure = {**estimate(made[name][key], _share(key, n)), "n": complete if of_panel else n} if made else {}
        if figure.get("value") is None:
            why = "no item" if not n else "no item that all rated" if of_panel and not complete else "no variation"
            found[key] = {"value": None, "low": None, "high": None, "n": figure.get("n", 0), "why": why}
        else:
            found[key] = figure
    return found


def order_figures(answers: Answers, faced: Facing, name: str, draws: Draws) -> dict[str, Any]:
    """Do the raters put the items of a speech in the same order? {} where no items of one speech compete."""
    table = answers.values[name]
    only = np.zeros(len(answers.items), dtype=bool)
    only[faced.rows] = True
    among = np.where(only, answers.among, -1)
    pairs = [(table[:, a], table[:, b]) for a, b in faced.pairs]
    made = order_between(pairs, among, answers.unit, bootstrap=draws.bootstrap, seed=draws.seed) if pairs else None
    if made is None:
        return {}
    counted = {"tau": "rankings", "spearman": "rankings", "alike": "pairs", "gamma": "pairs", "three_way": "with_ties"}
    found: dict[str, Any] = {key: {**made[key], "n": made[counted[key]]} for key in ORDER}
    for figure in found.values():
        if figure["value"] is None:
            figure["why"] = "no order that both have" if figure["n"] == 0 else "no variation"
    return {**found, "without_order": made["undefined"]}


def _share(key: str, n: int) -> float | None:
    return float(n) if key in ("exact", "two_way") and n else None


def _standardised(table: Array, all_of_it: Array) -> Array:
    """In standard deviations around the mean of all answers: nothing hangs on the scale's units."""
    known = all_of_it[np.isfinite(all_of_it)]
    spread = float(known.std())
    return np.asarray((table - known.mean()) / (spread if spread > 0 else 1.0))
