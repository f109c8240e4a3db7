"""Ratings as arrays, and the tables that coefficients are taken of: all judges, two judges, a judge against people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psychocounsel.principles import Principle
from psychocounsel.ratings.reliability import Array
from psychocounsel.records import Rating

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Ratings in long form, sorted by reply and judge. `values` is (ratings, principles + 1), overall score last.

    `speech` and `cluster` hold a code for each reply; both are empty when nobody says which speech a reply belongs to.
    """

    principles: tuple[str, ...]
    judges: tuple[str, ...]
    reply: Codes
    judge: Codes
    values: Array
    speech: Codes
    cluster: Codes


@dataclass(frozen=True)
class Overalls:
    """The overall scores of two judges for the replies both rated."""

    first: Array
    second: Array
    reply: Codes


@dataclass(frozen=True)
class Table:
    """A row for each reply (or reply and person): `scores` is (rows, columns, principles + 1), NaN for none.

    `raters` may be more than columns where each reply has few of them. `overalls` holds every pair of judges compared.
    """

    scores: Array
    reply: Codes
    raters: int
    overalls: tuple[Overalls, ...]


def long_form(
    ratings: Iterable[Rating],
    principles: Sequence[Principle],
    speech_of: Mapping[str, str] | None = None,
    cluster_of: Mapping[str, str] | None = None,
) -> Scores:
    """Ratings as arrays. The overall score is the plain mean of the principles with a score, as the paper has it.

    Weights and gates are decided when pairs are made, so that they can change without rating anew. The first rating of
    a reply by a judge counts. A reply without a known speech is a speech of its own.
    """
    first: dict[tuple[str, str], Rating] = {}
    for rating in ratings:
        first.setdefault((rating.response_id, rating.judge), rating)
    rows = [first[key] for key in sorted(first)]
    judges, judge = _codes([row.judge for row in rows])
    replies, reply = _codes([row.response_id for row in rows])
    values = np.full((len(rows), len(principles) + 1), np.nan)
    for k, row in enumerate(rows):
        known = [score for p in principles if (score := row.scores.get(p.id)) is not None]
        scores = (row.scores.get(p.id) for p in principles)
        values[k, :-1] = [np.nan if score is None else score for score in scores]
        values[k, -1] = sum(known) / len(known) if known else np.nan
    speech = cluster = np.zeros(0, dtype=np.int64)
    if speech_of is not None:
        speeches = [speech_of.get(name, name) for name in replies]
        speech = _codes(speeches)[1]
        cluster = _codes([(cluster_of or {}).get(name) or name for name in speeches])[1]
    return Scores(tuple(principle.id for principle in principles), judges, reply, judge, values, speech, cluster)


def _codes(names: Sequence[str]) -> tuple[tuple[str, ...], Codes]:
    known = sorted(set(names))
    place = {name: k for k, name in enumerate(known)}
    return tuple(known), np.array([place[name] for name in names], dtype=np.int64)


def panel(scores: Scores, judges: Iterable[int], only: Codes | None = None) -> Table:
    """All replies that two or more of these judges rated. Columns follow the judges' names, gaps at the end."""
    chosen = sorted(judges)
    kept = np.isin(scores.judge, chosen)
    if only is not None:
        kept &= np.isin(scores.reply, only)
    rows = np.flatnonzero(kept)
    replies, start, counts = np.unique(scores.reply[rows], return_index=True, return_counts=True)
    shared = counts > 1
    cube = np.full((int(shared.sum()), int(counts.max(initial=0)), scores.values.shape[1]), np.nan)
    for k in range(cube.shape[1]):  # rows are sorted by reply: the k-th rating of a reply stands k after its first
        has = counts[shared] > k
        cube[has, k] = scores.values[rows[start[shared][has] + k]]
    pairs = [shared_overalls(scores, a, b, only) for i, a in enumerate(chosen) for b in chosen[i + 1 :]]
    return Table(cube, replies[shared], len(chosen), tuple(pair for pair in pairs if len(pair.reply)))


def facing(scores: Scores, judge: int, people: Sequence[int], only: Codes | None = None) -> Table:
    """One judge against each person: a row for each reply and person, the judge's score first."""
    found = [shared_rows(scores, judge, person, only) for person in people]
    cube = np.concatenate([np.stack([scores.values[a], scores.values[b]], axis=1) for _, a, b in found])
    replies = np.concatenate([both for both, _, _ in found])
    return Table(cube, replies, 2, tuple(shared_overalls(scores, judge, person, only) for person in people))


def against_others(scores: Scores, judge: int) -> Table:
    """One judge against the mean of the others, on replies (and principles) that two or more others scored."""
    own = np.flatnonzero(scores.judge == judge)
    width, count = scores.values.shape[1], int(scores.reply.max(initial=-1)) + 1
    rest = scores.judge != judge
    given = np.isfinite(scores.values[rest])
    totals, sizes = np.zeros((count, width)), np.zeros((count, width))
    np.add.at(totals, scores.reply[rest], np.where(given, scores.values[rest], 0.0))
    np.add.at(sizes, scores.reply[rest], given.astype(float))
    replies = scores.reply[own]
    enough = sizes[replies] >= 2
    others = np.where(enough, totals[replies] / np.maximum(sizes[replies], 1), np.nan)
    kept = enough.any(axis=1)
    cube = np.stack([scores.values[own][kept], others[kept]], axis=1)
    overalls = Overalls(cube[:, 0, -1], cube[:, 1, -1], replies[kept])
    return Table(cube, replies[kept], 2, (overalls,))


def shared_rows(scores: Scores, first: int, second: int, only: Codes | None = None) -> tuple[Codes, Codes, Codes]:
    """The replies two judges share (among `only`), and the rows of each judge's ratings of them."""
    a, b = (np.flatnonzero(scores.judge == judge) for judge in (first, second))
    both, i, j = np.intersect1d(scores.reply[a], scores.reply[b], assume_unique=True, return_indices=True)
    kept = np.isin(both, only) if only is not None else np.ones(len(both), dtype=bool)
    return both[kept], a[i][kept], b[j][kept]


def shared_overalls(scores: Scores, first: int, second: int, only: Codes | None = None) -> Overalls:
    """The overall scores of two judges for the replies both rated."""
    both, a, b = shared_rows(scores, first, second, only)
    return Overalls(scores.values[a, -1], scores.values[b, -1], both)
