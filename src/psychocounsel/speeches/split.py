"""Train, dev and test: by cluster, so that no near-duplicate straddles them, and stratified by topic."""

from __future__ import annotations

from collections.abc import Sequence

from psychocounsel.recipe import SpeechesTable
from psychocounsel.records import Speech, Split, content_id

HELD_OUT: tuple[Split, ...] = ("arena", "test", "dev", "train")


def standing_for(kept: Speech, dropped: Speech) -> Speech:
    """The kept one of two equal speeches, in the split further from training that either source fixed: a row that is
    dropped as a duplicate of another is still held out."""
    fixed = [speech.split for speech in (kept, dropped) if speech.split is not None]
    furthest = min(fixed, key=HELD_OUT.index, default=None)
    return kept if furthest == kept.split else kept.model_copy(update={"split": furthest})


def split(speeches: Sequence[Speech], table: SpeechesTable, seed: int) -> list[Speech]:
    """Give each speech its split, by cluster, stratified by topic; a split a source fixed (arena, test) stays.

    Clusters are walked in the order of (topic, content hash) and dealt out evenly, so every topic gets its share.
    Where a source fixed several splits within a cluster, the one furthest from training takes all of it.
    """
    fixed: dict[str, Split] = {}
    for speech in speeches:
        if speech.split is not None:
            fixed[speech.cluster] = min(speech.split, fixed.get(speech.cluster, speech.split), key=HELD_OUT.index)
    first = {speech.cluster: speech for speech in sorted(speeches, key=lambda speech: speech.id, reverse=True)}
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
