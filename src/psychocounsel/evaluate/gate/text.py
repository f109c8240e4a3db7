"""What a gate found, as Markdown for a pull request and as JUnit XML for a build server."""

from __future__ import annotations

import html
from collections.abc import Sequence
from xml.etree import ElementTree

from psychocounsel.evaluate.gate.regression import Check, Outcome
from psychocounsel.evaluate.gate.rules import printable
from psychocounsel.evaluate.statistics import Figure

HEADS = (
    "rule", "metric", "baseline", "candidate", "difference [95 %]", "held", "to", "p", "corrected p", "result", "why",
)  # fmt: skip
MARKS = {mark: f"\\{mark}" for mark in "\\|`*_[]~#"} | {"@": "@&#8203;"}  # what starts something in Markdown


def rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """One row of text for each check, under `HEADS`. Names are as they came: escape them."""
    return [
        (
            f"{check.rule}{' hard' if check.hard else ''}",
            check.metric,
            figure_text(check.baseline) if check.kind == "non-inferior" else "",
            figure_text(check.candidate),
            _interval(check),
            _held(check),
            f"{_sign(check)} {check.bound:g}",
            _p(check.p),
            _p(check.adjusted),
            word(check),
            "; ".join((check.why, *check.notes)),
        )
        for check in outcome.checks
    ]


def word(check: Check) -> str:
    """The result in one word."""
    return "skipped" if check.passed is None else "pass" if check.passed else "FAIL"


def sentences(outcome: Outcome) -> list[str]:
    """How to read the table: levels, correction, what was left out, independence."""
    level = 100 * (1 - outcome.alpha)
    lines = [
        "Differences are candidate minus baseline, with two-sided 95 % intervals. For kind non-inferior, 'held' is "
        f"the one-sided {level:g} % bound of the difference, and p is for a difference as bad as the margin or worse."
    ]
    if outcome.tests > 1 and outcome.correction == "holm":
        lines.append(
            f"{outcome.tests} soft tests share the level {outcome.alpha:g} (Holm): each passes by its corrected p."
        )
    if outcome.parts:
        lines.append(
            f"{outcome.parts} metrics beneath those named (by judge, by principle) have no rule and are not compared."
        )
    if outcome.panels:
        lines.append("The judges of the two evaluations are not the same: a difference may be one of judges.")
    if outcome.dependent:
        told = "; ".join(outcome.dependent)
        lines.append(
            f"DEPENDENT: {told}."
            + ("" if outcome.allowed else " Fails, unless the gate file says allow_dependent = true.")
        )
    return lines


def headline(outcome: Outcome) -> str:
    """One line: passed or not, and how many checks held."""
    counts = {
        name: sum(check.passed is state for check in outcome.checks)
        for name, state in (("broken", False), ("held", True), ("skipped", None))
    }
    told = [f"{count} {name}" for name, count in counts.items() if count]
    told += [] if counts["held"] or counts["broken"] else ["nothing was compared"]
    told += [] if outcome.independent else ["judges are not independent"]
    return f"Gate {'passed' if outcome.passed else 'not passed'}: {', '.join(told)}"


def markdown(outcome: Outcome, names: Sequence[str]) -> str:
    """A comment for a pull request. `names` are those of the candidate and the baseline."""
    lines = [f"### {headline(outcome)}", "", f"Candidate {_safe(names[0])}, baseline {_safe(names[1])}.", ""]
    lines += ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(map(_safe, row)) + " |" for row in rows(outcome)]
    lines += ["", *(line for text in sentences(outcome) for line in (_safe(text), ""))]
    return "\n".join(lines)


def junit(outcome: Outcome, names: Sequence[str]) -> str:
    """JUnit XML: a test case for every rule and metric, and one for independence.

    What cannot be printed is replaced: XML could not hold all of it, even escaped.
    """
    cases = [_case(check, row) for check, row in zip(outcome.checks, rows(outcome), strict=True)]
    judges = ElementTree.Element("testcase", classname="gate.independence", name="judges are independent", time="0")
    if not outcome.independent:
        why = printable("; ".join(outcome.dependent))
        ElementTree.SubElement(judges, "failure", message=why, type="dependent").text = why
    failures = sum(case.find("failure") is not None for case in [*cases, judges])
    skipped = sum(case.find("skipped") is not None for case in cases)
    counts = {
        "tests": str(len(cases) + 1), "failures": str(failures), "errors": "0", "skipped": str(skipped), "time": "0",
    }  # fmt: skip
    whole = ElementTree.Element("testsuites", {"name": "psychocounsel eval gate"} | counts)
    suite = ElementTree.SubElement(whole, "testsuite", {"name": printable(f"{names[0]} against {names[1]}")} | counts)
    suite.extend([*cases, judges])
    ElementTree.indent(whole)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(whole, encoding="unicode") + "\n"


def _case(check: Check, row: tuple[str, ...]) -> ElementTree.Element:
    name = printable(f"rule {check.rule}: {check.metric}")
    case = ElementTree.Element("testcase", classname=f"gate.{check.kind}", name=name, time="0")
    if check.passed is not True:
        text = printable("; ".join(f"{head}: {cell}" for head, cell in zip(HEADS, row, strict=True) if cell))
        tag, more = ("skipped", {}) if check.passed is None else ("failure", {"type": check.kind})
        ElementTree.SubElement(case, tag, {"message": printable(check.why)} | more).text = text
    return case


def figure_text(figure: Figure | None) -> str:
    """A figure with its interval and n, whatever its unit."""
    if figure is None:
        return "absent"
    if figure.value is None:
        return f"undefined, n = {figure.n}"
    interval = "" if figure.low is None or figure.high is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
    return f"{figure.value:.4g}{interval}, n = {figure.n}"


def _interval(check: Check) -> str:
    if check.value is None:
        return ""
    ends = "" if check.low is None or check.high is None else f" [{check.low:+.3f}, {check.high:+.3f}]"
    shared = "" if check.shared is None else f", n = {check.shared}"
    return f"{check.value:+.4f}{ends}{shared}"


def _held(check: Check) -> str:
    if check.limit is None:
        return ""
    return f"{check.limit:+.4f}" if check.kind == "non-inferior" else f"{check.limit:g}"


def _sign(check: Check) -> str:
    if check.kind == "non-inferior":
        return ">" if check.better == "higher" else "<"
    return {"at-most": "<=", "at-least": ">=", "within": "within"}[check.kind]


def _p(p: float | None) -> str:
    return "" if p is None else "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0")


def _safe(text: str) -> str:
    """Text for a cell of a Markdown table: nothing in it is a mark, a tag, a mention or a new line."""
    return "".join(MARKS.get(letter, letter) for letter in html.escape(printable(text), quote=False))
