"""The plots of `eval rm`, as SVG text by name, from its tables as JSON holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psychocounsel.evaluate import plots


def draw_pairs(tables: Mapping[str, Any]) -> dict[str, str]:
    """A forest over all scorers; for each one its reliability, its accuracy by length and by part."""
    scorers = [row["figures"] for row in tables["scorers"]]
    rows = [(figures["name"], figures["accuracy"]) for figures in scorers]
    rows += [(f"rule: {key}", value) for key, value in (scorers[0]["baselines"].items() if scorers else ())]
    rows += [
        (f"{figures['name']} with one rater", figures["with_rater"]) for figures in scorers if figures["with_rater"]
    ]
    if tables["ceiling"]:
        rows.append(("raters among themselves", tables["ceiling"]))
    drawn = {"accuracy": plots.forest(rows, "Pairs ordered as the labels do")}
    for number, figures in enumerate(scorers):
        if figures["calibration"] and figures["calibration"]["curve"]:
            curve = figures["calibration"]["curve"]
            drawn[f"reliability-{number}"] = plots.reliability(curve, f"Reliability of {figures['name']}")
        if length := figures["length"]:
            parts = {"chosen is longer": "longer", "within a tenth": "within", "chosen is shorter": "shorter"}
            label = f"Accuracy of {figures['name']} by length"
            drawn[f"length-{number}"] = plots.forest([(text, length[key]) for text, key in parts.items()], label)
        for place, (kind, found) in enumerate(figures["parts"].items()):
            if found:
                label = f"Accuracy of {figures['name']}, {kind}"
                drawn[f"part-{number}-{place}"] = plots.forest(list(found.items()), label)
        if figures["topics"]:
            cells = [
                (row["cell"], {"value": row["shrunk"], "low": row["low"], "high": row["high"], "n": row["n"]})
                for row in figures["topics"]
            ]
            drawn[f"topics-{number}"] = plots.forest(cells, f"Accuracy of {figures['name']} by topic, shrunk")
    return drawn
