"""Labelled pairs from where they lie: a run, a preference set, a file of pairs, or rankings of recorded replies."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError, nearest
from psychocounsel.evaluate.human.scoring import ROLES
from psychocounsel.evaluate.pairs.labelled import Choice, LabelledPair, LabelledPairs, unique
from psychocounsel.models.recorded import RecordedModel, open_recording, question_key
from psychocounsel.preference import LICENSES, read_preferences
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.recipe import Source, SpeechesTable
from psychocounsel.records import Pair, Response, Speech, Turn, content_id, read_records, read_rows
from psychocounsel.rows import READERS, table_rows
from psychocounsel.run import RunFolder
from psychocounsel.score.rows import read_item
from psychocounsel.speeches.dedup import near_duplicates
from psychocounsel.speeches.sources import read_source

RANKINGS = "rankings:"
TOLD = ("cluster", "topic", "chosen_model", "rejected_model")
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
    counts: Counter[str] = Counter()
    place = run.stage("pairs")
    pairs = unique((_of_run(p, speeches, replies) for p in read_records(place / f"{split}.jsonl", Pair)), counts)
    sets = {
        path.stem.removeprefix("test-").replace("-", " "): unique(
            (_of_run(pair, speeches, replies) for pair in read_records(path, Pair)), Counter()
        )
        for path in (sorted(place.glob("test-*.jsonl")) if split == "test" else [])
    }
    overall = json.loads((place / "overall.json").read_text(encoding="utf-8"))
    kept = {speech.id for speech in speeches.values() if speech.split == split}
    return LabelledPairs(folder.name, pairs, _choices(speeches, replies, overall, kept), counts, sets=sets)


def _choices(
    speeches: Mapping[str, Speech], replies: Mapping[str, Response], overall: Mapping[str, float], kept: set[str]
) -> list[Choice]:
    """The rated replies to each speech of a split, where one of them is better than all others."""
    rated: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for key, score in overall.items():
        if key in replies and replies[key].speech_id in kept:
            rated[replies[key].speech_id].append((score, replies[key].text))
    found = []
    for speech, rows in sorted(rated.items()):
        best = max(score for score, _ in rows)
        if len(rows) > 1 and [score for score, _ in rows].count(best) == 1:
            texts = tuple(text for _, text in rows)
            place = next(k for k, (score, _) in enumerate(rows) if score == best)
            cluster = speeches[speech].cluster or speech
            found.append(Choice(turns=speeches[speech].turns, replies=texts, best=place, cluster=cluster))
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
    present = {speech.split for speech in read.speeches}
    wanted = split if split in present else next(iter(present))
    rows = [_of_run(pair, speeches, replies) for pair in read.pairs if speeches[pair.speech_id].split == wanted]
    counts: Counter[str] = Counter()
    pairs = _clustered(unique(rows, counts))
    return LabelledPairs(Path(place).stem, pairs, counts=counts, license=LICENSES.get(place, ""))


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
        told = {key: str(row[key]) for key in TOLD if row.get(key) not in (None, "")}
        numbers = {
            key: _number(where, key, row[key], most) for key, most in NUMBERS.items() if row.get(key) is not None
        }
        rows.append(
            LabelledPair.model_validate(
                {"turns": turns, "chosen": row["chosen"], "rejected": row["rejected"], "cluster": "", **told, **numbers}
            )
        )
    counts: Counter[str] = Counter()
    return LabelledPairs(path.stem, _clustered(unique(rows, counts)), counts=counts)


def _number(where: str, key: str, value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise UserError(f"{where}: '{key}' is no number from 0 to {most:g}")
    return float(value)


def _clustered(pairs: Sequence[LabelledPair]) -> list[LabelledPair]:
    """Near-duplicate dialogues share a cluster, where the source names none."""
    dialogues = list(dict.fromkeys(pair.turns for pair in pairs))
    table = SpeechesTable()
    texts = [dialogue_text(turns) for turns in dialogues]
    roots = near_duplicates(texts, drop_at=table.near_duplicate, join_at=table.cluster).root if texts else []
    names = {turns: content_id(texts[root]) for turns, root in zip(dialogues, roots, strict=True)}
    return [pair if pair.cluster else pair.model_copy(update={"cluster": names[pair.turns]}) for pair in pairs]


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
        rankings[key].append(order)
        for one, two in combinations(order, 2):
            first, second = sorted((one, two))
            votes[key, first, second].append(one == first)
    counts: Counter[str] = Counter()
    rows = [pair for key, cast in votes.items() if (pair := _voted(asked, models, key, cast, counts))]
    pairs = _clustered(unique(rows, counts))
    clusters = {pair.turns: pair.cluster for pair in pairs}
    found = LabelledPairs(path.stem, pairs, counts=counts)
    found.choices = [
        Choice(
            turns=asked[key].turns, replies=tuple(models[name].replies[(key,)].strip() for name in orders[0]), best=0,
            cluster=clusters.get(asked[key].turns, key),
        )
        for key, orders in rankings.items()
        if len({order[0] for order in orders}) == 1
    ]  # fmt: skip
    twice = [(key, cast) for key, cast in votes.items() if len(cast) > 1]
    if twice:
        alike = [sum(a == b for a, b in combinations(cast, 2)) / (len(cast) * (len(cast) - 1) / 2) for _, cast in twice]
        found.ceiling = alike, [clusters.get(asked[key[0]].turns, key[0]) for key, _ in twice]
    return found


def _voted(
    asked: Mapping[str, Speech], models: Mapping[str, RecordedModel], key: tuple[str, str, str], cast: Sequence[bool],
    counts: Counter[str],
) -> LabelledPair | None:  # fmt: skip
    question, first, second = key
    share = sum(cast) / len(cast)
    if share == 0.5:
        counts["left out: raters are divided"] += 1
        return None
    better, worse = (first, second) if share > 0.5 else (second, first)
    return LabelledPair(
        turns=asked[question].turns, chosen=models[better].replies[(question,)].strip(),
        rejected=models[worse].replies[(question,)].strip(), cluster="", chosen_model=better, rejected_model=worse,
        votes=max(share, 1 - share) if len(cast) > 1 else None,
    )  # fmt: skip
