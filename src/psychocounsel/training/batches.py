"""Token groups on disk, and optimizer steps of an exact number of pairs dealt out by content hash."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, overload

import pyarrow as pa

from psychocounsel.errors import UserError
from psychocounsel.records import content_id

Unit = Literal["pairs", "replies"]
ROWS = 64  # groups in one block of the file: what is read from disk at once


@dataclass
class Group:
    """One prompt, its unique replies, and preferences among them as (chosen, rejected) positions.

    `gaps`, `differences` (by principle, may be empty) and `draws` belong to the pairs, `reference` (log-probabilities)
    to the replies.
    """

    id: str
    prompt: list[int]
    replies: list[list[int]] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    differences: list[list[float]] = field(default_factory=list)
    draws: list[int] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and of all replies."""
        return len(self.prompt) + sum(map(len, self.replies))

    def part(self, unit: Unit, start: int, stop: int) -> Group:
        """The group with its pairs (or replies) from `start` to `stop` only, and the replies these need."""
        if (start, stop) == (0, self.count(unit)):
            return self
        if unit == "replies":
            return Group(self.id, self.prompt, self.replies[start:stop], reference=self.reference[start:stop])
        pairs = self.pairs[start:stop]
        used = sorted({place for pair in pairs for place in pair})
        where = {place: number for number, place in enumerate(used)}
        return Group(
            self.id,
            self.prompt,
            [self.replies[place] for place in used],
            [(where[chosen], where[rejected]) for chosen, rejected in pairs],
            self.gaps[start:stop],
            self.differences[start:stop],
            self.draws[start:stop],
            [self.reference[place] for place in used] if self.reference else [],
        )

    def count(self, unit: Unit) -> int:
        return len(self.pairs) if unit == "pairs" else len(self.replies)


class Entry(NamedTuple):
    """What planning has to know of a group."""

    id: str
    pairs: int
    replies: int
    tokens: int


class GroupFile(Sequence[Group]):
    """Groups in an Arrow file, read as they are needed: the memory they take does not grow with their number."""

    def __init__(self, path: Path) -> None:
        self._source = pa.memory_map(str(path))
        self._file = pa.ipc.open_file(self._source)
        self.entries: list[Entry] = []
        for number in range(self._file.num_record_batches):
            batch = self._file.get_batch(number)
            columns = (batch.column(name).to_pylist() for name in ("id", "n_pairs", "n_replies", "tokens"))
            self.entries += [Entry(*row) for row in zip(*columns, strict=True)]
        self.references: dict[int, list[float]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, place: int) -> Group: ...
    @overload
    def __getitem__(self, place: slice) -> list[Group]: ...
    def __getitem__(self, place: int | slice) -> Group | list[Group]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        row = self._file.get_batch(place // ROWS).slice(place % ROWS, 1).to_pylist()[0]
        pairs = list(zip(row["pairs"][::2], row["pairs"][1::2], strict=True))
        return Group(
            row["id"], row["prompt"], row["replies"], pairs, row["gaps"], row["differences"], row["draws"],
            list(self.references.get(place, [])),
        )  # fmt: skip


SCHEMA = pa.schema(
    {
        "id": pa.string(), "n_pairs": pa.int32(), "n_replies": pa.int32(), "tokens": pa.int32(),
        "prompt": pa.list_(pa.int32()), "replies": pa.list_(pa.list_(pa.int32())), "pairs": pa.list_(pa.int32()),
        "gaps": pa.list_(pa.float64()), "differences": pa.list_(pa.list_(pa.float64())), "draws": pa.list_(pa.int64()),
    }
)  # fmt: skip


def write_groups(path: Path, groups: Iterable[Group]) -> GroupFile:
    """Write groups into one file, complete or absent, and open it. Raises UserError for a group without a prompt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    rows: list[dict[str, object]] = []
    with part.open("wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for group in groups:
            if not group.prompt:
                raise UserError(f"prompt {group.id}: no tokens; the chat template gives nothing for it")
            rows.append(_row(group))
            if len(rows) == ROWS:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
                rows = []
        if rows:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
    part.replace(path)
    return GroupFile(path)


def _row(group: Group) -> dict[str, object]:
    return {
        "id": group.id, "n_pairs": len(group.pairs), "n_replies": len(group.replies), "tokens": group.tokens,
        "prompt": group.prompt, "replies": group.replies, "pairs": [place for pair in group.pairs for place in pair],
        "gaps": group.gaps, "differences": group.differences, "draws": group.draws,
    }  # fmt: skip


def entries_of(groups: Sequence[Group]) -> list[Entry]:
    """What planning has to know of each group."""
    if isinstance(groups, GroupFile):
        return groups.entries
    return [Entry(group.id, len(group.pairs), len(group.replies), group.tokens) for group in groups]


class Share(NamedTuple):
    """The pairs (or replies) from `start` to `stop` of a group, by its place in the sequence of groups."""

    place: int
    start: int
    stop: int


def steps(
    entries: Sequence[Entry], unit: Unit, size: int, seed: int, epochs: float, most: int | None = None
) -> Iterator[list[Share]]:
    """Optimizer steps of exactly `size` pairs (or replies); the last one of the training may be shorter.

    In each epoch the groups come in the order of a content hash of their ids, the seed and the epoch, so that a resumed
    run and another machine see the same steps. A group is split where a step is full: its other pairs go into the next
    step. Steps run on over the end of an epoch. A part of an epoch is that share of its pairs, rounded up.
    """
    counts = [entry.pairs if unit == "pairs" else entry.replies for entry in entries]
    left = math.ceil(sum(counts) * epochs - 1e-9)
    if most is not None:
        left = min(left, most * size)
    step: list[Share] = []
    room, epoch = size, 0
    while left > 0:
        order = sorted(range(len(entries)), key=lambda place: content_id([seed, epoch, entries[place].id]))
        for place in order:
            start = 0
            while left > 0 and start < counts[place]:
                stop = min(counts[place], start + min(room, left))
                step.append(Share(place, start, stop))
                left, room, start = left - (stop - start), room - (stop - start), stop
                if room == 0:
                    yield step
                    step, room = [], size
        epoch += 1
    if step:
        yield step


def items(step: Sequence[Share]) -> int:
    """Pairs (or replies) in a step."""
    return sum(share.stop - share.start for share in step)


def pairs_of(groups: Sequence[Group]) -> int:
    """Pairs in all groups."""
    return sum(entry.pairs for entry in entries_of(groups))
