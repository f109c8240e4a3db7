"""How far raters agree: people, judges and labels side by side, on ratings, choices or verdicts, with intervals.

The bootstrap draws items (or units of items), all raters of one together. Nothing chance-corrected is defined without
variation: it is then None, "undefined", and never 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psychocounsel.errors import UserError
from psychocounsel.evaluate.raters import alternative_test, fleiss_kappa, mcnemar_exact
from psychocounsel.evaluate.statistics import cluster_mean
from psychocounsel.ratings.reliability import coefficients, estimate

Array = NDArray[np.float64]
ORDERED = ("exact", "kappa", "kappa_quadratic", "alpha", "ac2", "icc", "correlation", "difference")
NOMINAL = ("exact", "kappa", "alpha_nominal", "ac1")
OF_PANEL = {True: ("exact", "alpha", "ac2", "icc", "icc_mean"), False: ("exact", "alpha_nominal", "ac1")}
SLACK = 0.05  # a judge passes when it agrees with people at least as well as they do with each other, less this
PEOPLE, JUDGE, LABEL = "person", "judge", "label"


class Label(NamedTuple):
    """What one rater said of one item on one question. `again` is a second answer of the same rater, or None."""

    question: str
    item: str
    unit: str
    rater: str
    value: float
    again: float | None = None


class Roles(NamedTuple):
    """Who is a person and who is the label; everybody else is a judge."""

    people: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()

    def of(self, rater: str) -> str:
        return PEOPLE if rater in self.people else LABEL if rater in self.labels else JUDGE


NOBODY = Roles()


def agree(
    labels: Sequence[Label],
    roles: Roles = NOBODY,
    *,
    ordered: bool = True,
    names: Sequence[str] = (),
    bootstrap: int = 5_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything about every question, ready for JSON. `names` are those of levels without an order (value k is the
    k-th). Raises UserError for an item rated twice by one rater on one question, and where no two raters share one."""
    by_question: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        by_question[label.question].append(label)
    found = {
        question: _question(rows, roles, ordered, bootstrap, seed) for question, rows in sorted(by_question.items())
    }
    if not any(one["pairs"] for one in found.values()):
        raise UserError("agree: no two raters share an item; do they name items in the same way?")
    return {"ordered": ordered, "levels": list(names), "questions": found}


def _question(rows: Sequence[Label], roles: Roles, ordered: bool, bootstrap: int, seed: int) -> dict[str, Any]:
    raters = sorted({row.rater for row in rows})
    items = sorted({row.item for row in rows})
    at, column = {item: k for k, item in enumerate(items)}, {rater: k for k, rater in enumerate(raters)}
    table, again = (np.full((len(items), len(raters)), np.nan) for _ in range(2))
    unit_of = [""] * len(items)
    for row in rows:
        place = at[row.item], column[row.rater]
        if np.isfinite(table[place]):
            raise UserError(f"agree: {row.rater} gave {row.item} two values on {row.question}; keep one of them")
        table[place], unit_of[at[row.item]] = row.value, row.unit
        again[place] = np.nan if row.again is None else row.again
    _, units = np.unique(np.array(unit_of), return_inverse=True)
    low, high = int(np.floor(np.nanmin(table))), int(np.ceil(np.nanmax(table)))
    view = _View(table, np.asarray(units, dtype=np.int64), tuple(range(low, max(high, low + 1) + 1)), bootstrap, seed)
    pairs, draws = _pairs(view, raters, roles, ordered)
    groups = _groups(pairs, draws, ordered)
    return {
        "items": len(items),
        "units": len(set(unit_of)),
        "raters": {
            rater: {"role": roles.of(rater), "n": int(np.isfinite(table[:, k]).sum())} for k, rater in enumerate(raters)
        },
        "pairs": pairs,
        "groups": groups,
        "panels": _panels(view, raters, roles, ordered),
        "judges": _passing(pairs, draws, groups, ordered),
        "severity": _severity(view, raters, unit_of),
        "label": _against_label(table, raters, roles),
        "replaceable": _replaceable(table, raters, items, unit_of, roles),
        "test_retest": _retest(view, again, raters, ordered),
    }


class _View(NamedTuple):
    table: Array
    units: NDArray[np.int64]
    levels: tuple[int, ...]
    bootstrap: int
    seed: int

    def measure(self, tables: Sequence[Array], raters: int) -> list[dict[str, Array]]:
        return coefficients(
            tables, self.units, raters=raters, bootstrap=self.bootstrap, seed=self.seed, levels=self.levels
        )


