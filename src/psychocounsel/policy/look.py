"""A look at a policy between rounds: its replies on the dev split, their rewards, and how far it has moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from psychocounsel.policy.offline import open_encoder
from psychocounsel.policy.online import Rows, Tools, sample, score, timed
from psychocounsel.policy.rewards import merits, scales_of
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.recipe import OnlineTable, PolicyTable
from psychocounsel.records import Speech, content_id, read_rows, write_rows
from psychocounsel.training.adapters import Start
from psychocounsel.training.batches import GroupFile, write_groups
from psychocounsel.training.examples import Example
from psychocounsel.training.processes import main_process, open_accelerator, together
from psychocounsel.training.reference import add_reference, frozen

REPLIES, SCORES, DIVERGENCE = "dev.jsonl", "dev-scores.jsonl", "dev-kl.jsonl"


@dataclass(frozen=True)
class Looked:
    """Rows of a look: replies, what the sources of reward say of them, and by speech the KL estimate in nats."""

    replies: Rows
    scores: Rows
    kl: dict[str, float]


def look(
    folder: Path, policy: Start, initial: Start, speeches: Sequence[Speech], table: PolicyTable, tools: Tools, seed: int
) -> Looked:
    """Answer the dev speeches with a policy, score the replies, and estimate KL(policy || initial) on them.

    Every look draws with the same seed, so that two policies differ by what they learnt and less by chance. Files
    that are there are used again. Every process calls it.
    """
    with timed(folder, "look"):
        replies = sample(folder / REPLIES, policy, speeches, table.online.dev_samples, table, tools, seed)
        scores = score(folder / SCORES, speeches, replies, tools)
        kl = {} if policy == initial else divergence(folder / DIVERGENCE, policy, initial, speeches, replies, table)
    return Looked(replies, scores, kl)


def divergence(
    path: Path, policy: Start, initial: Start, speeches: Sequence[Speech], replies: Rows, table: PolicyTable
) -> dict[str, float]:
    """By speech, the mean of log pi(reply) - log pi_initial(reply) over the policy's own replies, in nats.

    With replies sampled at temperature 1 its mean is KL(pi || pi_initial) without bias; at a lower temperature it is
    that of the policy on the replies people will see. One value may be negative, the KL divergence is not.
    """
    there = path.is_file()
    together()
    if not there:
        accelerator = open_accelerator(table)
        arrow = path.with_suffix(".arrow")
        if main_process():
            write_groups(arrow, open_encoder(policy.model, table).groups(_examples(speeches, replies)))
        together()
        found = []
        for model in (policy.model, initial.model):
            file = GroupFile(arrow)
            add_reference(frozen(model, table, accelerator), [file])
            found.append({file[place].id: values for place, values in file.references.items()})
        if main_process():
            now, then = found
            rows = ({"speech_id": key, "kl": round(fmean(now[key]) - fmean(then[key]), 6)} for key in sorted(now))
            write_rows(path, rows)
            arrow.unlink()
        together()
    return {row["speech_id"]: row["kl"] for _, row in read_rows(path)}


def _examples(speeches: Sequence[Speech], replies: Rows) -> list[Example]:
    by_speech: dict[str, Rows] = {speech.id: [] for speech in speeches}
    for row in replies:
        by_speech[row["speech_id"]].append(row)
    return [
        Example(
            speech.id,
            chat_messages(speech.turns),
            [row["text"] for row in by_speech[speech.id]],
            tokens=[tuple(row.get("ids", ())) for row in by_speech[speech.id]],
        )
        for speech in speeches
        if any(row["text"] for row in by_speech[speech.id])
    ]


def gains(now: Looked, start: Looked, online: OnlineTable) -> dict[str, float]:
    """By speech, how much better its replies are rewarded than those of the start, on the scale of the start.

    A reply without a reward is left out; a speech without any on one side has no gain.
    """
    shift = 1 + max((row["sample"] for row in start.scores), default=0)
    moved = [{**row, "sample": row["sample"] + shift} for row in now.scores]
    values = merits([*start.scores, *moved], online, scales_of(start.scores, online))
    sides: dict[str, tuple[list[float], list[float]]] = {}
    for (speech_id, number), value in values.items():
        if value is not None:
            sides.setdefault(speech_id, ([], []))[number >= shift].append(value)
    return {key: fmean(after) - fmean(before) for key, (before, after) in sides.items() if before and after}


def dev_speeches(speeches: Sequence[Speech], online: OnlineTable, seed: int) -> list[Speech]:
    """The speeches a look answers, at most `dev_speeches` by content hash: of the dev split, or where the run has
    none, a share of the train speeches, which the rounds then leave alone."""
    held = [speech for speech in speeches if speech.split == "dev"]
    order = sorted(
        held or (s for s in speeches if s.split == "train"), key=lambda speech: content_id([seed, "look", speech.id])
    )
    most = online.dev_speeches if held else min(online.dev_speeches, int(len(order) * online.hold_out))
    return sorted(order[:most], key=lambda speech: speech.id)


Standings = Sequence[tuple[float | None, Sequence[str]]]


def decide(standings: Standings, patience: int) -> tuple[int, str]:
    """(best round, why the rounds stop or ''), from the value and the alarms of each look; look 0 is the start.

    The best is the highest value without an alarm, the earlier one of equals. A look without a value comes last in
    line but before nothing: with no values at all the last round without an alarm is the best.
    """
    best, waited = 0, 0
    for place, (value, alarms) in enumerate(standings[1:], 1):
        if alarms:
            return best, f"round {place}: {'; '.join(alarms)}"
        known = standings[best][0]
        better = value is not None and (known is None or value > known)
        best, waited = (place, 0) if better or (value is None and known is None) else (best, waited + 1)
        if patience and waited >= patience:
            return best, f"no better round since round {best}"
    return best, ""
