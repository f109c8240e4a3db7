"""`psychocounsel eval report`: the page of a finished evaluation once more, from what lies in its folder."""

from __future__ import annotations

from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.evals.place import PAGE, write_page
from psychocounsel.evaluate.results import read_results


def make_page(folder: Path) -> Path:
    """Write report.html again; returns its path. Raises UserError for a folder that has no finished evaluation."""
    if (folder / "recipe.json").is_file():
        raise UserError(
            f"{folder}: is a run; delete its {PAGE}, and the command that made the run writes the page again and asks "
            "nobody"
        )
    if read_results(folder).command == "run":
        raise UserError(f"{folder}: holds the results of a run, but not the run; name an evaluation's folder")
    return write_page(folder)
