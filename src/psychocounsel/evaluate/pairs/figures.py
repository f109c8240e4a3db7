"""What one scorer (a reward model, a judge, a rule) makes of labelled pairs: accuracy, calibration, length, parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from psychocounsel.evaluate.clusters import Array
from psychocounsel.evaluate.contest.cells import Cell, shrunk_cells
from psychocounsel.evaluate.human.scoring import Asked, Scorer
from psychocounsel.evaluate.pairs.accuracy import credit
from psychocounsel.evaluate.pairs.calibration import (
    Held,
    LengthProbes,
    best_of,
    held_calibration,
    length_probes,
    margin_auc,
    reliability_curve,
    side_auc,
)
from psychocounsel.evaluate.pairs.labelled import (
    Choice,
    LabelledPair,
    LabelledPairs,
    gap_bins,
    hard_sets,
    known_topics,
    led_by,
    model_pairs,
)
from psychocounsel.evaluate.statistics import Figure, cluster_mean
from psychocounsel.principles import load_topics
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.records import Record, Turn, content_id
from psychocounsel.reward.calibrate import Sides
from psychocounsel.reward.figures import calibration_figures

UNIT = "share of pairs"
MOST_MODEL_PAIRS = 20
REFITS = 2_000  # draws behind calibration figures, at most
Known = tuple[LabelledPair, float, float]  # a pair with the scores of its chosen and its rejected reply
Said = tuple[tuple[Turn, ...], str]  # a dialogue and a reply to it
Scores = Mapping[Said, float | None]


class PairFigures(Record):
    """Everything about one scorer on one set of pairs. `missing` pairs have a reply without a score and count nowhere.

    `calibration` and `length` are None where nothing can be fitted; `agreed_auc` says whether differences are larger
    where all raters agree. `with_rater` is how often the scorer orders a pair as one of its several raters does, pairs
    on which they are divided among them: what their agreement with each other is to be compared with. `parts` are
    accuracies by gap, hard set, leading principle and couple of models.
    """

    name: str
    accuracy: Figure
    missing: int
    baselines: dict[str, Figure]
    calibration: Held | None
    auc: Figure | None
    length: LengthProbes | None
    agreed_auc: Figure | None
    with_rater: Figure | None
    best_of: Figure | None
    topics: tuple[Cell, ...]
    parts: dict[str, dict[str, Figure]]
    notes: tuple[str, ...] = ()


def score_replies(
    scorer: Scorer, dialogues: Sequence[tuple[tuple[Turn, ...], str]]
) -> dict[tuple[tuple[Turn, ...], str], float | None]:
    """Scores by (dialogue, reply); every dialogue is read once for all its replies, every reply to it once."""
    replies: dict[tuple[Turn, ...], dict[str, None]] = {}
    for turns, reply in dialogues:
        replies.setdefault(turns, {})[reply] = None
    asked: list[Asked] = [(chat_messages(turns), list(texts)) for turns, texts in replies.items()]
    found: dict[Said, float | None] = {}
    for (turns, texts), row in zip(replies.items(), scorer(asked) if asked else [], strict=True):
        for text, value in zip(texts, row, strict=True):
            found[turns, text] = None if value is None or not np.isfinite(value) else float(value)
    return found


def asked_of(found: LabelledPairs, validation: Sequence[LabelledPair] = ()) -> list[Said]:
    """Every (dialogue, reply) that the figures of a set need a score for."""
    hard = [pair for pairs in found.sets.values() for pair in pairs]
    several = [row.pair for row in found.rated]
    pairs = [
        (pair.turns, text)
        for pair in [*found.pairs, *hard, *several, *validation]
        for text in (pair.chosen, pair.rejected)
    ]
    return pairs + [(choice.turns, text) for choice in found.choices for text in choice.replies]


def pair_figures(
    name: str,
    found: LabelledPairs,
    scores: Scores,
    validation: Sequence[LabelledPair] = (),
    *,
    logits: bool = True,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> PairFigures:
    """Figures of one scorer. `logits`: its differences are log odds (of a reward model), so that calibration means
    something; temperature and length rule are fitted on `validation`, the temperature is 1 without any."""
    settings = {"bootstrap": bootstrap, "seed": seed}
    known = _known(found.pairs, scores)
    notes: list[str] = []
    if not {pair.cluster for pair in validation}.isdisjoint(pair.cluster for pair in found.pairs):
        notes.append("validation pairs share clusters of speeches with the pairs: nothing is fitted on them")
        validation = ()

    def accuracy(pairs: Sequence[LabelledPair]) -> Figure:
        return _accuracy(_known(pairs, scores), settings)

    ahead = np.array([chosen - rejected for _, chosen, rejected in known])
    calibration = _calibration(known, _known(validation, scores), settings) if known and logits else None
    return PairFigures(
        name=name,
        accuracy=_accuracy(known, settings),
        missing=len(found.pairs) - len(known),
        baselines={
            key: _accuracy([(pair, *rule(pair)) for pair, _, _ in known], settings) for key, rule in RULES.items()
        },
        calibration=calibration,
        auc=side_auc(_sides(known, seed), **settings) if calibration else None,
        length=_length(known, ahead, validation, settings) if known else None,
        agreed_auc=_agreed(found, scores, settings),
        with_rater=_with_rater(found, scores, settings) if found.rated else None,
        best_of=_best(found.choices, scores, settings) if found.choices else None,
        topics=_topics(known),
        parts={
            "hard sets": {key: accuracy(pairs) for key, pairs in hard_sets(found).items()},
            "gap of the labels": {key: accuracy(pairs) for key, pairs in gap_bins(found.pairs).items()},
            "led by one principle": {key: accuracy(pairs) for key, pairs in led_by(found.pairs).items()},
            "couple of models": {
                key: accuracy(pairs) for key, pairs in list(model_pairs(found.pairs).items())[:MOST_MODEL_PAIRS]
            },
        },
        notes=tuple(notes),
    )


def credits_of(pairs: Sequence[LabelledPair], scores: Scores) -> list[tuple[LabelledPair, float]]:
    """1, 0 or one half for every pair whose replies both have a score."""
    return [(pair, credit(chosen, rejected)) for pair, chosen, rejected in _known(pairs, scores)]


def longer(pair: LabelledPair) -> tuple[float, float]:
    """The rule that prefers more words."""
    return float(len(pair.chosen.split())), float(len(pair.rejected.split()))


def shorter(pair: LabelledPair) -> tuple[float, float]:
    """The rule that prefers fewer words."""
    one, two = longer(pair)
    return -one, -two


def question_mark(pair: LabelledPair) -> tuple[float, float]:
    """The rule that prefers a reply with a question."""
    return float("?" in pair.chosen), float("?" in pair.rejected)


RULES = {"longer": longer, "shorter": shorter, "question mark": question_mark}


def _known(pairs: Sequence[LabelledPair], scores: Scores) -> list[Known]:
    made = []
    for pair in pairs:
        one, two = scores.get((pair.turns, pair.chosen)), scores.get((pair.turns, pair.rejected))
        if one is not None and two is not None:
            made.append((pair, one, two))
    return made


def _accuracy(known: Sequence[Known], settings: Mapping[str, int]) -> Figure:
    values = [credit(chosen, rejected) for _, chosen, rejected in known]
    return cluster_mean(values, [pair.cluster for pair, _, _ in known], UNIT, **settings)


def _calibration(known: Sequence[Known], held: Sequence[Known], settings: Mapping[str, int]) -> Held:
    """Before and after the temperature of the validation pairs; without any it is 1."""
    sides, seed = _sides(known, settings["seed"]), settings["seed"]
    draws = min(settings["bootstrap"], REFITS)
    if held:
        return held_calibration(_sides(held, seed), sides, bootstrap=draws, seed=seed)
    plain = calibration_figures(*sides, bootstrap=draws, seed=seed)
    curve = reliability_curve(sides, bootstrap=draws, seed=seed)
    return Held(temperature=1.0, note="no temperature was fitted", before=plain, after=plain, curve=curve)


def _sides(known: Sequence[Known], seed: int) -> Sides:
    """Sides drawn by content hash: with the chosen reply always first, the label would never vary."""
    swapped = np.array([int(content_id([seed, pair.id]), 16) % 2 for pair, _, _ in known], dtype=bool)
    ahead = np.array([chosen - rejected for _, chosen, rejected in known], dtype=np.float64)
    clusters = [pair.cluster for pair, _, _ in known]
    return Sides(np.where(swapped, -ahead, ahead), (~swapped).astype(np.float64), clusters)


def _length(
    known: Sequence[Known], ahead: Array, validation: Sequence[LabelledPair],
    settings: Mapping[str, int],
) -> LengthProbes:  # fmt: skip
    lengths = np.array([longer(pair) for pair, _, _ in known])
    fitted = np.array([longer(pair) for pair in validation])
    return length_probes(
        ahead, np.maximum(lengths[:, 0], 1), np.maximum(lengths[:, 1], 1), [pair.cluster for pair, _, _ in known],
        (np.maximum(fitted[:, 0], 1), np.maximum(fitted[:, 1], 1)) if len(fitted) else None, **settings,
    )  # fmt: skip


def _agreed(found: LabelledPairs, scores: Scores, settings: Mapping[str, int]) -> Figure | None:
    """Are differences larger where all raters agree? Over pairs whose votes are known, divided ones among them."""
    voted = {pair.id: pair for pair in [*found.pairs, *(row.pair for row in found.rated)] if pair.votes is not None}
    if not voted:
        return None
    known = _known(list(voted.values()), scores)
    margins = [chosen - rejected for _, chosen, rejected in known]
    agreed = [pair.votes == 1.0 for pair, _, _ in known]
    return margin_auc(margins, agreed, [pair.cluster for pair, _, _ in known], **settings)


def _with_rater(found: LabelledPairs, scores: Scores, settings: Mapping[str, int]) -> Figure:
    known = _known([row.pair for row in found.rated], scores)
    values = []
    for pair, chosen, rejected in known:
        votes, own = pair.votes or 0.0, credit(chosen, rejected)
        values.append(votes * own + (1 - votes) * (1 - own))
    return cluster_mean(values, [pair.cluster for pair, _, _ in known], UNIT, **settings)


def _best(choices: Sequence[Choice], scores: Scores, settings: Mapping[str, int]) -> Figure:
    rows = [([scores.get((one.turns, text)) for text in one.replies], one) for one in choices]
    usable = [(row, one) for row, one in rows if None not in row]
    widest = max((len(row) for row, _ in usable), default=2)
    table = np.array([[*row, *[np.nan] * (widest - len(row))] for row, _ in usable], dtype=np.float64)
    if not usable:
        return Figure(value=None, n=0, unit="share of speeches")
    return best_of(table, [one.best for _, one in usable], [one.cluster for _, one in usable], **settings)


def _topics(known: Sequence[Known]) -> tuple[Cell, ...]:
    names = known_topics([pair for pair, _, _ in known], {key: one.coarse for key, one in load_topics().items()})
    if len(set(names)) < 2:
        return ()
    values = [credit(chosen, rejected) for _, chosen, rejected in known]
    return tuple(shrunk_cells(values, [pair.cluster for pair, _, _ in known], names))
