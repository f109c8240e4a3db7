"""Checks of single replies before they are chosen: cut off, refused, too long, repetitive."""

from __future__ import annotations

from psychocounsel.recipe import PairsTable
from psychocounsel.records import Response

GRAM = 4


def words(text: str) -> int:
    """Words of a text as the length baseline counts them: between white space."""
    return len(text.split())


def repetition(text: str) -> float:
    """Share of a text's word 4-grams that stood in it before; 0 for a text of fewer than four words."""
    row = text.lower().split()
    grams = list(zip(*(row[i:] for i in range(GRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def unusable(response: Response) -> str:
    """Why a reply stands on neither side of a pair, or ''. There is nothing of the model's own in it to learn from."""
    if not response.text.strip():
        return "empty"
    return "filtered" if response.finish == "filtered" else ""


def unfit(response: Response, count: int, table: PairsTable) -> str:
    """Why a reply of `count` words is never chosen, or ''. It may be rejected: its judges saw what a client would."""
    if response.finish == "length":
        return "cut off"
    if response.finish == "refused":
        return "a refusal"
    if table.max_words is not None and count > table.max_words:
        return "too long"
    if table.max_repetition is not None and repetition(response.text) > table.max_repetition:
        return "repetitive"
    return ""
