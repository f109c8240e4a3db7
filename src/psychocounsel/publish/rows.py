"""Pairs as rows of the three published forms: the released schema, TRL's conversations, and the exact scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.preference import RATED, flat_row
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.records import Pair, Response, Speech, content_id

Row = dict[str, Any]
SPLITS = {"train": "train", "dev": "validation", "test": "test"}  # ours: the hub's
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Published:
    """A pair with all it stands on. `number` counts the pairs of its speech; `overall` is (chosen, rejected)."""

    pair: Pair
    speech: Speech
    chosen: Response
    rejected: Response
    number: int
    overall: tuple[float, float]
    judges: tuple[str, ...] = ()


def is_complete(pair: Pair) -> bool:
    """Whether both replies have a score for each of the seven principles; the released schema has no word for none."""
    return all(scores.get(name) is not None for scores in (pair.chosen_scores, pair.rejected_scores) for name in RATED)


def released_row(item: Published) -> Row:
    """The row of the released schema: `ID` is the speech's id, `prefID` counts its pairs from 0."""
    return flat_row(item.pair, item.speech, item.chosen, item.rejected, item.speech.id, item.number)


def trl_row(item: Published) -> Row:
    """The row of TRL's conversational preference format, without a system text; scores are the overall ones."""
    sides = {
        side: [{"role": "assistant", "content": response.text}]
        for side, response in zip(SIDES, (item.chosen, item.rejected), strict=True)
    }
    scores = dict(zip(("score_chosen", "score_rejected"), item.overall, strict=True))
    return {"prompt": chat_messages(item.speech.turns), **sides, **scores}


def scores_row(item: Published) -> Row:
    """What the other forms round or leave out: exact mean scores, judges, votes, probability, source and licence."""
    pair, speech = item.pair, item.speech
    row: Row = {
        "ID": speech.id,
        "prefID": item.number,
        "pair_id": pair.id,
        "chosen_id": pair.chosen,
        "rejected_id": pair.rejected,
        "source": speech.source,
        "source_id": content_id(speech.source_id),  # a hash: some sources name rows by user names or addresses
        "license": speech.license,
        "topic": speech.topic,
        "stage": speech.stage,
        "risk": speech.risk,
        "cluster": speech.cluster,
        "gap": pair.gap,
        "uncertainty": pair.uncertainty,
        "judges": list(item.judges),
        "votes": pair.votes,
        "probability": pair.probability,
    }
    for side, overall, scores in zip(SIDES, item.overall, (pair.chosen_scores, pair.rejected_scores), strict=True):
        row[f"{side}_overall"] = overall
        row |= {f"{side}_{name}": score for name, score in scores.items()}
    return row


FORMS: dict[str, Callable[[Published], Row]] = {"released": released_row, "trl": trl_row, "scores": scores_row}


def published_name(name: str) -> str:
    """A model's or judge's name without the machine it ran on: no host names, no folders of somebody's disk."""
    kind, colon, rest = name.partition(":")
    if kind in ("http", "https"):
        return rest.partition("#")[2] or "remote model"
    if colon and re.match(r"[/~.\\$]|[A-Za-z]:", rest):
        return f"{kind}:" + re.split(r"[/\\]", rest.rstrip("/"))[-1]
    return name


def split_name(name: str) -> str:
    """The hub's name of a set of pairs: letters, digits and underscores only."""
    return SPLITS.get(name) or re.sub(r"\W+", "_", name)


def principle_columns(principles: Sequence[str]) -> list[str]:
    """Columns of the exact scores, in the order of `scores_row`."""
    return [f"{side}_{name}" for side in SIDES for name in ("overall", *principles)]
