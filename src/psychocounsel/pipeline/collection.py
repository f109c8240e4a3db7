"""The speeches stage as the pipeline runs it: read the sources, open what the stage asks, write what it finds."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from psychocounsel.engine import Engine, open_engine
from psychocounsel.models import open_models
from psychocounsel.pipeline.context import Run
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.privacy import counselchat_persons
from psychocounsel.recipe import Source, data_path
from psychocounsel.records import Speech, write_records, write_rows, write_text
from psychocounsel.speeches import Aids, Collection, collect
from psychocounsel.speeches.classify import classify
from psychocounsel.speeches.privacy import ReadMore, model_reader
from psychocounsel.speeches.sources import accepted_topics, read_embedded, read_source
from psychocounsel.speeches.topics import Topics, give_topics

LEDGER = "shards.part"  # of an engine; holds texts as they came, so it goes with every *.part when the stage is done


def speeches_stage(run: Run, folder: Path) -> dict[str, Any]:
    """Run the stage into its folder; returns the counts of its manifest."""
    table = run.recipe.speeches
    raw = [speech for source in table.sources for speech in read_source(source)]
    external = {
        source.load: [dialogue_text(speech.turns) for speech in read_source(source)] for source in table.external
    }
    with open_engine(run.engine, folder / LEDGER) as engine:
        aids = Aids(_persons(table.sources), _reader(run), partial(_topics, run, engine), external)
        collection = collect(raw, table, run.recipe.seed, aids, engine)
    write_records(folder / "speeches.jsonl", collection.speeches)
    write_records(folder / "dropped.jsonl", collection.dropped)
    write_rows(folder / "review.jsonl", collection.topics.review)
    _write_json(folder / "topics.json", collection.topics.report)
    _write_json(folder / "privacy.json", collection.privacy)
    _write_json(folder / "leakage.json", collection.leakage)
    if table.privacy.keep_map:
        _write_map(run.folder.path.with_name(f"{run.folder.path.name}.privacy-map.jsonl"), collection.pseudonyms)
    sizes = Counter(speech.cluster for speech in collection.speeches)
    _write_json(folder / "clusters.json", _cluster_report(sizes))
    return _counts(collection, sizes)


def _persons(sources: Sequence[Source]) -> list[str]:
    """Every therapist that a counsel-chat source lists in columns of its own."""
    files = [data_path(rest) for kind, _, rest in (s.load.partition(":") for s in sources) if kind == "counselchat"]
    return sorted({value for file in files for value in counselchat_persons(file)})


def _reader(run: Run) -> ReadMore | None:
    name = run.recipe.speeches.privacy.model
    return model_reader(open_models(name, table=run.recipe.models)[0], run.store) if name else None


def _topics(run: Run, engine: Engine, speeches: list[Speech]) -> Topics:
    """Topics as the recipe wants them: from a model, from the student, or from the sources alone."""
    table = run.recipe.speeches
    if table.topics == "none":
        return Topics(speeches)
    accepted = {key: keys for source in table.sources for key, keys in accepted_topics(source).items()}
    reading = None
    if table.topics != "tfidf":
        model = open_models(table.topics, table=run.recipe.models)[0]
        reading = classify(speeches, model, run.store, table.classify)
    return give_topics(speeches, read_embedded(), reading, accepted, engine)


def _cluster_report(sizes: Counter[str]) -> dict[str, Any]:
    """How many clusters there are of each size, and the largest ones by name."""
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:20]
    return {
        "clusters": len(sizes),
        "sizes": {str(size): count for size, count in sorted(Counter(sizes.values()).items())},
        "largest": {name: size for name, size in largest if size > 1},
    }


def _counts(collection: Collection, sizes: Counter[str]) -> dict[str, Any]:
    splits = Counter(str(speech.split) for speech in collection.speeches)
    return {
        "read": collection.read,
        "kept": len(collection.speeches),
        "dropped": collection.reasons(),
        "splits": dict(sorted(splits.items())),
        "clusters": len(sizes),
        "topics": len({speech.topic for speech in collection.speeches if speech.topic}),
        "personal_data": collection.privacy.get("found", {}),
        "leaks": collection.leakage["leaks"],
        "review": len(collection.topics.review),
    }


def _write_map(path: Path, pseudonyms: dict[str, dict[str, str]]) -> None:
    """The way back from placeholders to personal data: beside the run folder, never in it, readable by its owner."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        for speech_id, values in sorted(pseudonyms.items()):
            file.write(json.dumps({"speech_id": speech_id, "values": values}, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
