"""Reference log-probabilities: computed once by the code that trains, kept by content for other runs and losses."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_policy
from psychocounsel.progress import progress
from psychocounsel.recipe import Training
from psychocounsel.training.batches import Group, GroupFile
from psychocounsel.training.packed import PackedModel, PackedPolicy, opened
from psychocounsel.training.processes import Prepared, precision, within_memory

SAMPLE = 64  # numbers of each weight that go into a model's fingerprint, beside its sums


@torch.no_grad()
def add_reference(prepared: Prepared, files: Sequence[GroupFile], cache: Path | None = None) -> None:
    """Fill `references` of all files with summed log-probabilities of the model as it is now, one per reply.

    Calls only what the cache does not know. The cache holds hashes of token ids and numbers, no text.
    """
    known = _Cache(cache, fingerprint(prepared) if cache else "")
    with (
        within_memory("reference", prepared.settings),
        progress("reference", sum(len(file) for file in files)) as advance,
    ):
        for file in files:
            for places in _parts(file, 8 * prepared.settings.token_budget * prepared.world):
                groups = {place: file[place] for place in places}
                found: dict[int, list[float]] = {}
                if prepared.main:
                    found = {place: values for place, group in groups.items() if (values := known.find(group))}
                found = prepared.gathered(found)  # what one process sees is what all go by
                open_ = {place: group for place, group in groups.items() if place not in found}
                found |= _computed(prepared, open_)
                file.references |= found
                if prepared.main:
                    known.keep([(group, found[place]) for place, group in open_.items()])
                advance(len(places))
    prepared.accelerator.wait_for_everyone()


def _parts(file: GroupFile, tokens: int) -> Iterator[list[int]]:
    """Places of groups, longest first, about `tokens` at a time."""
    part: list[int] = []
    held = 0
    for place in sorted(range(len(file)), key=lambda item: (-file.entries[item].tokens, item)):
        part.append(place)
        held += file.entries[place].tokens
        if held >= tokens:
            yield part
            part, held = [], 0
    if part:
        yield part


def _computed(prepared: Prepared, groups: dict[int, Group]) -> dict[int, list[float]]:
    """Log-probabilities of the replies of groups by place, worked out by all processes together."""
    if not groups:
        return {}
    named = [Group(str(place), group.prompt, group.replies) for place, group in groups.items()]
    found: dict[int, list[float]] = {}
    for pack, held, _ in prepared.packs(named):
        with prepared.accelerator.autocast():
            values = iter(prepared.model(pack).float().tolist())
        if pack.counts:
            found |= {int(group.id): [next(values) for _ in group.replies] for group in held}
    return prepared.gathered(found)


def fingerprint(prepared: Prepared) -> str:
    """A hash that tells models apart: sums and a sample of every weight, and the precision it computes in."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(precision(prepared.settings).encode())
    digest.update(b"packs" if prepared.packed.shared else b"rows")
    for name, weight in sorted(_weights(prepared.packed)):
        values = weight.detach()
        values = values.full_tensor() if hasattr(values, "full_tensor") else values
        flat = values.flatten()
        step = max(1, len(flat) // SAMPLE)
        numbers = [flat.double().sum().item(), flat.double().square().sum().item(), *flat[::step].double().tolist()]
        digest.update(name.encode() + np.array(numbers).tobytes())
    return digest.hexdigest()


def _weights(packed: PackedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights under the names they have without adapters. Adapters that nothing has trained change nothing."""
    untrained = not any(bool(weight.any()) for name, weight in packed.named_parameters() if ".lora_B" in name)
    for name, weight in packed.named_parameters():
        if ".lora_" not in name or not untrained:
            yield name.replace("base_model.model.", "").replace(".base_layer", ""), weight


def frozen(start: str, settings: Training, accelerator: Any) -> Prepared:
    """A model that is only read, whole in each process, ready for `add_reference`."""
    packed = opened(PackedPolicy(load_policy(start)[1])).requires_grad_(False).eval()
    if precision(settings) != "bf16":
        packed.float()
    return Prepared(packed, packed, None, accelerator, settings)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file, written and closed at the end. Raises UserError where it cannot be used."""
    try:
        with closing(sqlite3.connect(path, timeout=60)) as store, store:
            yield store
    except sqlite3.Error as error:
        raise UserError(
            f"{path}: cannot keep reference log-probabilities ({error}); free some disk space, or remove the file"
        ) from error


class _Cache:
    """SQLite: (model, hash of prompt and reply) to log-probability. Without a path it knows and keeps nothing."""

    def __init__(self, path: Path | None, model: str) -> None:
        self.path, self.model = path, model
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # like the run folders it lies beside
            with _opened(path) as store:
                store.execute("create table if not exists reference (id blob primary key, value real) without rowid")

    def find(self, group: Group) -> list[float] | None:
        """The log-probability of every reply, or None when one is not known."""
        if self.path is None:
            return None
        with _opened(self.path) as store:
            found = [
                store.execute("select value from reference where id = ?", (key,)).fetchone()
                for key in self._keys(group)
            ]
        return [row[0] for row in found] if all(found) else None

    def keep(self, found: Sequence[tuple[Group, list[float]]]) -> None:
        if self.path is None:
            return
        rows = [pair for group, values in found for pair in zip(self._keys(group), values, strict=True)]
        with _opened(self.path) as store:
            store.executemany("insert or replace into reference values (?, ?)", rows)

    def _keys(self, group: Group) -> list[bytes]:
        start = hashlib.blake2b(self.model.encode() + np.array(group.prompt, np.int32).tobytes(), digest_size=16)
        keys = []
        for reply in group.replies:
            whole = start.copy()
            whole.update(b"|" + np.array(reply, np.int32).tobytes())
            keys.append(whole.digest())
        return keys
