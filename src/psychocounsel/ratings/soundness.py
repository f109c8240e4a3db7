"""How far a reply is readable English at all, from 0 to 1: broken text must not score well by its vocabulary.

The rated replies hold almost no word salad, so a fitted model cannot learn to punish it. These limits are set
by hand, beyond what real replies do (unsound_share in judge.json: the share of rated replies they touch).
The one fitted part is the `order` table: how much likelier than chance one kind of word follows another (a
noun after "the" often, "of" never).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise

from psychocounsel.ratings.lexicons import FUNCTION
from psychocounsel.ratings.text import SENTENCE_END, WORD, Text

KINDS: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "article": "a an the every each no",
        "this": "this that these those some any all both such",
        "possessive": "my our your his her their its whose",
        "subject": "i we he she they who",
        "you": "you it",
        "object": "me us him them myself yourself himself herself itself themselves",
        "be": "am is are was were isn't aren't wasn't weren't i'm you're he's she's it's that's there's we're they're",
        "have": "has have had having haven't hasn't hadn't i've you've we've they've do does did don't doesn't didn't",
        "modal": "can could may might must shall should will would cannot can't won't "
        "wouldn't couldn't shouldn't i'd i'll",
        "base": "be been being",
        "to": "to",
        "of": "of than",
        "place": "in on at by from with for about into onto over under after before between through during without",
        "and": "and or but nor so yet",
        "because": "if because since although though while unless until whether as when where",
        "question": "what which how why whom",
        "adverb": "not very too also just only even still again ever never always often sometimes here there then now",
        "amount": "more most less least much many few little other another own same rather quite one",
    }.items()
}
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}
STOPS = re.compile(r"[.!?…]+|[,;:()–—]")
BROKEN_WORD = re.compile(
    r"[bcdfghjklmnpqrstvwxz]{6}|(.)\1\1|^[bcdfghjklmnpqrstvwxz]{4,}$|^.{22,}$"
    r"|[^\x00-\u024f]|[qjxvz][bcdfgkmpqtwxj]"
)
RUNS = re.compile(r"([^\w\s])\1{3,}")
TOKEN = re.compile(rf"{WORD.pattern}|{STOPS.pattern}")


def kinds(text: str) -> list[str]:
    """The kind of every word and stop of a normalised text: function words by group, others by ending."""
    found = []
    for token in TOKEN.findall(text):
        if not token[0].isalnum():
            found.append("stop" if token[0] in ".!?…" else "pause")
        else:
            found.append(KIND_OF.get(token) or _ending(token))
    return found


def _ending(word: str) -> str:
    if word in FUNCTION:
        return "function"
    if word[0].isdigit():
        return "number"
    for ending in ("ing", "ed", "ly", "s"):
        if len(word) > len(ending) + 2 and word.endswith(ending):
            return ending
    return "word"


def order_table(texts: Iterable[str]) -> dict[str, float]:
    """Pointwise mutual information of neighbouring kinds over real replies, smoothed; keys 'kind kind'."""
    singles: Counter[str] = Counter()
    doubles: Counter[tuple[str, str]] = Counter()
    for text in texts:
        row = kinds(Text(text).low)
        singles.update(row)
        doubles.update(pairwise(row))
    total, pairs = sum(singles.values()), sum(doubles.values())
    table = {}
    for first in sorted(singles):
        for second in sorted(singles):
            expected = pairs * singles[first] * singles[second] / total**2
            table[f"{first} {second}"] = round(math.log((doubles[first, second] + 1) / (expected + 1)), 3)
    return table


def order(text: Text, table: Mapping[str, float]) -> float:
    """Mean of the order table over a text's neighbours: about 0.4 in real replies, -0.4 in shuffled ones."""
    row = kinds(text.low)
    found = [table.get(f"{a} {b}", -1.0) for a, b in pairwise(row)]
    return sum(found) / len(found) if found else 0.0


def _falling(value: float, good: float, bad: float) -> float:
    """1 up to `good`, 0 from `bad` on, straight in between (either direction)."""
    return min(1.0, max(0.0, (bad - value) / (bad - good)))


def soundness(speech: str, response: str, table: Mapping[str, float]) -> dict[str, float]:
    """One factor from 0 to 1 per fault; their product scales a score's distance from 1."""
    said, text = Text(speech), Text(response)
    words = text.words
    if not words:
        return {"length": 0.0}
    fours = list(zip(*(words[i:] for i in range(4)), strict=False))
    fives = list(zip(*(words[i:] for i in range(5)), strict=False))
    source = set(zip(*(said.words[i:] for i in range(5)), strict=False))
    function = sum(word in FUNCTION for word in words) / len(words)
    broken = sum(bool(BROKEN_WORD.search(word)) for word in words) / len(words)
    sentences = text.sentences
    asked = len(text.questions)
    return {
        "length": _falling(len(words), 10, 1),
        "loops": _falling(1 - len(set(fours)) / max(1, len(fours)), 0.15, 0.6) if len(fours) > 4 else 1.0,
        "stutter": _falling(sum(a == b for a, b in pairwise(words)) / len(words), 0.02, 0.06),
        "word_order": _falling(order(text, table) + 0.8 / math.sqrt(len(words)), 0.16, -0.05)
        if len(words) >= 12
        else 1.0,
        "english": _falling(function, 0.3, 0.12) * _falling(function, 0.78, 0.9),
        "real_words": _falling(broken, 0.05, 0.25),
        "copied": _falling(sum(five in source for five in fives) / max(1, len(fives)), 0.15, 0.6),
        "interrogation": _falling(asked, 5, 14) * (_falling(asked / len(sentences), 0.8, 1.3) if asked > 3 else 1.0),
        "keywords": _falling(text.low.count(",") / len(words), 0.17, 0.35) if len(words) >= 12 else 1.0,
        "punctuation": _falling(sum(len(run.group()) for run in RUNS.finditer(text.low)), 3, 30),
        "finished": 1.0 if response.rstrip()[-1] in ".!?…\"'”’)" else 0.8,
        "sentences": _falling(
            len(words) / max(1, len([s for s in SENTENCE_END.split(text.low) if s.strip()])), 60, 140
        ),
    }
