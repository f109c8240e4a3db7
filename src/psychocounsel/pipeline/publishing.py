"""The publish stage at the edge: licences first, then tables and card from what the stages left, then the hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.pairs import HARD_SETS
from psychocounsel.pipeline.context import Run
from psychocounsel.publish import MAIN, raters, sizes, take_census, write_tables
from psychocounsel.publish.card import Facts, Made, card
from psychocounsel.publish.hub import check_hub, push
from psychocounsel.publish.licences import check_licence, clear_sources, known_licence
from psychocounsel.publish.stored import Stored, stream
from psychocounsel.recipe import PublishTable
from psychocounsel.records import Pair, Response, Speech, read_rows, write_text

READ = ("speeches", "responses", "ratings", "pairs")


def check_publish(table: PublishTable) -> None:
    """What can be known of [publish] before anything runs. Raises UserError."""
    if not table.license.strip():
        raise UserError(
            'publish: choose a licence for the published set: [publish] license = "...", an SPDX id such as '
            '"CC-BY-NC-4.0", or "other" to let every row keep the licence of its source'
        )
    known_licence(table.license)
    if table.hub:
        check_hub(table.hub)


def publish(run: Run, folder: Path) -> dict[str, Any]:
    """Write the set into `folder`, and push it where the recipe names a repository."""
    if run.recipe.publish.hub and run.recipe.speeches.privacy.mode != "replace":
        raise UserError(
            'publish.hub: personal data were not replaced (speeches.privacy.mode is not "replace"); '
            'replace them with --redo speeches, or set publish.hub = "" and answer for the folder yourself'
        )
    counts = write_publication(run, folder)
    if run.recipe.publish.hub:
        print(f"publish: pushed to {push(folder, run.recipe.publish.hub)} (private if new)", file=sys.stderr)
    return counts


def write_publication(run: Run, folder: Path) -> dict[str, Any]:
    """Everything but the push. Raises UserError when a licence stands in the way; then nothing is written."""
    table, place = run.recipe.publish, {name: run.folder.stage(name) for name in READ}
    sets = pair_sets(place["pairs"])
    with (
        Stored(place["speeches"] / "speeches.jsonl", Speech) as speeches,
        Stored(place["responses"] / "responses.jsonl", Response) as responses,
    ):
        census = take_census(sets, speeches)
        cleared = clear_sources(census.sources, table.accept)
        licence = check_licence(table.license, cleared)
        rated = ((row["response_id"], row["judge"]) for _, row in read_rows(place["ratings"] / "ratings.jsonl"))
        names = [principle.id for principle in run.principles]
        tables = write_tables(sets, census, speeches, responses, run.overall(), raters(rated), names, table, folder)
    manifests = {name: manifest for name in READ if (manifest := run.folder.manifest(name))}
    facts = Facts(
        title=table.title or run.recipe.name,
        licence=licence,
        census=census,
        cleared=cleared,
        tables=tables,
        principles=run.principles,
        stages={name: Made(found.settings, found.counts, found.identity) for name, found in manifests.items()},
        version=manifests["pairs"].versions.get("psychocounsel", "") if "pairs" in manifests else "",
        audit=_figures(place["pairs"] / "audit.json"),
        agreement=_figures(place["ratings"] / "agreement.json"),
        probes=_figures(place["ratings"] / "probes.json"),
        privacy=_figures(place["speeches"] / "privacy.json"),
        leakage=_figures(place["speeches"] / "leakage.json"),
    )
    write_text(folder / "README.md", card(facts))
    return {
        "license": licence,
        "pairs": {name: census.pairs[name] for name in sets},
        "sources": {f"{row.source} ({row.licence.id or row.stated})": row.pairs for row in cleared},
        "bytes": sizes(tables),
    }


def pair_sets(place: Path) -> dict[str, Callable[[], Iterable[Pair]]]:
    """A reader of each set of pairs: train, dev, test, then the hard test sets that there are."""
    files = {name: place / f"{name}.jsonl" for name in MAIN}
    for name in HARD_SETS:
        if found := sorted(place.rglob(f"*{name}.jsonl")):
            files[name] = found[0]
    return {name: partial(stream, file, Pair) for name, file in files.items()}


def _figures(path: Path) -> dict[str, Any]:
    """A stage's own figures, or nothing where it made none."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
