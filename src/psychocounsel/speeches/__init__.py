"""Stage 1: collect client speeches, clean them with a ledger, group near-duplicates, give topics, split."""

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
from psychocounsel.speeches.split import split
from psychocounsel.speeches.topics import Topics


@dataclass
class Collection:
    """The outcome of the stage: kept speeches, why each other row was dropped, and what was found on the way."""

    read: int
    speeches: list[Speech]
    dropped: list[Drop] = field(default_factory=list)
    topics: Topics = field(default_factory=lambda: Topics([]))
    leakage: dict[str, Any] = field(default_factory=dict)

    def reasons(self) -> dict[str, int]:
        """Dropped rows by reason. Together with the kept speeches they add up to `read`."""
        return dict(sorted(Counter(drop.reason for drop in self.dropped).items()))


def collect(
    raw: Sequence[Speech],
    table: SpeechesTable,
    seed: int,
    give: Callable[[list[Speech]], Topics] = Topics,
    external: Mapping[str, Sequence[str]] | None = None,
    engine: Engine = HERE,
) -> Collection:
    """Clean, de-duplicate and cluster raw speeches, `give` them topics, split. With `external` texts by name (none is
    fine), also compare the splits with each other and with these. Raises UserError if no speech is left.
    """
    kept, dropped = clean(raw, table, engine)
    if not kept:
        raise UserError(
            f"speeches: none of {len(raw)} rows is left after cleaning "
            f"({Collection(len(raw), [], dropped).reasons()}); loosen [speeches]"
        )
    unique, repeated = _clustered(kept, table, engine)
    topics = give(unique)
    speeches = split(topics.speeches, table, seed)
    found = {}
    if external is not None:
        by_split = {name: [s for s in speeches if s.split == name] for name in {str(s.split) for s in speeches}}
        found = leakage(by_split, external, min(table.cluster, table.near_duplicate), engine)
    return Collection(len(raw), speeches, dropped + repeated, topics, found)


def _clustered(kept: Sequence[Speech], table: SpeechesTable, engine: Engine) -> tuple[list[Speech], list[Drop]]:
    """Speeches with their clusters, and the later ones of near-duplicates dropped."""
    texts = [dialogue_text(speech.turns) for speech in kept]
    clusters = near_duplicates(texts, drop_at=table.near_duplicate, join_at=table.cluster, engine=engine)
    if table.encoder:
        from psychocounsel.speeches.semantic import semantic_clusters

        first = [position for position in range(len(kept)) if position not in clusters.duplicate_of]
        pairs = semantic_clusters([texts[position] for position in first], table.encoder, table.semantic)
        clusters = merged(clusters, [(first[one], first[other], cosine) for one, other, cosine in pairs])
    unique, dropped = [], []
    for position, speech in enumerate(kept):
        partner = clusters.duplicate_of.get(position)
        if partner is None:
            unique.append(speech.model_copy(update={"cluster": content_id(kept[clusters.root[position]].id)}))
        else:
            dropped.append(drop(speech, "near-duplicate", f"of {kept[partner].id}"))
    return unique, dropped
