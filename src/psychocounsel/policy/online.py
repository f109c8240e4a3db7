"""Online rounds: sample from the current policy, let rewards pick best and worst, take preference steps, look."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.store import CallStore
from psychocounsel.policy.offline import open_encoder, train_policy
from psychocounsel.policy.parts import in_parts
from psychocounsel.policy.picking import pair_examples, pick_pairs
from psychocounsel.policy.rewards import Rewards, check_rewards_found, merits, quarantine, score_rows
from psychocounsel.policy.sampling import Engine, Prompt, Sampling, open_engine, owed, read_prompts
from psychocounsel.recipe import ModelsTable, OnlineTable, PolicyTable
from psychocounsel.records import SECONDS, Speech, content_id, read_rows, write_rows
from psychocounsel.training.adapters import Start
from psychocounsel.training.encoding import Encoder
from psychocounsel.training.processes import main_process, together

TRAINED = "trained.json"
SCORED_AT_ONCE = 64  # speeches; their scores are on disk before the next ones are scored
Gate = Callable[[Speech, str], str]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Tools:
    """What rounds work with beside models: rewards, the gate, the call store of the run and how models are called."""

    rewards: Sequence[Rewards]
    gate: Gate
    store: CallStore | None = None
    models: ModelsTable | None = None


def draw_speeches(speeches: Sequence[Speech], number: int, table: OnlineTable, seed: int) -> list[Speech]:
    """Speeches of round `number` (from 0): the next slice of one hash order, so none repeats until all were used."""
    order = sorted((s for s in speeches if s.split == "train"), key=lambda s: content_id([seed, "online", s.id]))
    if not order:
        raise UserError("policy.online: the train split is empty")
    count = min(table.speeches, len(order))
    start = number * count
    return [order[(start + i) % len(order)] for i in range(count)]


def run_round(
    number: int,
    start: Start,
    initial: Start,
    speeches: Sequence[Speech],
    table: PolicyTable,
    tools: Tools,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Round `number` (from 0) from the policy `start`; makes `folder/model`. `initial` started the first round.

    Each step leaves a file that is complete or absent; a killed round goes on with what is there. Every process
    calls it. Raises UserError when nothing is sampled, rewards are missing, or no pair is left.
    """
    online, where = table.online, f"policy.online round {number + 1}"
    drawn = draw_speeches(speeches, number, online, seed)
    with timed(folder, "sample"):
        rows = sample(folder / "candidates.jsonl", start, drawn, online.samples, table, tools, seed + number)
    if not any(row["text"] for row in rows):
        raise UserError(f"{where}: the policy emits nothing; check its chat template and end token")
    with timed(folder, "score"):
        scores = score(folder / "scores.jsonl", drawn, rows, tools)
    by_id = {speech.id: speech for speech in drawn}
    pairs, left_out = picked(folder, rows, scores, online, where)
    names = sorted({name for row in scores for found in row.get("principles", {}).values() for name in found})
    heads = {(row["speech_id"], row["sample"]): found for row in scores for found in row.get("principles", {}).values()}
    examples = pair_examples(pairs, rows, by_id, heads if len(tools.rewards) == 1 else {}, names)
    settings = table.model_copy(update={"lr": online.lr or table.lr})
    reference = initial.model if online.reference == "initial" and initial != start else ""
    trained = _once(
        folder / TRAINED,
        lambda: train_policy(where, start, (examples, []), settings, seed, folder, online.steps, reference=reference),
    )
    tokens = {**tokens_of(rows, drawn, open_encoder(start.model, table)), "train": trained.pop("tokens")}
    left_out = {"not sampled": len(drawn) * online.samples - len(rows), **left_out, **trained.pop("left_out")}
    return {"speeches": len(drawn), "candidates": len(rows), **trained, "left_out": left_out, "tokens": tokens}


