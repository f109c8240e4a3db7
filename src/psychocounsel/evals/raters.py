"""Answers of raters as they lie on disk: ratings, verdicts, rankings, or a long table of item, rater and value."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel.agreement import add_people, read_place
from psychocounsel.errors import UserError
from psychocounsel.evals.values import Raw, missing
from psychocounsel.evaluate.raters.answers import OVERALL, Question
from psychocounsel.evaluate.results import ITEMS, read_items
from psychocounsel.ratings.agreement import HUMAN
from psychocounsel.records import Rating, Verdict, read_records, read_rows
from psychocounsel.rows import READERS, columns_of, table_rows

SIDES = Question("ordinal", ("lost", "tie", "won"), tie=2.0)
MANY = "more than two answers of a rater to an item"
NONE = "answers without a value"
ONE_ORDER = "pairs that a judge saw in one order only"


@dataclass
class Read:
    """Answers as read. `known` says how questions are to be read where the shape tells; `left_out` counts reasons."""

    rows: list[Raw] = field(default_factory=list)
    known: dict[str, Question] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    labels: set[str] = field(default_factory=set)


def read_answers(place: Path, human: Path | None = None, labels: Path | None = None) -> Read:
    """Everything that raters said at `place`, people's answers of `human` and labels of `labels` beside it.

    Raises UserError for files that cannot be read, of another shape, or of a rater who stands in two of them.
    """
    files = _files(place)
    if not files:
        return _ratings(place, human, labels)
    reader = _reader(files[0])
    if reader is None:
        raise UserError(f"{files[0]}: holds no verdicts; was the file changed by hand?")
    found = Read(files=files)
    _add(found, reader(files, False))
    for path, people in ((human, True), (labels, False)):
        if path is None:
            continue
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        if _reader(path) is not reader:
            raise UserError(f"{path}: has not the shape of {place}; write both with the same columns")
        more = reader([path], people)
        theirs = {row.rater for row in more.rows}
        if both := sorted(theirs & {row.rater for row in found.rows}):
            raise UserError(f"{path}: {both[0]:.60} has answers in {place} too; give the two different names")
        if not {row.item for row in more.rows} & {row.item for row in found.rows}:
            raise UserError(f"{path}: shares no item with {place}; do both name items in the same way?")
        if not people:
            found.labels |= theirs
        _add(found, more)
    return found


def _add(found: Read, more: Read) -> None:
    found.rows += more.rows
    found.known |= more.known
    found.files += [path for path in more.files if path not in found.files]
    found.left_out += more.left_out


def _files(place: Path) -> list[Path]:
    """Files of verdicts, rankings or a long table; none where the place holds ratings."""
    if not place.exists():
        raise UserError(f"{place}: does not exist; name a run folder, an evaluation, or a file of answers")
    if place.is_dir():
        return sorted(place.glob("verdicts*.jsonl"))
    return [place] if _reader(place) else []


def _reader(path: Path) -> Callable[[Sequence[Path], bool], Read] | None:
    """What reads a file, by the columns of its first row; None for ratings."""
    if path.suffix not in READERS:
        raise UserError(f"{path}: not a {', '.join(READERS)} file")
    first: Mapping[str, Any] | None = next(iter(table_rows(path)), None)
    if first is None:
        raise UserError(f"{path}: empty; expected one answer per row: item, rater, value")
    if {"a_first", "judge", "speech_id"} <= first.keys():
        return _verdicts
    if {"ranking", "rater"} <= first.keys():
        return _rankings
    if first.keys() & {"response_id", "question_id"} and "scores" in first:
        return None
    if not {"item", "rater"} <= first.keys() or not {"value", "scores"} & first.keys():
        raise UserError(f"{path}: expected columns item, rater, value (or scores); found {columns_of(first)[:200]}")
    return _long


def _long(files: Sequence[Path], people: bool) -> Read:
    """A long table; question, unit, among and again if there are such columns. `scores` holds several questions.

    A second row of one rater on one item is a repeat, for test and retest; a third is left out and counted.
    """
    found, first = Read(files=list(files)), {}
    numbered = ((path, line, row) for path in files for line, row in enumerate(table_rows(path), 1))
    for where, row in ((f"{path}: row {line}", row) for path, line, row in numbered):
        for column in ("item", "rater"):
            if missing(row.get(column)):
                raise UserError(f"{where}: nothing in column '{column}'")
        scores = row.get("scores", {str(row.get("question") or OVERALL): row.get("value")})
        if not isinstance(scores, dict):
            raise UserError(f"{where}: 'scores' must hold questions and values")
        rater = _person(str(row["rater"])) if people else str(row["rater"])
        for question, value in scores.items():
            if missing(value):
                found.left_out[NONE] += 1
                continue
            item = str(row["item"])
            raw = Raw(where, str(question), item, str(row.get("unit") or row.get("among") or item), rater, value,
                      among=str(row.get("among") or ""))  # fmt: skip
            again = row.get("again")
            if not missing(again):
                raw.twice = (value, again)
            key = (raw.question, item, rater)
            if key not in first:
                first[key] = raw
                found.rows.append(raw)
            elif first[key].twice is None:
                first[key].twice = (first[key].value, value)
            else:
                found.left_out[MANY] += 1
    return found


def _rankings(files: Sequence[Path], people: bool) -> Read:
    """Rankings, best first: an item for each thing ranked within its speech. A list inside the list is a tie."""
    found, seen = Read(files=list(files), known={OVERALL: Question("ranked")}), set()
    for where, row in ((f"{path}:{line}", row) for path in files for line, row in read_rows(path)):
        speech, rater, ranking = row.get("item", row.get("question_id")), row.get("rater"), row.get("ranking")
        if missing(speech) or missing(rater) or not isinstance(ranking, list):
            raise UserError(f"{where}: not a ranking; expected item (or question_id), rater, and ranking, best first")
        rater = _person(str(rater)) if people else str(rater)
        if (speech, rater) in seen:
            found.left_out["second rankings by the same rater"] += 1
            continue
        seen.add((speech, rater))
        tiers = [tier if isinstance(tier, list) else [tier] for tier in ranking]
        names = [str(name) for tier in tiers for name in tier]
        if len(set(names)) < len(names) or len(names) < 2:
            raise UserError(f"{where}: a ranking names two or more things, each once")
        for rank, tier in enumerate(tiers):
            found.rows += [
                Raw(where, OVERALL, f"{speech}/{name}", str(speech), rater, float(-rank), among=str(speech))
                for name in tier
            ]
    return found


def _verdicts(files: Sequence[Path], people: bool) -> Read:
    """Who wins by each rater: of judges the mean of both orders, and each order as an answer of its own for retest."""
    found = Read(files=list(files))
    clusters = _clusters(files[0].parent)
    sides: dict[tuple[str, str, str, str], dict[bool, float]] = defaultdict(dict)
    for verdict in (verdict for path in files for verdict in read_records(path, Verdict)):
        item = f"{verdict.a} against {verdict.b}: {verdict.speech_id}, sample {verdict.sample}"
        rater = _person(verdict.judge) if people else verdict.judge
        for question, value in {OVERALL: verdict.value, **verdict.principles}.items():
            orders = sides[question, item, verdict.speech_id, rater]
            if value is None:
                found.left_out["verdicts without an answer"] += 1
            elif verdict.a_first in orders:
                found.left_out["repeated verdicts in the same order"] += 1
            else:
                orders[verdict.a_first] = value
    for (question, item, speech, rater), orders in sides.items():
        one_is_enough = people or rater.startswith(HUMAN)
        if len(orders) < 2 and not (orders and one_is_enough):
            found.left_out[ONE_ORDER] += bool(orders)
            continue
        found.known[question] = SIDES
        twice = (_side(orders[True]), _side(orders[False])) if len(orders) == 2 else None
        value = _side(sum(orders.values()) / len(orders))
        found.rows.append(Raw(files[0].name, question, item, clusters.get(speech) or speech, rater, value, twice=twice))
    if not found.rows:
        raise UserError(f"{files[0]}: no pair was judged in both orders by anybody; there is nothing to compare")
    return found


def _side(value: float) -> float:
    """1 lost, 2 tie, 3 won."""
    return 2.0 + (value > 0.5) - (value < 0.5)


def _clusters(folder: Path) -> dict[str, str]:
    """The near-duplicate cluster of each speech, from an evaluation's items or the run a stage belongs to."""
    if (folder / ITEMS).is_file():
        return {item: row.cluster for rows in read_items(folder).values() for item, row in rows.items()}
    speeches = folder.parent / "1-speeches" / "speeches.jsonl"
    rows = (row for _, row in read_rows(speeches)) if speeches.is_file() else ()
    return {str(row.get("id")): str(row.get("cluster") or "") for row in rows}


