"""One contest, taken apart: the headline, each judge, each principle, length, topics, and where it went worst."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from pydantic import Field

from psychocounsel.evaluate.clusters import Array
from psychocounsel.evaluate.contest.cells import Cell, shrunk_cells
from psychocounsel.evaluate.contest.judges import Agreement, Dependence, Leaning, dependence, judge_agreement, leanings
from psychocounsel.evaluate.contest.length import LengthControlled, difficulties, length_controlled
from psychocounsel.evaluate.contest.principles import PrincipleRate, principle_rates, principle_values
from psychocounsel.evaluate.contest.style import style_density
from psychocounsel.evaluate.contest.verdicts import (
    UNIT,
    Ballots,
    Headline,
    Standing,
    ballots,
    headline,
    part_of,
    standings,
)
from psychocounsel.evaluate.significance import sign_flip
from psychocounsel.evaluate.statistics import Figure, cluster_mean
from psychocounsel.principles import Principle, load_topics
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.records import Record, Speech, Verdict

REFITS = 2_000  # of the length regression, at most: its interval needs no more
DIGITS = 4


class Judged(Record):
    """One speech of a contest: s_i, each judge's s_ik, each principle's mean, lengths of both replies in characters."""

    speech_id: str
    cluster: str
    topic: str
    value: float
    judges: dict[str, float]
    principles: dict[str, float]
    chars_a: float
    chars_b: float


class TopicCell(Record):
    """Win rate by coarse topic and principle, for a heat map."""

    topic: str
    principle: str
    value: float
    n: int


class Compliance(Record):
    """Replies asked for at most as many words as the other policy used: the share that did, truncated ones, and the win
    rate over compliant pairs."""

    compliant: Figure
    truncated: Figure
    win_rate: Figure


class Worst(Record):
    """A speech of a low value with both replies, to be read."""

    speech_id: str
    topic: str
    value: float
    speech: str
    reply_a: str
    reply_b: str
    judges: dict[str, float]
    principles: dict[str, float]


class ContestTable(Record):
    """All that is said about policy `a` against `b`, by the judges in the headline unless it is said by judge.

    `p` is the sign-flip p-value of s_i - .5, `adjusted` Holm's over the contests of the evaluation. `length` and
    `style` are None where fewer than two speeches have a value. `dependent` are judges that are not independent and
    stand in columns of their own (all of them, when none is independent: the headline is then theirs, and stamped).
    """

    a: str
    b: str
    headline: Headline
    p: float | None
    adjusted: float | None = None
    standings: tuple[Standing, ...]
    dependent: tuple[str, ...] = ()
    length: LengthControlled | None
    style: LengthControlled | None
    principles: tuple[PrincipleRate, ...]
    by_split: dict[str, Figure]
    topics: tuple[Cell, ...]
    topic_principle: tuple[TopicCell, ...]
    dependence: Dependence | None
    agreement: Agreement | None
    leanings: tuple[Leaning, ...]
    compliance: Compliance | None = None
    speeches: tuple[Judged, ...]
    worst: tuple[Worst, ...] = Field(default=())


class PolicyDifference(Record):
    """Two candidates against the same baseline on the same speeches: s_i of `a` minus that of `b`."""

    a: str
    b: str
    difference: Figure
    p: float
    adjusted: float | None


def contest_table(
    verdicts: Sequence[Verdict],
    speeches: Mapping[str, Speech],
    principles: Sequence[Principle],
    *,
    dependent: Collection[str] = (),
    texts: Mapping[str, tuple[str, str]] | None = None,
    others: Mapping[str, Mapping[str, float]] | None = None,
    bootstrap: int = 10_000,
    seed: int = 0,
    worst: int = 20,
) -> ContestTable:
    """Everything about the verdicts of one contest. `dependent` names judges that are not independent.

    `texts` gives the replies of a and b (of the first sample) by speech id: for style, and for the worst items.
    `others` gives s_i by speech of other policies against the same baseline; with three or more of them the length
    regression knows how hard a speech is. Raises UserError as `verdicts.ballots` does.
    """
    settings = {"bootstrap": bootstrap, "seed": seed}
    clusters = {key: speech.cluster or speech.id for key, speech in speeches.items()}
    everybody = ballots(verdicts, clusters)
    panel = [judge for judge in everybody.judges if judge not in dependent] or list(everybody.judges)
    heard = [verdict for verdict in verdicts if verdict.judge in panel]
    table = ballots(heard, clusters)
    rows = standings(everybody, **settings)
    head = headline(table, [row for row in rows if row.judge in panel], **settings)
    values = table.by_speech(head.judges) if head.judges else np.full(len(table.speeches), np.nan)
    by_principle = principle_values(heard, clusters, principles, head.judges) if head.judges else {}
    known = np.isfinite(values)
    judged = _judged(table, everybody, values, by_principle, speeches)
    several = len(everybody.judges) > 1
    return ContestTable(
        a=table.a,
        b=table.b,
        headline=head,
        p=_sign_p(table, values, settings),
        standings=tuple(rows),
        dependent=tuple(judge for judge in everybody.judges if judge in dependent),
        length=_length(table, values, None, others, settings),
        style=_length(table, values, texts, others, settings) if texts else None,
        principles=tuple(principle_rates(table, values, by_principle, principles, **settings)) if by_principle else (),
        by_split=_by_split(judged, speeches, settings),
        topics=tuple(shrunk_cells([j.value for j in judged], [j.cluster for j in judged], [j.topic for j in judged]))
        if known.any()
        else (),
        topic_principle=_topic_principle(judged),
        dependence=dependence(table, head.judges) if head.judges else None,
        agreement=judge_agreement(everybody) if several else None,
        leanings=tuple(leanings(everybody, **settings)) if several else (),
        speeches=tuple(judged),
        worst=tuple(_worst(judged, speeches, texts, worst)) if texts else (),
    )


def _sign_p(table: Ballots, values: Array, settings: Mapping[str, int]) -> float | None:
    known = np.isfinite(values)
    if not known.any():
        return None
    clusters = part_of(table.clusters, known)
    return round(sign_flip(values[known] - 0.5, clusters, draws=settings["bootstrap"], seed=settings["seed"]), 6)


def _length(
    table: Ballots,
    values: Array,
    texts: Mapping[str, tuple[str, str]] | None,
    others: Mapping[str, Mapping[str, float]] | None,
    settings: Mapping[str, int],
) -> LengthControlled | None:
    """Length control, and with `texts` style control as well; None for fewer than two speeches with a value."""
    known = np.isfinite(values)
    names = [name for name, there in zip(table.speeches, known, strict=True) if there]
    if texts is not None:
        known &= np.array([name in texts for name in table.speeches])
        names = [name for name in names if name in texts]
    if len(names) < 2:
        return None
    gamma = None
    if others:
        by_policy = {key: [row.get(name, np.nan) for name in table.speeches] for key, row in others.items()}
        gamma = difficulties({**by_policy, table.a: values}, table.a)
    style = None
    if texts is not None:
        style = np.array([np.subtract(style_density(texts[name][0]), style_density(texts[name][1])) for name in names])
    return length_controlled(
        values[known],
        [str(number) for number in table.clusters.member[known]],
        table.chars_a[known],
        table.chars_b[known],
        difficulty=None if gamma is None else gamma[known],
        style=style,
        bootstrap=min(settings["bootstrap"], REFITS),
        seed=settings["seed"],
    )


def _judged(
    table: Ballots,
    everybody: Ballots,
    values: Array,
    by_principle: Mapping[str, Array],
    speeches: Mapping[str, Speech],
) -> list[Judged]:
    topics = load_topics()
    by_judge = dict(zip(everybody.speeches, everybody.by_judge, strict=True))
    found = []
    for at, name in enumerate(table.speeches):
        if not np.isfinite(values[at]):
            continue
        topic = topics.get(speeches[name].topic or "")
        said = zip(everybody.judges, by_judge[name], strict=True)
        found.append(
            Judged(
                speech_id=name,
                cluster=speeches[name].cluster or name,
                topic=topic.coarse if topic else "unknown",
                value=round(float(values[at]), DIGITS + 2),
                judges={judge: round(float(value), DIGITS) for judge, value in said if np.isfinite(value)},
                principles={
                    key: round(float(column[at]), DIGITS + 2)
                    for key, column in by_principle.items()
                    if np.isfinite(column[at])
                },
                chars_a=round(float(table.chars_a[at]), 2),
                chars_b=round(float(table.chars_b[at]), 2),
            )
        )
    return found


def _by_split(
    judged: Sequence[Judged], speeches: Mapping[str, Speech], settings: Mapping[str, int]
) -> dict[str, Figure]:
    parts: dict[str, list[Judged]] = defaultdict(list)
    for row in judged:
        parts[speeches[row.speech_id].split or "unknown"].append(row)
    return {
        key: cluster_mean([row.value for row in part], [row.cluster for row in part], UNIT, **settings)
        for key, part in sorted(parts.items())
    }


def _topic_principle(judged: Sequence[Judged]) -> tuple[TopicCell, ...]:
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in judged:
        for key, value in row.principles.items():
            cells[row.topic, key].append(value)
    return tuple(
        TopicCell(topic=topic, principle=key, value=round(sum(values) / len(values), DIGITS), n=len(values))
        for (topic, key), values in sorted(cells.items())
    )


def _worst(
    judged: Sequence[Judged], speeches: Mapping[str, Speech], texts: Mapping[str, tuple[str, str]], most: int
) -> list[Worst]:
    """The speeches of the lowest values; among equals those that judges agree on least."""

    def order(row: Judged) -> tuple[float, float, str]:
        return row.value, min(row.judges.values()) - max(row.judges.values()), row.speech_id

    shown = sorted((row for row in judged if row.speech_id in texts), key=order)[:most]
    return [
        Worst(
            speech_id=row.speech_id,
            topic=row.topic,
            value=row.value,
            speech=dialogue_text(speeches[row.speech_id].turns),
            reply_a=texts[row.speech_id][0],
            reply_b=texts[row.speech_id][1],
            judges=row.judges,
            principles=row.principles,
        )
        for row in shown
    ]
