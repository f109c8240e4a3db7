"""The pipeline: decides which stages of a recipe are done, runs the others in order, and can always be continued."""

from __future__ import annotations

import errno
import fcntl
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from psychocounsel.engine import check_engine
from psychocounsel.errors import RunInterrupted, UserError, nearest
from psychocounsel.models.prices import Budget, load_prices
from psychocounsel.models.store import CallStore
from psychocounsel.pipeline import workers
from psychocounsel.pipeline.context import Run
from psychocounsel.pipeline.interrupts import remembered
from psychocounsel.pipeline.preflight import preflight
from psychocounsel.pipeline.reuse import take_over, take_over_calls
from psychocounsel.principles import load_principles
from psychocounsel.recipe import FREE, Recipe, Training
from psychocounsel.records import write_text
from psychocounsel.run import STAGES, STARTED, Manifest, RunFolder, differences, sweep

WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR)
TRAINED = ("supervised", "reward", "policy", "evaluate")
READS: dict[str, tuple[str, ...]] = {
    "speeches": (),
    "responses": ("speeches",),
    "ratings": ("speeches", "responses"),
    "pairs": ("speeches", "responses", "ratings"),
    "supervised": ("speeches", "responses", "pairs"),
    "reward": ("speeches", "responses", "pairs", "supervised"),
    "policy": ("speeches", "responses", "pairs", "supervised", "reward"),
    "evaluate": ("speeches", "responses", "ratings", "pairs", "supervised", "reward", "policy"),
    "publish": ("speeches", "responses", "ratings", "pairs"),
}
LAST = "evaluate"  # where a run ends unless told otherwise: publishing is a decision, never a by-product
USES_PRINCIPLES = ("ratings", "pairs", "evaluate", "publish")
USES_BASE = ("supervised", "reward", "policy")


def feeds(name: str) -> set[str]:
    """All stages a stage depends on, directly or through others."""
    return {found for read in READS[name] for found in (read, *feeds(read))}


@dataclass(frozen=True)
class Options:
    """What of a recipe to run."""

    start: str = STAGES[0]
    stop: str = LAST
    redo: str = ""
    reuse: Path | None = None
    engine: str = "here"

    @property
    def stages(self) -> list[str]:
        """The stages asked for and all that they read, in order: publishing does not wait for training."""
        asked = STAGES[STAGES.index(self.start) : STAGES.index(self.stop) + 1]
        return [name for name in STAGES if any(name in (other, *feeds(other)) for other in asked)]

    @property
    def redone(self) -> list[str]:
        """The stage of --redo and all that depend on it."""
        return [name for name in STAGES if self.redo and self.redo in (name, *feeds(name))]


@dataclass(frozen=True)
class Plan:
    """What will happen to a stage, and why."""

    stage: str
    action: Literal["done", "run", "reuse", "differs"]
    why: str = ""


def stage_settings(recipe: Recipe, name: str) -> dict[str, Any]:
    """All settings that shape a stage's output."""
    table = getattr(recipe, name)
    free = FREE if isinstance(table, Training) else None  # another budget of memory goes on where training stopped
    settings: dict[str, Any] = {"seed": recipe.seed, **table.model_dump(mode="json", exclude=free)}
    if name in USES_PRINCIPLES:
        decisions = {"weight", "gate"} if name == "ratings" else set()  # judges do not see them: another needs no call
        settings["principles"] = [
            principle.model_dump(mode="json", exclude=decisions) for principle in load_principles(recipe.principles)
        ]
    if name in USES_BASE:
        settings["base"] = recipe.base
    if name == "evaluate":
        settings["max_length"] = recipe.policy.max_length
    if name == "publish":
        settings["title"] = recipe.publish.title or recipe.name
    return settings


