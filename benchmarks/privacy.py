"""Is personal data found, and nothing else? Recall and precision on a seeded set; what survives in counsel-chat.

The seeded set puts invented values of each type into sentences that hold none but look like it. Its forms are ours,
about a third of them hard, and the recognisers were mended until the easy ones and the tempting sentences came out
right: the figures guard against decline, they are no measure of what people write. The names that counsel-chat lists,
looked for without its list, are nearer to that, though its sign-offs were looked at as well.
counsel-chat is read from the shared data folder, when it is there: no therapist's name or page may survive in it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from psychocounsel.models.recorded import embedded_file
from psychocounsel.privacy import Replaced, find, known_values, scrub
from psychocounsel.privacy.counselchat import ANSWER_COLUMNS, counselchat_rows, persons, split_info
from psychocounsel.privacy.planted import false_alarms, is_found, planted_types, seeded_set
from psychocounsel.privacy.words import fold
from psychocounsel.records import read_rows
from psychocounsel.speeches.missed import wilson

EACH, SEED = 400, 2025  # seeds 5 and 11 were looked at while the recognisers were written
LEAST_RECALL = 0.65  # some hard forms no rule can find: with them five of seven forms of HANDLE are left
LEAST_EASY, LEAST_PRECISION = 0.97, 0.95
FILE = Path(os.environ.get("PSYCHOCOUNSEL_DATA", "../shared/data")) / "counselchat" / "20200325_counsel_chat.csv"


def on_seeded_set() -> dict[str, dict[str, Any]]:
    """By type: recall, recall on the easy forms alone, precision; each with Wilson's interval."""
    hits: Counter[tuple[str, bool]] = Counter()
    n: Counter[tuple[str, bool]] = Counter()
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for planted in seeded_set(EACH, SEED):
        findings = find(planted.text)
        false = false_alarms(planted, findings)
        n[planted.type, planted.hard] += 1
        hits[planted.type, planted.hard] += is_found(planted, findings)
        wrong.update(finding.type for finding in false)
        right.update(finding.type for finding in findings if finding not in false)
    return {
        kind: {
            "recall": wilson(hits[kind, False] + hits[kind, True], n[kind, False] + n[kind, True]),
            "recall_easy": wilson(hits[kind, False], n[kind, False]),
            "precision": wilson(right[kind], right[kind] + wrong[kind]),
        }
        for kind in planted_types()
    }


def plain(text: str) -> str:
    """Folded words with single spaces, and a space at both ends."""
    return " ".join(["", *re.findall(r"[^\W_]+", fold(text)), ""])


def survivors(pairs: set[tuple[str, str]], texts: list[str]) -> int:
    """How often a therapist's line, name, page or page name stands in the texts, however it is spaced or cased."""
    values = set()
    for info, url in pairs:
        values |= {plain(value) for value in (info, split_info(info, url)[0], url, url.rstrip("/").rpartition("/")[2])}
    folded = [plain(text) for text in texts]
    return sum(value in text for value in values if len(value.split()) > 1 for text in folded)


def on_counselchat() -> dict[str, Any]:
    """Counts by type, changed texts, share of characters kept, and survivors before and after."""
    rows = list(counselchat_rows(FILE, (*ANSWER_COLUMNS, "questionText", "questionTitle")))
    pairs = {(row["therapistInfo"], row["therapistURL"]) for row in rows}
    known = known_values(tuple(persons(iter(pairs))))
    questions = {row["questionID"]: row["questionText"] or row["questionTitle"] for row in rows}
    figures: dict[str, Any] = {}
    for name, texts in (("answers", [row["answerText"] for row in rows]), ("questions", list(questions.values()))):
        done: list[Replaced] = [scrub([text], known) for text in texts]
        after = [one.texts[0] for one in done]
        listed = [(text, spot) for text in texts for spot in find(text, known) if spot.known and spot.type == "NAME"]
        alone = sum(any(f.start <= spot.start and spot.end <= f.end for f in find(text)) for text, spot in listed)
        kept = sum(len(re.sub(r"\[[A-Z]+_\d+\]", "", text)) for text in after)
        figures[name] = {
            "texts": len(texts),
            "changed": sum(bool(one.counts) for one in done),
            "found": dict(sorted(sum((Counter(one.counts) for one in done), Counter()).items())),
            "characters_kept": round(kept / sum(map(len, texts)), 4),
            "listed_names": len(listed),
            "of_these_found_without_the_list": alone,
            "persons_before": survivors(pairs, texts),
            "persons_after": survivors(pairs, after),
        }
    return figures


def main() -> int:
    by_type = on_seeded_set()
    for kind, figures in by_type.items():
        for name, share in figures.items():
            print(f"{kind} {name}: {share['value']:.3f} ({share['low']:.3f} to {share['high']:.3f}; n {share['n']})")
    met = all(
        figures["recall"]["value"] >= LEAST_RECALL
        and figures["recall_easy"]["value"] >= LEAST_EASY
        and figures["precision"]["value"] >= LEAST_PRECISION
        for kind, figures in by_type.items()
    )
    speeches = [row["turns"][-1]["text"] for _, row in read_rows(embedded_file("speeches.jsonl"))]
    start = time.process_time()
    found = Counter(finding.type for text in speeches for finding in find(text))
    report: dict[str, Any] = {"seeded_set": by_type, "found_in_embedded_speeches": dict(sorted(found.items()))}
    report["microseconds_per_character"] = round((time.process_time() - start) * 1e6 / sum(map(len, speeches)), 2)
    print(f"embedded speeches: {len(speeches)}, found in them: {report['found_in_embedded_speeches']}")
    if FILE.is_file():
        report["counselchat"] = on_counselchat()
        for name, figures in report["counselchat"].items():
            print(f"counsel-chat {name}: {figures}")
            met = met and figures["persons_after"] == 0
    else:
        print(f"counsel-chat: not measured, {FILE} is absent (set PSYCHOCOUNSEL_DATA)")
    goal = (
        "for each type easy forms are found in 97 % of cases, all forms in 65 %, with a precision of 95 %; "
        "no therapist survives in counsel-chat"
    )
    print(json.dumps({"benchmark": "privacy", "figures": report, "goal": goal, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
