"""Scoring eight replies a prompt: RewardModel.read beside plain batches through the Hugging Face model.

The plain sides encode prompt and reply anew for every reply, pad to the longest of a batch and run without gradients.
One sorts by length and takes the best of several batch sizes. The other, `padded`, is a user's simple loop: eight
replies at once, the default of the Trainer of transformers, in the order they come. All go from texts to scores, in
float32, with the same random model and threads, in turn; freed memory is kept by the C library for all. Scores have to
be equal.

    python benchmarks/scoring.py [--prompts 16] [--rounds 5] [--threads 1] [--save]

The exit code is 1 while the goal is not met. Where prompt and reply are about as long as each other, reading a prompt
once for eight replies saves less than half of the tokens, so a ratio far above two needs more than that.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from comparison import spread
from side_by_side import build_data, save_result, settle
from training_data import REPLY_TOKENS, SPEECH_TOKENS, SYSTEM, Lengths, read_texts

RESULT = Path(__file__).parent / "results" / "scoring.json"
REPLIES = 8
BATCHES = (1, 2, 4, 8, 16, 32)
PADDED_BATCH = 8
GOAL, GOAL_PADDED, EQUAL = 3.0, 2.0, 1e-4

Item = tuple[list[dict[str, str]], list[str]]


def items(tokenizer: Any, prompts: int, source: str = "auto") -> list[Item]:
    """Prompts with eight replies of distinct models each, in the lengths of the training benchmark."""
    lengths, found = Lengths(tokenizer), []
    for speech, candidates in read_texts(source).speeches:
        if len(found) == prompts:
            break
        if lengths.within(speech, SPEECH_TOKENS):
            fit = {model: text for model, text in reversed(candidates) if lengths.within(text, REPLY_TOKENS)}
            replies = list(dict.fromkeys(reversed(fit.values())))[:REPLIES]
            if len(replies) == REPLIES:
                messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": speech}]
                found.append((messages, replies))
    if len(found) < prompts:
        raise SystemExit(f"the texts give {len(found)} prompts with {REPLIES} replies; ask for no more --prompts")
    return found


def plain(model: Any, tokenizer: Any, asked: list[Item], batch: int, by_length: bool = True) -> list[float]:
    """Scores in order, by padded batches of similar length, or of what comes together."""
    import torch

    rows = []
    for messages, replies in asked:
        for text in replies:
            chat = [*messages, {"role": "assistant", "content": text}]
            ids = tokenizer.apply_chat_template(chat)["input_ids"]
            end = len(ids) - ids[::-1].index(tokenizer.eos_token_id)  # a score belongs to the end token
            rows.append(ids[:end])
    order = list(range(len(rows)))
    if by_length:
        order.sort(key=lambda place: len(rows[place]))
    scores = [0.0] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            longest = max(len(rows[place]) for place in places)
            ids = torch.full((len(places), longest), tokenizer.pad_token_id)
            mask = torch.zeros_like(ids)
            for number, place in enumerate(places):
                ids[number, : len(rows[place])] = torch.tensor(rows[place])
                mask[number, : len(rows[place])] = 1
            found = model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()
            for place, score in zip(places, found, strict=True):
                scores[place] = score
    return scores


def measure(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Replies per second of all sides round by round, their ratios, and how far scores lie apart."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from psychocounsel.reward.score import RewardModel

    torch.set_num_threads(asked.threads)
    tokenizer = AutoTokenizer.from_pretrained(folder / "rm")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "rm").float().eval()
    reward = RewardModel(folder / "rm", budget=asked.budget)
    data = items(tokenizer, asked.prompts, asked.source)
    count = len(data) * REPLIES
    lengths = [scored.tokens for found in reward.read(data) for scored in found]
    once = sum(lengths) - sum((REPLIES - 1) * prompt_tokens(tokenizer, messages) for messages, _ in data)

    def ours() -> list[float]:
        return [scored.reward for found in reward.read(data) for scored in found]

    def speeds(by_length: bool) -> dict[int, float]:
        plain(model, tokenizer, data[:2], BATCHES[-1], by_length)
        calls = {batch: partial(plain, model, tokenizer, data, batch, by_length) for batch in BATCHES}
        return {batch: timed(call, count)[0] for batch, call in calls.items()}

    by_batch, padded_by_batch = speeds(True), speeds(False)
    best = max(by_batch, key=lambda batch: by_batch[batch])
    sides = {
        "ours": ours,
        "plain": lambda: plain(model, tokenizer, data, best),
        "padded": lambda: plain(model, tokenizer, data, PADDED_BATCH, by_length=False),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    last: dict[str, list[float]] = {}
    for number in range(asked.rounds):
        for name in list(sides)[:: 1 - 2 * (number % 2)]:
            speed, last[name] = timed(sides[name], count)
            found[name].append(speed)
    apart = max(abs(a - b) for peer in ("plain", "padded") for a, b in zip(last["ours"], last[peer], strict=True))
    ratio, padded = ([a / b for a, b in zip(found["ours"], found[peer], strict=True)] for peer in ("plain", "padded"))
    return {
        "prompts": len(data), "replies": count, "threads": asked.threads, "layers": asked.layers,
        "hidden": asked.hidden, "source": read_texts(asked.source).source,
        "tokens_ratio": round(sum(lengths) / once, 3), "best_batch": best,
        "replies_per_s": {name: spread(speeds, 1) for name, speeds in found.items()},
        "plain_by_batch": {str(batch): round(speed, 1) for batch, speed in by_batch.items()},
        "padded_by_batch": {str(batch): round(speed, 1) for batch, speed in padded_by_batch.items()},
        "padded_batch": PADDED_BATCH, "ratio": spread(ratio), "ratio_padded": spread(padded),
        "largest_difference": float(f"{apart:.2g}"), "load": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def prompt_tokens(tokenizer: Any, messages: list[dict[str, str]]) -> int:
    return len(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])


def timed(call: Any, count: int) -> tuple[float, list[float]]:
    """Replies per second, and what came out."""
    start = time.perf_counter()
    found = call()
    return count / (time.perf_counter() - start), found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=int, default=8192, help="tokens that RewardModel scores at once")
    parser.add_argument("--source", choices=("auto", "mentalchat", "embedded"), default="auto")
    for name, default in (("hidden", 384), ("layers", 8), ("heads", 6), ("intermediate", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name} with date and machine")
    asked = parser.parse_args(arguments)
    settle(asked.threads, __file__, arguments)
    with tempfile.TemporaryDirectory() as place:
        build_data(Path(place), 4, (asked.hidden, asked.layers, asked.heads, asked.intermediate), asked.source)
        figures = measure(Path(place), asked)
    fast = figures["ratio_padded"]["median"] >= GOAL_PADDED and figures["ratio"]["median"] >= GOAL
    met = fast and figures["largest_difference"] <= EQUAL
    goal = (
        f"{GOAL_PADDED:g} times plain padded batches and {GOAL:g} times plain sorted batches at eight replies a "
        f"prompt, scores equal to {EQUAL:g}"
    )
    body = {"benchmark": "scoring", "figures": figures, "goal": goal, "met": met}
    if asked.save:
        save_result(RESULT, body)
    print(json.dumps(body))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
