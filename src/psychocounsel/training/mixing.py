"""General preference sets that are mixed into the train pairs, grouped by prompt and never held in memory.

A first pass over the set keeps three hashes of each row and no text. They say which rows belong to one prompt, which
are repeated, and which are taken; the texts are read when an example is asked for, from the memory-mapped copy that
the `datasets` library keeps in its own cache folder.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.errors import UserError, nearest
from psychocounsel.preference import RATED
from psychocounsel.recipe import MixSource, data_path
from psychocounsel.records import canonical_json, content_id
from psychocounsel.rows import Row, file_origin, folder_license, hub_origin
from psychocounsel.training.examples import Example
from psychocounsel.training.preference_formats import Compared, Rated, Unusable, find_format

LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w./-]+))?(?::([\w.-]+))?")
HELD_OUT = ("val", "validation", "dev", "test")  # what a row says of itself in a column 'split', as HelpSteer2's do
MOST_RATED = 64  # replies to one prompt that are compared with each other: the pairs grow with their square
BATCH = 256  # rows in memory at once in the first pass
Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Positions = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class MixedSet:
    """A general preference set as examples, one a prompt: of a length, in a fixed order, each read when asked for.

    `left_out` counts by reason what is not in it (rows, or pairs of rated replies). `pairs` counts what is.
    """

    origin: str
    license: str
    left_out: Counter[str]
    principles: Sequence[str]
    dataset: Any = field(repr=False)
    read: Callable[[Row], Compared | Rated] = field(repr=False)
    better: Positions = field(repr=False)  # rows of each pair, which lie together by prompt
    worse: Positions = field(repr=False)
    starts: Positions = field(repr=False)  # where each prompt's pairs begin, and the end

    @property
    def pairs(self) -> int:
        """Number of pairs in all examples."""
        return len(self.better)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[Example]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> Example:
        """The example of one prompt: each reply once, in the order in which the pairs name them."""
        if not 0 <= position < len(self):
            raise IndexError(position)
        places: dict[str, int] = {}
        example = Example("", [], [])
        for pair in range(self.starts[position], self.starts[position + 1]):
            found = self._compared(int(self.better[pair]), int(self.worse[pair]))
            example.messages = found.messages
            chosen, rejected = (places.setdefault(reply, len(places)) for reply in (found.chosen, found.rejected))
            example.pairs.append((chosen, rejected))
            example.gaps.append(found.gap)
            if found.differences:
                example.differences.append([found.differences.get(name, float("nan")) for name in self.principles])
        example.id = content_id([[said["role"], said["content"]] for said in example.messages])
        example.replies = list(places)
        return example

    def _compared(self, better: int, worse: int) -> Compared:
        first = self.read(self.dataset[better])
        if isinstance(first, Compared):
            return first
        second = self.read(self.dataset[worse])
        assert isinstance(second, Rated)  # one format reads rows of one kind
        return Compared(first.messages, first.reply, second.reply, first.rating - second.rating)


def mixed_examples(
    source: MixSource,
    seed: int,
    exclude: Callable[[str], bool] | None = None,
    principles: Sequence[str] = RATED,
) -> MixedSet:
    """Read a general preference set as examples grouped by prompt; the same ones whatever the order of its rows.

    `exclude` is asked about the last user message of a prompt and says whether to leave the prompt out, for example
    because it resembles a held-out speech. `principles` is the order of an example's `differences`, which only sets in
    the released schema have. Raises UserError for a place, split, file or format that cannot be read, and when no pair
    is left.
    """
    dataset, origin = _open(source)
    form = find_format(dataset.column_names, source.load)
    if not len(dataset):
        raise UserError(f"{source.load}: holds no preference rows")
    wanted = [name for name in dataset.column_names if name in (*form.reads, "split")]
    dataset = dataset.select_columns(wanted)
    left_out: Counter[str] = Counter()
    index = _Index(seed)
    for number, row in enumerate(_rows(dataset, source.load)):
        try:
            if source.split.startswith("train") and row.get("split") in HELD_OUT:
                raise Unusable("held out by the set itself")
            found = form.read(row)
            if exclude and index.excluded(found.messages[-1]["content"], exclude):
                raise Unusable("excluded")
            index.add(number, found)
        except Unusable as reason:
            left_out[str(reason)] += 1
    better, worse, starts = index.pairs(source.limit, left_out)
    if not len(better):
        reasons = ", ".join(f"{reason}: {count}" for reason, count in left_out.most_common())
        raise UserError(f"{source.load}: no pair is left to mix in ({reasons}); docs/mixing.md explains the reasons")
    license_ = source.license or folder_license(source.load)
    return MixedSet(origin, license_, left_out, tuple(principles), dataset, form.read, better, worse, starts)


class _Index:
    """What the first pass keeps of each usable row: three hashes, its number, and a rating where rows are replies."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.prompts, self.keys, self.digests = array("Q"), array("Q"), array("Q")
        self.numbers = array("q")
        self.ratings = array("d")  # stays empty where a row is a pair
        self.asked: tuple[str, bool] = ("", False)

    def excluded(self, text: str, exclude: Callable[[str], bool]) -> bool:
        """Ask once about prompts that follow each other, as they mostly do."""
        if self.asked[0] != text:
            self.asked = (text, exclude(text))
        return self.asked[1]

    def add(self, number: int, found: Compared | Rated) -> None:
        """Hash a row: its prompt, what makes it this pair or reply, and the rest, which decides between repeats."""
        prompt = _hash(self.seed, [[said["role"], said["content"]] for said in found.messages])
        if isinstance(found, Compared):
            key, digest = _hash(prompt, found.chosen, found.rejected), _hash(found.gap, found.differences)
        else:
            key, digest = _hash(prompt, found.reply), _hash(found.rating)
            self.ratings.append(found.rating)
        self.prompts.append(prompt)
        self.keys.append(key)
        self.digests.append(digest)
        self.numbers.append(number)

    def pairs(self, limit: int | None, left_out: Counter[str]) -> tuple[Positions, Positions, Positions]:
        """Rows of the better and of the worse reply of each pair taken, by prompt, and where each prompt begins."""
        prompts, keys = np.frombuffer(self.prompts, np.uint64), np.frombuffer(self.keys, np.uint64)
        numbers = np.frombuffer(self.numbers, np.int64)
        order = np.lexsort((np.frombuffer(self.digests, np.uint64), keys, prompts))
        fresh = _first_of_each(keys[order])
        left_out["repeated"] += int(len(order) - fresh.sum())
        order = order[fresh]
        prompts, keys, better = prompts[order], keys[order], numbers[order]
        worse = better
        if self.ratings:
            firsts, seconds = _by_rating(prompts, np.frombuffer(self.ratings, np.float64)[order], left_out)
            both = zip(keys[firsts].tolist(), keys[seconds].tolist(), strict=True)
            keys = np.fromiter((_hash(*pair) for pair in both), np.uint64, len(firsts))
            prompts, better, worse = prompts[firsts], better[firsts], better[seconds]
        if limit is not None and limit < len(keys):
            left_out["over the limit"] += len(keys) - limit
            taken = np.argsort(keys)[:limit]
            prompts, keys, better, worse = prompts[taken], keys[taken], better[taken], worse[taken]
        order = np.lexsort((keys, prompts))
        starts = np.append(np.flatnonzero(_first_of_each(prompts[order])), len(order))
        left_out += Counter()  # drops reasons that were counted 0 times
        return better[order], worse[order], starts