def _ratings(path: Path, human: Path | None, labels: Path | None) -> Read:
    """Ratings by principle, and their plain mean as the overall one, in any shape `psychocounsel agreement` reads."""
    place = read_place(path)
    if human is not None:
        add_people(place, human)
    found = Read(files=[part for part in (path, human, labels) if part])
    if labels is not None:
        label = read_place(labels)
        found.labels = {rating.judge for rating in label.ratings}
        if both := sorted(found.labels & {rating.judge for rating in place.ratings}):
            raise UserError(f"{labels}: {both[0]:.60} has ratings in {path} too; give the two different names")
        place.ratings += label.ratings
    second: dict[tuple[str, str], Rating] = {}
    for rating in place.again:
        found.left_out[MANY] += (rating.response_id, rating.judge) in second
        second.setdefault((rating.response_id, rating.judge), rating)
    for rating in place.ratings:
        speech = (place.speech_of or {}).get(rating.response_id, "")
        unit = place.cluster_of.get(speech) or speech or rating.response_id
        again = _scores(second[key]) if (key := (rating.response_id, rating.judge)) in second else {}
        for question, value in _scores(rating).items():
            twice = (value, again[question]) if question in again else None
            found.rows.append(
                Raw(path.name, question, rating.response_id, unit, rating.judge, value, twice=twice, among=speech)
            )
    names = {row.question for row in found.rows}
    found.known = {name: Question("ordinal", ("1", "2", "3", "4", "5")) for name in names}
    found.known[OVERALL] = Question("interval")
    return found


def _scores(rating: Rating) -> dict[str, float]:
    """What was scored, and the plain mean of it, as the paper has it."""
    known = {name: float(score) for name, score in rating.scores.items() if score is not None}
    return {**known, OVERALL: sum(known.values()) / len(known)} if known else {}


def _person(name: str) -> str:
    return name if name.startswith(HUMAN) else f"{HUMAN}{name}"
