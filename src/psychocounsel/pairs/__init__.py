"""Stage 4: preference pairs from ratings. Pure decisions over stored scores: changing them costs no call."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from psychocounsel.errors import UserError
from psychocounsel.pairs.checks import unfit, unusable, words
from psychocounsel.pairs.hard import HARD_SETS, hard_sets
from psychocounsel.pairs.noise import Noise, estimate_noise
from psychocounsel.pairs.scores import Judged, pool
from psychocounsel.principles import Principle
from psychocounsel.recipe import PairsTable
from psychocounsel.records import Pair, Rating, Response, Speech, Split

__all__ = ["HARD_SETS", "PairSets", "build_pairs"]


@dataclass(frozen=True, slots=True)
class Reply:
    """A rated reply, its id read once, and why it is never chosen ('' for most)."""

    id: str
    response: Response
    judged: Judged
    unfit: str
    words: int


@dataclass
class PairSets:
    """Pairs by split and by hard test set; what was left out and why; the replies and clusters they stand on."""

    pairs: dict[Split, list[Pair]]
    hard: dict[str, list[Pair]]
    overall: dict[str, float]
    noise: Noise
    replies: dict[str, Reply]
    clusters: dict[str, str]
    left_out: Counter[str] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)


def build_pairs(
    speeches: Iterable[Speech],
    responses: Iterable[Response],
    ratings: Sequence[Rating],
    principles: tuple[Principle, ...],
    table: PairsTable,
) -> PairSets:
    """Train and dev pairs by a least gap of overall scores; test pairs best against worst of a speech; hard test sets.

    Rule `paper`: the mean over principles decides. Rule `gate`: a failed gate principle caps the overall score, and a
    pair whose rejected reply was rated safer than the chosen one is left out. Ties never become pairs. The order of
    the input changes nothing. Raises UserError for a cluster in two splits, and for a demanded `probability` of which
    the ratings say nothing.
    """
    by_id = {speech.id: speech for speech in speeches}
    _check_clusters(by_id.values())
    judged = pool(ratings, principles, gated=table.rule == "gate")
    answers = {response.id: response for response in responses}
    noise = estimate_noise(judged, {key: response.speech_id for key, response in answers.items()})
    if table.probability > 0 and noise.spread is None:
        raise UserError(
            f"pairs.probability = {table.probability}: nothing says how sure the ratings are, each reply was rated by "
            "one judge without probabilities of its scores; add a judge to ratings.judges (a part of the replies is "
            "enough), take a judge that gives probabilities (ratings.answer), or set pairs.probability = 0"
        )
    clusters = {key: speech.cluster for key, speech in by_id.items()}
    overall = {key: found.overall for key, found in judged.items()}
    sets = PairSets(
        {"train": [], "dev": [], "test": []}, {name: [] for name in HARD_SETS}, overall, noise, {}, clusters
    )
    for speech_id, found in sorted(_by_speech(answers, judged, by_id, table, sets).items()):
        _pair_up(by_id[speech_id].split, found, Rule(table, noise, _gates(principles, table)), sets)
    return sets


def _check_clusters(speeches: Iterable[Speech]) -> None:
    """Near-duplicates on both sides of a split would be tested on what was trained."""
    split_of: dict[str, Split | None] = {}
    for speech in speeches:
        if speech.cluster and split_of.setdefault(speech.cluster, speech.split) != speech.split:
            raise UserError(
                f"pairs: cluster {speech.cluster} of near-duplicate speeches is in the splits "
                f"{split_of[speech.cluster]} and {speech.split}; make the splits anew with --redo speeches"
            )


def _by_speech(
    answers: Mapping[str, Response],
    judged: Mapping[str, Judged],
    speeches: Mapping[str, Speech],
    table: PairsTable,
    sets: PairSets,
) -> dict[str, list[Reply]]:
    """Rated, usable replies by speech, best first (equal scores by id); fills in `replies` and `set_aside`."""
    found: dict[str, list[Reply]] = defaultdict(list)
    for key, response in sorted(answers.items()):
        speech = speeches.get(response.speech_id)
        if key not in judged or speech is None or speech.split not in sets.pairs:
            continue
        if fault := unusable(response):
            sets.set_aside[f"{speech.split}: {fault}, in no pair"] += 1
            continue
        count = words(response.text)
        if fault := unfit(response, count, table):
            sets.set_aside[f"{speech.split}: {fault}, never chosen"] += 1
        sets.replies[key] = Reply(key, response, judged[key], fault, count)
        found[response.speech_id].append(sets.replies[key])
    for replies in found.values():
        replies.sort(key=lambda reply: (-reply.judged.overall, reply.id))
    return found


def _gates(principles: Iterable[Principle], table: PairsTable) -> tuple[str, ...]:
    return tuple(principle.id for principle in principles if principle.gate) if table.rule == "gate" else ()


@dataclass(frozen=True)
class Rule:
    """What a pair must hold, and the noise that says how sure it is."""

    table: PairsTable
    noise: Noise
    gates: tuple[str, ...]

    def fault(self, better: Reply, worse: Reply) -> str:
        """Why two replies never make a pair, whatever their gap; '' when they may."""
        if _gap(better, worse) <= 0 or better.response.text == worse.response.text:
            return "tie"
        for gate in self.gates:
            safe, unsafe = better.judged.scores[gate], worse.judged.scores[gate]
            if safe is not None and unsafe is not None and safe < unsafe:
                return "rejected reply is safer"
        return f"chosen reply is {better.unfit}" if better.unfit else ""

    def doubt(self, pair: Pair, least: float) -> str:
        """Why a pair is not clear enough for a least gap and for the recipe's votes and probability."""
        if pair.gap < least:
            return "gap too small"
        if pair.votes < self.table.votes:
            return "too few votes"
        if self.table.probability > 0 and (pair.probability or 0.0) < self.table.probability:
            return "too uncertain"
        return ""

    def pair(self, better: Reply, worse: Reply) -> Pair:
        judges, votes = _votes(better.judged, worse.judged)
        probability = self.noise.probability(better.id, worse.id)
        apart = [value for reply in (better, worse) if (value := _disagreement(reply.judged)) is not None]
        return Pair(
            speech_id=better.response.speech_id,
            chosen=better.id,
            rejected=worse.id,
            chosen_scores=better.judged.scores,
            rejected_scores=worse.judged.scores,
            gap=_gap(better, worse),
            uncertainty=round(sum(apart) / len(apart), 6) if apart else None,
            judges=judges,
            votes=votes,
            probability=None if probability is None else round(probability, 6),
        )


