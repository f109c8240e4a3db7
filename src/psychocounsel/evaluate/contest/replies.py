"""Replies of policies that are compared: which pairs can be judged, what is missing, who kept to a length."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from psychocounsel.evaluate.contest.arena import Contest
from psychocounsel.evaluate.contest.tables import Compliance
from psychocounsel.evaluate.contest.verdicts import UNIT, ballots, part_of
from psychocounsel.evaluate.statistics import Figure, cluster_mean, mean_figure
from psychocounsel.records import Finish, Record, Speech, Verdict

COMPLIANT = 1.1  # times the words asked for: a reply this long has kept to them
REPLIES = "share of replies"


class Reply(NamedTuple):
    """What a policy answered. An empty text is a missing reply, whatever `finish` says; a refusal in words is one."""

    text: str
    finish: Finish
    call_id: str = ""


Replies = Mapping[tuple[str, int], Reply]  # by speech id and sample


class ReplyCounts(Record):
    """What became of a policy's replies. `missing` are those without any text: nothing there could be judged.

    `refused`, `filtered` and `truncated` (cut by the token limit) count how replies ended, with or without a text.
    `words` is the mean of those that have one, `missing_share` the share of the missing among all that were asked.
    """

    policy: str
    asked: int
    missing: int
    refused: int
    filtered: int
    truncated: int
    words: float | None
    missing_share: Figure


def words(text: str) -> int:
    """How long a reply is, as it is counted everywhere here."""
    return len(text.split())


def word_limits(replies: Replies) -> dict[tuple[str, int], int]:
    """The most words that another policy may use, by speech and sample; none where there is no reply to go by."""
    return {key: words(reply.text) for key, reply in replies.items() if reply.text}


def reply_counts(
    policy: str, replies: Replies, clusters: Mapping[str, str], *, bootstrap: int = 10_000, seed: int = 0
) -> ReplyCounts:
    """Counts of one policy's replies; `clusters` gives the cluster of each speech id."""
    keys = sorted(replies)
    ends = [replies[key].finish for key in keys]
    lengths = [words(replies[key].text) for key in keys if replies[key].text]
    return ReplyCounts(
        policy=policy,
        asked=len(keys),
        missing=len(keys) - len(lengths),
        refused=ends.count("refused"),
        filtered=ends.count("filtered"),
        truncated=ends.count("length"),
        words=round(sum(lengths) / len(lengths), 1) if lengths else None,
        missing_share=cluster_mean(
            [float(not replies[key].text) for key in keys],
            [clusters[speech] for speech, _ in keys],
            REPLIES,
            bootstrap=bootstrap,
            seed=seed,
        ),
    )


def contests(a: str, b: str, replies_a: Replies, replies_b: Replies) -> Iterator[Contest]:
    """One contest for each sample, over the speeches where both policies said something."""
    both = [key for key in sorted(replies_a.keys() & replies_b.keys()) if replies_a[key].text and replies_b[key].text]
    for sample in sorted({sample for _, sample in both}):
        keys = [key for key in both if key[1] == sample]
        texts_a, texts_b = ({key[0]: found[key].text for key in keys} for found in (replies_a, replies_b))
        yield Contest(a, b, texts_a, texts_b, sample)


def first_texts(replies_a: Replies, replies_b: Replies) -> dict[str, tuple[str, str]]:
    """Both texts of the first sample to which both policies said something, by speech id: those that are read."""
    found: dict[str, tuple[str, str]] = {}
    for key in sorted(replies_a.keys() & replies_b.keys()):
        if replies_a[key].text and replies_b[key].text:
            found.setdefault(key[0], (replies_a[key].text, replies_b[key].text))
    return found


def compliance(
    verdicts: Sequence[Verdict],
    replies: Replies,
    limits: Mapping[tuple[str, int], int],
    speeches: Mapping[str, Speech],
    judges: Collection[str],
    *,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> Compliance:
    """How far policy a kept to the words it was asked for, and its win rate over the pairs where it did.

    `replies` are those of a, `limits` what they were asked to keep to; `judges` are those of the headline.
    """
    settings = {"bootstrap": bootstrap, "seed": seed}
    clusters = {key: speech.cluster or key for key, speech in speeches.items()}
    given = [key for key in sorted(limits) if key in replies and replies[key].text]
    kept = {key for key in given if words(replies[key].text) <= COMPLIANT * limits[key]}
    where = [clusters[speech] for speech, _ in given]
    heard = [verdict for verdict in verdicts if verdict.judge in judges and (verdict.speech_id, verdict.sample) in kept]
    win_rate = Figure(value=None, n=0, unit=UNIT)
    if heard:
        table = ballots(heard, clusters)
        values = table.by_speech()
        known = np.isfinite(values)
        win_rate = mean_figure(values[known], part_of(table.clusters, known), UNIT, share=True, **settings)
    return Compliance(
        compliant=cluster_mean([float(key in kept) for key in given], where, REPLIES, **settings),
        truncated=cluster_mean([float(replies[key].finish == "length") for key in given], where, REPLIES, **settings),
        win_rate=win_rate,
    )
