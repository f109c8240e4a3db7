"""The plots of `eval ood`, as SVG text by name, from its tables as JSON holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psychocounsel.evaluate import plots


def draw_labels(tables: Mapping[str, Any]) -> dict[str, str]:
    """For each scorer what it gains over the best trivial baseline, test by test, macro-OOD first."""
    drawn = {}
    for number, one in enumerate(tables["scorers"]):
        rows = [("macro-OOD", one["macro"])] if one["macro"]["value"] is not None else []
        rows += [
            (f"{row['set']}: {row['test']}", row["gain"])
            for row in one["rows"]
            if row["gain"] and row["metric"] in ("AUC", "accuracy", "Spearman") and row["gain"]["value"] is not None
        ]
        drawn[f"gains-{number}"] = plots.forest(
            rows, f"What {one['name']} gains over words and length", 0.0, shares=False
        )
    return drawn
