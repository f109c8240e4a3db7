"""What both sides of the training benchmark train on: a tokenizer, random models and preference pairs, from a seed.

The models are small Llamas with random weights: speed and memory depend on shapes, not on what a model knows. Texts
come from 25 models' replies to 150 posts where the shared data is there, else from the embedded texts. One prompt has
four replies of distinct models. When more prompts are wanted than there are speeches, a speech and its replies come
again with their words rotated, so that no two prompts and no two replies of a prompt are the same text. Order and
choice follow content hashes; nothing is drawn at random.

    python benchmarks/training_data.py FOLDER [--prompts 256] [--source auto|mentalchat|embedded] [--layers 8]

writes FOLDER/lm and FOLDER/rm (model and tokenizer in hub layout) and FOLDER/paper.jsonl and FOLDER/all.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_models import Size, build_model, build_tokenizer

from psychocounsel.models.recorded import embedded_file
from psychocounsel.recipe import data_path
from psychocounsel.records import canonical_json, content_id, read_rows, short_hash

SYSTEM = (
    "You reply to people who write about what weighs on them. Listen first, and say back what you heard. "
    "Ask at most one open question. Leave decisions with the person who has to live with them, promise "
    "nothing, and when someone may be in danger, say where help can be had at once."
)
SPEECH_TOKENS, REPLY_TOKENS = (40, 250), (80, 350)
REPLIES = 4  # of distinct models, for each prompt
PAIRS_OF_PAPER = ((0.66, 1), (0.92, 2), (1.0, 3))  # cumulated shares; 1.42 pairs of 6 on average
GOLDEN = (math.sqrt(5) - 1) / 2
SHAPES = ("paper", "all")

Row = dict[str, Any]


@dataclass(frozen=True)
class Texts:
    """Speeches with the replies fit for each, as (model, text), the best fitting first."""

    source: str
    speeches: list[tuple[str, list[tuple[str, str]]]]

    def all(self) -> Iterator[str]:
        """Every text once."""
        seen: set[str] = set()
        for speech, replies in self.speeches:
            for text in (speech, *(text for _, text in replies)):
                if text not in seen:
                    seen.add(text)
                    yield text


def read_texts(source: str = "auto", seed: int = 0) -> Texts:
    """The texts of `source`; 'auto' takes the shared data where it is there."""
    folder = data_path("$PSYCHOCOUNSEL_DATA/mentalchat16k")
    if source == "mentalchat" or (source == "auto" and (folder / "responses").is_dir()):
        name, found = "mentalchat", mentalchat(folder, seed)
    else:
        name, found = "embedded", embedded(seed)
    return Texts(name, sorted(found, key=lambda one: short_hash(f"{seed} {one[0]}")))


def mentalchat(folder: Path, seed: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """150 posts, each with the first reply of every model."""
    replies: dict[int, dict[str, str]] = {}
    for file in sorted((folder / "responses").glob("*.jsonl")):
        for _, row in read_rows(file):
            replies.setdefault(row["question_id"], {}).setdefault(file.stem, row["choices"][0]["turns"][0].strip())
    for _, row in read_rows(folder / "question.jsonl"):
        yield row["turns"][0].strip(), by_hash(replies[row["question_id"]].items(), seed, row["turns"][0])


def embedded(seed: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The embedded speeches, each with its own replies first, then with those to other speeches.

    Many embedded replies are shorter than what is measured here; a reply to another speech has the right length.
    """
    replies = by_hash([row for _, row in read_rows(embedded_file("responses.jsonl"))], seed)
    for _, row in read_rows(embedded_file("speeches.jsonl")):
        text = row["turns"][-1]["text"]
        start = int(short_hash(f"{seed} {text}"), 16) % len(replies)
        order = sorted(replies[start:] + replies[:start], key=lambda one: one["speech_id"] != row["id"])
        yield text, [(one["model"], one["text"]) for one in order]


def by_hash(items: Iterable[Any], seed: int, salt: str = "") -> list[Any]:
    """The items in the order of their content hashes."""
    return sorted(items, key=lambda item: short_hash(f"{seed} {salt} {canonical_json(item)}"))


