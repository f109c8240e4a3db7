"""The page of an evaluation: one self-contained HTML file, made from results.json and tables.json alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluate.contest import words as contest_words
from psychocounsel.evaluate.contest.plots import MEANS_FROM, POINTS, draw_contests
from psychocounsel.evaluate.contest.tables import ContestTable, PolicyDifference
from psychocounsel.evaluate.human.plots import draw_labels
from psychocounsel.evaluate.pairs.plots import draw_pairs
from psychocounsel.evaluate.raters.plots import draw_agreement
from psychocounsel.evaluate.results import Results
from psychocounsel.evaluate.wording import (
    coefficient_text,
    counts_text,
    figure_text,
    listed,
    number_text,
    percent,
    topic_text,
)

Draw = Callable[[Mapping[str, Any]], Mapping[str, str]]  # plots by name, as SVG text
DRAW: dict[str, Draw] = {
    "eval winrate": draw_contests,
    "eval rm": draw_pairs,
    "eval ood": draw_labels,
    "eval agree": draw_agreement,
}  # by command; its template is pages/COMMAND.html.j2


def page(results: Results, tables: Mapping[str, Any]) -> str:
    """The HTML text. Everything a client or model wrote is escaped; nothing is loaded from elsewhere."""
    if results.command not in DRAW:
        raise UserError(f"no page is made of '{results.command}'; evaluations with one are {', '.join(DRAW)}")
    template = environment().get_template(f"{results.command.removeprefix('eval ')}.html.j2")
    text: str = template.render(results=results, tables=tables, plots=DRAW[results.command](tables))
    return text


def environment() -> Any:
    """Templates of this package, with figures and sentences as people read them."""
    from jinja2 import Environment, FunctionLoader

    made = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(template_text))
    made.filters |= {"percent": percent, "figure": figure_text, "number": number_text, "counts": counts_text}
    made.filters |= {"coefficient": coefficient_text, "listed": listed, "topic": topic_text}
    made.globals |= {"points": POINTS, "means_from": MEANS_FROM}
    made.filters |= {
        "p": contest_words.p_text,
        "conclusion": lambda row: contest_words.conclusion(ContestTable.model_validate(row)),
        "marks": lambda row: contest_words.marks(ContestTable.model_validate(row)),
        "cautions": lambda row: contest_words.cautions(ContestTable.model_validate(row)),
        "difference": lambda row: contest_words.difference_sentence(PolicyDifference.model_validate(row)),
    }
    return made


def template_text(name: str) -> str:
    """The text of a template of this package."""
    return files("psychocounsel.evaluate").joinpath("pages", name).read_text(encoding="utf-8")