def _by_rating(
    prompts: Hashes, ratings: np.ndarray[Any, np.dtype[np.float64]], left_out: Counter[str]
) -> tuple[Positions, Positions]:
    """Positions of the better and of the worse reply of each pair of one prompt that is not rated alike."""
    starts = np.append(np.flatnonzero(_first_of_each(prompts)), len(prompts))
    firsts, seconds = array("q"), array("q")
    for start, stop in itertools.pairwise(starts.tolist()):
        if stop - start == 1:
            left_out["the only reply to its prompt"] += 1
        if stop - start > MOST_RATED:
            left_out[f"more than {MOST_RATED} replies to one prompt"] += stop - start
            continue
        for i, j in itertools.combinations(range(start, stop), 2):
            if ratings[i] == ratings[j]:
                left_out["tie"] += 1
            else:
                firsts.append(i if ratings[i] > ratings[j] else j)
                seconds.append(j if ratings[i] > ratings[j] else i)
    return np.frombuffer(firsts, np.int64), np.frombuffer(seconds, np.int64)


def _first_of_each(ordered: Hashes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a new value begins in ordered values."""
    fresh = np.ones(len(ordered), dtype=bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return fresh


def _hash(*parts: Any) -> int:
    return int.from_bytes(hashlib.blake2b(canonical_json(parts).encode(), digest_size=8).digest(), "little")


def _rows(dataset: Any, place: str) -> Iterator[dict[str, Any]]:
    try:
        for batch in dataset.iter(batch_size=BATCH):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))
    except UnicodeDecodeError as error:  # the library copies bytes without a look at them
        raise UserError(f"{place}: not UTF-8 ({error}); write the file anew as UTF-8") from error


def _open(source: MixSource) -> tuple[Any, str]:
    """The memory-mapped rows of a source's split, and where they came from. Raises UserError."""
    path = data_path(source.load)
    hub = HUB_ID.fullmatch(source.load)
    if path.suffix in LOADERS:
        if not path.is_file():
            raise UserError(f"{source.load}: no such file")
        if _is_empty(path):
            raise UserError(f"{source.load}: holds no preference rows")
        splits = _load(source.load, LOADERS[path.suffix], data_files=str(path))
    elif path.is_dir():
        splits = _load(source.load, str(path))
    elif hub:
        splits = _load(source.load, hub[1], data_dir=hub[2], name=hub[3])
    else:
        raise UserError(f"{source.load}: no such folder, and no hub id (OWNER/NAME, OWNER/NAME/FOLDER, OWNER/NAME:SET)")
    if source.split not in splits:
        close = nearest(source.split, list(splits))
        raise UserError(f"{source.load}: no split '{source.split}'{close}; there are {', '.join(splits)}")
    found = splits[source.split]
    return found, file_origin(path) if path.exists() else hub_origin(hub[1] if hub else source.load, found)


def _is_empty(path: Path) -> bool:
    """Whether a file has no row at all, over which the library fails in other words."""
    if path.suffix != ".parquet":
        return not path.stat().st_size
    import pyarrow.parquet

    try:
        return bool(pyarrow.parquet.read_metadata(path).num_rows == 0)
    except pyarrow.ArrowException:
        return False


def _load(place: str, *arguments: str, **settings: str | None) -> dict[str, Any]:
    import datasets

    try:
        with _quiet(datasets):
            return dict(datasets.load_dataset(*arguments, **settings))
    except Exception as error:  # the library raises a dozen kinds for network, name, format and access
        cause = error.__cause__ or error  # the outer one often says only that something happened
        told = " ".join(str(cause).split()) or type(cause).__name__
        raise UserError(f"{place}: cannot be read as a preference set ({told[:200]})") from error


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without the library's bars and its own lines about a fault that is told in one line here."""
    level, bars = datasets.logging.get_verbosity(), datasets.is_progress_bar_enabled()
    datasets.logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
