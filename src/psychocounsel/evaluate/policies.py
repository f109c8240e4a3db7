"""Replies of every policy to the held-out speeches, made once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from psychocounsel.models.weights import load_policy
from psychocounsel.policy.generate import generate
from psychocounsel.recipe import EvaluateTable
from psychocounsel.records import Speech, content_id, read_rows, write_rows


def held_out(speeches: Sequence[Speech], table: EvaluateTable, seed: int) -> list[Speech]:
    """The speeches policies are compared on: the recipe's splits, at most `limit` by content hash, ordered by id."""
    chosen = sorted(
        (s for s in speeches if s.split in table.speeches), key=lambda s: content_id([seed, "evaluate", s.id])
    )
    return sorted(chosen[: table.limit], key=lambda speech: speech.id)


def policy_replies(
    policies: Mapping[str, str],
    speeches: Sequence[Speech],
    table: EvaluateTable,
    max_length: int,
    seed: int,
    folder: Path,
) -> dict[str, list[dict[str, str]]]:
    """By policy, for each sample: reply text by speech id. `policies` maps names to model folders.

    Finished files are used again.
    """
    replies: dict[str, list[dict[str, str]]] = {}
    for name, place in policies.items():
        path = folder / f"replies-{name}.jsonl"
        if not path.is_file():
            tokenizer, model = load_policy(place)
            made = generate(
                model,
                tokenizer,
                speeches,
                samples=table.samples,
                temperature=table.temperature,
                max_new_tokens=table.max_new_tokens,
                max_length=max_length,
                seed=seed,
                label=f"replies {name}",
            )
            rows = (
                {"speech_id": speech.id, "sample": sample, "text": text, "finish": finish}
                for speech, found in zip(speeches, made, strict=True)
                for sample, (text, finish) in enumerate(found)
            )
            write_rows(path, rows)
        replies[name] = [dict[str, str]() for _ in range(table.samples)]
        for _, row in read_rows(path):
            replies[name][row["sample"]][row["speech_id"]] = row["text"]
    return replies
