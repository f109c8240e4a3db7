"""Stage 1: collect client speeches, clean them with a ledger, group near-duplicates, give topics, split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from psychocounsel.errors import UserError
from psychocounsel.recipe import SpeechesTable
from psychocounsel.records import Speech, Split, content_id
from psychocounsel.speeches.clean import Drop, clean
from psychocounsel.speeches.dedup import near_duplicates


@dataclass
class Collection:
    """The outcome of the stage: kept speeches, and why each other row was dropped."""

    read: int
    speeches: list[Speech]
    dropped: list[Drop] = field(default_factory=list)

    def reasons(self) -> dict[str, int]:
        """Dropped rows by reason. Together with the kept speeches they add up to `read`."""
        return dict(sorted(Counter(drop.reason for drop in self.dropped).items()))


def collect(
    raw: Sequence[Speech],
    table: SpeechesTable,
    seed: int,
    fill_topics: Callable[[list[Speech]], list[Speech]] = list,
) -> Collection:
    """Clean, de-duplicate and cluster raw speeches, fill their topics, split. Raises UserError if none is left."""
    kept, dropped = clean(raw, table)
    clusters = near_duplicates([speech.text for speech in kept], drop_at=table.near_duplicate, join_at=table.cluster)
    unique: list[Speech] = []
    for position, speech in enumerate(kept):
        partner = clusters.duplicate_of.get(position)
        if partner is not None:
            detail = f"of {kept[partner].id}"
            dropped.append(
                Drop(source=speech.source, source_id=speech.source_id, reason="near-duplicate", detail=detail)
            )
            continue
        name = content_id(kept[clusters.root[position]].id)
        unique.append(speech.model_copy(update={"cluster": name}))
    if not unique:
        raise UserError(
            f"speeches: none of {len(raw)} rows is left after cleaning "
            f"({Collection(len(raw), [], dropped).reasons()}); loosen [speeches]"
        )
    return Collection(len(raw), split(fill_topics(unique), table, seed), dropped)


def split(speeches: Sequence[Speech], table: SpeechesTable, seed: int) -> list[Speech]:
    """Give each speech its split, by cluster, stratified by topic; a split a source fixed (arena, test) stays.

    Clusters are walked in the order of (topic, content hash) and dealt out evenly, so every topic gets its share.
    """
    fixed = {speech.cluster: speech.split for speech in speeches if speech.split is not None}
    first = {speech.cluster: speech for speech in reversed(speeches)}
    order = sorted(first, key=lambda cluster: (first[cluster].topic or "", content_id([seed, cluster])))
    free = [cluster for cluster in order if cluster not in fixed]
    held_out = _every(free, table.dev + table.test)
    test = set(_every(held_out, table.test / (table.dev + table.test or 1)))
    given: dict[str, Split] = {cluster: "train" for cluster in free}
    given |= {cluster: "test" if cluster in test else "dev" for cluster in held_out}
    return [
        speech.model_copy(update={"split": fixed.get(speech.cluster) or given[speech.cluster]}) for speech in speeches
    ]


def _every(items: Sequence[str], share: float) -> list[str]:
    """An evenly spaced share of a sequence."""
    return [item for place, item in enumerate(items) if int((place + 1) * share + 1e-9) > int(place * share + 1e-9)]
