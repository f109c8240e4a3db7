"""Agreement of judges with each other and with people, by principle and overall, the human ceiling beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from psychocounsel.principles import Principle
from psychocounsel.ratings.order import order_agreement, order_sums
from psychocounsel.ratings.reliability import COEFFICIENTS, ON_DISTANCES, ON_TWO, SHARES, Array, coefficients, estimate
from psychocounsel.ratings.scale import scale_use
from psychocounsel.ratings.table import Codes, Scores, Table, against_others, facing, long_form, panel, shared_rows
from psychocounsel.records import Rating

SCHEMA = "psychocounsel-agreement/1"
BOOTSTRAP = 2000
HUMAN = "human:"
MARGIN = 0.05  # a judge reaches the human ceiling when its lower bound is at most this far under it
AGAINST_CEILING = ("exact", "kappa_quadratic", "alpha", "ac2", "alike")
AGAINST_OTHERS = ("kappa_quadratic", "correlation", "difference")


@dataclass(frozen=True)
class Intervals:
    """Resamples, their seed, and what is drawn: all replies of a speech's cluster together, or single replies.

    All raters of a reply stay together either way. Agreement in order is always drawn by speech cluster.
    """

    bootstrap: int = BOOTSTRAP
    seed: int = 0
    unit: Literal["speech", "reply"] = "speech"


DEFAULT = Intervals()


def agreement_table(
    ratings: Iterable[Rating],
    principles: Sequence[Principle],
    speech_of: Mapping[str, str] | None = None,
    cluster_of: Mapping[str, str] | None = None,
    intervals: Intervals = DEFAULT,
) -> dict[str, Any]:
    """Everything about agreement, ready for JSON: sorted, rounded to 6 digits, independent of the ratings' order.

    `speech_of` gives the speech of a response id, `cluster_of` the near-duplicate cluster of a speech. Without the
    first there is no agreement in order, and only single replies can be drawn. Judges named 'human:...' are people.
    """
    scores = long_form(ratings, principles, speech_of, cluster_of)
    names = scores.judges
    whole = _compare(scores, panel(scores, range(len(names))), intervals)[0]
    shared = [(a, b) for a, b in combinations(range(len(names)), 2) if len(shared_rows(scores, a, b)[0])]
    tables = [whole if len(names) == 2 else _compare(scores, panel(scores, pair), intervals)[0] for pair in shared]
    return {
        "schema": SCHEMA,
        "bootstrap": {
            "resamples": intervals.bootstrap,
            "seed": intervals.seed,
            "unit": intervals.unit if len(scores.speech) else "reply",
        },
        "replies": len(np.unique(scores.reply)),
        "doubly_rated": whole["n"],
        "principles": _summary(whole),
        "all": whole,
        "pairs": [{"judges": [names[a], names[b]], **table} for (a, b), table in zip(shared, tables, strict=True)],
        "human": _human(scores, intervals),
        "leave_one_out": _leave_one_out(scores, intervals) if len(names) > 2 else {},
        "judges": {
            name: {
                "human": name.startswith(HUMAN),
                **scale_use(scores.values[scores.judge == k, :-1], scores.principles),
            }
            for k, name in enumerate(names)
        },
    }


def short_table(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """kappa (quadratic), alpha (ordinal) and n by principle, of an `agreement.json` of any age."""
    return dict(document["principles"] if "schema" in document else document)


def mean_kappa(agreement: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Mean of the defined kappas over principles; None when none is defined."""
    kappas = [row["kappa"] for row in agreement.values() if row["kappa"] is not None]
    return sum(kappas) / len(kappas) if kappas else None


