"""What is trained on, as texts: a prompt, its replies, and preferences among them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from psychocounsel.principles.prompts import chat_messages
from psychocounsel.records import Pair, Response, Speech


@dataclass
class Example:
    """One prompt as chat messages (role, content) ending with the user, and its unique replies.

    `pairs` holds (chosen, rejected) positions among the replies. `gaps[i]` is how much better the chosen reply of pair
    i was rated, and `differences[i]` the same by principle (NaN where one has no score); the latter may be empty.
    `tokens[i]`, where there is one, holds reply i as the policy sampled it, end token included, and is trained on as
    it stands; () or an absent place means that the text is encoded.
    """

    id: str
    messages: list[dict[str, str]]
    replies: list[str]
    pairs: list[tuple[int, int]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    differences: list[list[float]] = field(default_factory=list)
    tokens: list[tuple[int, ...]] = field(default_factory=list)


def pair_examples(
    pairs: Iterable[Pair],
    speeches: Mapping[str, Speech],
    responses: Mapping[str, Response],
    principles: Sequence[str] = (),
) -> Iterator[Example]:
    """Preference pairs as one example per speech, each reply once however many pairs it is in."""
    by_speech: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_speech.setdefault(pair.speech_id, []).append(pair)
    for speech_id, found in by_speech.items():
        places: dict[str, int] = {}
        for pair in found:
            for response_id in (pair.chosen, pair.rejected):
                places.setdefault(response_id, len(places))
        yield Example(
            speech_id,
            chat_messages(speeches[speech_id].turns),
            [responses[response_id].text for response_id in places],
            [(places[pair.chosen], places[pair.rejected]) for pair in found],
            [pair.gap for pair in found],
            [[_difference(pair, name) for name in principles] for pair in found] if principles else [],
        )


def _difference(pair: Pair, principle: str) -> float:
    better, worse = pair.chosen_scores.get(principle), pair.rejected_scores.get(principle)
    return math.nan if better is None or worse is None else better - worse
