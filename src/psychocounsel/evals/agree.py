"""`eval agree`: how far raters agree, from ratings, choices, verdicts, or a table of counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from psychocounsel.agreement import add_people, read_place
from psychocounsel.errors import UserError, nearest
from psychocounsel.evals.place import Found, evaluation
from psychocounsel.evals.scorers import plain_name
from psychocounsel.evaluate.agreeing import Label, Roles, agree
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.evaluate.wording import number_text
from psychocounsel.principles import overall_score
from psychocounsel.ratings.agreement import HUMAN
from psychocounsel.records import Verdict, read_records
from psychocounsel.rows import READERS, table_rows

COLUMNS = ("item", "rater", "value")
COUNTED = ("both", "only the first", "only the second", "neither")


def evaluate_agree(
    place: Path | None,
    folder: Path,
    *,
    human: Path | None = None,
    counts: str = "",
    people: Sequence[str] = (),
    labels: Sequence[str] = (),
    bootstrap: int = 5_000,
    seed: int = 0,
    name: str = "",
) -> Path:
    """Measure every question of a place; results, tables and the page go into `folder`. Returns the page.

    `people` and `labels` say which raters are people and which one is the label; names that begin with 'human:' are
    people anyway. Raises UserError for what cannot be read.
    """
    read = _counted(counts) if counts else _read(place, human)
    raters = {row.rater for row in read.rows}
    for option, given in (("--person", people), ("--label", labels)):
        for rater in given:
            if rater not in raters:
                raise UserError(f"{option} {rater}: no such rater{nearest(rater, sorted(raters))}")
    known = {*people, *(rater for rater in raters if rater.startswith(HUMAN))} - set(labels)
    settings = {
        "place": str(place or ""), "human": str(human or ""), "counts": counts, "people": sorted(known),
        "labels": list(labels), "bootstrap": bootstrap, "seed": seed,
    }  # fmt: skip
    with evaluation(folder, "eval agree", settings) as where:
        found = agree(
            read.rows, Roles(frozenset(known), frozenset(labels)), ordered=read.ordered, names=read.levels,
            bootstrap=bootstrap, seed=seed,
        )  # fmt: skip
        about = {"answers": len(read.rows), "raters": len(raters), "left out": read.repeated}
        made = Found(metrics_of(found), found, about=about)
        report = where.finish(name or f"Agreement of raters, {place.name if place else 'counts'}", made)
    Console().print(_table(found))
    return report


class _Read:
    """Answers as read, whether their levels have an order, the levels' names, and how many answers were left out."""

    def __init__(self, rows: list[Label], ordered: bool = True, levels: Sequence[str] = (), repeated: int = 0) -> None:
        self.rows, self.ordered, self.levels, self.repeated = rows, ordered, levels, repeated


def metrics_of(found: Mapping[str, Any]) -> dict[str, Figure]:
    """Names and figures for results.json: by group and statistic, and by judge."""
    made: dict[str, Figure] = {}
    for question, one in found["questions"].items():
        at = f"agree.{plain_name(question)}"
        for group, row in one["groups"].items():
            for key, figure in row.items():
                if isinstance(figure, dict):
                    made[f"{at}.{plain_name(group)}.{key}"] = Figure(**figure, n=row["n"], unit=key)
        for judge, row in one["judges"].items():
            made[f"{at}.judge.{plain_name(judge)}"] = Figure(
                **row["with_people"], n=one["items"], unit=row["statistic"]
            )
    return made


def _read(place: Path | None, human: Path | None) -> _Read:
    if place is None:
        raise UserError("name ratings, verdicts or a table of labels; or --counts BOTH,FIRST,SECOND,NEITHER")
    if place.is_dir() and (files := sorted(place.glob("verdicts-*.jsonl"))):
        return _verdicts([verdict for file in files for verdict in read_records(file, Verdict)])
    if place.is_file() and place.suffix in READERS:
        first: Mapping[str, Any] = next(iter(table_rows(place)), {})
        if {"a_first", "judge", "speech_id"} <= set(first):
            return _verdicts(read_records(place, Verdict))
        if set(COLUMNS) & set(first) >= {"item", "rater"}:
            return _labels(place)
    return _ratings(place, human)


def _ratings(path: Path, human: Path | None) -> _Read:
    """Ratings by principle and overall, in any shape that `psychocounsel agreement` reads."""
    place = read_place(path)
    if human is not None:
        add_people(place, human)
    rows = []
    for rating in place.ratings:
        speech = (place.speech_of or {}).get(rating.response_id, rating.response_id)
        unit = place.cluster_of.get(speech) or speech
        scores = {**rating.scores, "overall": overall_score(rating.scores, place.principles, gated=False)}
        rows += [
            Label(key, rating.response_id, unit, rating.judge, float(value))
            for key, value in scores.items()
            if value is not None
        ]
    return _Read(rows, repeated=place.repeated)


