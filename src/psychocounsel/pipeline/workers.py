"""Several processes on one run (torchrun, accelerate launch): one decides and writes, the others join in training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import cast

from psychocounsel.errors import UserError
from psychocounsel.models.store import CallStore
from psychocounsel.pipeline.context import Run
from psychocounsel.recipe import Recipe
from psychocounsel.run import RunFolder

JOINED = ("supervised", "reward", "policy")  # the stages that several processes share
END = "end"


def count() -> int:
    """Processes that were started for this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def join(names: list[str]) -> None:
    """Meet the other processes. Raises UserError when a stage before training is still to be made."""
    if count() == 1:
        return
    alone = [name for name in names if name not in JOINED]
    if alone:
        raise UserError(
            f"{count()} processes were started, and {', '.join(alone)} needs one; run that in one process, and start "
            f"several for psychocounsel {', '.join(JOINED[:-1])} or {JOINED[-1]} only"
        )
    from psychocounsel.training.processes import meet

    meet()


def tell(word: str) -> None:
    """Tell the other processes which stage they join, or END."""
    if count() > 1:
        from psychocounsel.training.processes import shared

        shared(word)


@contextmanager
def leading() -> Iterator[None]:
    """What the first process does; when it is through, the others are told so."""
    yield
    tell(END)  # after an error the launcher stops the others, who may be in the middle of a training


def follow(recipe: Recipe, folder: RunFolder) -> None:
    """What every other process does: join the stages that the first one names, in silence."""
    from psychocounsel.pipeline.stages import STAGE_FUNCTIONS
    from psychocounsel.training.processes import meet, shared, use_threads

    meet()
    use_threads(recipe.threads)
    run = Run(recipe, folder, cast(CallStore, None))  # the first process holds it; training asks nobody
    while (name := shared("")) != END:
        with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
            STAGE_FUNCTIONS[name](run, folder.stage(name))
