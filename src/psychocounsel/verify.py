"""`psychocounsel verify`: are the files of a run what they were, and do they follow from its sources and stored calls?

Every data stage is made again in a temporary folder, from the stages made again before it. Nothing is sent to anybody:
a stored answer or an error that names the missing call. Trained stages are only compared with their manifests.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from psychocounsel.errors import UserError
from psychocounsel.models.replay import SealedStore, replay
from psychocounsel.pipeline import READS, stage_settings
from psychocounsel.pipeline.context import Run
from psychocounsel.pipeline.stages import STAGE_FUNCTIONS
from psychocounsel.recipe import Recipe, parse_recipe
from psychocounsel.records import SECONDS, file_hash, read_rows
from psychocounsel.run import STAGES, Manifest, RunFolder, differences, library_versions

DATA = ("speeches", "responses", "ratings", "pairs", "publish")
MOST = 8  # problems of one stage that are listed


@dataclass
class Checked:
    """What came out for one stage: problems of the files on disk, and of making it again (None: it is not)."""

    stage: str
    files: int
    on_disk: list[str] = field(default_factory=list)
    made_again: list[str] | None = None
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        return [*self.on_disk, *(self.made_again or [])]


def verify_run(path: Path) -> list[Checked]:
    """Check every finished stage of a run. Raises UserError for a folder that is none, or holds nothing finished."""
    recipe = _recipe(path)
    folder = RunFolder(path)
    manifests = {name: manifest for name in STAGES if (manifest := folder.manifest(name))}
    if not manifests:
        raise UserError(f"{path}: no stage is finished, so there is nothing to verify")
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="psychocounsel-verify-") as place,
        SealedStore(path / "calls.sqlite") as store,
    ):
        again = Run(recipe, RunFolder(Path(place) / path.resolve().name), store)
        for name, manifest in manifests.items():
            print(f"verify: {name}", file=sys.stderr, flush=True)
            checked = Checked(name, len(manifest.outputs))
            if name in DATA:
                start = time.monotonic()
                checked.made_again = _made_again(again, folder, manifest)
                checked.seconds = time.monotonic() - start
            checked.on_disk = [*_on_disk(folder, manifest, again.folder), *_ties(recipe, manifest, manifests)]
            found.append(checked)
    return found


def show_verified(path: Path) -> bool:
    """Verify a run and print a table, or the problems. Gives whether everything is as it should be."""
    found = verify_run(path)
    title = Text(str(path))
    table = Table("stage", "files", "on disk", "made again", "seconds", title=title, title_justify="left")
    for row in found:
        again = "not tried" if row.made_again is None else "differs" if row.made_again else "same bytes"
        table.add_row(row.stage, str(row.files), "differs" if row.on_disk else "as made", again, f"{row.seconds:.1f}")
    console = Console()
    console.print(table)
    for row in found:
        for problem in row.problems[:MOST]:
            console.print(Text(problem))
        if len(row.problems) > MOST:
            console.print(f"{row.stage}: and {len(row.problems) - MOST} more")
    return not any(row.problems for row in found)


def _recipe(path: Path) -> Recipe:
    try:
        return parse_recipe(json.loads((path / "recipe.json").read_text(encoding="utf-8")), str(path / "recipe.json"))
    except FileNotFoundError:
        raise UserError(f"{path}: not a run folder (it has no recipe.json)") from None
    except ValueError as error:
        raise UserError(f"{path / 'recipe.json'}: not JSON ({error})") from error


def _on_disk(folder: RunFolder, manifest: Manifest, again: RunFolder) -> Iterator[str]:
    """Files that are not what the manifest says: missing, new or changed (where, if it could be made again)."""
    place, made = folder.stage(manifest.stage), again.stage(manifest.stage)
    for name, digest in manifest.outputs.items():
        if not (place / name).is_file():
            yield f"{place / name}: missing"
        elif file_hash(place / name) != digest:
            known = (made / name).is_file() and file_hash(made / name) == digest
            where = f", {first_difference(place / name, made / name)}" if known else ""
            yield f"{place / name}: changed after it was made{where}"
    for file in sorted(place.rglob("*")):
        name = str(file.relative_to(place))
        if file.is_file() and name not in manifest.outputs and file.name not in ("manifest.json", SECONDS):
            yield f"{file}: not one of the files that the stage made"


def _ties(recipe: Recipe, manifest: Manifest, manifests: dict[str, Manifest]) -> list[str]:
    """Does the manifest fit the recipe and the stages it read?"""
    name = manifest.stage
    changed = differences(manifest.settings, json.loads(json.dumps(stage_settings(recipe, name))))
    found = (
        [f"{name}: recipe.json does not say what the stage was made with ({'; '.join(changed[:3])})"] if changed else []
    )
    for read in READS[name]:
        if read not in manifests:
            found.append(f"{name}: stage {read}, which it was made from, is not there")
        elif manifest.inputs.get(read) != manifests[read].identity:
            found.append(f"{name}: was made from another {read} than is there now")
    return found


def _made_again(again: Run, folder: RunFolder, manifest: Manifest) -> list[str]:
    """Make a stage again and compare it with its manifest. What comes after a stage that differs is made from the
    files on disk, so that every stage is judged by itself."""
    name, place = manifest.stage, folder.stage(manifest.stage)
    target = again.folder.stage(name)
    quiet = again.recipe.model_copy(update={"publish": again.recipe.publish.model_copy(update={"hub": ""})})
    target.mkdir(parents=True)
    try:
        with replay():
            counts = STAGE_FUNCTIONS[name](Run(quiet, again.folder, again.store), target)
        problems = _differing(manifest, counts, place, target)
    except UserError as error:
        problems = [f"{name}: cannot be made again: {error}"]
    except Exception as error:  # files changed by hand break a stage in any way
        problems = [f"{name}: cannot be made again from these files ({type(error).__name__})"]
    if problems:
        shutil.rmtree(target)
        shutil.copytree(place, target)
    else:
        shutil.copy(place / "manifest.json", target / "manifest.json")
    return problems


def _differing(manifest: Manifest, counts: Mapping[str, Any], place: Path, target: Path) -> list[str]:
    """Files and counts of a stage made again that are not those of the manifest, and what is known of the reason."""
    for part in sorted(target.rglob("*.part")):
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    made = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    found = []
    for name in sorted({*manifest.outputs, *made}):
        if name not in made:
            found.append(f"{place / name}: is not made any more")
        elif name not in manifest.outputs:
            found.append(f"{place / name}: is made now and was not made then")
        elif file_hash(target / name) != manifest.outputs[name]:
            found.append(f"{place / name}: made again, it differs: {first_difference(place / name, target / name)}")
    if differences(manifest.counts, json.loads(json.dumps(counts))):
        found.append(f"{place / 'manifest.json'}: made again, the counts differ")
    if found and manifest.stage == "speeches":
        then, now = (_origins(folder / "speeches.jsonl") for folder in (place, target))
        changed = " then, ".join(", ".join(sorted(names)) or "nothing" for names in (then - now, now - then))
        found += [f"speeches: the sources are not what they were: {changed} now"] if then != now else []
    if found and (others := differences(manifest.versions, library_versions())):
        found.append(f"{manifest.stage}: was made with other versions ({'; '.join(others)})")
    return found


def _origins(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    return {str(row.get("origin") or row.get("source")) for _, row in read_rows(path)}


def first_difference(then: Path, now: Path) -> str:
    """Where two versions of a file part: a record and its fields, a row of a table, or a line. Never their texts."""
    if not then.is_file():
        return "the file on disk is missing"
    if then.suffix == ".parquet":
        return _first_row(then, now)
    with then.open("rb") as old, now.open("rb") as new:
        for number, (a, b) in enumerate(itertools.zip_longest(old, new), 1):
            if a != b:
                return f"from line {number} on{_fields(a, b)}"
    return "the file on disk is as made again, only its manifest is not"


def _first_row(then: Path, now: Path) -> str:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        old, new = (pq.ParquetFile(path).iter_batches(batch_size=1000) for path in (then, now))
        start = 1
        for a, b in itertools.zip_longest(old, new):
            rows = itertools.zip_longest(*(batch.to_pylist() if batch else [] for batch in (a, b)))
            for number, (one, two) in enumerate(rows, start):
                if one != two:
                    names = sorted(
                        key for key in {**(one or {}), **(two or {})} if (one or {}).get(key) != (two or {}).get(key)
                    )
                    return f"from row {number} on ({', '.join(names[:5])})"
            start += a.num_rows if a else 0
    except (pyarrow.ArrowException, OSError):
        return "the file on disk is no Parquet file any more"
    return "the rows are the same, only how they are stored is not"


def _fields(old: bytes | None, new: bytes | None) -> str:
    """The id and the differing fields of two JSON lines, or nothing where they are no objects."""
    if old is None or new is None:
        return f", where the file {'now ends' if new is None else 'on disk ends'}"
    try:
        one, two = json.loads(old), json.loads(new)
        names = sorted(key for key in {**one, **two} if one.get(key) != two.get(key))
        return f": record {one.get('id') or one.get('response_id') or '?'}, {', '.join(names[:5]) or 'its form'}"
    except (ValueError, TypeError, AttributeError):
        return ""