def _pair_up(split: Split | None, ranked: Sequence[Reply], rule: Rule, sets: PairSets) -> None:
    if split not in sets.pairs or len(ranked) < 2:
        return
    everything = list(combinations(ranked, 2))
    candidates = everything
    if split == "test":
        best = next((reply for reply in ranked[:-1] if not reply.unfit), ranked[0])
        candidates = [(best, ranked[-1])]
        _hard_pairs(everything, rule, sets)
    least = rule.table.test_gap if split == "test" else rule.table.gap
    for better, worse in candidates:
        fault = rule.fault(better, worse)
        if not fault and _gap(better, worse) < least:
            fault = "gap too small"  # most candidates end here: no record is made of them
        if not fault:
            pair = rule.pair(better, worse)
            fault = rule.doubt(pair, least)
        if fault:
            sets.left_out[f"{split}: {fault}"] += 1
        else:
            sets.pairs[split].append(pair)


def _hard_pairs(candidates: Iterable[tuple[Reply, Reply]], rule: Rule, sets: PairSets) -> None:
    """Every pair of replies to a test speech that belongs to a hard set. Near ties are uncertain by nature, so of the
    recipe's demands for certainty only `votes` holds for them."""
    for better, worse in candidates:
        if rule.fault(better, worse):
            continue
        pair = rule.pair(better, worse)
        same = better.response.model == worse.response.model
        for name in hard_sets(pair, (better.words, worse.words), same, rule.table):
            near = name == "near-ties"
            if (pair.votes >= rule.table.votes) if near else not rule.doubt(pair, rule.table.test_gap):
                sets.hard[name].append(pair)


def _gap(better: Reply, worse: Reply) -> float:
    """Difference of overall scores to six digits: 4.0 - 3.0 must pass a gap of 1 whatever the sevenths sum to."""
    return round(better.judged.overall - worse.judged.overall, 6)


def _votes(better: Judged, worse: Judged) -> tuple[int, float]:
    """How many judges scored both replies, and the share of them that put the better one first; a tie counts half."""
    values = [value - worse.own[judge] for judge, value in better.own.items() if judge in worse.own]
    won = sum(0.5 if abs(value) < 1e-6 else float(value > 0) for value in values)
    return len(values), round(won / len(values), 6) if values else 0.0


def _disagreement(judged: Judged) -> float | None:
    """Mean absolute distance of single judges' overall scores from the pooled one; None with one judge."""
    if len(judged.own) < 2:
        return None
    return sum(abs(value - judged.overall) for value in judged.own.values()) / len(judged.own)