def _summary(comparison: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By principle: quadratic kappa pooled over doubly rated responses, Krippendorff's alpha (ordinal), n."""
    return {
        name: {"kappa": row["kappa_quadratic"]["value"], "alpha": row["alpha"]["value"], "n": row["n"]}
        for name, row in comparison["principles"].items()
    }


def _compare(scores: Scores, table: Table, intervals: Intervals) -> tuple[dict[str, Any], dict[str, Array]]:
    """All coefficients of a table, and the draws of their means over principles (for differences of tables)."""
    units = _units(scores, table.reply, intervals)
    drawn = int(units.max(initial=-1)) + 1
    columns = [table.scores[:, :, k] for k in range(table.scores.shape[2])]
    made = coefficients(columns, units, raters=table.raters, bootstrap=intervals.bootstrap, seed=intervals.seed)
    names = [name for name in COEFFICIENTS if table.raters == 2 or name not in ON_TWO]
    share_of = drawn if intervals.bootstrap else 0

    def rows(k: int, names: Iterable[str]) -> dict[str, Any]:
        found = {name: estimate(made[k][name], share_of if name in SHARES else None) for name in names}
        return {"n": _rated_twice(table, k), **found}

    means = {name: mean_draws([row[name] for row in made[:-1]]) for name in names}
    order, means["alike"] = _order(scores, table, intervals)
    return {
        "n": len(np.unique(table.reply)),
        "raters": table.raters,
        "units": drawn,
        "principles": {name: rows(k, names) for k, name in enumerate(scores.principles)},
        "mean": {name: estimate(means[name]) for name in names},
        "overall": rows(-1, [name for name in names if name in (*ON_DISTANCES, *ON_TWO)]),
        "order": order,
    }, means


def _units(scores: Scores, replies: Codes, intervals: Intervals) -> Codes:
    drawn = scores.cluster[replies] if len(scores.cluster) and intervals.unit == "speech" else replies
    return np.asarray(np.unique(drawn, return_inverse=True)[1], dtype=np.int64)


def _rated_twice(table: Table, k: int) -> int:
    return len(np.unique(table.reply[np.isfinite(table.scores[:, :, k]).sum(axis=1) > 1]))


def mean_draws(draws: Sequence[Array]) -> Array:
    """Mean over the principles on which a coefficient is defined; a resample that loses one of them is undefined."""
    defined = [row for row in draws if np.isfinite(row[0])]
    return np.asarray(np.mean(defined, axis=0)) if defined else np.array([np.nan])


def _order(scores: Scores, table: Table, intervals: Intervals) -> tuple[dict[str, Any] | None, Array]:
    """Agreement in the order of replies over all pairs of judges of a table; always drawn by speech cluster."""
    if not len(scores.speech):
        return None, np.array([np.nan])
    sums, replies = [np.zeros((0, 6))], [np.zeros(0, dtype=np.int64)]
    for pair in table.overalls:
        part, rows = order_sums(pair.first, pair.second, scores.speech[pair.reply])
        sums.append(part)
        replies.append(pair.reply[rows])
    clusters = np.unique(scores.cluster[table.reply])
    units = np.searchsorted(clusters, scores.cluster[np.concatenate(replies)]).astype(np.int64)
    settings = {"count": len(clusters), "bootstrap": intervals.bootstrap, "seed": intervals.seed}
    return order_agreement(np.vstack(sums), units, **settings)


def _human(scores: Scores, intervals: Intervals) -> dict[str, Any]:
    """Every judge against the people, and people against people (the ceiling), None without two of them."""
    people = [k for k, name in enumerate(scores.judges) if name.startswith(HUMAN)]
    judges = [k for k in range(len(scores.judges)) if k not in people]
    ceiling = _compare(scores, panel(scores, people), intervals)[0] if len(people) > 1 else None
    against = {}
    for judge in judges if people else []:
        table = facing(scores, judge, people)
        if len(table.reply):
            found = {**_compare(scores, table, intervals)[0], "ceiling": _beside(scores, judge, people, intervals)}
            against[scores.judges[judge]] = found
    return {"people": [scores.judges[k] for k in people], "ceiling": ceiling, "judges": against}


def _beside(scores: Scores, judge: int, people: Sequence[int], intervals: Intervals) -> dict[str, Any] | None:
    """Judge against people minus people against people, on the replies that the judge and two people rated.

    Both are taken of the same draws, so the difference has an interval of its own: a judge is above the ceiling only
    when that interval is above 0, and `reaches` it when the lower bound of its mean quadratic kappa does.
    """
    table = panel(scores, people)
    only = np.intersect1d(table.reply, scores.reply[scores.judge == judge])
    if not len(only):
        return None
    (_, mine), (_, theirs) = (
        _compare(scores, part, intervals) for part in (facing(scores, judge, people, only), panel(scores, people, only))
    )
    found: dict[str, Any] = {"n": len(only)}
    for name in AGAINST_CEILING:
        same = len(mine[name]) == len(theirs[name])
        found[name] = {
            "judge": estimate(mine[name]),
            "people": estimate(theirs[name]),
            "difference": estimate(mine[name] - theirs[name] if same else np.array([np.nan])),
        }
    low, bar = found["kappa_quadratic"]["judge"]["low"], found["kappa_quadratic"]["people"]["value"]
    found["reaches"] = None if low is None or bar is None else bool(low >= bar - MARGIN)
    return found


def _leave_one_out(scores: Scores, intervals: Intervals) -> dict[str, Any]:
    """Each judge of a panel against the mean of the others, where two or more others scored."""
    found = {}
    for k, name in enumerate(scores.judges):
        table = against_others(scores, k)
        if not len(table.reply):
            continue
        row = _compare(scores, table, intervals)[0]
        found[name] = {
            "n": row["n"],
            "principles": {p: _only(part, ("n", *AGAINST_OTHERS)) for p, part in row["principles"].items()},
            "mean": _only(row["mean"], AGAINST_OTHERS),
            "overall": _only(row["overall"], ("n", *AGAINST_OTHERS)),
            "order": row["order"],
        }
    return found


def _only(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: row[name] for name in names}
