"""Near-duplicates among 100,000 documents: time beside datasketch, recall, precision, growth with size, memory.

Documents are put together from runs of sentences of the embedded texts, whose words are then replaced, left out,
added and swapped. One in ten is a lightly edited copy of another. The truth is computed here, by comparing every copy
with its original: at a similarity of 0.8 or more the later of the two has to be dropped. Both tools get the same
texts, drop a text that is so alike to an earlier kept one, and confirm by exact Jaccard of word 3-grams. Ours finds
clusters at 0.4 as well, which datasketch is not asked for.

datasketch runs twice: with the bands it chooses itself for a threshold of 0.8, and with bands that overlook no more
than 1 pair in 500 there. Each run has its own process and one thread. The time is processor time, so that other work
on the machine does not blur it. Runs alternate; figures are medians. At full size datasketch runs once.

    python benchmarks/neardup.py [--documents 100000] [--rounds 3] [--save]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from psychocounsel.models.recorded import embedded_file
from psychocounsel.records import read_rows
from psychocounsel.speeches.dedup import near_duplicates

DROP_AT, JOIN_AT = 0.8, 0.4
WORDS = 100  # of a document, about
COPIES = 0.1  # share of the documents that are copies
LIGHT, HEAVY = 0.08, 0.25  # most of the words edited in a copy, and in an original
PERMUTATIONS = 128
PEER_BANDS = (21, 6)  # 1 - (1 - 0.8^6)^21 = 0.998
RESULT = Path(__file__).parent / "results" / "neardup.json"

Found = dict[int, int]


def ours(texts: list[str]) -> Found:
    return near_duplicates(texts, drop_at=DROP_AT, join_at=JOIN_AT).duplicate_of


def peer(texts: list[str], bands: tuple[int, int] | None = None) -> Found:
    """datasketch as its documentation has it: signatures in bulk, an index in memory, exact sets to filter with."""
    from datasketch import MinHash, MinHashLSH

    sets = [shingles(text) for text in texts]
    index = MinHashLSH(threshold=DROP_AT, num_perm=PERMUTATIONS, params=bands)
    found: Found = {}
    signatures = MinHash.generator(([item.encode() for item in items] for items in sets), num_perm=PERMUTATIONS)
    for place, signature in enumerate(signatures):
        near = [other for other in index.query(signature) if similarity(sets[place], sets[other]) >= DROP_AT]
        if near:
            found[place] = min(near)
        else:
            index.insert(place, signature)
    return found


def peer_with_recall(texts: list[str]) -> Found:
    return peer(texts, PEER_BANDS)


TOOLS: dict[str, Callable[[list[str]], Found]] = {
    "ours": ours,
    "datasketch": peer,
    "datasketch_high_recall": peer_with_recall,
}


def shingles(text: str) -> set[str]:
    """Word 3-grams, written anew so that the code under test does not check itself."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}


def similarity(one: set[str], two: set[str]) -> float:
    common = len(one & two)
    return common / (len(one) + len(two) - common)


def documents(count: int, draw: random.Random) -> tuple[list[str], Found]:
    """Texts in drawn order, and the planted pairs as {later place: earlier place}."""
    rows = [row["turns"][-1]["text"] for _, row in read_rows(embedded_file("speeches.jsonl"))]
    rows += [row["text"] for _, row in read_rows(embedded_file("responses.jsonl"))]
    samples = [re.split(r"(?<=[.!?])\s+", text) for text in rows]
    words = sorted({word for text in rows for word in text.split()})
    copies = int(count * COPIES)
    originals = [edited(mixed(samples, draw), words, draw.uniform(0.05, HEAVY), draw) for _ in range(count - copies)]
    texts = originals + [edited(text, words, draw.uniform(0, LIGHT), draw) for text in originals[:copies]]
    order = draw.sample(range(count), count)
    place = {old: new for new, old in enumerate(order)}
    planted = [sorted((place[i], place[count - copies + i])) for i in range(copies)]
    return [texts[old] for old in order], {later: earlier for earlier, later in planted}


def mixed(samples: list[list[str]], draw: random.Random) -> list[str]:
    """Runs of one to three sentences out of several texts, about WORDS words in all."""
    sentences: list[str] = []
    while sum(len(sentence.split()) for sentence in sentences) < WORDS - 8:
        text = draw.choice(samples)
        start = draw.randrange(len(text))
        sentences += text[start : start + draw.randint(1, 3)]
    draw.shuffle(sentences)
    return " ".join(sentences).split()


