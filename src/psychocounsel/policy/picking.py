"""Which candidates of a speech become a pair: best against worst, under the recipe's rules, everything else counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

from psychocounsel.principles.prompts import chat_messages
from psychocounsel.recipe import OnlineTable
from psychocounsel.records import Speech
from psychocounsel.training.examples import Example

NOISE = 1e-5  # rewards are kept to six digits; a smaller difference is rounding
Key = tuple[str, int]


@dataclass(frozen=True)
class Candidate:
    """A sampled reply with its merit: the reward, less what the recipe takes off for length. `barred` by the gate, or
    because it did not end: it may lose a pair, but never win one."""

    number: int
    text: str
    merit: float
    barred: bool

    @property
    def words(self) -> int:
        return len(self.text.split())


def pick_pairs(
    rows: Sequence[Mapping[str, Any]],
    merits: Mapping[Key, float | None],
    barred: Mapping[Key, str],
    table: OnlineTable,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """At most one pair of each speech: {speech_id, chosen, rejected, gap}, the sides as numbers of samples.

    Returns pairs in the order in which the speeches first appear, and counts of what was left out or barred.
    """
    left_out = Counter({"truncated": 0, "empty": 0, "without a reward": 0, "barred": 0, "speeches without a pair": 0})
    usable = _usable(rows, merits, barred, table, left_out)
    slope = length_slope(usable.values()) if table.length_control else 0.0
    slope += table.length_penalty / 100
    pairs = []
    for speech_id, found in usable.items():
        ranked = [Candidate(c.number, c.text, c.merit - slope * c.words, c.barred) for c in found]
        pair = widest(ranked, table.length_ratio)
        if pair is None or (gap := pair[0].merit - pair[1].merit) < max(table.min_margin, NOISE):
            left_out["speeches without a pair"] += 1
            continue
        chosen, rejected = pair
        pairs.append(
            {"speech_id": speech_id, "chosen": chosen.number, "rejected": rejected.number, "gap": round(gap, 6)}
        )
    return pairs, dict(left_out)


def _usable(
    rows: Sequence[Mapping[str, Any]],
    merits: Mapping[Key, float | None],
    barred: Mapping[Key, str],
    table: OnlineTable,
    left_out: Counter[str],
) -> dict[str, list[Candidate]]:
    """Candidates by speech, each text once."""
    usable: dict[str, dict[str, Candidate]] = defaultdict(dict)
    for row in rows:
        found = usable[row["speech_id"]]
        key = (row["speech_id"], row["sample"])
        ended = row["finish"] != "length" or table.truncated == "keep"
        if not ended and table.truncated == "drop":
            left_out["truncated"] += 1
        elif not row["text"]:
            left_out["empty"] += 1
        elif (merit := merits.get(key)) is None:
            left_out["without a reward"] += 1
        elif row["text"] not in found:
            left_out["barred"] += bool(barred.get(key))
            found[row["text"]] = Candidate(row["sample"], row["text"], merit, bool(barred.get(key)) or not ended)
    return {speech_id: list(found.values()) for speech_id, found in usable.items()}


def widest(found: Sequence[Candidate], ratio: float | None = None) -> tuple[Candidate, Candidate] | None:
    """The (chosen, rejected) with the largest difference of merit; of equal ones the first chosen text in the alphabet
    and the last rejected. With `ratio`, only pairs whose lengths differ by at most that factor. None without a pair."""
    ranked = sorted(found, key=lambda candidate: (-candidate.merit, candidate.text))
    best: tuple[Candidate, Candidate] | None = None
    for place, chosen in enumerate(ranked):
        for rejected in reversed(ranked[place + 1 :]):
            apart = max(chosen.words, rejected.words) > (ratio or float("inf")) * min(chosen.words, rejected.words)
            if chosen.barred or apart:
                continue
            if best is None or chosen.merit - rejected.merit > best[0].merit - best[1].merit:
                best = chosen, rejected
            break  # the others of this chosen one differ by less
    return best


def length_slope(candidates: Iterable[Sequence[Candidate]]) -> float:
    """Reward per word among replies to the same speech (least squares on deviations from each speech's means).

    Taking slope * words off the reward leaves what length does not explain, so that length alone earns no pair.
    """
    products = squares = 0.0
    for found in candidates:
        middle = sum(candidate.words for candidate in found) / len(found) if found else 0.0
        for candidate in found:
            products += (candidate.words - middle) * candidate.merit
            squares += (candidate.words - middle) ** 2
    return products / squares if squares else 0.0


def pair_examples(
    pairs: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    speeches: Mapping[str, Speech],
    principles: Mapping[Key, Mapping[str, float]],
    names: Sequence[str],
) -> list[Example]:
    """Pairs as examples to train on, with the tokens that were sampled where the engine told them.

    `principles` holds scores by principle (of a reward model's heads), from which each pair gets its differences.
    """
    by_key = {(row["speech_id"], row["sample"]): row for row in rows}
    found = []
    for pair in pairs:
        keys = [(pair["speech_id"], pair[side]) for side in ("chosen", "rejected")]
        better, worse = (principles.get(key, {}) for key in keys)
        differences = [better.get(name, nan) - worse.get(name, nan) for name in names] if better and worse else []
        found.append(
            Example(
                pair["speech_id"],
                chat_messages(speeches[pair["speech_id"]].turns),
                [by_key[key]["text"] for key in keys],
                [(0, 1)],
                [pair["gap"]],
                [differences] if differences else [],
                [tuple(by_key[key].get("ids", ())) for key in keys],
            )
        )
    return found
