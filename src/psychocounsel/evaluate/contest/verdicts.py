"""Verdicts as arrays, made once: values by speech, judge, sample and order, and what each judge is worth.

Missing is NaN and never a tie. Only pairs of verdicts in both orders count, so that a favourite place cancels out; a
pair with one of them missing is left out for that judge only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import TINY, Array, Clusters, clusters_of
from psychocounsel.evaluate.statistics import Figure, mean_figure
from psychocounsel.records import Record, Verdict

LEAST_CONSISTENT = 0.75  # a judge that turns with the order more often is kept out of the headline
LEAST_PARSED = 0.98  # and so is one that gives no verdict more often
MOST_MISSING = 0.02  # of all verdicts; beyond it the run is invalid
UNIT = "share of speeches"


@dataclass(frozen=True)
class Ballots:
    """The verdicts of one contest. `values` has shape (speeches, judges, samples, 2), the last axis a first, b first.

    A value is that of policy `a`: 1 won, 0 lost, NaN missing. `expected` marks the verdicts there should be, `called`
    those for which a judge was asked (identical replies tie without a call, and show nothing about a judge); both of
    the shape of `values`. Lengths of replies, in words and in characters, are (speeches,), means over samples.
    """

    a: str
    b: str
    speeches: tuple[str, ...]
    judges: tuple[str, ...]
    clusters: Clusters
    values: Array
    expected: NDArray[np.bool_]
    called: NDArray[np.bool_]
    words_a: Array
    words_b: Array
    chars_a: Array
    chars_b: Array

    @property
    def pairs(self) -> Array:
        """Mean over both orders, (speeches, judges, samples); NaN unless both were answered."""
        return np.asarray(self.values.mean(axis=3))

    @property
    def by_judge(self) -> Array:
        """s_ik, the mean over samples, (speeches, judges); NaN where a judge has no complete pair."""
        return _mean(self.pairs, axis=2)

    def by_speech(self, judges: Sequence[str] | None = None) -> Array:
        """s_i, the mean over judges (all, or those named), (speeches,); NaN where none of them has a complete pair."""
        chosen = self.columns(self.judges if judges is None else judges)
        return _mean(self.by_judge[:, chosen], axis=1)

    def columns(self, judges: Sequence[str]) -> list[int]:
        """Where judges stand. Raises UserError for one that gave no verdict here."""
        unknown = [name for name in judges if name not in self.judges]
        if unknown:
            raise UserError(f"evaluate: {unknown[0]} judged nothing in {self.a} against {self.b}; check the name")
        return [self.judges.index(name) for name in judges]


class Standing(Record):
    """What one judge did. `order_effect` is mean value with a shown first minus with b shown first: 0 without bias.

    `consistency` is the share of pairs judged alike after the swap (a tie is alike only with a tie), `turned` the
    share with opposite winners. `parsed` is the share of asked verdicts that came, `decided` the share of those that
    are no tie. `excluded` says why the judge does not count in the headline, '' where it does. `pairs` counts complete
    pairs, `incomplete` those left out.
    """

    judge: str
    win_rate: Figure
    order_effect: Figure
    consistency: Figure
    turned: float | None
    parsed: float | None
    decided: float | None
    pairs: int
    incomplete: int
    excluded: str


class Headline(Record):
    """The win rate of `a` over speeches, by the judges that are fit for it. `invalid` says why not to use it, '' if so.

    Strict wins, ties and losses are those of s_i, the mean over judges; `missing` counts speeches without any value.
    `missing_verdicts` is the share of the `verdicts` there should be that are not there, over all judges of the table.
    """

    a: str
    b: str
    win_rate: Figure
    wins: int
    ties: int
    losses: int
    missing: int
    missing_verdicts: float
    verdicts: int = 0
    judges: tuple[str, ...]
    excluded: dict[str, str]
    invalid: str


def ballots(verdicts: Sequence[Verdict], clusters: Mapping[str, str], principle: str = "") -> Ballots:
    """Arrays of the verdicts of one contest, in a fixed order. `clusters` gives the cluster of each speech id.

    `principle` takes the verdicts on one principle instead. A principle's missing verdict is NaN as well.

    Raises UserError for no verdicts, several contests, an unknown speech, and a verdict that is there twice: nobody can
    say which of two holds, and the last one would make the figure depend on the order of lines.
    """
    if not verdicts:
        raise UserError("evaluate: there are no verdicts; run the judges first")
    a, b = verdicts[0].a, verdicts[0].b
    speeches = sorted({verdict.speech_id for verdict in verdicts})
    judges, samples = sorted({v.judge for v in verdicts}), sorted({v.sample for v in verdicts})
    unknown = [speech for speech in speeches if speech not in clusters]
    if unknown:
        raise UserError(f"evaluate: {len(unknown)} judged speeches are not among those given, first {unknown[0]}")
    place, judge_at, sample_at = ({name: k for k, name in enumerate(row)} for row in (speeches, judges, samples))
    shape = (len(speeches), len(judges), len(samples), 2)
    values, seen, called = np.full(shape, np.nan), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    sizes = np.full((len(speeches), len(samples), 4), np.nan)
    for v in verdicts:
        if (v.a, v.b) != (a, b):
            raise UserError(f"evaluate: verdicts of {a} against {b} and of {v.a} against {v.b} in one table; part them")
        speech, sample = place[v.speech_id], sample_at[v.sample]
        at = speech, judge_at[v.judge], sample, 0 if v.a_first else 1
        if seen[at]:
            raise UserError(f"evaluate: {_named(v)} is there twice; keep one of the two")
        lengths = (v.words_a, v.words_b, v.chars_a, v.chars_b)
        if not np.isnan(sizes[speech, sample, 0]) and tuple(sizes[speech, sample]) != lengths:
            raise UserError(f"evaluate: {_named(v)} is of other replies than the one before it; judge all replies anew")
        value = v.principles.get(principle) if principle else v.value
        seen[at], called[at], sizes[speech, sample] = True, bool(v.call_id), lengths
        values[at] = np.nan if value is None else value
    expected = np.broadcast_to(seen.any(axis=(1, 3), keepdims=True), shape)
    called = np.where(called.any(axis=(0, 2, 3), keepdims=True), called | (expected & ~seen), expected)
    numbered = clusters_of([clusters[speech] for speech in speeches])
    lengths_of = _mean(sizes, axis=1).T
    return Ballots(a, b, tuple(speeches), tuple(judges), numbered, values, expected, called, *lengths_of)


def standings(table: Ballots, *, bootstrap: int = 10_000, seed: int = 0) -> list[Standing]:
    """One row for each judge, with intervals over clusters of speeches."""
    return [_standing(table, k, {"bootstrap": bootstrap, "seed": seed}) for k in range(len(table.judges))]


def headline(table: Ballots, found: Sequence[Standing], *, bootstrap: int = 10_000, seed: int = 0) -> Headline:
    """The win rate by the judges that `found` (the standings of the same table) does not exclude."""
    fit = tuple(row.judge for row in found if not row.excluded)
    values = table.by_speech(fit) if fit else np.full(len(table.speeches), np.nan)
    known = np.isfinite(values)
    side = values[known] - 0.5
    expected = int(table.expected.sum())
    missing = float((np.isnan(table.values) & table.expected).sum() / expected)
    lost = int((~known).sum())
    return Headline(
        a=table.a,
        b=table.b,
        win_rate=mean_figure(
            values[known], part_of(table.clusters, known), UNIT, share=True, bootstrap=bootstrap, seed=seed
        ),
        wins=int((side > TINY).sum()),
        ties=int((np.abs(side) <= TINY).sum()),
        losses=int((side < -TINY).sum()),
        missing=lost,
        missing_verdicts=round(missing, 6),
        verdicts=expected,
        judges=fit,
        excluded={row.judge: row.excluded for row in found if row.excluded},
        invalid=_invalid(fit, missing, lost / len(values)),
    )


def part_of(clusters: Clusters, rows: NDArray[np.bool_]) -> Clusters:
    """The clusters of some of the values, numbered anew so that none is empty."""
    found, member = np.unique(clusters.member[rows], return_inverse=True)
    return Clusters(np.asarray(member, dtype=np.int64).reshape(-1), len(found))


def pooled(table: Ballots, values: Array) -> tuple[Array, Clusters]:
    """Values by speech and sample, (speeches, samples), as one column without the missing ones, and their clusters."""
    rows = np.isfinite(values)
    member = np.broadcast_to(table.clusters.member[:, None], values.shape)[rows]
    return values[rows], part_of(Clusters(member, table.clusters.count), np.ones(len(member), dtype=bool))


def _standing(table: Ballots, k: int, settings: Mapping[str, int]) -> Standing:
    values, called, expected = table.values[:, k], table.called[:, k], table.expected[:, k]
    rated = table.by_judge[:, k]
    known = np.isfinite(rated)
    both = np.where(called.all(axis=2), values.mean(axis=2), np.nan)
    opposite = _side(values[..., 0]) * _side(values[..., 1]) < 0
    asked, answered = int(called.sum()), int((called & np.isfinite(values)).sum())
    alike = np.where(np.isfinite(both), _side(values[..., 0]) == _side(values[..., 1]), np.nan)
    effect = np.where(np.isfinite(both), values[..., 0] - values[..., 1], np.nan)
    consistency = _figure(*pooled(table, alike), "share of pairs", True, settings)
    parsed = answered / asked if asked else None
    return Standing(
        judge=table.judges[k],
        win_rate=_figure(rated[known], part_of(table.clusters, known), UNIT, True, settings),
        order_effect=_figure(*pooled(table, effect), "value first minus second", False, settings),
        consistency=consistency,
        turned=round(float(opposite[np.isfinite(both)].mean()), 6) if np.isfinite(both).any() else None,
        parsed=None if parsed is None else round(parsed, 6),
        decided=round(float((_side(values)[called & np.isfinite(values)] != 0).mean()), 6) if answered else None,
        pairs=int(np.isfinite(both).sum()),
        incomplete=int((expected.any(axis=2) & np.isnan(values.mean(axis=2))).sum()),
        excluded=_excluded(consistency.value, parsed),
    )


def _figure(values: Array, clusters: Clusters, unit: str, share: bool, settings: Mapping[str, Any]) -> Figure:
    return mean_figure(values, clusters, unit, share=share, **settings)


def _excluded(consistency: float | None, parsed: float | None) -> str:
    reasons = []
    if parsed is not None and parsed < LEAST_PARSED:
        reasons.append(f"gave a verdict in {parsed:.1%} of calls, under {LEAST_PARSED:.0%}")
    if consistency is None and parsed is not None:
        reasons.append("judged no pair in both orders")
    if consistency is not None and consistency < LEAST_CONSISTENT:
        reasons.append(f"judges {consistency:.1%} of pairs alike after the swap, under {LEAST_CONSISTENT:.0%}")
    return "; ".join(reasons)


def _invalid(fit: Sequence[str], missing: float, lost: float) -> str:
    reasons = []
    if not fit:
        reasons.append("no judge is fit for the headline")
    if missing > MOST_MISSING:
        reasons.append(f"{missing:.1%} of verdicts are missing, over {MOST_MISSING:.0%}")
    if fit and lost > MOST_MISSING:
        reasons.append(f"{lost:.1%} of speeches have no verdict in both orders, over {MOST_MISSING:.0%}")
    return "; ".join(reasons)


def _side(values: Array) -> Array:
    """-1 lost, 0 tie, 1 won."""
    return np.asarray(np.where(np.abs(values - 0.5) <= TINY, 0.0, np.sign(values - 0.5)))


def _mean(values: Array, axis: int) -> Array:
    """The mean of what is there; NaN where nothing is, without numpy's warning."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=axis) / known.sum(axis=axis))


def _named(verdict: Verdict) -> str:
    order = "a first" if verdict.a_first else "b first"
    return f"the verdict of {verdict.judge} on speech {verdict.speech_id} ({order}, sample {verdict.sample})"
