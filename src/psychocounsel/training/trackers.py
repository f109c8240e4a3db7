"""Trackers of figures: TensorBoard files, Weights & Biases, trackio. Numbers leave, texts and ids never do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.records import content_id

PROJECT = "psychocounsel"
FINISH_SECONDS = 60.0  # wait so long for the last upload; what is left stays on disk


@dataclass(frozen=True)
class Opening:
    """What a tracker is opened with. `done` is the number of steps that a resumed training has behind it."""

    folder: Path
    run: str
    id: str
    settings: dict[str, float]
    done: int


@dataclass(frozen=True)
class Tracker:
    """How an opened tracker takes figures and ends."""

    log: Callable[[dict[str, float], int], object]
    close: Callable[[], object]


class Trackers:
    """Every tracker named in `report_to`; one that fails is named on standard error once and dropped.

    Figures and the numbers among `settings` are sent, with the run's name; anything else is not. The run's id is a
    hash of its name and all settings, so a resumed training continues the same run. With main=False nothing is opened.
    Raises UserError when a package or a login is missing, before anything is trained.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        run: str,
        settings: Mapping[str, Any],
        done: int = 0,
        main: bool = True,
    ) -> None:
        self._open: dict[str, Tracker] = {}
        opening = Opening(folder, run, content_id([run, dict(settings)]), _numbers(settings), done)
        for name in names if main else ():
            try:
                with redirect_stdout(sys.stderr):  # trackio prints where results belong
                    self._open[name] = OPENERS[name](opening)
            except ImportError as error:
                raise UserError(
                    f"report_to: {error.name or name} is not installed: pip install 'psychocounsel[trackers]', "
                    f"or leave '{name}' out"
                ) from error
            except UserError:
                raise
            except Exception as error:  # a network that is down is no reason not to train
                self._drop(name, error)

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Send the numbers of `row` as the figures of a step. Several rows of one step are put together."""
        for name, tracker in list(self._open.items()):
            self._attempt(name, partial(tracker.log, _numbers(row), step))

    def close(self) -> None:
        """Hand over what is left; waits a minute at most."""
        for name, tracker in list(self._open.items()):
            self._attempt(name, tracker.close)
        self._open.clear()

    def _attempt(self, name: str, action: Callable[[], object]) -> None:
        try:
            with redirect_stdout(sys.stderr):
                action()
        except Exception as error:
            self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        first = " ".join(str(error).split())[:160] or type(error).__name__
        print(f"  {name}: {first}; training goes on without it, metrics.jsonl has every figure", file=sys.stderr)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, int | float)}


def _tensorboard(opening: Opening) -> Tracker:
    """Files under FOLDER/tensorboard; steps that a resumed training makes again replace those from before the kill."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(opening.folder / "tensorboard"), purge_step=opening.done + 1, flush_secs=5)

    def log(row: dict[str, float], step: int) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, step)

    return Tracker(log, writer.close)


def _wandb(opening: Opening) -> Tracker:
    """A run that sends figures only: no console output, code, git state, command line, host or packages.

    Steps made again after a kill are bitwise the same; wandb keeps the first ones.
    """
    import wandb

    # use the login that is there, but never ask for a key: it would be written to disk, and nobody may be watching
    if wandb.setup().settings.mode in ("online", "shared") and not wandb.login(prompt=False):
        raise UserError("report_to: wandb has no login; run: wandb login, or set WANDB_MODE=offline")
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=opening.run,
        id=opening.id,
        resume="allow",
        config=opening.settings,
        dir=str(opening.folder),
        settings=wandb.Settings(
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
            silent=True,
            finish_timeout=FINISH_SECONDS,
        ),
    )
    return Tracker(lambda row, step: run.log(row, step=step), run.finish)


def _trackio(opening: Opening) -> Tracker:
    """A run in trackio's own folder, or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL point; a new Space is private.

    trackio resumes by name, so the name carries the id.
    """
    import trackio

    run: Any = trackio.init(
        project=PROJECT,
        name=f"{opening.run}-{opening.id}",
        resume="allow",
        config=opening.settings,
        private=True,
        embed=False,
        auto_log_cpu=False,
        auto_log_gpu=False,
    )
    return Tracker(
        lambda row, step: run.log(row, step=step), trackio.finish
    )  # unlike run.finish(), not once more at exit


OPENERS: dict[str, Callable[[Opening], Tracker]] = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
