"""`psychocounsel agreement`: reads ratings from where they lie, and shows how far they can be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from psychocounsel.agreement.tables import WIDTH, show_document
from psychocounsel.errors import UserError, nearest
from psychocounsel.principles import Principle, load_principles
from psychocounsel.ratings.agreement import HUMAN, Intervals, agreement_table
from psychocounsel.recipe import PrinciplesTable
from psychocounsel.records import Rating, read_rows, write_text
from psychocounsel.run import RunFolder

SHAPES = "response_id, judge (or rater) and scores, or question_id, model, rater and scores"


@dataclass
class Place:
    """Ratings of a place, the principles they follow, and which speech a reply belongs to (None: not told)."""

    principles: tuple[Principle, ...]
    ratings: list[Rating] = field(default_factory=list)
    speech_of: dict[str, str] | None = None
    cluster_of: dict[str, str] = field(default_factory=dict)
    again: list[Rating] = field(default_factory=list)  # of replies that the same judge had rated before


def show_agreement(path: Path, human: Path | None, target: Path | None, intervals: Intervals) -> None:
    """Print how far the judges of `path` agree, with the people of `human`; write everything to `target`.

    Raises UserError for files of another shape, unknown principles, and ratings no two of which are of one reply.
    """
    if target is not None and (target.is_dir() or not target.name):
        raise UserError(f"--json {target}: is a folder; name a file")
    place = read_place(path)
    if human is not None:
        add_people(place, human)
    document = agreement_table(place.ratings, place.principles, place.speech_of, place.cluster_of, intervals)
    if not document["doubly_rated"]:
        raise UserError(
            f"{path}: no reply is rated by two judges (judges: {len(document['judges'])}, replies: "
            f"{document['replies']}); add a judge to [ratings] judges, or people with --human FILE"
        )
    if place.again:
        print(
            f"{len(place.again)} ratings of a reply by a judge who had rated it before are left out; the first counts"
        )
    show_document(document, Console(width=max(WIDTH, Console().width)))
    if target is not None:
        write_text(target, json.dumps(document, indent=1, ensure_ascii=False))
        print(f"Everything: {target}")


def intervals(bootstrap: int, seed: int, unit: str) -> Intervals:
    """Intervals as the command line asks for them. Raises UserError for an unknown unit."""
    if unit not in ("speech", "reply"):
        raise UserError(f"--unit {unit}: there are speech and reply{nearest(unit, ['speech', 'reply'])}")
    return Intervals(bootstrap, seed, "reply" if unit == "reply" else "speech")


def read_place(path: Path) -> Place:
    """Ratings of a run folder, its ratings stage, or a JSON Lines file. Raises UserError."""
    if not path.exists():
        raise UserError(f"{path}: does not exist; name a run folder such as runs/quickstart, or a file of ratings")
    file = path
    if path.is_dir():
        stage = path if path.name == "3-ratings" else RunFolder(path).stage("ratings")
        file = stage / "ratings.jsonl"
        if not file.is_file():
            raise UserError(f"{path}: holds no 3-ratings/ratings.jsonl; run the stage ratings first, or name a file")
    run = file.resolve().parent.parent
    place = _of_run(run) if (run / "recipe.json").is_file() else Place(load_principles())
    _read(place, file, human=False)
    if not place.ratings:
        raise UserError(f"{file}: empty; expected one rating per line")
    return place


def add_people(place: Place, path: Path) -> None:
    """Add ratings by people: JSON Lines with response_id, rater or judge, scores. Raises UserError if none fits."""
    known = {rating.response_id for rating in place.ratings}
    before = len(place.ratings)
    _read(place, path, human=True)
    theirs = {rating.response_id for rating in place.ratings[before:]}
    if not theirs:
        raise UserError(f"{path}: empty; expected one rating per line")
    if not theirs & known:
        raise UserError(
            f"{path}: none of the {len(theirs)} replies rated by people is among the {len(known)} rated by judges; "
            "do both files name replies in the same way?"
        )


def _of_run(run: Path) -> Place:
    """The run's own principles, and the speeches and clusters of its replies."""
    try:
        recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
        table = PrinciplesTable.model_validate(recipe.get("principles", {}))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{run / 'recipe.json'}: not a recipe; was the file changed by hand?") from error
    place = Place(load_principles(table))
    responses, speeches = (RunFolder(run).stage(name) / f"{name}.jsonl" for name in ("responses", "speeches"))
    if responses.is_file():
        place.speech_of = {str(row.get("id")): str(row.get("speech_id")) for _, row in read_rows(responses)}
    if speeches.is_file():
        place.cluster_of = {str(row.get("id")): str(row.get("cluster") or "") for _, row in read_rows(speeches)}
    return place


def _read(place: Place, path: Path, *, human: bool) -> None:
    seen = {(rating.response_id, rating.judge) for rating in place.ratings}
    for number, row in read_rows(path):
        rating, speech = _rating(place.principles, row, f"{path}:{number}", human=human)
        if speech is not None:
            place.speech_of = place.speech_of or {}
            place.speech_of[rating.response_id] = speech
        if (rating.response_id, rating.judge) in seen:
            place.again.append(rating)
        else:
            seen.add((rating.response_id, rating.judge))
            place.ratings.append(rating)


def _rating(
    principles: Sequence[Principle], row: Mapping[str, Any], where: str, *, human: bool
) -> tuple[Rating, str | None]:
    """A row as a Rating, and its speech where the row names a question."""
    speech = None
    reply, judge, scores = row.get("response_id"), row.get("judge", row.get("rater")), row.get("scores")
    if reply is None and {"question_id", "model"} <= row.keys():
        speech = f"question:{row['question_id']}"
        reply = f"{speech}/{row['model']}"
    if not (isinstance(reply, str) and reply.strip() and isinstance(judge, str) and judge.strip()):
        raise UserError(f"{where}: not a rating; expected {SHAPES}")
    if not isinstance(scores, dict):
        raise UserError(f"{where}: 'scores' must hold principles and numbers; expected {SHAPES}")
    names = [principle.id for principle in principles]
    for name in scores:
        if name not in names:
            raise UserError(
                f"{where}: there is no principle '{name:.40}'{nearest(name, names)}; "
                "ratings by a recipe's own principles are read from its run folder"
            )
    if human and not judge.startswith(HUMAN):
        judge = f"{HUMAN}{judge}"
    if any(isinstance(score, bool) for score in scores.values()):
        raise UserError(f"{where}: true and false are no scores; write a number from 1 to 5, or null for none")
    try:
        return Rating(response_id=reply, judge=judge, scores=scores), speech
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
