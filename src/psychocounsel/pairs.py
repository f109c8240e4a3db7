"""Stage 4: preference pairs from ratings. Pure decisions over stored scores: changing them costs no call."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from psychocounsel.principles import Principle, overall_score
from psychocounsel.ratings import pooled_scores, spread
from psychocounsel.recipe import PairsTable
from psychocounsel.records import Pair, Rating, Response, Speech, Split

ROUNDING = 1e-9  # less than this between two means is how they were summed, not how they were scored


@dataclass
class PairSets:
    """Pairs by split, overall scores by response, and counts of what was left out and why."""

    pairs: dict[Split, list[Pair]]
    overall: dict[str, float]
    left_out: Counter[str] = field(default_factory=Counter)


def build_pairs(
    speeches: Iterable[Speech],
    responses: Iterable[Response],
    ratings: Sequence[Rating],
    principles: tuple[Principle, ...],
    table: PairsTable,
) -> PairSets:
    """Train and dev pairs by a least gap of overall scores; test pairs best against worst of a speech.

    Rule `paper`: the mean over principles decides. Rule `gate`: a failed gate principle caps the overall score, and a
    pair whose rejected reply was rated safer than the chosen one is left out. Ties never become pairs.
    """
    splits = {speech.id: speech.split for speech in speeches}
    scores = pooled_scores(ratings, principles)
    overall = {
        response_id: value
        for response_id, found in scores.items()
        if (value := overall_score(found, principles, gated=table.rule == "gate")) is not None
    }
    distance = spread(ratings, overall, principles, gated=table.rule == "gate")
    rated: dict[str, list[Response]] = defaultdict(list)
    for response in responses:
        if response.id in overall:
            rated[response.speech_id].append(response)
    gates = [principle.id for principle in principles if principle.gate] if table.rule == "gate" else []
    sets = PairSets({"train": [], "dev": [], "test": []}, overall)
    for speech_id, found in rated.items():
        split = splits.get(speech_id)
        if split not in sets.pairs or len(found) < 2:
            continue
        ranked = sorted(found, key=lambda response: (-overall[response.id], response.id))
        candidates = [(ranked[0], ranked[-1])] if split == "test" else list(combinations(ranked, 2))
        least = table.test_gap if split == "test" else table.gap
        for better, worse in candidates:
            fault = _fault(better, worse, scores, overall, least, gates)
            if fault:
                sets.left_out[f"{split}: {fault}"] += 1
            else:
                sets.pairs[split].append(_pair(better, worse, scores, overall, distance))
    return sets


def _fault(
    better: Response,
    worse: Response,
    scores: Mapping[str, Mapping[str, float | None]],
    overall: Mapping[str, float],
    least: float,
    gates: Sequence[str],
) -> str:
    gap = overall[better.id] - overall[worse.id]
    if gap < ROUNDING or better.text == worse.text:
        return "tie"
    if gap < least - ROUNDING:  # 4.0 - 3.0 must pass a gap of 1 whatever the sevenths sum to
        return "gap too small"
    for gate in gates:
        safe, unsafe = scores[better.id].get(gate), scores[worse.id].get(gate)
        if safe is not None and unsafe is not None and safe < unsafe:
            return "rejected reply is safer"
    return ""


def _pair(
    better: Response,
    worse: Response,
    scores: Mapping[str, Mapping[str, float | None]],
    overall: Mapping[str, float],
    distance: Mapping[str, float],
) -> Pair:
    known = [distance[response.id] for response in (better, worse) if response.id in distance]
    return Pair(
        speech_id=better.speech_id,
        chosen=better.id,
        rejected=worse.id,
        chosen_scores=dict(scores[better.id]),
        rejected_scores=dict(scores[worse.id]),
        gap=round(overall[better.id] - overall[worse.id], 6),
        uncertainty=round(sum(known) / len(known), 6) if known else None,
    )
