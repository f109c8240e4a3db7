"""Stage 1: collect client speeches, clean and protect them, group near-duplicates, give topics, split with proof."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psychocounsel.engine import HERE, Engine
from psychocounsel.errors import UserError
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.recipe import SpeechesTable
from psychocounsel.records import Speech, content_id
from psychocounsel.speeches.clean import Drop, clean, drop
from psychocounsel.speeches.dedup import merged, near_duplicates
from psychocounsel.speeches.leakage import leakage
from psychocounsel.speeches.privacy import ReadMore, protect
from psychocounsel.speeches.split import split, standing_for
from psychocounsel.speeches.topics import Topics


@dataclass
class Collection:
    """The outcome of the stage: kept speeches, why each other row was dropped, and what was found on the way.

    `pseudonyms` undoes the protection of personal data and belongs into no published place.
    """

    read: int
    speeches: list[Speech]
    dropped: list[Drop] = field(default_factory=list)
    topics: Topics = field(default_factory=lambda: Topics([]))
    privacy: dict[str, Any] = field(default_factory=dict)
    pseudonyms: dict[str, dict[str, str]] = field(default_factory=dict)
    leakage: dict[str, Any] = field(default_factory=dict)

    def reasons(self) -> dict[str, int]:
        """Dropped rows by reason. Together with the kept speeches they add up to `read`."""
        return dict(sorted(Counter(drop.reason for drop in self.dropped).items()))


@dataclass(frozen=True)
class Aids:
    """What the stage gets from outside: persons its sources list, a model's eyes for personal data, who gives topics,
    and (None: no comparison) texts by name that the splits are compared with."""

    known: Sequence[str] = ()
    read_more: ReadMore | None = None
    give_topics: Callable[[list[Speech]], Topics] = Topics
    external: Mapping[str, Sequence[str]] | None = None


def collect(
    raw: Sequence[Speech], table: SpeechesTable, seed: int, aids: Aids | None = None, engine: Engine = HERE
) -> Collection:
    """Clean raw speeches, replace personal data, de-duplicate and cluster, give topics, split, and compare the splits.

    Raises UserError if no speech is left.
    """
    aids = aids or Aids()
    kept, dropped = clean(raw, table, engine)
    if not kept:
        raise UserError(
            f"speeches: none of {len(raw)} rows is left after cleaning "
            f"({Collection(len(raw), [], dropped).reasons()}); loosen [speeches]"
        )
    protected = protect(kept, table.privacy, aids.known, engine, aids.read_more)
    unique, repeated = _clustered(protected.speeches, table, engine)
    topics = aids.give_topics(unique)
    speeches = split(topics.speeches, table, seed)
    found: dict[str, Any] = {}
    if aids.external is not None:
        by_split = {name: [s for s in speeches if s.split == name] for name in {str(s.split) for s in speeches}}
        found = leakage(by_split, aids.external, min(table.cluster, table.near_duplicate), engine)
    pseudonyms = {s.id: protected.pseudonyms[s.id] for s in speeches if s.id in protected.pseudonyms}
    return Collection(len(raw), speeches, dropped + repeated, topics, protected.report, pseudonyms, found)


def _clustered(kept: Sequence[Speech], table: SpeechesTable, engine: Engine) -> tuple[list[Speech], list[Drop]]:
    """Speeches with their clusters, and the later ones of near-duplicates dropped."""
    texts = [dialogue_text(speech.turns) for speech in kept]
    clusters = near_duplicates(texts, drop_at=table.near_duplicate, join_at=table.cluster, engine=engine)
    if table.encoder:
        from psychocounsel.speeches.semantic import semantic_clusters

        first = [position for position in range(len(kept)) if position not in clusters.duplicate_of]
        pairs = semantic_clusters([texts[position] for position in first], table.encoder, table.semantic, engine=engine)
        clusters = merged(clusters, [(first[one], first[other], cosine) for one, other, cosine in pairs])
    standing = list(kept)
    for later, earlier in clusters.duplicate_of.items():
        standing[earlier] = standing_for(standing[earlier], kept[later])
    unique, dropped = [], []
    for position, speech in enumerate(standing):
        partner = clusters.duplicate_of.get(position)
        if partner is None:
            unique.append(speech.model_copy(update={"cluster": content_id(kept[clusters.root[position]].id)}))
        else:
            dropped.append(drop(speech, "near-duplicate", f"of {kept[partner].id}"))
    return unique, dropped
