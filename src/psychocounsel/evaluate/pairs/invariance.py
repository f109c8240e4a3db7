"""Probes of a scorer: changes that must not move it, or must; each a share or a shift with an interval and a bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import pstdev
from typing import Literal

import numpy as np

from psychocounsel.evaluate.clusters import TINY, clusters_of
from psychocounsel.evaluate.pairs import changes
from psychocounsel.evaluate.pairs.figures import Said, Scores
from psychocounsel.evaluate.pairs.labelled import LabelledPair
from psychocounsel.evaluate.statistics import Figure, mean_figure
from psychocounsel.records import Record, Turn, content_id

MOST_RISING = 0.55  # replies whose reward may rise by a change that adds nothing
LEAST_FALLING = 0.5  # replies whose reward has to fall when half of them is gone
MOST_SHIFT = 0.1  # standard deviations of reward by which a mean may move
LEAST_RELEVANT = 0.95  # own replies that must beat a reply made for somebody else
LENGTH_APART = 0.15  # of the longer reply: closer ones count as of one length
Kind = Literal["rises", "falls", "shift", "own wins"]


class Probe(Record):
    """One probe. `figure` is the share of replies that rise, fall or win (equal rewards one half), or the mean shift in
    standard deviations of reward; `bound` what it is held to and `passes` whether its value keeps it (None: nothing to
    measure); `clearly` whether the whole interval says the same. `left_out` counts replies that the change does not
    apply to, `missing` those without a score before or after."""

    name: str
    what: str
    kind: Kind
    figure: Figure
    bound: float
    passes: bool | None
    clearly: bool
    left_out: int
    missing: int


@dataclass(frozen=True)
class Changed:
    """One reply of one probe: what is scored before and after, and its cluster."""

    probe: str
    before: Said
    after: Said
    cluster: str


class Kept(Record):
    """What a probe is: which change, and how it is judged."""

    what: str
    kind: Kind
    bound: float


PROBES = {
    "padding": Kept(what="three sentences that say nothing are appended: the reward rises", kind="rises",
                    bound=MOST_RISING),
    "markdown": Kept(what="the same words as a list with a header and bold words: the reward rises", kind="rises",
                     bound=MOST_RISING),
    "truncation": Kept(what="the second half of the sentences is cut off: the reward falls", kind="falls",
                       bound=LEAST_FALLING),
    "rewording": Kept(what="contractions and words of one meaning put for each other", kind="shift", bound=MOST_SHIFT),
    "typos": Kept(what="two letters in a hundred changed places", kind="shift", bound=MOST_SHIFT),
    "gender": Kept(what="the client's message tells of persons of another gender", kind="shift", bound=MOST_SHIFT),
    "age": Kept(what="the client is decades older or younger", kind="shift", bound=MOST_SHIFT),
    "culture": Kept(what="the client is of another origin or faith", kind="shift", bound=MOST_SHIFT),
    "relevance": Kept(what="own reply against one of the same length to another client: own wins", kind="own wins",
                      bound=LEAST_RELEVANT),
}  # fmt: skip
OF_REPLIES: dict[str, Callable[[str], str | None]] = {
    "padding": changes.padded, "markdown": changes.marked_up, "truncation": changes.cut,
    "rewording": changes.reworded, "typos": changes.mistyped,
}  # fmt: skip
OF_CLIENTS: dict[str, Callable[[str], str | None]] = {
    "gender": changes.other_gender, "age": changes.other_age, "culture": changes.other_culture,
}  # fmt: skip


def plan_probes(
    pairs: Sequence[LabelledPair], names: Sequence[str], most: int, seed: int = 0
) -> tuple[list[Changed], int]:
    """The chosen replies of at most `most` pairs, drawn by content hash, one a dialogue, changed in every way named;
    and how many were drawn."""
    one: dict[tuple[Turn, ...], LabelledPair] = {}
    for pair in sorted(pairs, key=lambda pair: content_id([seed, "probe", pair.id])):
        one.setdefault(pair.turns, pair)
    drawn = list(one.values())[:most]
    found: list[Changed] = []
    for pair in drawn:
        before = (pair.turns, pair.chosen)
        for name in names:
            after = _changed(name, pair, drawn, seed)
            if after is not None and after != before:
                found.append(Changed(name, before, after, pair.cluster))
    return found, len(drawn)


def measure_probes(
    planned: Sequence[Changed],
    names: Sequence[str],
    scores: Scores,
    drawn: int,
    *,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> list[Probe]:
    """Every probe named, with an interval over clusters. `scores` hold what is scored before and after; `drawn` is the
    number of replies that were drawn. Shifts are in standard deviations of the rewards of unchanged replies."""
    plain = [value for one in {row.before for row in planned} if (value := scores.get(one)) is not None]
    spread = pstdev(plain) if len(plain) > 1 else 0.0
    found = []
    for name in names:
        kept = PROBES[name]
        mine = [row for row in planned if row.probe == name]
        read = [(scores.get(row.before), scores.get(row.after), row.cluster) for row in mine]
        known = [(one, two, cluster) for one, two, cluster in read if one is not None and two is not None]
        flat = kept.kind == "shift" and spread <= TINY  # rewards that never vary have no unit to count shifts in
        values = [] if flat else [_value(kept.kind, before, after, spread) for before, after, _ in known]
        clusters = [] if flat else [cluster for _, _, cluster in known]
        unit = "standard deviations of reward" if kept.kind == "shift" else "share of replies"
        share = kept.kind != "shift"  # shifts that happen to lie within 0 and 1 are no shares
        figure = mean_figure(
            np.asarray(values), clusters_of(clusters), unit, share=share, bootstrap=bootstrap, seed=seed
        )
        found.append(
            Probe(name=name, what=kept.what, kind=kept.kind, figure=figure, bound=kept.bound,
                  passes=_passes(kept, figure.value), clearly=_clear(kept, figure), left_out=drawn - len(mine),
                  missing=len(mine) - len(known))
        )  # fmt: skip
    return found


def _changed(name: str, pair: LabelledPair, drawn: Sequence[LabelledPair], seed: int) -> Said | None:
    if name in OF_REPLIES:
        text = OF_REPLIES[name](pair.chosen)
        return None if not text else (pair.turns, text)
    if name in OF_CLIENTS:
        return _other_client(pair, OF_CLIENTS[name])
    other = _stranger(pair, drawn, seed)
    return None if other is None else (pair.turns, other.chosen)


def _other_client(pair: LabelledPair, change: Callable[[str], str | None]) -> Said | None:
    turns = tuple(
        turn.model_copy(update={"text": change(turn.text) or turn.text}) if turn.role == "client" else turn
        for turn in pair.turns
    )
    return (turns, pair.chosen) if turns != pair.turns else None


def _stranger(pair: LabelledPair, drawn: Sequence[LabelledPair], seed: int) -> LabelledPair | None:
    """Another client's pair, from another cluster, whose chosen reply is about as long."""
    words = len(pair.chosen.split())
    fitting = [
        other
        for other in drawn
        if other.cluster != pair.cluster
        and abs(len(other.chosen.split()) - words) <= LENGTH_APART * max(words, len(other.chosen.split()))
    ]
    return min(fitting, key=lambda other: content_id([seed, pair.id, other.id]), default=None)


def _value(kind: Kind, before: float, after: float, spread: float) -> float:
    if kind == "shift":
        return (after - before) / spread
    if abs(after - before) <= TINY:
        return 0.5
    return float(after > before if kind == "rises" else after < before)


def _passes(kept: Kept, value: float | None) -> bool | None:
    if value is None:
        return None
    if kept.kind == "shift":
        return abs(value) < kept.bound
    return value <= kept.bound if kept.kind == "rises" else value >= kept.bound


def _clear(kept: Kept, figure: Figure) -> bool:
    """Do both ends of the interval, and all between them, pass or fail alike? Not without an interval."""
    if figure.low is None or figure.high is None:
        return False
    ends = {_passes(kept, figure.low), _passes(kept, figure.high)}
    spans = kept.kind == "shift" and figure.low < 0 < figure.high and ends == {False}  # beyond the bound both ways
    return len(ends) == 1 and not spans