def _pairs(
    view: _View, raters: Sequence[str], roles: Roles, ordered: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Array]]]:
    """Every two raters with an item in common; and the draws of their coefficients, for means over pairs."""
    shared = [
        (a, b) for a, b in combinations(range(len(raters)), 2) if np.isfinite(view.table[:, [a, b]]).all(axis=1).any()
    ]
    found = [view.measure([_both(view.table, a, b)], 2)[0] for a, b in shared]
    rows = []
    for (a, b), draws in zip(shared, found, strict=True):
        both = _both(view.table, a, b)
        both = both[np.isfinite(both).all(axis=1)]
        n = len(both)
        row: dict[str, Any] = {
            "raters": [raters[a], raters[b]],
            "roles": [roles.of(raters[a]), roles.of(raters[b])],
            "group": " and ".join(sorted((roles.of(raters[a]), roles.of(raters[b])))),
            "n": n,
            "pabak": {"value": round(2 * float((both[:, 0] == both[:, 1]).mean()) - 1, 6), "low": None, "high": None}
            if len(view.levels) == 2
            else None,
            "two_by_two": _two_by_two(both, view.levels) if len(view.levels) == 2 else None,
        }
        rows.append(row | {name: estimate(draws[name], n if name == "exact" else None) for name in _shown(ordered)})
    return rows, found


def _both(table: Array, a: int, b: int) -> Array:
    """The columns of two raters, NaN in both where one is missing."""
    both = table[:, [a, b]].copy()
    both[~np.isfinite(both).all(axis=1)] = np.nan
    return both


def _two_by_two(both: Array, levels: Sequence[int]) -> dict[str, Any]:
    """Counts and the agreement on either level: 2a / (2a + b + c), as Cicchetti and Feinstein (1990) advise."""
    high = both == levels[-1]
    a, d = int(high.all(axis=1).sum()), int((~high).all(axis=1).sum())
    b, c = int((high[:, 0] & ~high[:, 1]).sum()), int((~high[:, 0] & high[:, 1]).sum())
    positive = round(2 * a / (2 * a + b + c), 6) if 2 * a + b + c else None
    negative = round(2 * d / (2 * d + b + c), 6) if 2 * d + b + c else None
    return {"both": a, "only_first": b, "only_second": c, "neither": d, "positive": positive, "negative": negative}


def _groups(pairs: Sequence[dict[str, Any]], draws: Sequence[dict[str, Array]], ordered: bool) -> dict[str, Any]:
    """Means over all pairs of raters of one kind, with the draws of items they share."""
    found: dict[str, Any] = {}
    for group in sorted({row["group"] for row in pairs}):
        mine = [one for row, one in zip(pairs, draws, strict=True) if row["group"] == group]
        found[group] = {"pairs": len(mine), "n": sum(row["n"] for row in pairs if row["group"] == group)}
        kept = [name for name in _shown(ordered) if name != "difference"]  # its sign hangs on who is named first
        found[group] |= {name: estimate(_mean([one[name] for one in mine])) for name in kept}
    return found


def _passing(
    pairs: Sequence[dict[str, Any]], draws: Sequence[dict[str, Array]], groups: Mapping[str, Any], ordered: bool
) -> dict[str, Any]:
    """Does each judge agree with people as well as people do with each other? By weighted kappa, or kappa."""
    name, people = _headline(ordered), groups.get(f"{PEOPLE} and {PEOPLE}")
    by_judge: dict[str, list[Array]] = defaultdict(list)
    for row, one in zip(pairs, draws, strict=True):
        if row["group"] == f"{JUDGE} and {PEOPLE}":
            by_judge[row["raters"][row["roles"].index(JUDGE)]].append(one[name])
    found = {}
    for judge, rows in sorted(by_judge.items()):
        figure = estimate(_mean(rows))
        own = people[name]["value"] if people else None
        low = figure["low"]
        passes = None if own is None or low is None else bool(low >= own - SLACK)
        found[judge] = {"statistic": name, "with_people": figure, "people": own, "passes": passes}
    return found


