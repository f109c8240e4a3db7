"""`eval gate`: two finished evaluations by the rules of a file; a table, Markdown and JUnit XML."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from psychocounsel.errors import UserError, nearest
from psychocounsel.evaluate.regression import Gate, Outcome, Rule, judge_gate
from psychocounsel.evaluate.results import read_items, read_results
from psychocounsel.records import write_text

UNPRINTABLE = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold


def pass_gate(
    rules: Path,
    candidate: Path,
    baseline: Path,
    *,
    junit: Path | None = None,
    markdown: Path | None = None,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> bool:
    """Print every rule's outcome, write it where asked, and say whether all passed. Raises UserError for bad files."""
    gate = read_gate(rules)
    sides = [(read_results(folder), read_items(folder)) for folder in (candidate, baseline)]
    found = judge_gate(gate, sides[0], sides[1], bootstrap=bootstrap, seed=seed)
    Console().print(_table(found))
    broken = [outcome for outcome in found if not outcome.passed]
    for outcome in broken:
        print(f"broken: {outcome.metric}: {outcome.why}")
    print(f"{len(found) - len(broken)} of {len(found)} passed: {candidate} against {baseline}")
    if junit is not None:
        write_text(junit, junit_text(found, sides[0][0].name))
    if markdown is not None:
        write_text(markdown, markdown_text(found, sides[0][0].name, sides[1][0].name))
    return not broken


def read_gate(path: Path) -> Gate:
    """The rules of a TOML file, strictly. Raises UserError with the place and, for an unknown key, the nearest one."""
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: not a TOML file ({error})") from error
    try:
        return Gate.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"])
        hint = ""
        if first["type"] == "extra_forbidden":
            keys = Rule.model_fields if "rule" in first["loc"] else Gate.model_fields
            hint = nearest(str(first["loc"][-1]), list(keys))
        raise UserError(f"{path}: {where or 'rule'}: {first['msg']}{hint}") from error


def junit_text(found: Sequence[Outcome], name: str) -> str:
    """JUnit XML: a test case for each rule and metric, a failure with its reason for each that broke."""
    failures = str(sum(not outcome.passed for outcome in found))
    told = {"name": _clean(f"psychocounsel eval gate, {name}"), "tests": str(len(found)), "failures": failures}
    suites = ElementTree.Element("testsuites", {"tests": told["tests"], "failures": failures})
    suite = ElementTree.SubElement(suites, "testsuite", {**told, "errors": "0", "skipped": "0"})
    for outcome in found:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {"classname": f"gate.{outcome.kind}", "name": _clean(f"{outcome.rule}: {outcome.metric}")},
        )
        if not outcome.passed:
            ElementTree.SubElement(case, "failure", {"message": _clean(outcome.why), "type": outcome.kind})
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def markdown_text(found: Sequence[Outcome], candidate: str, baseline: str) -> str:
    """A table for a pull request."""
    broken = sum(not outcome.passed for outcome in found)
    head = "All rules passed" if not broken else f"{broken} of {len(found)} rules broken"
    lines = [f"### {head}: {_cell(candidate)} against {_cell(baseline)}", ""]
    lines += [
        "| | metric | rule | baseline | candidate | difference | held to | why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for outcome in found:
        cells = ["pass" if outcome.passed else "**FAIL**", f"`{_cell(outcome.metric)}`", *_cells(outcome)]
        lines.append("| " + " | ".join([*cells, _cell(outcome.why)]) + " |")
    note = (
        "Differences are candidate minus baseline with 90 % intervals, whose lower end is the one-sided 95 % bound. "
        "Holm's correction holds over the soft rules."
    )
    return "\n".join([*lines, "", note, ""])


def _table(found: Sequence[Outcome]) -> Table:
    table = Table(title="Gate", title_justify="left")
    for name in ("", "metric", "rule", "baseline", "candidate", "difference", "held to"):
        table.add_column(name, overflow="fold")
    for outcome in found:
        table.add_row("pass" if outcome.passed else "FAIL", outcome.metric, *_cells(outcome))
    return table


def _cells(outcome: Outcome) -> list[str]:
    bounds = "" if outcome.low is None else f" [{outcome.low:.4f}, {_number(outcome.high)}]"
    difference = "" if outcome.difference is None else f"{outcome.difference:+.4f}{bounds}"
    if outcome.adjusted is not None:
        difference += f", p {outcome.p:.3g} ({outcome.adjusted:.3g} corrected)"
    return [outcome.kind, _number(outcome.baseline), _number(outcome.candidate), difference, _number(outcome.bound)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _cell(text: str) -> str:
    """Text that can neither end a cell nor begin markup."""
    return _clean(" ".join(text.split())).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _clean(text: str) -> str:
    return UNPRINTABLE.sub("?", text)
