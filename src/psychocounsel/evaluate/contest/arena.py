"""The arena: two policies answer the same speeches, judges compare, in both orders; missing is never a tie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluate.statistics import Figure, cluster_mean
from psychocounsel.models.calls import together
from psychocounsel.models.store import CallStore
from psychocounsel.principles import Principle
from psychocounsel.progress import progress
from psychocounsel.ratings.judge import Judge
from psychocounsel.records import Speech, Verdict


@dataclass(frozen=True)
class Contest:
    """Policy `a` (the candidate) against policy `b` (the baseline) on speeches both answered."""

    a: str
    b: str
    replies_a: Mapping[str, str]
    replies_b: Mapping[str, str]
    sample: int = 0


def hold(
    contest: Contest,
    speeches: Sequence[Speech],
    judges: Sequence[Judge],
    principles: tuple[Principle, ...],
    store: CallStore,
) -> list[Verdict]:
    """All verdicts of a contest: every speech, every judge, both orders. Identical replies tie without a call."""
    if set(contest.replies_a) != set(contest.replies_b):
        raise UserError(f"evaluate: {contest.a} and {contest.b} did not answer the same speeches")
    jobs = [(speech, judge, a_first) for judge in judges for speech in speeches for a_first in (True, False)]
    with progress(f"{contest.a} against {contest.b}", len(jobs)) as advance:

        async def one(speech: Speech, judge: Judge, a_first: bool) -> Verdict:
            verdict = await _verdict(contest, speech, judge, a_first, principles, store)
            advance(note=store.budget.told() if store.budget else "")
            return verdict

        def lane(judge: Judge) -> Iterator[tuple[int, Coroutine[Any, Any, Verdict]]]:
            return ((place, one(*job)) for place, job in enumerate(jobs) if job[1] is judge)

        models = [model for judge in judges if (model := getattr(judge, "model", None))]
        return together([(judge.concurrency, lane(judge)) for judge in judges], store, models)


async def _verdict(
    contest: Contest,
    speech: Speech,
    judge: Judge,
    a_first: bool,
    principles: tuple[Principle, ...],
    store: CallStore,
) -> Verdict:
    a, b = contest.replies_a[speech.id], contest.replies_b[speech.id]
    value: float | None = 0.5
    by_principle: dict[str, float] = {principle.id: 0.5 for principle in principles}
    call_id = ""
    if a != b:
        first, second = (a, b) if a_first else (b, a)
        found = await judge.compare(speech, first, second, principles, store)
        value, by_principle, call_id = found.value, dict(found.principles), found.call_id
        if not a_first:  # un-swap: the value is always that of policy a
            value = None if value is None else 1 - value
            by_principle = {key: 1 - number for key, number in by_principle.items()}
    return Verdict(
        speech_id=speech.id, a=contest.a, b=contest.b, judge=judge.name, sample=contest.sample, a_first=a_first,
        value=value, principles=by_principle, words_a=len(a.split()), words_b=len(b.split()),
        chars_a=len(a), chars_b=len(b), call_id=call_id,
    )  # fmt: skip


def speech_values(verdicts: Sequence[Verdict], principle: str = "") -> dict[str, float]:
    """One value per speech: the mean over judges and samples of the mean over both orders.

    A judge counts for a sample only with both orders answered; speeches without any such judge are missing.
    """
    found: dict[tuple[str, str, int], dict[bool, float]] = defaultdict(dict)
    for verdict in verdicts:
        value = verdict.principles.get(principle) if principle else verdict.value
        if value is not None:
            found[verdict.speech_id, verdict.judge, verdict.sample][verdict.a_first] = value
    by_speech: dict[str, list[float]] = defaultdict(list)
    for (speech_id, _, _), orders in found.items():
        if len(orders) == 2:
            by_speech[speech_id].append(sum(orders.values()) / 2)
    return {speech_id: sum(values) / len(values) for speech_id, values in by_speech.items()}


def win_rate(
    verdicts: Sequence[Verdict],
    speeches: Mapping[str, Speech],
    *,
    bootstrap: int,
    seed: int,
    principle: str = "",
) -> Figure:
    """Mean value over speeches, ties one half, with an interval by speech cluster."""
    values = speech_values(verdicts, principle)
    clusters = [speeches[speech_id].cluster for speech_id in values]
    return cluster_mean(list(values.values()), clusters, "share of speeches", bootstrap=bootstrap, seed=seed)
