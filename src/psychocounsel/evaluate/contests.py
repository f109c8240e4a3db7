"""One contest, taken apart: the headline, each judge, each principle, length, topics, and where it went worst."""

from __future__ import annotations

from pydantic import Field

from psychocounsel.evaluate.cells import Cell
from psychocounsel.evaluate.judges import Agreement, Dependence, Leaning
from psychocounsel.evaluate.length import LengthControlled
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.evaluate.verdicts import Headline, Standing
from psychocounsel.records import Record


class PrincipleRate(Record):
    """The win rate by one principle. `adjusted` is Holm's p over all principles; `weight` what a verdict on this
    principle is worth in the overall one (a logit of overall on all of them), None where it cannot be told."""

    id: str
    name: str
    win_rate: Figure
    p: float | None
    adjusted: float | None
    weight: Figure | None


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
