"""The speeches stage as the pipeline runs it: read the sources, open what the stage asks, write what it finds."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from psychocounsel.engine import Engine, open_engine
from psychocounsel.models import open_models
from psychocounsel.pipeline.context import Run
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.records import Speech, write_records, write_rows
from psychocounsel.run import write_text
from psychocounsel.speeches import Collection, collect
from psychocounsel.speeches.classify import classify
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
        collection = collect(raw, table, run.recipe.seed, partial(_topics, run, engine), external, engine)
    write_records(folder / "speeches.jsonl", collection.speeches)
    write_records(folder / "dropped.jsonl", collection.dropped)
    write_rows(folder / "review.jsonl", collection.topics.review)
    _write_json(folder / "topics.json", collection.topics.report)
    _write_json(folder / "leakage.json", collection.leakage)
    sizes = Counter(speech.cluster for speech in collection.speeches)
    _write_json(folder / "clusters.json", _cluster_report(sizes))
    return _counts(collection, sizes)


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
        "leaks": collection.leakage["leaks"],
        "review": len(collection.topics.review),
    }


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
