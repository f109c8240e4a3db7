"""Our win rate as an Inspect task (inspect_ai), and the replies of an Inspect log as a recording. Needs
psychocounsel[inspect]."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer
from inspect_ai.solver import TaskState, generate

from psychocounsel.errors import UserError
from psychocounsel.evals.protocol import Protocol, open_protocol
from psychocounsel.evaluate.contest.arena import speech_values
from psychocounsel.records import Verdict, write_rows

ROLES = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
LIST = Sequence[str] | str
_protocols: dict[str, Protocol] = {}  # by folder: a metric is made anew by the framework and finds its protocol here


@task
def counselling(
    speeches: str,
    baseline: str,
    judges: LIST,
    folder: str,
    candidate: str = "candidate",
    labelled_by: LIST = (),
    families: LIST = (),
    allow_dependent: bool = False,
    limit: int | None = None,
    seed: int = 0,
) -> Task:
    """Reply to client speeches; judged against a baseline in both orders.

    Arguments as in `open_protocol`, lists with commas on the command line:
    `inspect eval psychocounsel/counselling -T speeches=... -T baseline=... -T judges=... -T folder=... --model ...`.
    """
    found = open_protocol(
        speeches, baseline, _several(judges), folder, candidate=candidate, labelled_by=_several(labelled_by),
        families=_several(families), allow_dependent=allow_dependent, limit=limit, seed=seed,
    )  # fmt: skip
    _protocols[str(found.folder)] = found
    samples = [
        Sample(
            id=speech.id,
            input=[ROLES[message["role"]](content=message["content"]) for message in found.messages(speech)],
            metadata={"cluster": speech.cluster, "topic": speech.topic or "unknown"},
        )
        for speech in found.speeches
        if speech.id in found.replies
    ]
    return Task(
        dataset=MemoryDataset(samples, name="psychocounsel"),
        solver=generate(),
        scorer=arena(str(found.folder)),
        metrics=[win_rate(str(found.folder))],
        metadata={"baseline": found.baseline, "dependent": list(found.dependent)},
    )


@metric
def win_rate(folder: str) -> Metric:
    """The win rate over speeches, its 95 % interval over clusters, and the share of speeches without a value."""

    def measure(scores: list[SampleScore]) -> dict[str, float]:
        verdicts = [Verdict.model_validate(row) for one in scores for row in (one.score.metadata or {})["verdicts"]]
        found = _protocols[folder].result(verdicts)
        missing = sum(not (one.score.metadata or {})["verdicts"] for one in scores)
        figure = found.win_rate if found else None
        numbers = {"win_rate": figure.value, "low": figure.low, "high": figure.high} if figure else {}
        told = {key: float("nan") if value is None else value for key, value in numbers.items()}
        return told | {"missing": (missing + (found.missing if found else 0)) / max(len(scores), 1)}

    return measure  # type: ignore[return-value]


@scorer(metrics=[])
def arena(folder: str) -> Scorer:
    """Judges the reply of a sample against the baseline's. NaN where there is no verdict in both orders."""
    turn = asyncio.Lock()  # one at a time: the call store belongs to one thread

    async def score(state: TaskState, target: Target) -> Score:
        text = state.output.completion
        async with turn:
            verdicts = await asyncio.to_thread(_protocols[folder].judge, {str(state.sample_id): text})
        value = speech_values(verdicts).get(str(state.sample_id), float("nan"))
        told = [verdict.model_dump(mode="json") for verdict in verdicts]
        return Score(value=value, answer=text, metadata={"verdicts": told})

    return score


def write_recording(log: EvalLog | str | Path, target: Path | str) -> int:
    """Write the replies of an Inspect log as a recording for `eval winrate --candidate recorded:FILE`, and count them.

    Raises UserError for a log without any reply.
    """
    read = log if isinstance(log, EvalLog) else read_eval_log(str(log))
    rows: list[dict[str, Any]] = [
        {"speech_id": str(sample.id), "model": read.eval.model, "text": sample.output.completion}
        for sample in read.samples or []
        if sample.epoch == 1 and sample.output.completion
    ]
    if not rows:
        raise UserError(f"{read.location or log}: holds no reply; did the evaluation finish?")
    return write_rows(Path(target), rows)


def _several(names: LIST) -> list[str]:
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
