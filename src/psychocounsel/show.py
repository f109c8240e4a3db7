"""Readable views of runs, stages and record files on the terminal."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from psychocounsel.errors import UserError, nearest
from psychocounsel.models.store import CallStore
from psychocounsel.pipeline.evaluation import counts_text
from psychocounsel.principles import load_principles, overall_score
from psychocounsel.recipe import parse_recipe
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


PARTS = re.compile(r"winrate\.[^.]+\.|winrate_style\.|effective_judges\.|missing_|reward\.length\.")


def show_results(path: Path) -> None:
    """The main figures of results.json as a table; parts of win rates stand in the file."""
    file = path / "results.json"
    if not file.is_file():
        return
    results = _read_json(file)
    name_column = Column("figure", no_wrap=True)  # three win rates cut to one and the same word help nobody
    table = Table(name_column, "value", "95 % interval", "n", "unit", title="Results", title_justify="left")
    shown = {name: row for name, row in results["metrics"].items() if not PARTS.match(name)}
    for name, row in shown.items():
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
    if len(shown) < len(results["metrics"]):
        console.print(f"{len(results['metrics']) - len(shown)} more figures (by judge, principle, style): {file}")
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
    """A call store: calls answered and cut off, tokens and money, by model."""
    columns = ("answered", "pending", "tokens in", "tokens out", "US dollars")
    right = [Column(name, justify="right") for name in columns]
    table = Table("model", "endpoint", *right, title=str(path), title_justify="left")
    with CallStore(path, read_only=True) as store:
        used = store.tokens()
        for model, kind, done, pending in store.by_model():
            tokens_in, tokens_out, cost = used[model, kind]
            money = "unknown" if cost is None else f"{cost:,.4f}"
            table.add_row(model, kind, f"{done:,}", f"{pending:,}", f"{tokens_in:,}", f"{tokens_out:,}", money)
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


def show_fate(path: Path, wanted: str) -> None:
    """What became of the rows with an id (of the speech) or a source id: dropped and why, or all that was made of them.

    Works on a run that is only partly finished. No client text is shown. Raises UserError for an unknown id.
    """
    if not (path / "recipe.json").is_file():
        raise UserError(f"{path}: --row needs a run folder, such as runs/quickstart")
    folder = RunFolder(path)
    if not (folder.stage("speeches") / "speeches.jsonl").is_file():
        raise UserError(f"{path}: stage speeches is not finished; run its recipe again to continue")
    speeches, dropped = (
        [row for row in _stored(folder, "speeches", name) if wanted in (row["id"], row["source_id"])]
        for name in ("speeches.jsonl", "dropped.jsonl")
    )
    if not speeches and not dropped:
        raise UserError(f"{path}: no row '{wanted}'{_nearest_row(folder, wanted)}; name a speech's id or source id")
    console = Console(highlight=False, soft_wrap=True)
    lines = [f"{row['source_id']} ({row['source']}), {row['id']}: dropped, {_why(folder, row)}" for row in dropped]
    for line in [*lines, *(line for row in speeches for line in _fate(folder, row))]:
        console.print(Text("".join(mark for mark in line if mark.isprintable())))  # ids come from strangers' files


def _stored(folder: RunFolder, stage: str, name: str) -> Iterator[dict[str, Any]]:
    """Rows of a stage's file; none when the stage has not made it."""
    path = folder.stage(stage) / name
    return (row for _, row in read_rows(path)) if path.is_file() else iter(())


def _nearest_row(folder: RunFolder, wanted: str) -> str:
    known = [
        key
        for name in ("speeches.jsonl", "dropped.jsonl")
        for row in islice(_stored(folder, "speeches", name), 20_000)
        for key in (row["source_id"], row["id"])
    ]
    return nearest(wanted, known)


def _why(folder: RunFolder, row: dict[str, Any]) -> str:
    """Reason and detail; where the detail names another row by its id, also by its source id."""
    partner = row["detail"].removeprefix("of ") if row["detail"].startswith("of ") else ""
    for name in ("speeches.jsonl", "dropped.jsonl") if partner else ():
        for other in _stored(folder, "speeches", name):
            if other["id"] == partner:
                return f"{row['reason']} {row['detail']} ({other['source_id']})"
    return f"{row['reason']} {row['detail']}".strip()


def _fate(folder: RunFolder, speech: dict[str, Any]) -> list[str]:
    """Lines about a kept speech: what it is, its replies with their ratings, the pairs they are in."""
    told = {key: speech.get(key) or "none" for key in ("split", "cluster", "topic", "risk")}
    lines = [
        f"{speech['source_id']} ({speech['source']}), {speech['id']}: kept",
        "  " + ", ".join(f"{key} {value}" for key, value in told.items()),
        f"  license {speech['license'] or 'none stated'}, origin {speech.get('origin') or 'none stated'}",
    ]
    replies = [row for row in _stored(folder, "responses", "responses.jsonl") if row["speech_id"] == speech["id"]]
    ratings = _overall(folder, {row["id"] for row in replies})
    for row in replies:
        rated = ", ".join(f"{judge} {score}" for judge, score in ratings[row["id"]]) or "not rated"
        lines.append(f"  reply {row['id']} by {row['model']} ({row['finish']}): {rated}")
    if not replies:
        finished = (folder.stage("responses") / "responses.jsonl").is_file()
        lines.append("  no replies" if finished else "  no replies yet: stage responses is not finished")
    files = sorted(folder.stage("pairs").glob("*.jsonl"))
    for file in files:
        for _, row in read_rows(file):
            if row.get("speech_id") == speech["id"] and "chosen" in row:
                lines.append(f"  pair {row['id']} ({file.stem}): {row['chosen']} over {row['rejected']}")
    if replies and not files:
        lines.append("  no pairs yet: stage pairs is not finished")
    elif replies and not any(line.startswith("  pair ") for line in lines):
        lines.append("  in no pair")
    return lines


def _overall(folder: RunFolder, replies: set[str]) -> dict[str, list[tuple[str, str]]]:
    """(judge, overall score) of each reply, by the principles and the pair rule of the run's recipe."""
    recipe = parse_recipe(_read_json(folder.path / "recipe.json"), str(folder.path / "recipe.json"))
    principles, gated = load_principles(recipe.principles), recipe.pairs.rule == "gate"
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in _stored(folder, "ratings", "ratings.jsonl"):
        if row["response_id"] in replies:
            score = overall_score(row["scores"], principles, gated=gated)
            found[row["response_id"]].append((row["judge"], "no basis" if score is None else f"{score:.2f}"))
    return found
