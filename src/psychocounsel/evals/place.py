"""An evaluation's folder: settings, call store, tables, results and page; the same command again continues."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluate.results import RESULTS, ItemValue, Results, write_results
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.models.prices import Budget, load_prices
from psychocounsel.models.store import CallStore
from psychocounsel.recipe import ModelsTable
from psychocounsel.records import write_text
from psychocounsel.run import differences, library_versions

SETTINGS, TABLES, CALLS, PAGE = "evaluation.json", "tables.json", "calls.sqlite", "report.html"


@dataclass
class Found:
    """What was found. `tables` is all that the page shows, ready for JSON; `items` are the values behind metrics."""

    metrics: dict[str, Figure]
    tables: dict[str, Any]
    items: list[ItemValue] = field(default_factory=list)
    dependent: Sequence[str] = ()
    judges: Sequence[str] = ()
    about: dict[str, Any] = field(default_factory=dict)


@dataclass
class Evaluation:
    """A folder that one command fills. `store` keeps every answer of a model: nothing is asked or paid twice."""

    folder: Path
    command: str
    store: CallStore
    settings: Mapping[str, Any] = field(default_factory=dict)

    def finish(self, name: str, found: Found) -> Path:
        """Write tables, items, results and the page. Returns the page's path."""
        write_text(self.folder / TABLES, json.dumps(found.tables, indent=1, ensure_ascii=False, allow_nan=False))
        results = Results(
            name=name,
            command=self.command,
            dependent=tuple(sorted(set(found.dependent))),
            judges=tuple(found.judges),
            about={**found.about, "settings": dict(self.settings)},
            versions=library_versions(),
            metrics=dict(sorted(found.metrics.items())),
        )
        write_results(self.folder, results, found.items)
        return write_page(self.folder)


@contextmanager
def evaluation(
    folder: Path, command: str, settings: Mapping[str, Any], budget: float | None = None
) -> Iterator[Evaluation]:
    """Open the folder of an evaluation, new or to be continued.

    `settings` decide the figures (no keys, no paths of output). Raises UserError when the folder belongs to something
    else or to other settings: figures of two evaluations must not meet in one place.
    """
    told = {"command": command, "settings": json.loads(json.dumps(dict(settings), default=str))}
    path = folder / SETTINGS
    if path.is_file():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: damaged; name another folder with --to") from error
        if known != told:
            what = "; ".join(differences(known, told)[:3])
            raise UserError(f"{folder}: holds another evaluation ({what}); name another folder with --to")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is in use for something else; name a new folder with --to")
    else:
        write_text(path, json.dumps(told, indent=1, ensure_ascii=False))
    (folder / RESULTS).unlink(missing_ok=True)  # what is half made again is not finished
    with CallStore(folder / CALLS) as store:
        store.budget = Budget(load_prices(ModelsTable()), budget, store.spent())
        yield Evaluation(folder, command, store, told["settings"])


def write_page(folder: Path) -> Path:
    """Make report.html from results.json and tables.json: what `eval report` does again without asking anybody."""
    from psychocounsel.evaluate.page import page
    from psychocounsel.evaluate.results import read_results

    results = read_results(folder)
    tables = folder / TABLES
    if not tables.is_file():
        raise UserError(f"{folder}: holds no {TABLES}; run `psychocounsel {results.command}` again with --to {folder}")
    try:
        told = json.loads(tables.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{tables}: damaged; run `psychocounsel {results.command}` again with --to {folder}") from error
    write_text(folder / PAGE, page(results, told))
    return folder / PAGE