def _once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The counts of a training that is finished, or those of making it now, which every process does together."""
    there = path.is_file()
    together()  # everyone has looked before anyone writes
    if not there:
        with timed(path.parent, "train"):
            found = make()
        if main_process():
            write_rows(path, [found])
        together()
    return next(iter(read_rows(path)))[1]


def sample(
    path: Path,
    start: Start,
    speeches: Sequence[Speech],
    samples: int,
    table: PolicyTable,
    tools: Tools,
    seed: int,
) -> Rows:
    """Replies of a policy, as rows of `path`: speech_id, sample, text, finish and, where the engine tells them, ids.

    Sampled part by part: what is there is not sampled again.
    """
    online = table.online
    there = path.is_file()
    together()  # everyone has looked before anyone writes
    if not there:
        sampling = Sampling(online.temperature, online.max_new_tokens, seed)
        prompts = read_prompts(open_encoder(start.model, table), speeches, samples)
        engine = open_engine(start, online.engine, tools.store, tools.models)
        order = sorted(prompts, key=lambda prompt: (-len(prompt.ids), prompt.id))
        width = max(1, engine.prompts_at_once(samples))
        parts = [_named(order[place : place + width], sampling) for place in range(0, len(order), width)]
        try:
            in_parts(
                path, parts, lambda part: _sampled(engine, part, sampling, online), "replies", shared=engine.shared
            )
        finally:
            engine.close()
    rows = [row for _, row in read_rows(path)]
    expected = len(speeches) * samples
    if len(rows) < expected * (1 - online.max_missing):
        raise UserError(
            f"{path}: engine '{online.engine.name}' gave {len(rows)} of {expected} replies, and "
            f"policy.online.max_missing = {online.max_missing} allows fewer to be missing; see what its server or log "
            "says, remove the file and run the same command"
        )
    return rows


def _named(prompts: list[Prompt], sampling: Sampling) -> tuple[str, list[Prompt]]:
    held = [[prompt.id, prompt.ids, list(prompt.numbers)] for prompt in prompts]
    return content_id([sampling.temperature, sampling.max_new_tokens, sampling.seed, held]), prompts


def _sampled(engine: Engine, prompts: list[Prompt], sampling: Sampling, online: OnlineTable) -> Rows:
    found = owed(engine, prompts, sampling, online.engine.retries)
    return [
        {"speech_id": prompt.id, "sample": reply.number, "text": reply.text, "finish": reply.finish,
         **({"ids": list(reply.ids)} if reply.ids else {})}
        for prompt, replies in zip(prompts, found, strict=True)
        for reply in replies
    ]  # fmt: skip


def score(path: Path, speeches: Sequence[Speech], rows: Rows, tools: Tools) -> Rows:
    """What every source says of every reply, as rows of `path`; raw, so that combining them can change without them."""
    replies: dict[str, list[tuple[int, str]]] = {speech.id: [] for speech in speeches}
    for row in rows:
        replies[row["speech_id"]].append((row["sample"], row["text"]))
    items = [(speech, replies[speech.id]) for speech in speeches]
    parts = []
    for place in range(0, len(items), SCORED_AT_ONCE):
        held = items[place : place + SCORED_AT_ONCE]
        names = [source.name for source in tools.rewards]
        parts.append((content_id([names, [[speech.id, found] for speech, found in held]]), held))
    try:
        in_parts(
            path, parts, lambda held: score_rows(tools.rewards, held, tools.gate), "rewards",
            shared=all(source.shared for source in tools.rewards),
        )  # fmt: skip
    finally:
        for source in tools.rewards:
            source.close()
    return [row for _, row in read_rows(path)]


def picked(
    folder: Path, rows: Rows, scores: Rows, online: OnlineTable, where: str
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The pairs of a round, also as pairs.jsonl; candidates without a reward go to quarantine.jsonl, with reasons."""
    if main_process():
        write_rows(folder / "quarantine.jsonl", quarantine(scores))
    check_rewards_found(scores, online, where)
    barred = {(row["speech_id"], row["sample"]): row.get("gate", "") for row in scores}
    pairs, left_out = pick_pairs(rows, merits(scores, online), barred, online)
    if not pairs:
        raise UserError(f"{where}: no pair is left ({left_out}); sample more, or lower min_margin or the other rules")
    if main_process():
        write_rows(folder / "pairs.jsonl", pairs)
    together()
    return pairs, left_out


@contextmanager
def timed(folder: Path, step: str) -> Iterator[None]:
    """Note a step's seconds in folder/seconds.json, the first time it is finished; a killed attempt does not count."""
    began = time.monotonic()
    yield
    if main_process():
        known = seconds_of(folder)
        if step not in known:
            write_rows(folder / SECONDS, [{**known, step: round(time.monotonic() - began, 3)}])


def seconds_of(folder: Path) -> dict[str, float]:
    """Seconds of the steps of a round that are finished."""
    path = folder / SECONDS
    return dict(next(iter(read_rows(path)))[1]) if path.is_file() else {}


def tokens_of(rows: Rows, speeches: Sequence[Speech], encoder: Encoder) -> dict[str, int]:
    """Tokens sampled, and tokens read to score the replies, each with its prompt. Where an engine tells no tokens, a
    reply is encoded to count them."""
    prompts = {prompt.id: prompt for prompt in read_prompts(encoder, speeches, 0)}
    sampled = read = 0
    for row in rows:
        prompt = prompts[row["speech_id"]]
        reply = len(row.get("ids", ())) or len(encoder.reply(prompt.messages, prompt.ids, row["text"]) or ())
        sampled += reply
        read += len(prompt.ids) + reply
    return {"sample": sampled, "score": read}
