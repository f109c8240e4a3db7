"""Score the rows of any file with a reward model: for people who bring their own speeches and replies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from psychocounsel.score.ensemble import open_ensemble
from psychocounsel.score.files import check_paths, read_chunks, survey, writing
from psychocounsel.score.rows import read_item


def score_file(models: Sequence[str], source: Path, target: Path, max_length: int = 2048) -> None:
    """Write `source`'s rows, in their order, with `reward` and what else the models say of each reply.

    Every row is looked at before a model is opened; then rows are read, scored and written in chunks, so that a file
    of any size will do. Raises UserError for rows that cannot be scored; nothing is then left behind.
    """
    check_paths(source, target)
    found = survey(source, target)
    ensemble = open_ensemble(models, max_length)
    for note in ensemble.notes:
        print(note, file=sys.stderr)
    done = replies = cut = 0
    with writing(target, found.schema) as write:
        for chunk in read_chunks(source):
            items = [
                read_item(f"{source}:{number}", row) for number, row in zip(chunk.numbers, chunk.rows, strict=True)
            ]
            added = ensemble.score(items, f"rows {done + 1} to {done + len(items)} of {found.rows}")
            if not done and (old := sorted(found.columns & set(added[0]))):
                print(f"{source}: replaced in the output: {', '.join(old)}", file=sys.stderr)
            write(chunk, added)
            done += len(items)
            replies += sum(len(item.replies) for item in items)
            flags = [row["truncated"] for row in added]
            cut += sum(sum(flag) if isinstance(flag, list) else flag for flag in flags)
    print(f"{done} rows with {replies} replies scored, {cut} cut to fit {max_length} tokens: {target}")
