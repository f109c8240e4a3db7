"""Readable views of runs, stages and record files on the terminal."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from psychocounsel.errors import UserError
from psychocounsel.models.store import CallStore
from psychocounsel.pipeline.evaluation import counts_text
from psychocounsel.records import read_rows
from psychocounsel.run import STAGES, RunFolder


def show_path(path: Path, rows: int) -> None:
    """Show a run or stage folder, a call store, or the first rows of a file. Raises UserError for anything else."""
    if path.is_file() and path.suffix == ".jsonl":
        show_rows(path, rows)
    elif path.is_file() and path.suffix == ".json":
        Console().print_json(json.dumps(_read_json(path)))
    elif path.is_file() and path.suffix == ".sqlite":
        show_calls(path)
    elif (path / "recipe.json").is_file():
        show_run(path)
    elif path.is_dir() and path.name.partition("-")[2] in STAGES:
        show_stage(path)
    elif not path.exists():
        raise UserError(
            f"{path}: does not exist; name a run folder such as runs/quickstart, a stage folder or a .jsonl file"
        )
    else:
        raise UserError(f"{path}: neither a run folder, a stage folder, nor a .jsonl, .json or .sqlite file")


def show_run(path: Path) -> None:
    """Stages with their counts, then the results."""
    folder = RunFolder(path)
    table = Table("stage", "state", "counts", "seconds", title=str(path), title_justify="left")
    for name in STAGES:
        manifest = folder.manifest(name)
        if manifest:
            table.add_row(name, "done", counts_text(manifest.counts), f"{manifest.seconds:.1f}")
        else:
            table.add_row(name, "begun" if folder.stage(name).exists() else "not begun", "", "")
    Console().print(table)
    show_results(path)


def show_results(path: Path) -> None:
    """The figures of results.json as a table."""
    file = path / "results.json"
    if not file.is_file():
        return
    results = _read_json(file)
    name_column = Column("figure", no_wrap=True)  # three win rates cut to one and the same word help nobody
    table = Table(name_column, "value", "95 % interval", "n", "unit", title="Results", title_justify="left")
    for name, row in results["metrics"].items():
        interval = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(
            name,
            "undefined" if row["value"] is None else f"{row['value']:g}",
            interval,
            str(row["n"]),
            row["unit"],
        )
    console = Console()
    console.print(table)
    for reason in results["dependent"]:
        console.print(f"DEPENDENT: {reason}", style="yellow")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error


def show_stage(path: Path) -> None:
    """A stage's manifest: settings, counts, files."""
    manifest = RunFolder(path.parent).manifest(path.name.partition("-")[2])
    if manifest is None:
        raise UserError(f"{path}: this stage is not finished; run its recipe again to continue")
    console = Console()
    console.print(f"{manifest.stage}: {counts_text(manifest.counts)}, {manifest.seconds:.1f} s")
    for name, digest in manifest.outputs.items():
        console.print(f"  {name}  {digest}", highlight=False)
    console.print_json(json.dumps(manifest.settings))


def show_calls(path: Path) -> None:
    """A call store: how many calls to which model are answered or were cut off."""
    table = Table("model", "endpoint", "answered", "pending", title=str(path), title_justify="left")
    with CallStore(path) as store:
        for model, kind, done, pending in store.by_model():
            table.add_row(model, kind, str(done), str(pending))
    Console().print(table)


def show_rows(path: Path, count: int) -> None:
    """The first rows of a file, one field a line, long texts wrapped."""
    console = Console()
    total = 0
    for _, row in islice(read_rows(path), count):
        total += 1
        console.rule(Text(str(row.get("id") or row.get("response_id") or total)))
        for key, value in row.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            console.print(Text.assemble((f"{key}: ", "bold"), text))
    if not total:
        raise UserError(f"{path}: empty")
