"""Which policy it is: a fingerprint of its files, and the path under which another process finds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psychocounsel.records import content_id, file_hash
from psychocounsel.training.adapters import Start

WEIGHTS = ("*.safetensors", "*.bin")
READ = ("config.json", "generation_config.json", "tokenizer*", "chat_template*", "special_tokens_map.json", "vocab*",
        "merges.txt", "adapter_config.json")  # fmt: skip


def policy_fingerprint(start: Start) -> str:
    """16 hex digits that tell policies apart: of every byte of the weights, and of config, tokenizer and template.

    Where the policy is in parts, the weights are those of the adapter, and the base counts by its path or hub id. Whole
    files, because a round may move few weights, and a wrong match would train on another policy's replies. A hub id
    counts by its name.
    """
    parts = [start.base, *_files(start.adapter)] if start.adapter and start.base else _files(start.model)
    return content_id([*parts, *_files(start.model, READ)])


def place_of(model: str) -> str:
    """A model as another process can find it: a folder by its whole path, a hub id as it is."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def _files(model: str, patterns: Sequence[str] = (*WEIGHTS, *READ)) -> list[Any]:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return [model]
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return [[path.name, file_hash(path)] for path in sorted(found)]