class Lengths:
    """Token counts of texts, each text counted once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, int] = {}

    def of(self, text: str) -> int:
        if text not in self.known:
            self.known[text] = len(self.tokenizer.encode(text, add_special_tokens=False))
        return self.known[text]

    def within(self, text: str, limits: tuple[int, int]) -> bool:
        return limits[0] <= self.of(text) <= limits[1]


def rotated(text: str, places: int) -> str:
    """The text with its first words moved to its end; itself when nothing is moved."""
    words = text.split()
    return " ".join(words[places:] + words[:places]) if places else text


def preference_rows(texts: Texts, tokenizer: Any, prompts: int, shape: str = "paper", seed: int = 0) -> list[Row]:
    """`prompts` rows: id, prompt (messages), replies (texts), pairs (chosen, rejected) as places among the replies."""
    lengths = Lengths(tokenizer)
    rows: list[Row] = []
    for turn in range(prompts):
        before = len(rows)
        for speech, candidates in texts.speeches:
            said = rotated(speech, turn)
            if len(rows) == prompts or not lengths.within(said, SPEECH_TOKENS) or turn >= len(speech.split()):
                continue
            replies = four_replies(candidates, lengths, turn)
            if replies:
                prompt = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": said}]
                pairs = choose_pairs(replies, shape, len(rows), seed)
                rows.append({"id": content_id([prompt, replies]), "prompt": prompt, "replies": replies, "pairs": pairs})
        if len(rows) in (prompts, before):
            break
    if len(rows) < prompts:
        raise ValueError(f"the texts of {texts.source} give {len(rows)} prompts, not {prompts}")
    return rows


def four_replies(candidates: list[tuple[str, str]], lengths: Lengths, turn: int) -> list[str]:
    """The first four replies of distinct models and of the right length, from a place that moves with `turn`."""
    start = turn * REPLIES % len(candidates) if candidates else 0
    found: dict[str, str] = {}
    for model, original in candidates[start:] + candidates[:start]:
        text = rotated(original, turn)
        if model not in found and text not in found.values() and lengths.within(text, REPLY_TOKENS):
            found[model] = text
        if len(found) == REPLIES:
            return list(found.values())
    return []


def choose_pairs(replies: list[str], shape: str, place: int, seed: int) -> list[tuple[int, int]]:
    """Pairs by the gap of scores made of content hashes: all six, or the one to three of the widest gaps.

    How many follows a sequence that keeps the mean near 1.42 in every run of rows, however short.
    """
    scores = [int(short_hash(f"score {seed} {text}"), 16) for text in replies]
    every = [(a, b) for a in range(len(replies)) for b in range(len(replies)) if scores[a] > scores[b]]
    every.sort(key=lambda pair: scores[pair[1]] - scores[pair[0]])
    if shape == "all":
        return every
    level = (0.5 + place * GOLDEN) % 1
    return every[: next(count for share, count in PAIRS_OF_PAPER if level < share)]


def read_pairs(file: Path, pairs: int | None = None) -> list[Row]:
    """Rows of a written file up to a number of pairs; the last row gives up what would be too many."""
    rows: list[Row] = []
    left = math.inf if pairs is None else pairs
    for _, row in read_rows(file):
        if left <= 0:
            break
        kept = [tuple(pair) for pair in row["pairs"]][: None if pairs is None else int(left)]
        rows.append({**row, "pairs": kept})
        left -= len(kept)
    if pairs is not None and left > 0:
        raise ValueError(f"{file} has {pairs - int(left)} pairs, not {pairs}: build it with more prompts")
    return rows


def length_statistics(rows: list[Row], tokenizer: Any) -> dict[str, Any]:
    """Tokens of every part, pairs of a prompt, and what training sees pair by pair and with each text once."""
    lengths = Lengths(tokenizer)
    whole = [len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]) for row in rows]
    used = [[lengths.of(row["replies"][i]) + 1 for pair in row["pairs"] for i in pair] for row in rows]
    once = [[lengths.of(row["replies"][i]) + 1 for i in {i for pair in row["pairs"] for i in pair}] for row in rows]
    by_pair = sum(len(all_) * head + sum(all_) for head, all_ in zip(whole, used, strict=True))
    shared = sum(head + sum(each) for head, each in zip(whole, once, strict=True))
    return {
        "prompts": len(rows),
        "pairs": sum(len(row["pairs"]) for row in rows),
        "pairs_per_prompt": round(statistics.mean(len(row["pairs"]) for row in rows), 3),
        "system_tokens": lengths.of(SYSTEM),
        "speech_tokens": spread([lengths.of(row["prompt"][-1]["content"]) for row in rows]),
        "prompt_tokens": spread(whole),
        "reply_tokens": spread([lengths.of(text) for row in rows for text in row["replies"]]),
        "tokens_pair_by_pair": by_pair,
        "tokens_each_once": shared,
        "tokens_ratio": round(by_pair / shared, 3),
    }


def spread(counts: list[int]) -> dict[str, int]:
    """Least, quartiles and most."""
    low, middle, high = (round(value) for value in statistics.quantiles(counts, n=4))
    return {"min": min(counts), "p25": low, "median": middle, "p75": high, "max": max(counts)}


def build(folder: Path, prompts: int, source: str = "auto", size: Size | None = None, seed: int = 0) -> dict[str, Any]:
    """Everything the training benchmark reads, written to `folder`; gives the length statistics of both shapes."""
    texts = read_texts(source, seed)
    tokenizer = build_tokenizer([SYSTEM, *texts.all()])
    for name, reward in (("lm", False), ("rm", True)):
        build_model(tokenizer, size or Size(), reward, seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    found: dict[str, Any] = {"source": texts.source, "vocabulary": len(tokenizer)}
    for shape in SHAPES:
        rows = preference_rows(texts, tokenizer, prompts, shape, seed)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{shape}.jsonl").write_text(lines, encoding="utf-8")
        found[shape] = length_statistics(rows, tokenizer)
    (folder / "statistics.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--source", choices=("auto", "mentalchat", "embedded"), default="auto")
    parser.add_argument("--hidden", type=int, default=Size.hidden)
    parser.add_argument("--layers", type=int, default=Size.layers)
    parser.add_argument("--heads", type=int, default=Size.heads)
    parser.add_argument("--intermediate", type=int, default=Size.intermediate)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    size = Size(asked.hidden, asked.layers, asked.heads, asked.intermediate)
    print(json.dumps(build(asked.folder, asked.prompts, asked.source, size, asked.seed)))


if __name__ == "__main__":
    main()
