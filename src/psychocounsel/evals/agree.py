"""`eval agree`: how far raters agree, from ratings, choices, verdicts, rankings, or a published table of counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from psychocounsel.agreement.tables import WIDTH, long_text, print_table, ratings_table, short_name
from psychocounsel.errors import UserError, nearest
from psychocounsel.evals.place import Found, evaluation
from psychocounsel.evals.raters import Read, read_answers
from psychocounsel.evals.scorers import plain_name
from psychocounsel.evals.values import settle
from psychocounsel.evaluate.raters.agreeing import agree, pair_rows
from psychocounsel.evaluate.raters.answers import OVERALL, Answers, Roles, arrays
from psychocounsel.evaluate.raters.facing import Draws
from psychocounsel.evaluate.raters.published import LABELS, counted, possible
from psychocounsel.evaluate.results import ItemValue
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.ratings.agreement import HUMAN
from psychocounsel.records import content_id
from psychocounsel.rows import file_origin

BY, UNITS = ("principle", "overall"), ("speech", "item")
TOLD = {"nominal": ("exact", "kappa", "ac1"), "ordinal": ("exact", "kappa_quadratic", "alpha"),
        "interval": ("kappa_quadratic", "alpha_interval"), "ranked": ("alike", "tau", "spearman")}  # fmt: skip

COUNTED = dict.fromkeys(("alike", "gamma", "three_way"), "pairs of items") | dict.fromkeys(
    ("tau", "spearman"), "rankings"
)
SHORT = {"human_human": "people", "human_judge": "people, judges", "judge_judge": "judges",
         "human_label": "people, labels", "judge_label": "judges, labels", "label_label": "labels"}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    place: Path | None = None
    human: Path | None = None
    labels: Path | None = None
    people: Sequence[str] = ()
    label_raters: Sequence[str] = ()
    counts: str = ""
    margins: str = ""
    by: str = "principle"
    scale: str = ""
    levels: str = ""
    unit: str = "speech"
    bootstrap: int = 5_000
    seed: int = 0
    name: str = ""


def evaluate_agree(asked: Asked, folder: Path) -> Path:
    """Measure every question; results, tables, items and the page go into `folder`. Returns the page.

    Raises UserError for what cannot be read or does not fit together.
    """
    _check(asked)
    margins = possible(*_whole(asked.margins, "--margins", (3, 4))) if asked.margins else None
    counts = asked.counts or (",".join(map(str, margins["least"])) if margins and margins["tables"] == 1 else "")
    if margins is not None and not counts:
        return _margins_only(asked, margins, folder)
    read, answers = _counted(counts) if counts else _read(asked)
    roles = _roles(asked, read, answers.raters)
    draws = Draws(asked.bootstrap, asked.seed)
    with evaluation(folder, "eval agree", _settings(asked, read, roles)) as where:
        found = {
            **agree(answers, roles, draws),
            "margins": margins,
            "left_out": {why: n for why, n in sorted(read.left_out.items()) if n},
        }
        about = {
            "answers from": ", ".join(path.name for path in read.files) or "counts", "items": len(answers.items),
            "units of intervals": len(answers.units), "raters": len(answers.raters), "left out": found["left_out"],
        }  # fmt: skip
        items = list(_items(answers, roles))
        page = where.finish(_title(asked), Found(metrics_of(found), found, items, about=about))
    show(found, Console(width=max(WIDTH, Console().width)))
    return page


def metrics_of(found: Mapping[str, Any]) -> dict[str, Figure]:
    """`agree.GROUP.STATISTIC[.QUESTION]`, and `agree.human_judge.STATISTIC[.QUESTION].judge.NAME` for each judge."""
    made: dict[str, Figure] = {}
    names = _plain(found["raters"])
    questions = {name: f".{plain}" for name, plain in _plain(found["questions"]).items() if name != OVERALL}
    tables = [(questions.get(name, ""), one["groups"], one["judges"]) for name, one in found["questions"].items()]
    for suffix, groups, judges in [*tables, (".mean", found["mean"], found["mean_judges"])]:
        for group, row in groups.items():
            for key, figure in row.items():
                if isinstance(figure, dict):
                    made[f"agree.{group}.{key}{suffix}"] = _figure(figure, figure["n"], COUNTED.get(key, "items"))
        for judge, row in judges.items():
            at = f"agree.human_judge.{row['statistic']}{suffix}.judge.{names[judge]}"
            made[at] = _figure(row["with_humans"], row["n"], "items")
    return made


def show(found: Mapping[str, Any], console: Console) -> None:
    """The short tables: groups by question, then who passes, in the mean and overall where there is a mean."""
    console.print(
        f"{len(found['raters'])} raters, {found['items']} items in {found['units']} units. "
        f"In brackets: 95 % intervals, {found['bootstrap']} draws of units with all their raters.",
        highlight=False,
    )
    kinds = dict.fromkeys(one["kind"] for one in found["questions"].values())
    for kind in kinds:
        shown = [(name, one["groups"]) for name, one in found["questions"].items() if one["kind"] == kind]
        if kind == "ordinal" and found["mean"]:
            shown.append(("mean", found["mean"]))
        table = ratings_table(f"Agreement ({kind})", "", "", "n", *TOLD[kind], names=2)
        for name, groups in shown:
            for group, row in groups.items():
                cells = [long_text(row[key]) if key in row else "" for key in TOLD[kind]]
                table.add_row(short_name(name), SHORT[group], str(row["n"]), *cells)
        print_table(console, table)
    judged = [(name, one["judges"]) for name, one in found["questions"].items() if name == OVERALL or not found["mean"]]
    judged.append(("mean", found["mean_judges"]))
    if any(judges for _, judges in judged):
        table = ratings_table(
            "Judges: with people, and people with each other on the same items", "", "", "n", "statistic",
            "with people", "people", "passes", names=2,
        )  # fmt: skip
        for name, judges in judged:
            for judge, row in judges.items():
                people = "" if row["humans"] is None else long_text(row["humans"])
                passes = {True: "yes", False: "no", None: "not decided"}[row["passes"]]
                table.add_row(
                    short_name(name), short_name(judge), str(row["n"]), row["statistic"],
                    long_text(row["with_humans"]), people, passes,
                )  # fmt: skip
        print_table(console, table)
    if found["left_out"]:
        told = ", ".join(f"{count} {reason}" for reason, count in found["left_out"].items())
        console.print(f"Left out: {told}.", highlight=False)


def _check(asked: Asked) -> None:
    given = [asked.place is not None, bool(asked.counts), bool(asked.margins)]
    if sum(given) != 1:
        raise UserError("eval agree: name one of: a PLACE with answers, --counts, --margins")
    if not given[0] and (asked.human or asked.labels or asked.people or asked.label_raters):
        raise UserError("eval agree: --human, --labels, --person and --label belong to a PLACE with answers")
    for option, value, known in (("--by", asked.by, BY), ("--unit", asked.unit, UNITS)):
        if value not in known:
            raise UserError(f"{option} {value}: there are {' and '.join(known)}{nearest(value, list(known))}")


def _read(asked: Asked) -> tuple[Read, Answers]:
    assert asked.place is not None
    read = read_answers(asked.place, asked.human, asked.labels)
    rows = read.rows
    if asked.by == "overall":
        rows = [row for row in rows if row.question == OVERALL]
        if not rows:
            names = ", ".join(sorted({row.question for row in read.rows}))
            raise UserError(f"--by overall: there is no overall question, only {names[:200]}")
    levels = asked.levels.split(",") if asked.levels else []
    answers, questions = settle(rows, read.known, asked.scale, levels)
    if asked.unit == "item":
        answers = [row._replace(unit=row.item) for row in answers]
    if not answers:
        raise UserError(f"{asked.place}: holds no answer with a value")
    return read, arrays(answers, questions)


def _counted(counts: str) -> tuple[Read, Answers]:
    answers, questions = counted(_whole(counts, "--counts", (4,)))
    return Read(labels={LABELS}), arrays(answers, questions)


def _roles(asked: Asked, read: Read, raters: Sequence[str]) -> Roles:
    """Who is a person and who a label: as options and files say, and people by the prefix of their names."""
    for option, given in (("--person", asked.people), ("--label", asked.label_raters)):
        for rater in given:
            if rater not in raters:
                raise UserError(f"{option} {rater}: no such rater{nearest(rater, sorted(raters))}")
    labels = {*asked.label_raters, *read.labels}
    if both := sorted(labels & set(asked.people)):
        raise UserError(f"{both[0]}: cannot be a person and a label at once")
    counted_people = set(raters) - {LABELS} if not read.files else set()
    humans = {*asked.people, *counted_people, *(rater for rater in raters if rater.startswith(HUMAN))} - labels
    return Roles(frozenset(humans), frozenset(labels))


def _settings(asked: Asked, read: Read, roles: Roles) -> dict[str, Any]:
    """What decides the figures: the files by their content, so that changed answers do not meet old figures."""
    return {
        "answers": [file_origin(path if path.is_file() else _ratings_file(path)) for path in read.files],
        "counts": asked.counts, "margins": asked.margins, "humans": sorted(roles.humans),
        "labels": sorted(roles.labels), "by": asked.by, "scale": asked.scale, "levels": asked.levels,
        "unit": asked.unit, "bootstrap": asked.bootstrap, "seed": asked.seed,
    }  # fmt: skip


def _ratings_file(folder: Path) -> Path:
    """The file of ratings in a run folder, or in its ratings stage."""
    return next(folder.glob("ratings.jsonl"), folder / "3-ratings" / "ratings.jsonl")


def _title(asked: Asked) -> str:
    return asked.name or f"Agreement of raters, {asked.place.name if asked.place else 'published counts'}"


def _margins_only(asked: Asked, margins: Mapping[str, Any], folder: Path) -> Path:
    """Margins that leave several tables: the range of each coefficient, and no interval."""
    settings = {"counts": "", "margins": asked.margins}
    metrics = {
        f"agree.margins.{key}.{end}": Figure(value=value, n=margins["items"], unit="items")
        for key, ends in margins["ranges"].items()
        for end, value in zip(("least", "most"), ends, strict=True)
    }
    tables = {"raters": {}, "questions": {}, "mean": {}, "mean_judges": {}, "left_out": {}, "margins": margins}
    with evaluation(folder, "eval agree", settings) as where:
        page = where.finish(_title(asked), Found(metrics, tables, about={"items": margins["items"]}))
    for key, (least, most) in margins["ranges"].items():
        print(f"{key}: {least} to {most}, over {margins['tables']} tables with these margins")
    return page


def _whole(text: str, option: str, sizes: Sequence[int]) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in sizes or not all(part.isdecimal() and part.isascii() and len(part) < 10 for part in parts):
        raise UserError(f"{option} {text:.60}: write {' or '.join(map(str, sizes))} whole numbers with commas between")
    return [int(part) for part in parts]


def _items(answers: Answers, roles: Roles) -> Iterator[ItemValue]:
    """The share of pairs of raters who answer alike, by item: the values behind `exact`. Ids, never a text."""
    questions = _plain(answers.values)
    for group, question, row, unit, value in pair_rows(answers, roles):
        suffix = "" if question == OVERALL else f".{questions[question]}"
        yield ItemValue(
            metric=f"agree.{group}.exact{suffix}", item=content_id(row), cluster=content_id(unit), value=value
        )


def _plain(names: Mapping[str, Any]) -> dict[str, str]:
    """Names as metrics carry them; two that would be one get a number."""
    found: dict[str, str] = {}
    for name in names:
        plain = plain_name(name) or "unnamed"
        found[name] = plain if plain not in found.values() else f"{plain}_{len(found)}"
    return found


def _figure(figure: Mapping[str, Any], n: int, unit: str) -> Figure:
    return Figure(value=figure["value"], low=figure["low"], high=figure["high"], n=n, unit=unit)