def run_recipe(recipe: Recipe, root: Path, options: Options) -> RunFolder:
    """Run a recipe's stages into `root/NAME`. Finished stages are skipped; a killed run continues where it stopped.

    Raises UserError (with what to do) and RunInterrupted; nothing finished or paid for is lost by either.
    """
    check_stages(options)
    check_engine(options.engine)
    load_principles(recipe.principles)
    folder = RunFolder(root / recipe.name)
    if not workers.is_first():
        workers.follow(recipe, folder)
        return folder
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)  # clients' texts: for whoever runs this
        with _locked(folder.path), workers.leading():
            _run_locked(recipe, folder, options)
    except KeyboardInterrupt:
        again = "the same command without --redo" if options.redo else "the same command"
        raise RunInterrupted(f"stopped; everything finished is in {folder.path}, {again} continues") from None
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        raise UserError(
            f"{folder.path}: {error.strerror}; free some space or mend the rights, then run the same command"
        ) from error
    return folder


def _run_locked(recipe: Recipe, folder: RunFolder, options: Options) -> None:
    names, redone, first = options.stages, options.redone, STAGES.index(options.start)
    plans = [plan_stage(recipe, folder, name, options.reuse) for name in names if name not in redone]
    for plan in plans:
        _stop_if_different(folder, plan)  # before anything is thrown away or written
    done = [plan.stage for plan in plans if plan.action == "done"]
    at_hand = _at_hand(recipe, options.reuse, done)
    needed = [name for name in names if name not in at_hand]
    preflight(recipe, needed)
    workers.join(needed)
    if any(name in TRAINED for name in needed):
        from psychocounsel.models.weights import require_training

        require_training()
        from psychocounsel.training.processes import use_threads

        use_threads(recipe.threads)
    for name in reversed(redone):
        folder.discard(name)
    if options.reuse is not None and not (folder.path / "calls.sqlite").exists():
        take_over_calls(options.reuse / "calls.sqlite", folder.path / "calls.sqlite")
    write_text(folder.path / "recipe.json", json.dumps(recipe.model_dump(mode="json"), indent=1, ensure_ascii=False))
    ran = False
    with CallStore(folder.path / "calls.sqlite") as store:
        store.budget = Budget(load_prices(recipe.models), recipe.models.budget, store.spent())
        run = Run(recipe, folder, store, options.engine)
        for name in names:
            plan = plan_stage(recipe, folder, name, options.reuse)
            _stop_if_different(folder, plan)
            if plan.action == "done":
                _say(f"{name}: done before")
            elif STAGES.index(name) < first:
                raise UserError(f"--from {options.start}: stage {name} is not finished; start from there")
            elif plan.action == "reuse" and options.reuse is not None:
                take_over(RunFolder(options.reuse).stage(name), folder.stage(name))
                _say(f"{name}: taken over from {options.reuse}")
                ran = True
            else:
                _run_stage(run, name)
                ran = ran or name != "publish"
        if LAST in names and (ran or not (folder.path / "report.html").exists()):
            from psychocounsel.pipeline.evaluation import finish

            finish(run)


def _at_hand(recipe: Recipe, reuse: Path | None, done: list[str]) -> list[str]:
    """The stages that are done, and those that another run's settings say will be taken over; they need no model."""
    found = list(done)
    for name in STAGES:
        other = RunFolder(reuse).manifest(name) if reuse and name not in done else None
        if other and set(READS[name]) <= set(found) and not _changes(other, stage_settings(recipe, name), {}):
            found.append(name)
    return found


def _stop_if_different(folder: RunFolder, plan: Plan) -> None:
    if plan.action == "differs":
        raise UserError(
            f"{folder.stage(plan.stage)}: made with other settings ({plan.why}); go on with --redo {plan.stage}, "
            "or give the run another name (--set name=...)"
        )


