"""The settings in which TRL is measured: as it comes, tuned, in whole batches, and with its compact output layer."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

TUNED = Path(__file__).parent / "results" / "trl_tuned.json"


@dataclass(frozen=True)
class Settings:
    """What can be tuned. As they stand: TRL as it comes."""

    checkpointing: int = 1
    precompute: int = 0  # reference log-probabilities before training; DPO only
    reference_batch: int = 8  # pairs in a batch of the reference pass
    group_by_length: int = 0
    sort_rows: int = 0  # rows in order of length, which saves padding in the reference pass
    attention: str = ""  # "" leaves the choice to the library
    pad_multiple: int = 0
    compile: int = 0
    micro_batch: int = 0  # pairs in a forward pass; 0 is the whole batch
    padding_free: int = 0  # DPO only; TRL may not have it
    compact: int = 0  # DPO only
    keep_memory: int = 0  # the C library keeps freed memory instead of giving it back at every step


KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}  # read when a process starts
BY_HAND = Settings(
    checkpointing=0,
    precompute=1,
    group_by_length=1,
    sort_rows=1,
    attention="sdpa",
    micro_batch=1,
    keep_memory=1,
)
BATCHED = replace(BY_HAND, micro_batch=0, compile=1)  # padding to 64 too only cost time in the search


class Unavailable(Exception):
    """A variant that this version of TRL, or this task, does not have."""


def chosen_settings(task: str, variant: str, given: dict[str, Any], tuned: Path = TUNED) -> Settings:
    """The settings of a variant, with those given by hand over them."""
    settings = Settings()
    if variant == "batched":
        settings = BATCHED
    elif variant != "plain":
        settings = BY_HAND
        if tuned.is_file():
            settings = replace(settings, **json.loads(tuned.read_text(encoding="utf-8"))["best"].get(task, {}))
    settings = replace(settings, compact=int(variant == "compact"))
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
    return replace(settings, precompute=0) if task == "reward" else settings
