"""Hard test pairs: near ties, replies of one length, replies of one model. Best against worst alone is too easy."""

from __future__ import annotations

from psychocounsel.recipe import PairsTable
from psychocounsel.records import Pair

HARD_SETS = ("near-ties", "length-matched", "same-model")


def hard_sets(pair: Pair, words: tuple[int, int], same_model: bool, table: PairsTable) -> list[str]:
    """The hard sets a pair of a test speech belongs to; `words` are those of the chosen and the rejected reply.

    A near tie lies below `test_gap`; where several judges rated both, more than half of them must put the chosen one
    first, or the label is noise. The other sets keep `test_gap`, so that only length or model is hard about them.
    """
    if pair.gap < table.test_gap:
        return ["near-ties"] if pair.judges < 2 or pair.votes > 0.5 else []
    matched = abs(words[0] - words[1]) <= table.length_tolerance * max(words)
    return [name for name, holds in (("length-matched", matched), ("same-model", same_model)) if holds]
