"""`eval ood`: reward models and judges on public human labels, each beside its trivial baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from psychocounsel.errors import UserError, nearest
from psychocounsel.evals.place import Found, evaluation
from psychocounsel.evals.scorers import Named, check_scorers, open_scorers, plain_name
from psychocounsel.evals.trained import trained_on
from psychocounsel.evaluate.human.answered import answered_rows
from psychocounsel.evaluate.human.asking import ask_labels, questions
from psychocounsel.evaluate.human.labels import SETS, human_labels, read_sets
from psychocounsel.evaluate.human.reading import Place
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.evaluate.wording import number_text
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles
from psychocounsel.ratings.model_judge import ModelJudge


def evaluate_ood(
    models: Sequence[str],
    judges: Sequence[str],
    sets: Sequence[str],
    folder: Path,
    *,
    training: Sequence[str] = (),
    near: float = 0.4,
    max_length: int = 2048,
    bootstrap: int = 10_000,
    seed: int = 0,
    budget: float | None = None,
    name: str = "",
) -> Path:
    """Put every scorer to every set; results, tables and the page go into `folder`. Returns the page.

    `sets` are NAME=PLACE. `training` names what the scorers were trained on: items nearly equal to it are left out.
    """
    places = _places(sets)
    check_scorers(models, judges)
    settings = {
        "models": list(models), "judges": list(judges), "sets": list(sets), "training": list(training), "near": near,
        "max_length": max_length, "bootstrap": bootstrap, "seed": seed,
    }  # fmt: skip
    seen = [text for place in training for text in trained_on(place)]
    read = read_sets(places, seen, near)  # every file is looked at before a model is opened
    with evaluation(folder, "eval ood", settings, budget) as place:
        scorers = open_scorers(models, judges, load_principles(), place.store, max_length)
        made = Found({}, {}, judges=[one.told for one in scorers])
        tables = []
        for scorer in scorers:
            found = human_labels(read, scorer.score, bootstrap=bootstrap, seed=seed)
            asked = _asked(scorer, read, place.store, bootstrap, seed)
            made.metrics |= metrics_of(scorer.name, found, asked["rows"])
            tables.append({"name": scorer.name, "told": scorer.told, **found, "asked": asked})
        made.tables = {"scorers": tables}
        made.about = {
            "training texts compared with": len(seen),
            **{f"licence of {one['set']}": one["license"] for one in tables[0]["rows"]},
            **{f"origin of {key}": one["origin"] for key, one in tables[0]["sets"].items()},
        }
        report = place.finish(name or "Public human labels", made)
    Console().print(_table(tables))
    return report


def metrics_of(name: str, found: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Names and figures for results.json."""
    made = {f"ood.{name}.macro": Figure.model_validate(found["macro"])}
    for row in found["rows"]:
        at = f"ood.{name}.{row['set']}.{plain_name(row['test'])}.{plain_name(row['metric'])}"
        if row["score"] is not None:
            made[at] = Figure.model_validate(row["score"])
        if row["gain"] is not None:
            made[f"{at}.gain"] = Figure.model_validate(row["gain"])
    for row in asked:
        made[f"ood.{name}.{row['set']}.asked.{row['label']}.{plain_name(row['metric'])}"] = Figure.model_validate(
            row["score"]
        )
    return made


def _places(sets: Sequence[str]) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for text in sets:
        key, _, place = text.partition("=")
        if not place:
            raise UserError(f"--set {text}: write NAME=PLACE, for example counselchat=counsel_chat.csv")
        if key not in SETS:
            raise UserError(f"--set {text}: unknown set{nearest(key, list(SETS))}; there are {', '.join(SETS)}")
        if key in found:
            raise UserError(f"--set {key}: is given twice; name one place")
        found[key] = place
    if not found:
        raise UserError(f"--set: name a set and where it lies, NAME=PLACE; there are {', '.join(SETS)}")
    return found


def _asked(scorer: Named, read: Mapping[str, Any], store: CallStore, bootstrap: int, seed: int) -> dict[str, Any]:
    """What a chat model says when it is asked for the labels themselves; nothing for other scorers."""
    if not isinstance(scorer.judge, ModelJudge):
        return {"rows": [], "missing": {}, "said": {}}
    rows: list[dict[str, Any]] = []
    missing, said = {}, {}
    for key, found in read.items():
        if questions(key):
            answers = ask_labels(scorer.judge.model, found, store)
            rows += answered_rows(found, answers, bootstrap=bootstrap, seed=seed)
            missing[key], said[key] = answers.missing, answers.said
    return {"rows": rows, "missing": missing, "said": said}


def _table(tables: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Public human labels", title_justify="left", caption="* counts towards macro-OOD")
    for heading in ("scorer", "set: test", "score", "best trivial baseline", "gain", "licence"):
        table.add_column(heading, overflow="fold")
    for one in tables:
        for row in one["rows"]:
            best = row["best_baseline"]
            score = number_text(row["score"]) if row["score"] else "undefined"
            trivial = f"{best} {number_text({**row['baselines'][best], 'low': None})}" if best else ""
            star = " *" if row["in_macro"] else ""
            table.add_row(
                one["name"], f"{row['set']}: {row['test']}, {row['metric']}{star}", score, trivial,
                number_text(row["gain"]), row["license"],
            )  # fmt: skip
        table.add_row(one["name"], "macro-OOD", "", "", number_text(one["macro"]), "")
        for row in one["asked"]["rows"]:
            flat = number_text({**row["most_frequent"], "low": None})
            told = f"{row['set']}: {row['label']}, {row['metric']} (asked)"
            table.add_row(one["name"], told, number_text(row["score"]), f"one level {flat}", "", row["license"])
    return table
