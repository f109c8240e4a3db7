"""The page of an evaluation: one self-contained HTML file, made from results.json and tables.json alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluate.report import counts_text, figure_text, number_text, percent
from psychocounsel.evaluate.results import Results

Draw = Callable[[Results, Mapping[str, Any]], Mapping[str, str]]  # plots by name, as SVG text
DRAW: dict[str, Draw] = {}  # by command; its template is pages/COMMAND.html.j2


def page(results: Results, tables: Mapping[str, Any]) -> str:
    """The HTML text. Everything a client or model wrote is escaped; nothing is loaded from elsewhere."""
    from jinja2 import Environment, FunctionLoader

    if results.command not in DRAW:
        raise UserError(f"no page is made of '{results.command}'; evaluations with one are {', '.join(DRAW)}")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(template_text)
    )
    environment.filters |= {"percent": percent, "figure": figure_text, "number": number_text, "counts": counts_text}
    template = environment.get_template(f"{results.command.removeprefix('eval ')}.html.j2")
    return template.render(results=results, tables=tables, plots=DRAW[results.command](results, tables))


def template_text(name: str) -> str:
    """The text of a template of this package."""
    return files("psychocounsel.evaluate").joinpath("pages", name).read_text(encoding="utf-8")
