"""Online rounds: sample from the current policy, let the reward model pick best and worst, take DPO steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_policy
from psychocounsel.policy.generate import generate
from psychocounsel.policy.offline import train_policy
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.recipe import OnlineTable, PolicyTable
from psychocounsel.records import Speech, content_id, read_rows, write_rows
from psychocounsel.reward.score import RewardModel
from psychocounsel.training.examples import Example
from psychocounsel.training.processes import main_process, together

NOISE = 1e-5  # rewards are kept to six digits; a smaller difference is rounding


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
    start: str,
    reward: str,
    speeches: Sequence[Speech],
    table: PolicyTable,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """One round from the policy `start`; makes `folder/model`. Candidates and scores already on disk are used again."""
    online = table.online
    drawn = draw_speeches(speeches, number, online, seed)
    candidates = folder / "candidates.jsonl"
    if main_process() and not candidates.is_file():
        write_candidates(candidates, start, reward, drawn, table, seed + number)
    together()
    rows = [row for _, row in read_rows(candidates)]
    examples, left_out = best_against_worst(rows, {speech.id: speech for speech in drawn}, online)
    if not examples:
        raise UserError(
            f"policy.online round {number + 1}: no pair is left ({left_out}); sample more or lower min_margin"
        )
    settings = table.model_copy(update={"lr": online.lr or table.lr})
    trained = train_policy(f"online round {number + 1}", start, (examples, []), settings, seed, folder, online.steps)
    return {"speeches": len(drawn), "candidates": len(rows), **trained, "left_out": left_out | trained["left_out"]}


def write_candidates(
    path: Path, start: str, reward: str, speeches: Sequence[Speech], table: PolicyTable, seed: int
) -> None:
    """Sample and score all candidates of a round into one file, complete or absent."""
    online = table.online
    tokenizer, model = load_policy(start)
    replies = generate(
        model, tokenizer, speeches, samples=online.samples, temperature=online.temperature,
        max_new_tokens=online.max_new_tokens, max_length=table.max_length, seed=seed, label="candidates",
    )  # fmt: skip
    del model
    flat = [(speech, text, finish) for speech, found in zip(speeches, replies, strict=True) for text, finish in found]
    if not any(text for _, text, _ in flat):
        raise UserError("policy.online: the policy emits nothing; check its chat template and end token")
    scores = RewardModel(reward, table.max_length).score([(speech, text) for speech, text, _ in flat], label="rewards")
    write_rows(
        path,
        (
            {"speech_id": speech.id, "text": text, "finish": finish, "reward": round(score, 6)}
            for (speech, text, finish), score in zip(flat, scores, strict=True)
        ),
    )


def best_against_worst(
    rows: Sequence[dict[str, Any]], speeches: dict[str, Speech], table: OnlineTable
) -> tuple[list[Example], dict[str, int]]:
    """One pair per speech: its best and worst candidate by reward. Returns examples and counts of what was left out."""
    left_out = {"truncated": 0, "empty": 0, "speeches without a pair": 0}
    usable: dict[str, list[dict[str, Any]]] = {speech_id: [] for speech_id in speeches}
    for row in rows:
        if table.drop_truncated and row["finish"] == "length":
            left_out["truncated"] += 1
        elif not row["text"]:
            left_out["empty"] += 1
        else:
            usable[row["speech_id"]].append(row)
    slope = length_slope(usable.values()) if table.length_control else 0.0
    examples = []
    for speech_id, found in usable.items():
        merit = {row["text"]: row["reward"] - slope * len(row["text"].split()) for row in found}
        ranked = sorted(merit, key=lambda text: (-merit[text], text))
        gap = merit[ranked[0]] - merit[ranked[-1]] if ranked else 0.0
        if gap < max(table.min_margin, NOISE):
            left_out["speeches without a pair"] += 1
            continue
        messages = chat_messages(speeches[speech_id].turns)
        examples.append(Example(speech_id, messages, [ranked[0], ranked[-1]], [(0, 1)], [gap]))
    return examples, left_out


def length_slope(candidates: Iterable[Sequence[Mapping[str, Any]]]) -> float:
    """Reward per word among replies to the same speech (least squares on deviations from each speech's means).

    Taking slope * words off the reward leaves what length does not explain, so that length alone earns no pair.
    """
    products = squares = 0.0
    for found in candidates:
        words = [len(row["text"].split()) for row in found]
        middle = sum(words) / len(words) if words else 0.0
        for row, count in zip(found, words, strict=True):
            products += (count - middle) * row["reward"]
            squares += (count - middle) ** 2
    return products / squares if squares else 0.0
