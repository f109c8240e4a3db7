"""Floating-point operations that training needs at least, and the most that this machine does in a second.

    python benchmarks/flops.py --threads 1 --precision fp32|bf16 --out FILE.json

measures matrix products of the shapes of a small model and of large squares; the fastest is the peak.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_data import Lengths, Row

SHAPES = ((2048, 2048, 2048), (1024, 1024, 1024), (1000, 384, 1024), (1000, 384, 8192))
SECONDS = 1.5  # for each shape


@dataclass(frozen=True)
class Need:
    """What one pass over the pairs needs when every prompt and every reply is read once."""

    pairs: int
    tokens: int
    reply_tokens: int
    keys: int  # looked at by all tokens together
    tokens_pair_by_pair: int

    def flops(self, config: dict[str, Any], head: bool) -> float:
        """Forward and backward: 6 for each weight and token, the output layer for reply tokens only, and attention.

        Attention takes 2 products of 2 operations for each looked-at key and width, forward; three times that in all.
        """
        width, layers = config["hidden_size"], config["num_hidden_layers"]
        body = layers * (4 * width * width + 3 * width * config["intermediate_size"])
        out = width * config["vocab_size"] * self.reply_tokens if head else 0
        return 6.0 * body * self.tokens + 6.0 * out + 12.0 * layers * width * self.keys


def need(rows: list[Row], tokenizer: Any) -> Need:
    """Counts over rows as training_data.py writes them; replies that are in no pair are not needed."""
    lengths = Lengths(tokenizer)
    tokens = replies = keys = by_pair = 0
    for row in rows:
        prompt = len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"])
        used = {place: lengths.of(row["replies"][place]) + 1 for pair in row["pairs"] for place in pair}
        tokens += prompt + sum(used.values())
        replies += sum(used.values())
        keys += triangle(prompt) + sum(length * prompt + triangle(length) for length in used.values())
        by_pair += sum(2 * prompt + used[a] + used[b] for a, b in row["pairs"])
    return Need(sum(len(row["pairs"]) for row in rows), tokens, replies, keys, by_pair)


def triangle(length: int) -> int:
    """Keys seen by `length` tokens of which each sees itself and all before."""
    return length * (length + 1) // 2


def peak(threads: int, precision: str, seconds: float = SECONDS) -> dict[str, float]:
    """Operations per second of the fastest matrix product, and of each shape, in billions."""
    import torch

    torch.set_num_threads(threads)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    found = {}
    for rows, inner, columns in SHAPES:
        one, two = torch.randn(rows, inner, dtype=kind), torch.randn(inner, columns, dtype=kind)
        best, begin = float("inf"), time.perf_counter()
        while time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            one @ two
            best = min(best, time.perf_counter() - start)
        found[f"{rows}x{inner}x{columns}"] = 2e-9 * rows * inner * columns / best
    return {"gflops": max(found.values()), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    found = peak(asked.threads, asked.precision, asked.seconds)
    asked.out.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
