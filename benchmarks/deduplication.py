"""Does de-duplication find planted near-duplicates among 5,000 documents, and nothing else?

4,000 originals are put together from sentences of the embedded texts; 1,000 of them get a copy with some words
changed, more or fewer. The truth is computed here, by comparing every copy with its original: at a similarity of 0.8
or more the later of the two has to be dropped, below that none of the two. Originals are unrelated to each other.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from typing import Any

from psychocounsel.models.recorded import embedded_file
from psychocounsel.records import read_rows
from psychocounsel.speeches.dedup import near_duplicates

ORIGINALS, COPIES = 4000, 1000
DROP_AT, JOIN_AT = 0.8, 0.4
SENTENCES = 10
MOST_CHANGED = 0.15  # of the words of a copy


def sentences() -> list[str]:
    """All longer sentences of the embedded speeches and replies."""
    texts = [row["turns"][-1]["text"] for _, row in read_rows(embedded_file("speeches.jsonl"))]
    texts += [row["text"] for _, row in read_rows(embedded_file("responses.jsonl"))]
    found = {part.strip() for text in texts for part in re.split(r"(?<=[.!?])\s+", text)}
    return sorted(part for part in found if len(part.split()) >= 5)


def documents(draw: random.Random) -> tuple[list[str], dict[int, int]]:
    """5,000 documents in drawn order, and the planted pairs as {later place: earlier place}."""
    pool = sentences()
    words = sorted({word for sentence in pool for word in sentence.split()})
    originals = [" ".join(draw.sample(pool, SENTENCES)) for _ in range(ORIGINALS)]
    copies = [changed(text, words, draw) for text in originals[:COPIES]]
    texts = originals + copies
    order = draw.sample(range(len(texts)), len(texts))
    place = {old: new for new, old in enumerate(order)}
    planted = [(place[i], place[ORIGINALS + i]) for i in range(COPIES)]
    return [texts[old] for old in order], {max(pair): min(pair) for pair in planted}


def changed(text: str, words: list[str], draw: random.Random) -> str:
    """The text with up to MOST_CHANGED of its words replaced by drawn ones."""
    parts = text.split()
    share = draw.uniform(0, MOST_CHANGED)
    return " ".join(draw.choice(words) if draw.random() < share else part for part in parts)


def similarity(first: str, second: str) -> float:
    """Jaccard similarity of word 3-grams, written anew so that the code under test does not check itself."""
    one, two = (
        {tuple(words[i : i + 3]) for i in range(len(words) - 2)}
        for words in (re.findall(r"\w+", text.lower()) for text in (first, second))
    )
    return len(one & two) / len(one | two)


def main() -> int:
    texts, planted = documents(random.Random(5))
    alike = {later: similarity(texts[later], texts[earlier]) for later, earlier in planted.items()}
    wanted = {(later, planted[later]) for later, value in alike.items() if value >= DROP_AT}
    start = time.perf_counter()
    clusters = near_duplicates(texts, drop_at=DROP_AT, join_at=JOIN_AT)
    seconds = time.perf_counter() - start
    found = set(clusters.duplicate_of.items())
    recall = len(found & wanted) / len(wanted)
    precision = len(found & wanted) / len(found) if found else 0.0
    joined = [later for later, value in alike.items() if JOIN_AT <= value < DROP_AT]
    together = sum(clusters.root[later] == clusters.root[planted[later]] for later in joined)
    figures: dict[str, Any] = {
        "documents": len(texts),
        "planted_at_0.8": len(wanted),
        "found": len(found),
        "recall": round(recall, 4),
        "precision": round(precision, 4),
        "planted_from_0.4_to_0.8": len(joined),
        "of_these_in_one_cluster": round(together / len(joined), 4),
        "seconds": round(seconds, 2),
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    met = recall >= 0.99 and precision == 1.0
    goal = "recall of at least 0.99 and precision of 1.0 for planted pairs of similarity 0.8 or more"
    print(json.dumps({"benchmark": "deduplication", "figures": figures, "goal": goal, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
