"""Labelled pairs from where they lie: a run, a preference set, a file of pairs, or rankings of recorded replies."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from psychocounsel.errors import UserError, nearest
from psychocounsel.evaluate.human.scoring import ROLES
from psychocounsel.evaluate.pairs.labelled import Choice, LabelledPair, LabelledPairs, Rated, unique
from psychocounsel.models.recorded import RecordedModel, open_recording, question_key
from psychocounsel.preference import LABELLER, LICENSES, RELEASED, read_preferences
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.recipe import Source, SpeechesTable
from psychocounsel.records import Pair, Rating, Response, Speech, Turn, content_id, read_records, read_rows
from psychocounsel.rows import READERS, table_rows
from psychocounsel.run import RunFolder
from psychocounsel.score.rows import read_item
from psychocounsel.speeches.dedup import near_duplicates
from psychocounsel.speeches.sources import read_source

RANKINGS = "rankings:"
TOLD = {
    "group": "cluster", "cluster": "cluster", "topic": "topic", "chosen_model": "chosen_model",
    "rejected_model": "rejected_model",
}  # fmt: skip
NUMBERS = {"gap": 4.0, "votes": 1.0}  # the most each can be


def read_pairs(place: str, responses: str = "", speeches: str = "", split: str = "test") -> LabelledPairs:
    """The pairs of a place. `responses` and `speeches` say where the replies and speeches of rankings lie.

    Raises UserError for what is missing, empty, or of another shape.
    """
    if place.startswith(RANKINGS):
        found = _rankings(Path(place.removeprefix(RANKINGS)), responses, speeches)
    elif (Path(place) / "recipe.json").is_file():
        found = _run(Path(place), split)
    elif Path(place).suffix in READERS and not _released(Path(place)):
        found = _file(Path(place))
    else:
        found = _preferences(place, split)
    if not found.pairs:
        raise UserError(f"{place}: holds no labelled pair that can be used ({dict(found.counts) or 'nothing in it'})")
    return found


def _run(folder: Path, split: str) -> LabelledPairs:
    run = RunFolder(folder)
    if run.manifest("pairs") is None:
        raise UserError(f"{folder}: its stage pairs is not finished; run it first")
    speeches = {one.id: one for one in read_records(run.stage("speeches") / "speeches.jsonl", Speech)}
    replies = {one.id: one for one in read_records(run.stage("responses") / "responses.jsonl", Response)}
    ratings = read_records(run.stage("ratings") / "ratings.jsonl", Rating)
    counts: Counter[str] = Counter()
    place = run.stage("pairs")
    pairs = unique((_of_run(p, speeches, replies) for p in read_records(place / f"{split}.jsonl", Pair)), counts)
    sets = {
        path.stem.removeprefix("test-").replace("-", " "): unique(
            (_of_run(pair, speeches, replies) for pair in read_records(path, Pair)), Counter()
        )
        for path in (sorted(place.glob("test-*.jsonl")) if split == "test" else [])
    }
    overall: dict[str, float] = json.loads((place / "overall.json").read_text(encoding="utf-8"))
    of_split = [reply for reply in replies.values() if speeches[reply.speech_id].split == split]
    return LabelledPairs(
        folder.name, pairs, _choices(speeches, of_split, overall, counts), counts, sets=sets,
        labellers=tuple(sorted({rating.judge for rating in ratings})),
    )  # fmt: skip


def _choices(
    speeches: Mapping[str, Speech], replies: Iterable[Response], overall: Mapping[str, float], counts: Counter[str]
) -> list[Choice]:
    """All rated replies to each speech, where one of them has the best overall score."""
    cast: dict[str, dict[str, float]] = defaultdict(dict)
    for reply in replies:
        if reply.id in overall:
            mine = cast[reply.speech_id]
            mine[reply.text] = max(overall[reply.id], mine.get(reply.text, -math.inf))
    found = []
    for key, scores in cast.items():
        best = [text for text, value in scores.items() if value == max(scores.values())]
        if len(scores) > 1 and len(best) == 1:
            texts, speech = tuple(scores), speeches[key]
            cluster = speech.cluster or speech.id
            found.append(Choice(turns=speech.turns, replies=texts, best=texts.index(best[0]), cluster=cluster))
        elif len(scores) > 1:
            counts["speeches without one best reply"] += 1
    return found


def _of_run(pair: Pair, speeches: Mapping[str, Speech], replies: Mapping[str, Response]) -> LabelledPair:
    speech, chosen, rejected = speeches[pair.speech_id], replies[pair.chosen], replies[pair.rejected]
    return LabelledPair(
        turns=speech.turns, chosen=chosen.text, rejected=rejected.text, cluster=speech.cluster or speech.id,
        topic=speech.topic or "", chosen_model=chosen.model, rejected_model=rejected.model, gap=pair.gap,
        votes=pair.votes if pair.judges > 1 else None, chosen_scores=pair.chosen_scores,
        rejected_scores=pair.rejected_scores,
    )  # fmt: skip


def _preferences(place: str, split: str) -> LabelledPairs:
    read = read_preferences(place)
    speeches = {one.id: one for one in read.speeches}
    replies = {one.id: one for one in read.responses}
    present = sorted({str(speech.split) for speech in read.speeches})
    wanted = split if split in present else "train" if "train" in present else present[0]
    rows = [_of_run(pair, speeches, replies) for pair in read.pairs if speeches[pair.speech_id].split == wanted]
    counts: Counter[str] = Counter()
    pairs = unique(rows, counts)
    if wanted != split:
        counts[f"there is no split {split}: of split {wanted}"] = len(pairs)
    overall = {
        rating.response_id: fmean(score for score in rating.scores.values() if score is not None)
        for rating in read.ratings
    }
    of_split = [reply for reply in replies.values() if speeches[reply.speech_id].split == wanted]
    found = LabelledPairs(Path(place).stem, pairs, _choices(speeches, of_split, overall, counts), counts)
    found.license, found.labellers = LICENSES.get(place, ""), (LABELLER,) if place == RELEASED else ()
    return _clustered(found)


def _released(path: Path) -> bool:
    """Does a table file hold the released schema rather than plain pairs?"""
    first: Mapping[str, Any] = next(iter(table_rows(path)), {}) if path.is_file() else {}
    return {"prefID", "chosen_empathy_rating"} <= set(first)


def _file(path: Path) -> LabelledPairs:
    rows = []
    for number, row in enumerate(table_rows(path), 1):
        where = f"{path}: row {number}"
        for column in ("chosen", "rejected"):
            if not isinstance(row.get(column), str):
                raise UserError(f"{where}: no text in column '{column}'{nearest(column, list(row))}")
        asked = {key: value for key, value in row.items() if key not in ("response", "responses")}
        item = read_item(where, {**asked, "responses": [row["chosen"], row["rejected"]]})
        turns = tuple(Turn.model_validate({"role": ROLES[m["role"]], "text": m["content"]}) for m in item.messages
                      if m["role"] in ROLES)  # fmt: skip
        told = {key: str(row[name]) for name, key in TOLD.items() if row.get(name) not in (None, "")}
        numbers = {
            key: _number(where, key, row[key], most) for key, most in NUMBERS.items() if row.get(key) not in (None, "")
        }
        rows.append(
            LabelledPair.model_validate(
                {"turns": turns, "chosen": row["chosen"], "rejected": row["rejected"], "cluster": "", **told, **numbers}
            )
        )
    counts: Counter[str] = Counter()
    return _clustered(LabelledPairs(path.stem, unique(rows, counts), counts=counts))


def _number(where: str, key: str, value: Any, most: float) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # of a CSV it is text
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= most:
        raise UserError(f"{where}: '{key}' is no number from 0 to {most:g}")
    return number


def _clustered(found: LabelledPairs) -> LabelledPairs:
    """Near-duplicate dialogues share a cluster, where the source names none."""
    said = [one.turns for one in [*found.pairs, *(row.pair for row in found.rated)]]
    dialogues = list(dict.fromkeys([*said, *(choice.turns for choice in found.choices)]))
    table = SpeechesTable()
    texts = [dialogue_text(turns) for turns in dialogues]
    roots = near_duplicates(texts, drop_at=table.near_duplicate, join_at=table.cluster).root if texts else []
    names = {turns: content_id(texts[root]) for turns, root in zip(dialogues, roots, strict=True)}

    def named(pair: LabelledPair) -> LabelledPair:
        return pair.model_copy(update={"cluster": pair.cluster or names[pair.turns]})

    found.pairs = [named(pair) for pair in found.pairs]
    found.rated = [row.model_copy(update={"pair": named(row.pair)}) for row in found.rated]
    found.choices = [choice.model_copy(update={"cluster": names[choice.turns]}) for choice in found.choices]
    return found


def _rankings(path: Path, responses: str, speeches: str) -> LabelledPairs:
    """Overall rankings, best first: every couple of ranked replies is a pair, labelled by most of its raters."""
    if not responses or not speeches:
        raise UserError("--pairs rankings:FILE needs --responses and --speeches: where the ranked replies lie")
    asked = {one.source_id: one for one in read_source(Source(load=speeches))}
    models = {one.name: one for one in open_recording(responses, "responses") if isinstance(one, RecordedModel)}
    votes: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    rankings: dict[str, list[list[str]]] = defaultdict(list)
    for number, row in read_rows(path):
        where, order = f"{path}:{number}", row.get("ranking")
        if not isinstance(order, list) or len(order) < 2 or len(set(map(str, order))) < len(order):
            raise UserError(f"{where}: 'ranking' must list two models or more, best first, each once")
        key = question_key(row.get("question_id"))
        if key not in asked:
            raise UserError(f"{where}: question {row.get('question_id')} is not among the speeches of {speeches}")
        if strange := [name for name in order if name not in models or (key,) not in models[name].replies]:
            raise UserError(f"{where}: no recorded reply of '{strange[0]}'{nearest(str(strange[0]), list(models))}")
        if empty := [name for name in order if not models[name].replies[(key,)].strip()]:
            raise UserError(f"{where}: the recorded reply of '{empty[0]}' to question {key} is empty; leave it out")
        rankings[key].append(order)
        for one, two in combinations(order, 2):
            first, second = sorted((one, two))
            votes[key, first, second].append(one == first)
    counts: Counter[str] = Counter()
    cast = {key: _voted(asked, models, key, mine) for key, mine in votes.items()}
    pairs = unique((pair for pair in cast.values() if pair.votes is None or pair.votes > 0.5), counts)
    counts["left out: raters are divided"] = sum(pair.votes == 0.5 for pair in cast.values())
    rated = [Rated(pair=cast[key], alike=_alike(mine)) for key, mine in votes.items() if len(mine) > 1]
    choices = [
        Choice(
            turns=asked[key].turns, replies=tuple(models[name].replies[(key,)].strip() for name in orders[0]), best=0,
            cluster="",
        )
        for key, orders in rankings.items()
        if len({order[0] for order in orders}) == 1
    ]  # fmt: skip
    return _clustered(LabelledPairs(path.stem, pairs, choices, counts, rated))


def _alike(votes: Sequence[bool]) -> float:
    """The share of couples of raters who agree."""
    return fmean(one == two for one, two in combinations(votes, 2))


def _voted(
    asked: Mapping[str, Speech], models: Mapping[str, RecordedModel], key: tuple[str, str, str], votes: Sequence[bool]
) -> LabelledPair:
    """The pair as most raters order it; in alphabetical order of the models where they are divided."""
    question, first, second = key
    share = sum(votes) / len(votes)
    better, worse = (first, second) if share >= 0.5 else (second, first)
    return LabelledPair(
        turns=asked[question].turns, chosen=models[better].replies[(question,)].strip(),
        rejected=models[worse].replies[(question,)].strip(), cluster="", chosen_model=better, rejected_model=worse,
        votes=max(share, 1 - share) if len(votes) > 1 else None,
    )  # fmt: skip
