"""Calls as files: OpenAI-Batch JSON Lines out, results in. The same files feed `vllm run-batch`.

A line's `custom_id` is the call store's key, so exporting and importing twice changes nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from psychocounsel.errors import UserError
from psychocounsel.models.chat import ChatModel, Request
from psychocounsel.models.openai_api import OpenAIModel, chat_body, result_of
from psychocounsel.models.remote import Remote
from psychocounsel.models.store import CallStore
from psychocounsel.records import read_rows

MOST_LINES = 50_000
MOST_BYTES = 190_000_000  # the service takes 200 MB
ROWS_PER_COMMIT = 1000
ENDPOINT = "/v1/chat/completions"
Planned = tuple[ChatModel, Request]


def export_calls(planned: Iterable[Planned], store: CallStore, folder: Path, stage: str) -> dict[Path, int]:
    """Write every planned call that the store does not hold yet, one set of files per model. Returns lines by file.

    Files are written beside their names and renamed when complete; those of an earlier export of this stage are
    replaced, so that nothing in the folder is sent twice. Raises UserError for models that no batch serves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    open_files: dict[str, BinaryIO] = {}
    written: dict[str, list[int]] = {}
    lines: dict[Path, int] = {}
    seen: set[str] = set()

    def close(name: str) -> None:
        file = open_files.pop(name)
        file.close()
        part = Path(file.name)
        target = part.with_name(part.name.removesuffix(".part"))
        part.replace(target)
        lines[target] = written.pop(name)[0]

    try:
        for model, request in planned:
            key = request.key(model.kind, model.name)
            if key in seen or store.find(key) is not None:
                continue
            seen.add(key)
            line = _line(key, model, request).encode()
            name = _file_name(stage, model)
            if name in written and (written[name][0] >= MOST_LINES or written[name][1] + len(line) > MOST_BYTES):
                close(name)
            if name not in open_files:
                number = 1 + sum(path.name.startswith(f"{name}-") for path in lines)
                path = folder / f"{name}-{number:03d}.jsonl.part"
                open_files[name] = path.open("wb")
                written[name] = [0, 0]
            open_files[name].write(line)
            written[name] = [written[name][0] + 1, written[name][1] + len(line)]
        for name in list(open_files):
            close(name)
    finally:
        for file in open_files.values():
            file.close()
    for path in folder.glob(f"{stage}-*-[0-9][0-9][0-9].jsonl"):
        if path not in lines and _is_export(path):
            path.unlink()
    return lines


def import_calls(planned: Iterable[Planned], store: CallStore, paths: Sequence[Path]) -> Counter[str]:
    """Put the results of batch files into the store. Counts: stored, known before, failed, unreadable, not of this
    stage. Failed and unreadable ones are asked again by the next run."""
    given = {key for path in paths for key in _keys(path)}
    open_calls: dict[str, ChatModel] = {}
    known: set[str] = set()
    for model, request in planned:
        key = request.key(model.kind, model.name)
        if key not in given or key in open_calls:
            continue
        if store.find(key) is not None:
            known.add(key)
            continue
        open_calls[key] = model
        store.begin(key, model, request)
        _flush_now_and_then(store, len(open_calls))
    counts: Counter[str] = Counter()
    for path in paths:
        for number, row in read_rows(path):
            name = row.get("custom_id")
            if not isinstance(name, str):
                raise UserError(f"{path}:{number}: no 'custom_id'; name a results file of a batch")
            if name in known:
                counts["known before"] += 1
            elif name not in open_calls:
                counts["not of this stage"] += 1
            else:
                outcome = _import_one(name, open_calls[name], row, store)
                counts[outcome] += 1
                if outcome == "stored":
                    known.add(name)
                    _flush_now_and_then(store, counts["stored"])
    store.flush()
    return counts


def _keys(path: Path) -> Iterator[str]:
    """The keys of a results file up to its first broken line, which is told when the file itself is imported."""
    try:
        for _, row in read_rows(path):
            if isinstance(row.get("custom_id"), str):
                yield row["custom_id"]
    except UserError:
        return


def _flush_now_and_then(store: CallStore, count: int) -> None:
    if count % ROWS_PER_COMMIT == 0:
        store.flush()


def _import_one(key: str, model: ChatModel, row: Mapping[str, Any], store: CallStore) -> str:
    response = row.get("response")
    response = response if isinstance(response, dict) else {}
    body = response.get("body")
    error = body.get("error") if isinstance(body, dict) else None
    known = result_of(error.get("code")) if isinstance(error, dict) else None
    if known is not None:
        raw = known
    elif response.get("status_code", 200) != 200 or not isinstance(body, dict):
        return "failed"
    else:
        raw = json.dumps(body, ensure_ascii=False)
    try:
        completion = model.read(raw)
    except UserError:
        return "unreadable"
    cost = store.budget.settle(model, completion) if store.budget else None
    store.finish(key, raw, completion, cost)
    return "stored"


def _line(key: str, model: ChatModel, request: Request) -> str:
    if not isinstance(model, OpenAIModel):
        raise UserError(f"{model.name}: batch files are for openai:MODEL and http://HOST/v1#MODEL only")
    if request.form == "decision":
        raise UserError(f"{model.name}: decisions cannot be asked in a batch file; set ratings.answer to 'schema'")
    body = model.fitted(chat_body(model.model, request))
    return json.dumps({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}) + "\n"


def _is_export(path: Path) -> bool:
    """Whether a file holds requests. A results file of the same name form stays."""
    try:
        _, first = next(read_rows(path))
    except (UserError, StopIteration):
        return False
    return first.get("url") == ENDPOINT and "body" in first


def _file_name(stage: str, model: ChatModel) -> str:
    return f"{stage}-{re.sub(r'[^A-Za-z0-9.-]+', '-', model.name).strip('-')}"


def batched_only(planned: Iterable[Planned], left: set[str]) -> Iterator[Planned]:
    """The calls of models that a batch can serve. Names of other remote ones go into `left`: the stage asks those
    itself. Recorded and local ones answer at once anyway."""
    for model, request in planned:
        if isinstance(model, OpenAIModel):
            yield model, request
        elif isinstance(model, Remote):
            left.add(model.name)
