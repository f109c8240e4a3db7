"""Our training on the data of training_data.py, measured in a process of its own, as trl_peer.py measures TRL.

    python benchmarks/our_peer.py --task dpo|reward --data FOLDER --shape paper|all --variant full|ABLATION
        --epochs 3 --pairs 256 --batch 8 --threads 1 --precision fp32|bf16 --out FILE.json

Every variant but 'full' leaves one ingredient out; ABLATIONS says what it does instead.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from measurement import Moment, PeakMemory, compile_seconds, load_compiler
from training_data import read_pairs

LENGTH, RATE = 1024, 1e-6  # as trl_peer.py has them
ABLATIONS = {
    "full": "everything",
    "no-shared-prefix": "padded rows, each with its prompt, through the plain model",
    "no-unique-replies": "prompt and replies anew for every pair",
    "no-reference-pass": "the reference model runs in every step",
    "no-reply-logits": "logits of all tokens, whole",
    "no-kept-probabilities": "logits made again on the way back",
    "no-fused-optimizer": "AdamW without its fused kernel",
    "large-packs": "a token budget of 8192",
}


def examples(asked: argparse.Namespace) -> Iterator[Any]:
    """The same pairs as TRL gets, grouped by prompt, or one by one where replies are not to be unique."""
    from psychocounsel.training.examples import Example

    for row in read_pairs(asked.data / f"{asked.shape}.jsonl", asked.pairs):
        pairs = [tuple(pair) for pair in row["pairs"]]
        if asked.variant == "no-unique-replies":
            for number, (chosen, rejected) in enumerate(pairs):
                texts = [row["replies"][chosen], row["replies"][rejected]]
                yield Example(f"{row['id']}-{number}", row["prompt"], texts, [(0, 1)], [1.0])
        else:
            used = sorted({place for pair in pairs for place in pair})
            where = {place: number for number, place in enumerate(used)}
            texts = [row["replies"][place] for place in used]
            yield Example(row["id"], row["prompt"], texts, [(where[a], where[b]) for a, b in pairs], [1.0] * len(pairs))


def take_out(variant: str) -> None:
    """Leave an ingredient out by replacing the one place where it lives."""
    import torch

    from psychocounsel.training import packed, processes

    if variant == "no-kept-probabilities":
        packed.KEEP = 0
    elif variant == "no-fused-optimizer":
        made = processes.open_optimizer

        def plain(model: Any, settings: Any) -> Any:
            optimizer = made(model, settings)
            for group in optimizer.param_groups:
                group["fused"] = False
            return optimizer

        processes.open_optimizer = plain
    elif variant == "no-reply-logits":

        def forward(self: Any, pack: Any) -> torch.Tensor:
            states = self.states(pack, torch.arange(len(pack.ids)))
            table = self.bare.get_output_embeddings()(states).float().log_softmax(-1)
            values = table[pack.sources, pack.targets]
            return torch.zeros(pack.replies).index_add(0, pack.owners, values)

        packed.PackedPolicy.forward = forward


class Packing:
    """Seconds that dealing groups into packs takes, and the tokens of all packs."""

    def __init__(self) -> None:
        from psychocounsel.training import processes

        self.seconds, self.tokens = 0.0, 0
        processes.bins, processes.make_pack = self.timed(processes.bins), self.timed(processes.make_pack)

    def timed(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = Moment.now()
            found = inner(*arguments)
            self.seconds += (Moment.now() - start).wall
            self.tokens += len(getattr(found, "ids", ()))
            return found

        return call


def build(asked: argparse.Namespace, accelerator: Any, settings: Any, groups: Any) -> tuple[Any, Any]:
    """The prepared model and its task."""
    import torch

    from psychocounsel.models.weights import load_causal, load_scorer
    from psychocounsel.policy.offline import policy_task
    from psychocounsel.reward.train import reward_task
    from psychocounsel.training.packed import PackedPolicy, PackedScorer, opened
    from psychocounsel.training.processes import prepare

    folder = str(asked.data / ("lm" if asked.task == "dpo" else "rm"))
    packed = PackedPolicy(load_causal(folder)) if asked.task == "dpo" else PackedScorer(load_scorer(folder, 0, 0))
    if asked.variant == "no-shared-prefix":
        packed.shared = False
    else:
        opened(packed)
    prepared = prepare(packed, settings, accelerator)
    if asked.task == "reward":
        return prepared, reward_task(groups, [], settings)
    task = policy_task("dpo", groups, [], settings)
    if asked.variant == "no-reference-pass":
        frozen = opened(PackedPolicy(load_causal(folder))).eval()
        inner = task.compute

        def compute(model: Any, pack: Any) -> Any:
            with torch.no_grad():
                pack.reference = frozen(pack)
            return inner(model, pack)

        task.compute = compute
    return prepared, task


def train(asked: argparse.Namespace) -> dict[str, Any]:
    """One run; what it measured."""
    import accelerate.utils
    import torch
    from transformers import (  # noqa: F401  (libraries are no part of what training takes)
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    from psychocounsel.models.weights import load_tokenizer
    from psychocounsel.recipe import PolicyTable, RewardTable
    from psychocounsel.training.batches import pairs_of, write_groups
    from psychocounsel.training.encoding import Encoder
    from psychocounsel.training.loop import train as train_loop
    from psychocounsel.training.processes import open_accelerator
    from psychocounsel.training.reference import add_reference

    torch.set_num_threads(asked.threads)
    accelerate.utils.set_seed(1)
    take_out(asked.variant)
    packing = Packing()
    if asked.compile:
        load_compiler()
    table = PolicyTable if asked.task == "dpo" else RewardTable
    settings = table(lr=RATE, epochs=asked.epochs, batch=asked.batch, max_length=LENGTH, precision=asked.precision,
                     token_budget=8192 if asked.variant == "large-packs" else asked.budget,
                     compile=bool(asked.compile), checkpoint_steps=10**9, schedule="linear", warmup=0.0)  # fmt: skip
    marks = [Moment.now()]
    with tempfile.TemporaryDirectory() as place, PeakMemory() as memory:
        begin = Moment.now()
        accelerator = open_accelerator(settings)
        encoder = Encoder(load_tokenizer(str(asked.data / "lm")), LENGTH)
        opened = Moment.now()
        groups = write_groups(Path(place) / "train.arrow", encoder.groups(examples(asked)))
        encoded = Moment.now()
        prepared, task = build(asked, accelerator, settings, groups)
        ready = Moment.now()
        if asked.task == "dpo" and asked.variant != "no-reference-pass":
            add_reference(prepared, [groups])
        before = packing.tokens
        marks = [Moment.now()]
        train_loop(prepared, task, 1, Path(place), lambda number, figures: marks.append(Moment.now()))
        whole = Moment.now() - begin
        rows = [json.loads(line) for line in (Path(place) / "metrics.jsonl").read_text().splitlines()]
    count = pairs_of(groups)
    return {
        "task": asked.task, "variant": asked.variant, "shape": asked.shape, "precision": asked.precision,
        "pairs": count, "epochs": asked.epochs, "batch": asked.batch, "threads": asked.threads,
        **steady(marks, asked.batch, count, asked.epochs),
        "reference_s": (marks[0] - ready).wall, "reference_cpu_s": (marks[0] - ready).cpu,
        "encoding_s": (encoded - opened).wall, "packing_s": packing.seconds, "compile_s": compile_seconds(),
        "whole_s": whole.wall, "whole_cpu_s": whole.cpu,
        "peak_mib": memory.above_mib, "resident_before_mib": memory.start_mib,
        "tokens": packing.tokens - before, "tokens_each_once": sum(entry.tokens for entry in groups.entries),
        "losses": [row["loss"] for row in rows],
    }  # fmt: skip


def steady(marks: list[Moment], batch: int, pairs: int, epochs: int) -> dict[str, float]:
    """Pairs per second of the steps after the first epoch, or after four steps where there is one epoch."""
    spans = [later - earlier for earlier, later in pairwise(marks)]
    first = -(-pairs // batch) if epochs > 1 else 4
    if len(spans) <= first:
        raise SystemExit(f"one epoch needs more than {first} steps: take more pairs or epochs")
    wall, cpu = sum(span.wall for span in spans[first:]), sum(span.cpu for span in spans[first:])
    done = pairs * epochs - first * batch  # the last step may be short
    return {"pairs_per_s": done / wall, "pairs_per_cpu_s": done / cpu}


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("dpo", "reward"), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--shape", choices=("paper", "all"), default="paper")
    parser.add_argument("--variant", choices=list(ABLATIONS), default="full")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=None)
    parser.add_argument("--batch", type=int, default=8, help="pairs in an optimizer step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", type=int, default=0)
    parser.add_argument("--budget", type=int, default=8192)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


def main() -> None:
    asked = parsed()
    os.environ |= {"OMP_NUM_THREADS": str(asked.threads), "MKL_NUM_THREADS": str(asked.threads)}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    asked.out.write_text(json.dumps(train(asked), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
