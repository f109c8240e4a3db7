"""The paper's size through a scripted model: 26,483 speeches x 4 replies x 1 judge, from a file to published Parquet.

Speeches are put together from sentences of the embedded texts, replies and ratings come from a model in this process
that answers by the question's hash. Every stage is the one of a real run. Prints one JSON object as its last line.

    python benchmarks/full_size.py [--speeches 26483] [--save]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from psychocounsel.models.chat import Request
from psychocounsel.models.recorded import embedded_file
from psychocounsel.models.scripted import Scripted
from psychocounsel.records import read_rows, write_rows

PRINCIPLES = ("empathy", "relevance", "clarity", "safety", "exploration", "autonomy", "staging")
RECIPE = """
name = "full"
seed = 1
[speeches]
sources = [{{ load = "{source}", license = "CC0-1.0" }}]
content = false
language = ""
near_duplicate = 0.9
[responses]
models = [{models}]
[ratings]
judges = ["benchmarks.full_size:judge"]
[publish]
license = "CC-BY-4.0"
"""


def sentences() -> list[str]:
    """All longer sentences of the embedded speeches and replies."""
    texts = [row["turns"][-1]["text"] for _, row in read_rows(embedded_file("speeches.jsonl"))]
    texts += [row["text"] for _, row in read_rows(embedded_file("responses.jsonl"))]
    found = {part.strip() for text in texts for part in re.split(r"(?<=[.!?])\s+", text)}
    return sorted(part for part in found if 5 <= len(part.split()) <= 25)


POOL = sentences()


def drawn(key: str, count: int) -> str:
    """So many sentences, drawn by the hash of a key."""
    return " ".join(random.Random(hashlib.blake2b(key.encode()).digest()).sample(POOL, count))


def rating(request: Request) -> str:
    """A rating that has a reason and a score for each principle, as a real judge's has."""
    text = request.messages[-1]["content"]
    scores = hashlib.blake2b(text.encode()).digest()
    parts = {
        name: {"reason": "It takes up what the client said about the evening.", "score": 1 + scores[place] % 5}
        for place, name in enumerate(PRINCIPLES)
    }
    return json.dumps({"stage": "contemplation", "risk": "none", **parts})


class Hashed(Scripted):
    """A scripted model that keeps no list of what it was sent, and takes as many calls at once as a server would."""

    concurrency = 64

    async def send(self, request: Request) -> str:
        answer = await super().send(request)
        self.sent.clear()
        return answer


def answering(name: str) -> Hashed:
    """A candidate model with words of its own."""
    return Hashed(lambda request: drawn(name + request.messages[-1]["content"], 7), name=name)


one, two, three, four = (partial(answering, name) for name in ("one", "two", "three", "four"))


def judge() -> Hashed:
    return Hashed(rating, name="judge")


def rows(count: int) -> Iterator[dict[str, Any]]:
    return ({"id": f"s{number}", "text": drawn(f"speech{number}", 6)} for number in range(count))


def measure(count: int, folder: Path) -> dict[str, Any]:
    """Seconds by stage, peak memory of the process that ran them all, sizes on disk."""
    source = folder / "speeches.jsonl"
    write_rows(source, rows(count))
    models = ", ".join(f'"benchmarks.full_size:{name}"' for name in ("one", "two", "three", "four"))
    recipe = folder / "full.toml"
    recipe.write_text(RECIPE.format(source=source, models=models), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    start = time.perf_counter()
    command = [sys.executable, "-m", "psychocounsel.cli"]
    for stage in (["run", str(recipe), "--to", "pairs"], ["publish", str(recipe)]):
        subprocess.run([*command, *stage, "--runs", str(folder / "runs")], check=True, env=environment)
    seconds = time.perf_counter() - start
    place = folder / "runs" / "full"
    manifests = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(place.glob("*/manifest.json"))]
    pairs = next(row["counts"] for row in manifests if row["stage"] == "pairs")
    published = sum(path.stat().st_size for path in (place / "9-publish").rglob("*.parquet"))
    return {
        "speeches": count,
        "calls": 2 * 4 * count,
        "seconds": round(seconds),
        "seconds_by_stage": {row["stage"]: round(row["seconds"]) for row in manifests},
        "peak_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "store_mib": round((place / "calls.sqlite").stat().st_size / 2**20),
        "parquet_mib": round(published / 2**20),
        "pairs": {split: pairs[split] for split in ("train", "dev", "test")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speeches", type=int, default=26_483)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/full_size.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {"benchmark": "full_size", **measure(options.speeches, Path(folder))}
    found |= {"date": str(date.today()), "cores": os.cpu_count(), "machine": platform.processor() or platform.machine()}
    if options.save:
        target = Path(__file__).parent / "results" / "full_size.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