def plan_stage(recipe: Recipe, folder: RunFolder, name: str, reuse: Path | None = None) -> Plan:
    """Whether a stage is done, can be taken over from another run, must run, or was made with other settings."""
    settings, inputs = stage_settings(recipe, name), _inputs(folder, name)
    manifest = folder.manifest(name)
    if manifest is not None:
        if inputs is not None and (changed := _changes(manifest, settings, inputs)):
            return Plan(name, "differs", "; ".join(changed[:3]))
        return Plan(name, "done")
    if reuse is not None and inputs is not None:
        other = RunFolder(reuse).manifest(name)
        if other is not None and not _changes(other, settings, inputs):
            return Plan(name, "reuse", str(reuse))
    return Plan(name, "run")


def plan_run(recipe: Recipe, root: Path, options: Options) -> list[Plan]:
    """What `run_recipe` would do, stage by stage, without doing it."""
    check_stages(options)
    folder = RunFolder(root / recipe.name)
    redo = options.redone
    return [
        Plan(name, "run", "--redo") if name in redo else plan_stage(recipe, folder, name, options.reuse)
        for name in options.stages
    ]


def _inputs(folder: RunFolder, name: str) -> dict[str, str] | None:
    """Identities of the stages this one reads, or None when one of them is not finished."""
    manifests = {stage: folder.manifest(stage) for stage in READS[name]}
    if not all(manifests.values()):
        return None
    return {stage: manifest.identity for stage, manifest in manifests.items() if manifest}


def _changes(manifest: Manifest, settings: dict[str, Any], inputs: dict[str, str]) -> list[str]:
    changed = differences(manifest.settings, json.loads(json.dumps(settings)))
    return changed + [f"stage {stage} was made anew" for stage in inputs if manifest.inputs.get(stage) != inputs[stage]]


def _run_stage(run: Run, name: str) -> None:
    from psychocounsel.pipeline.stages import STAGE_FUNCTIONS

    folder = run.folder.stage(name)
    settings, inputs = stage_settings(run.recipe, name), _inputs(run.folder, name) or {}
    started = json.dumps([settings, inputs], sort_keys=True)
    note = folder / STARTED
    if folder.exists() and (not note.is_file() or note.read_text(encoding="utf-8") != started):
        run.folder.discard(name)  # half-made with other settings, or half-discarded: not to be continued
    write_text(note, started)
    if name in (LAST, *feeds(LAST)):
        for stale in ("results.json", "items.jsonl", "report.html"):
            (run.folder.path / stale).unlink(missing_ok=True)
    start = time.monotonic()
    if name in workers.JOINED:
        workers.tell(name)
    with remembered() as stop_if_asked:
        counts = STAGE_FUNCTIONS[name](run, folder)
        stop_if_asked()
    sweep(folder)
    seconds = time.monotonic() - start
    run.folder.finish(name, settings, inputs, counts, seconds)
    note.unlink()
    from psychocounsel.pipeline.evaluation import counts_text

    _say(f"{name}: {counts_text(counts)} ({seconds:.0f} s)")


def check_stages(options: Options) -> None:
    """Raise a UserError for words that are no stages, and for combinations in which nothing sensible would run."""
    for flag, name in (("--from", options.start), ("--to", options.stop), ("--redo", options.redo)):
        if name and name not in STAGES:
            raise UserError(
                f"{flag} {name}: not a stage{nearest(name, list(STAGES)) or '.'} The stages are {', '.join(STAGES)}"
            )
    if STAGES.index(options.start) > STAGES.index(options.stop):
        raise UserError(f"--from {options.start} comes after --to {options.stop}; nothing would run")
    if options.redo and STAGES.index(options.redo) < STAGES.index(options.start):
        raise UserError(f"--redo {options.redo} comes before --from {options.start}; leave --from out")
    if options.reuse is not None and not options.reuse.is_dir():
        raise UserError(f"--reuse {options.reuse}: no such run folder")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time works on a run; the lock goes with the process."""
    with (path / "run.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{path}: another process is working on this run; wait for it or choose another name"
            ) from None
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