def edited(text: list[str] | str, words: list[str], share: float, draw: random.Random) -> str:
    """The text with a share of its words replaced, left out, followed by another, or swapped with the next."""
    parts = text.split() if isinstance(text, str) else list(text)
    result: list[str] = []
    for place, part in enumerate(parts):
        way = draw.choice("rdis") if draw.random() < share else ""
        if way == "s" and place + 1 < len(parts):
            part, parts[place + 1] = parts[place + 1], part
        result += {"r": [draw.choice(words)], "d": [], "i": [part, draw.choice(words)]}.get(way, [part])
    return " ".join(result)


def quality(found: Found, texts: list[str], planted: Found) -> dict[str, Any]:
    """Recall on planted pairs of DROP_AT or more whose earlier text is kept; precision of all that was dropped."""
    alike = {later: similarity(shingles(texts[later]), shingles(texts[earlier])) for later, earlier in planted.items()}
    wanted = [later for later, value in alike.items() if value >= DROP_AT and planted[later] not in found]
    right = sum(similarity(shingles(texts[a]), shingles(texts[b])) >= DROP_AT for a, b in found.items())
    return {
        "planted": len(wanted),
        "dropped": len(found),
        "recall": round(sum(later in found for later in wanted) / len(wanted), 4) if wanted else None,
        "precision": round(right / len(found), 4) if found else None,
    }


def run(tool: str, file: Path) -> dict[str, Any]:
    """One run in a process of its own: seconds, peak memory in GB, and what was found."""
    command = [sys.executable, __file__, "--worker", tool, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(f"{tool}: {done.stderr[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result | {"found": {int(later): earlier for later, earlier in result["found"].items()}}


def worker(tool: str, file: Path) -> None:
    texts = json.loads(file.read_text(encoding="utf-8"))
    TOOLS[tool](texts[:50])  # imports are not timed
    wall, start = time.perf_counter(), time.process_time()
    found = TOOLS[tool](texts)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "wall": wall, "peak_gb": peak, "found": found}))


def measure(count: int, rounds: dict[str, int]) -> dict[str, dict[str, Any]]:
    """For each tool medians over its rounds, in alternating order, and the quality of what it found."""
    texts, planted = documents(count, random.Random(5))
    runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts), encoding="utf-8")
        for number in range(max(rounds.values())):
            order = [tool for tool in TOOLS if number < rounds[tool]]
            for tool in order[:: 1 - 2 * (number % 2)]:
                runs[tool].append(run(tool, file))
                print(f"{count} {tool}: {runs[tool][-1]['seconds']:.2f} s", flush=True)
    return {
        tool: {name: round(statistics.median(one[name] for one in done), 3) for name in ("seconds", "wall", "peak_gb")}
        | {"runs": len(done)}
        | quality(done[0]["found"], texts, planted)
        for tool, done in runs.items()
    }


def judged(small: dict[str, Any], full: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The figures that sum it up, and whether the goal is met."""
    mine = full["ours"]
    figures = {
        "growth": round(math.log10(mine["seconds"] / small["ours"]["seconds"]), 3),
        "time_to_datasketch": round(mine["seconds"] / full["datasketch"]["seconds"], 3),
        "time_to_datasketch_high_recall": round(mine["seconds"] / full["datasketch_high_recall"]["seconds"], 3),
        **{name: mine[name] for name in ("recall", "precision", "planted", "seconds", "peak_gb")},
    }
    found = (mine["recall"] or 0) >= 0.99 and mine["precision"] == 1.0
    return figures, found and figures["growth"] < 1.2 and figures["time_to_datasketch"] < 1


def cpu() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name} with date and machine")
    parser.add_argument("--worker", nargs=2, metavar=("TOOL", "FILE"), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.worker:
        worker(asked.worker[0], Path(asked.worker[1]))
        return 0
    small = measure(asked.documents // 10, dict.fromkeys(TOOLS, asked.rounds))
    full = measure(asked.documents, dict.fromkeys(TOOLS, 1) | {"ours": asked.rounds})
    summary, met = judged(small, full)
    goal = (
        "recall of at least 0.99 and precision of 1.0 for planted pairs of similarity 0.8 or more, time growing less "
        "than n^1.2 over a tenfold of documents, less time than datasketch"
    )
    sizes = {str(asked.documents // 10): small, str(asked.documents): full}
    body = {"benchmark": "neardup", "figures": {**summary, "sizes": sizes}, "goal": goal, "met": met}
    if asked.save:
        import datasketch
        import numpy

        versions = f"Python {platform.python_version()}, numpy {numpy.__version__}, datasketch {datasketch.__version__}"
        RESULT.parent.mkdir(exist_ok=True)
        stamped = {"date": date.today().isoformat(), "machine": f"{cpu()}, 1 thread, {versions}", **body}
        RESULT.write_text(json.dumps(stamped, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(body))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