def _verdicts(verdicts: Sequence[Verdict]) -> _Read:
    """Who wins, 1 lost, 2 tie, 3 won, by judge: the mean of both orders, and each order as an answer of its own."""
    found: dict[tuple[str, str, str, str], dict[bool, float]] = defaultdict(dict)
    repeated = 0
    for verdict in verdicts:
        values = {"overall": verdict.value, **verdict.principles}
        for question, value in values.items():
            item = f"{verdict.a} against {verdict.b}: {verdict.speech_id}, sample {verdict.sample}"
            key = (question, item, verdict.speech_id, verdict.judge)
            if value is not None:
                repeated += verdict.a_first in found[key]
                found[key].setdefault(verdict.a_first, value)
    rows = []
    for (question, item, speech, judge), orders in found.items():
        if len(orders) == 2:
            rows.append(Label(question, item, speech, judge, _side(sum(orders.values()) / 2)))
    swapped = [
        Label(f"{question}, after the swap", item, speech, judge, _side(orders[True]), _side(orders[False]))
        for (question, item, speech, judge), orders in found.items()
        if question == "overall" and len(orders) == 2
    ]
    if not rows:
        raise UserError("eval agree: no verdict was given in both orders")
    return _Read([*rows, *swapped], repeated=repeated)


def _side(value: float) -> float:
    return 2.0 + (value > 0.5) - (value < 0.5)


def _labels(path: Path) -> _Read:
    """A long table: item, rater, value; question, unit and again if there are such columns. Texts are nominal."""
    rows, texts = [], False
    for number, row in enumerate(table_rows(path), 1):
        where = f"{path}: row {number}"
        for column in COLUMNS:
            if row.get(column) in (None, ""):
                raise UserError(f"{where}: nothing in column '{column}'{nearest(column, list(row))}")
        texts = texts or _number(row["value"]) is None
        rows.append((where, row))
    if not rows:
        raise UserError(f"{path}: empty; expected columns item, rater, value")
    levels = sorted({str(row["value"]) for _, row in rows}) if texts else []
    made = list(_long(rows, {level: float(k) for k, level in enumerate(levels, 1)}))
    return _Read(made, ordered=not texts, levels=levels)


def _long(rows: Sequence[tuple[str, Mapping[str, Any]]], codes: Mapping[str, float]) -> Iterator[Label]:
    for where, row in rows:
        again = row.get("again")
        values = [codes[str(row["value"])] if codes else _number(row["value"])]
        if again not in (None, ""):
            values.append(codes.get(str(again)) if codes else _number(again))
        if None in values:
            raise UserError(f"{where}: 'again' is no value like the others")
        item = str(row["item"])
        yield Label(
            str(row.get("question") or "overall"), item, str(row.get("unit") or item), str(row["rater"]),
            values[0] or 0.0, values[1] if len(values) > 1 else None,
        )  # fmt: skip


def _number(value: Any) -> float | None:
    """A finite number, also from a cell of a CSV; None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if abs(found) < 1e9 else None


def _counted(text: str) -> _Read:
    """Two raters who are right or wrong by a label, from the counts of a published table."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != len(COUNTED) or not all(part.isdigit() for part in parts) or not sum(map(int, parts)):
        raise UserError(f"--counts {text}: write four whole numbers: {', '.join(COUNTED)} agree with the label")
    rows = []
    for (first, second), many in zip(((1, 1), (1, 0), (0, 1), (0, 0)), map(int, parts), strict=True):
        for number in range(many):
            item = f"{first}{second}-{number}"
            rows += [
                Label("agrees with the label", item, item, "first", float(first)),
                Label("agrees with the label", item, item, "second", float(second)),
            ]
            # the label itself is drawn half and half, as the order of a pair is: chance agreement is then one half
            label = number % 2
            said = {"label": label, "first": label if first else 1 - label, "second": label if second else 1 - label}
            rows += [Label("choice", item, item, rater, float(value)) for rater, value in said.items()]
    return _Read(rows)


def _table(found: Mapping[str, Any]) -> Table:
    shown = (
        ["exact", "kappa_quadratic", "alpha", "ac2"] if found["ordered"] else ["exact", "kappa", "alpha_nominal", "ac1"]
    )
    table = Table(title="Agreement of raters, means over pairs", title_justify="left")
    for heading in ("question", "between", "pairs", "n", *shown):
        table.add_column(heading.replace("_", " "), overflow="fold")
    for question, one in found["questions"].items():
        for group, row in one["groups"].items():
            cells = [number_text(row[key]) for key in shown]
            table.add_row(question, group, str(row["pairs"]), str(row["n"]), *cells)
        for judge, row in one["judges"].items():
            verdict = "not decided" if row["passes"] is None else "passes" if row["passes"] else "does not pass"
            table.add_row(
                question, f"{judge} with people", "", "", f"{verdict}: {number_text(row['with_people'])}", "", "", ""
            )
    return table
