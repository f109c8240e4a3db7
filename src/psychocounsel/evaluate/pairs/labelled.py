"""Labelled pairs as `eval rm` measures them, whatever they were read from; and which of them are hard."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import Field, computed_field

from psychocounsel.records import Record, Turn, content_id

ALIKE = 0.10  # replies within a tenth of the longer one are of one length
NEAR_TIE = 0.5  # a gap of overall scores, on the scale of 1 to 5, that two raters rarely agree on


class LabelledPair(Record):
    """A reply people or judges preferred, and one they did not.

    `gap` is the difference of their overall scores, `votes` the share of raters who agree with the label; None where
    the source does not say. Scores are by principle.
    """

    turns: tuple[Turn, ...] = Field(min_length=1)
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)
    cluster: str
    topic: str = ""
    chosen_model: str = ""
    rejected_model: str = ""
    gap: float | None = None
    votes: float | None = None
    chosen_scores: dict[str, float | None] = Field(default_factory=dict)
    rejected_scores: dict[str, float | None] = Field(default_factory=dict)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def id(self) -> str:
        return content_id([[turn.model_dump() for turn in self.turns], self.chosen, self.rejected])


class Choice(Record):
    """All replies to one speech of which one is known to be the best: what best-of-k is measured on."""

    turns: tuple[Turn, ...] = Field(min_length=1)
    replies: tuple[str, ...] = Field(min_length=2)
    best: int = Field(ge=0)
    cluster: str


class Rated(Record):
    """A pair that several raters ordered, also where they are divided: `pair.votes` is the share who put the chosen
    reply first, and `alike` the share of couples of raters who agree with each other."""

    pair: LabelledPair
    alike: float


@dataclass
class LabelledPairs:
    """Pairs as read, choices among several replies, pairs of several raters, who labelled, and what was left out."""

    name: str
    pairs: list[LabelledPair]
    choices: list[Choice] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    rated: list[Rated] = field(default_factory=list)
    license: str = ""
    sets: dict[str, list[LabelledPair]] = field(default_factory=dict)  # hard sets that the source has of its own
    labellers: tuple[str, ...] = ()  # as far as the source tells

    def only(self, keep: Callable[[tuple[Turn, ...]], bool], reason: str) -> LabelledPairs:
        """What belongs to the dialogues that are kept; pairs that are not are counted under the reason."""
        pairs = [pair for pair in self.pairs if keep(pair.turns)]
        counts = self.counts.copy()
        if len(pairs) < len(self.pairs):
            counts[reason] += len(self.pairs) - len(pairs)
        return replace(
            self,
            pairs=pairs,
            counts=counts,
            choices=[choice for choice in self.choices if keep(choice.turns)],
            rated=[row for row in self.rated if keep(row.pair.turns)],
            sets={name: [pair for pair in rows if keep(pair.turns)] for name, rows in self.sets.items()},
        )


def unique(pairs: Iterable[LabelledPair], counts: Counter[str]) -> list[LabelledPair]:
    """Each pair once. A pair that stands both ways round has no label: both are left out. Everything is counted."""
    known: dict[str, LabelledPair] = {}
    for pair in pairs:
        if pair.chosen == pair.rejected:
            counts["left out: both replies are the same"] += 1
        elif pair.id in known:
            counts["left out: the same pair again"] += 1
        else:
            known[pair.id] = pair
    turned = {one.id for one in known.values() if _turned(one).id in known}
    counts["left out: labelled both ways round"] += len(turned)
    counts["pairs"] += len(known) - len(turned)
    return [pair for key, pair in known.items() if key not in turned]


def hard_sets(found: LabelledPairs) -> dict[str, list[LabelledPair]]:
    """Near ties, pairs of one length and pairs of one model; those of the source itself where it has some."""
    made = {
        "near ties": [pair for pair in found.pairs if pair.gap is not None and pair.gap < NEAR_TIE],
        "one length": [pair for pair in found.pairs if one_length(pair)],
        "one model": [pair for pair in found.pairs if pair.chosen_model and pair.chosen_model == pair.rejected_model],
    }
    return {name: pairs for name, pairs in {**made, **found.sets}.items() if pairs}


def one_length(pair: LabelledPair) -> bool:
    """Are both replies of about one length, in words?"""
    words = len(pair.chosen.split()), len(pair.rejected.split())
    return abs(words[0] - words[1]) <= ALIKE * max(words)


def gap_bins(pairs: Sequence[LabelledPair]) -> dict[str, list[LabelledPair]]:
    """Pairs by their gap on the scale of 1 to 5, for those that have one."""
    edges = ((0.0, 0.5), (0.5, 1.0), (1.0, 1.5), (1.5, 2.5), (2.5, 4.01))
    binned = {
        f"gap {low:g} to {min(high, 4):g}": [pair for pair in pairs if pair.gap is not None and low <= pair.gap < high]
        for low, high in edges
    }
    return {name: rows for name, rows in binned.items() if rows}


def led_by(pairs: Sequence[LabelledPair]) -> dict[str, list[LabelledPair]]:
    """Pairs in which one principle sets the replies apart more than any other does, by that principle."""
    found: dict[str, list[LabelledPair]] = defaultdict(list)
    for pair in pairs:
        apart = {
            key: one - two
            for key, one in pair.chosen_scores.items()
            if one is not None and (two := pair.rejected_scores.get(key)) is not None
        }
        ordered = sorted(apart, key=lambda key: -apart[key])
        if ordered and apart[ordered[0]] > 0 and (len(ordered) == 1 or apart[ordered[0]] > apart[ordered[1]]):
            found[ordered[0]].append(pair)
    return dict(sorted(found.items()))


def model_pairs(pairs: Sequence[LabelledPair]) -> dict[str, list[LabelledPair]]:
    """Pairs by the two models that wrote them, the most frequent first."""
    found: dict[str, list[LabelledPair]] = defaultdict(list)
    for pair in pairs:
        if pair.chosen_model and pair.rejected_model and pair.chosen_model != pair.rejected_model:
            found[" and ".join(sorted((pair.chosen_model, pair.rejected_model)))].append(pair)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def known_topics(pairs: Sequence[LabelledPair], coarse: Mapping[str, str]) -> list[str]:
    """The coarse topic of each pair, 'unknown' where there is none."""
    return [coarse.get(pair.topic, "unknown") for pair in pairs]


def _turned(pair: LabelledPair) -> LabelledPair:
    return pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})