def _panels(view: _View, raters: Sequence[str], roles: Roles, ordered: bool) -> dict[str, Any]:
    """Coefficients of all raters of one kind at once, missing answers allowed; Fleiss' kappa over complete items."""
    found: dict[str, Any] = {}
    for role in (PEOPLE, JUDGE):
        members = [k for k, rater in enumerate(raters) if roles.of(rater) == role]
        if len(members) < 2:
            continue
        table = view.table[:, members]
        (draws,) = view.measure([table], len(members))
        complete = table[np.isfinite(table).all(axis=1)]
        counts = np.stack([(complete == level).sum(axis=1) for level in view.levels], axis=1)
        fleiss = fleiss_kappa(counts) if len(counts) and (counts.sum(axis=1) == len(members)).all() else None
        found[role] = {"raters": len(members), "n": int((np.isfinite(table).sum(axis=1) > 1).sum())}
        found[role] |= {name: estimate(draws[name]) for name in OF_PANEL[ordered]}
        found[role]["fleiss"] = {"value": None if fleiss is None else round(fleiss, 6), "n": len(complete)}
    return found


def _severity(view: _View, raters: Sequence[str], units: Sequence[str]) -> dict[str, Any]:
    """Each rater's values minus the mean of the others on the same items: below 0 is the stricter one."""
    found = {}
    for k, rater in enumerate(raters):
        others = np.delete(view.table, k, axis=1)
        rated = np.isfinite(others).any(axis=1) & np.isfinite(view.table[:, k])
        places = np.flatnonzero(rated)
        apart = view.table[places, k] - np.nanmean(others[places], axis=1) if len(places) else np.zeros(0)
        figure = cluster_mean(
            apart.tolist(), [units[int(place)] for place in places], "levels", bootstrap=view.bootstrap, seed=view.seed
        )
        found[rater] = figure.model_dump()
    return found


def _against_label(table: Array, raters: Sequence[str], roles: Roles) -> list[dict[str, Any]]:
    """Of every two raters, who is right by the label more often: McNemar's exact test on the items of all three."""
    labels = [k for k, rater in enumerate(raters) if roles.of(rater) == LABEL]
    found = []
    for label in labels:
        for a, b in combinations([k for k in range(len(raters)) if k not in labels], 2):
            rows = table[np.isfinite(table[:, [label, a, b]]).all(axis=1)]
            if len(rows):
                right = [rows[:, k] == rows[:, label] for k in (a, b)]
                tested = mcnemar_exact(right[0], right[1])
                shares = {raters[k]: round(float(one.mean()), 6) for k, one in zip((a, b), right, strict=True)}
                found.append({"label": raters[label], "n": len(rows), "right": shares, **tested.model_dump()})
    return found


def _replaceable(
    table: Array, raters: Sequence[str], items: Sequence[str], units: Sequence[str], roles: Roles
) -> dict[str, Any]:
    """The alternative annotator test of every judge against the people; the reason where it cannot be made."""
    people = [k for k, rater in enumerate(raters) if roles.of(rater) == PEOPLE]
    judges = [k for k, rater in enumerate(raters) if roles.of(rater) == JUDGE]
    if len(people) < 2:
        return {}

    def said(k: int) -> dict[str, float]:
        return {items[int(row)]: float(table[row, k]) for row in np.flatnonzero(np.isfinite(table[:, k]))}

    clusters = dict(zip(items, units, strict=True))
    found: dict[str, Any] = {}
    for k in judges:
        try:
            tested = alternative_test(said(k), {raters[p]: said(p) for p in people}, clusters=clusters)
            found[raters[k]] = tested.model_dump(mode="json")
        except UserError as error:
            found[raters[k]] = {"not_tested": str(error)}
    return found


def _retest(view: _View, again: Array, raters: Sequence[str], ordered: bool) -> dict[str, Any]:
    """How far each rater agrees with a second answer of his or her own."""
    found = {}
    for k, rater in enumerate(raters):
        both = np.stack([view.table[:, k], again[:, k]], axis=1)
        both[~np.isfinite(both).all(axis=1)] = np.nan
        n = int(np.isfinite(both[:, 0]).sum())
        if n:
            (draws,) = view.measure([both], 2)
            found[rater] = {"n": n, **{name: estimate(draws[name]) for name in ("exact", _headline(ordered))}}
    return found


def _headline(ordered: bool) -> str:
    return "kappa_quadratic" if ordered else "kappa"


def _shown(ordered: bool) -> tuple[str, ...]:
    return ORDERED if ordered else NOMINAL


def _mean(draws: Sequence[Array]) -> Array:
    """The mean over pairs, in each draw over those that are defined there."""
    table = np.stack(draws)
    known = np.isfinite(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, table, 0.0).sum(axis=0) / known.sum(axis=0))
