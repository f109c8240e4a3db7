"""TRL's DPOTrainer or RewardTrainer on the data of training_data.py, measured in a process of its own.

    python benchmarks/trl_peer.py --task dpo|reward --data FOLDER --shape paper|all
        --variant plain|tuned|batched|compact --epochs 3 --pairs 256 --batch 8 --threads 1 --precision fp32|bf16
        --out FILE.json

plain is TRL as it comes: batch size, epochs, learning rate and length limit are set and nothing else. tuned has the
settings that tune_trl.py found best, read from benchmarks/results/trl_tuned.json. batched is tuned by
hand, compiled, with a whole batch in one forward pass, which most people would take; the search found one pair at a
time faster. compact is tuned with TRL's own path that scores response tokens only, which it keeps for GPUs, switched
on for the CPU. Any setting can be given by hand. A variant that cannot be had writes {"skipped": reason}.

Steady speed is the median over all epochs after the first, from an epoch's start to its end; with a single epoch it
is what follows the first WARM_UP steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from measurement import Moment, PeakMemory, compile_seconds, load_compiler
from training_data import Row, read_pairs
from trl_settings import KEEP_MEMORY, Settings, Unavailable, chosen_settings

WARM_UP = 4  # steps left out when there is one epoch only
LENGTH = 1024
RATE = 1e-6  # learning rate; TRL's own default for DPO, given to both tasks


def dataset(rows: list[Row], tokenizer: Any, settings: Settings) -> Any:
    """The pairs as TRL takes them: conversational, with a prompt of its own; the longer side's length where asked."""
    from datasets import Dataset

    pairs = []
    for row in rows:
        sides = [[{"role": "assistant", "content": text}] for text in row["replies"]]
        used = {place for pair in row["pairs"] for place in pair}
        length = {i: len(tokenizer.apply_chat_template(row["prompt"] + sides[i])["input_ids"]) for i in used}
        for better, worse in row["pairs"]:
            longer = max(length[better], length[worse])
            pairs.append({"prompt": row["prompt"], "chosen": sides[better], "rejected": sides[worse], "length": longer})
    if settings.sort_rows:
        pairs.sort(key=lambda pair: -pair["length"])
    made = Dataset.from_list(pairs)
    return made if settings.group_by_length else made.remove_columns("length")


def arguments(task: str, asked: argparse.Namespace, settings: Settings, folder: str) -> Any:
    """The configuration of the trainer; a setting at its default is not passed."""
    from trl import DPOConfig, RewardConfig

    micro = settings.micro_batch or asked.batch
    if asked.batch % micro:
        raise SystemExit(f"--micro-batch {micro} does not divide --batch {asked.batch}")
    chosen: dict[str, Any] = {"per_device_train_batch_size": micro, "num_train_epochs": asked.epochs}
    chosen |= {"learning_rate": RATE, "max_length": LENGTH, "bf16": asked.precision == "bf16"}
    # no part of what is compared: where it runs, what it writes
    chosen |= {"output_dir": folder, "use_cpu": True, "save_strategy": "no", "report_to": "none", "logging_steps": 1}
    chosen |= {"disable_tqdm": True, "seed": asked.seed}
    optional = {
        "gradient_accumulation_steps": asked.batch // micro if micro != asked.batch else None,
        "gradient_checkpointing": None if settings.checkpointing else False,
        "pad_to_multiple_of": settings.pad_multiple or None,
        "torch_compile": bool(settings.compile) or None,
        "model_init_kwargs": {"attn_implementation": settings.attention} if settings.attention else None,
        "train_sampling_strategy": "group_by_length" if settings.group_by_length else None,
        "remove_unused_columns": False if settings.group_by_length else None,  # or the lengths are lost
    }
    if task == "dpo":
        optional["precompute_ref_log_probs"] = bool(settings.precompute) or None
        optional["precompute_ref_batch_size"] = settings.reference_batch if settings.precompute else None
        optional["padding_free"] = bool(settings.padding_free) or None
    chosen |= {name: value for name, value in optional.items() if value is not None}
    return (DPOConfig if task == "dpo" else RewardConfig)(**chosen)


def make_compact() -> None:
    """Let TRL leave out tokens without a label before the output layer on a CPU too, as it does on a GPU."""
    from trl.trainer import utils

    if not hasattr(utils, "_use_triton") or not hasattr(utils, "_ChunkedLogProbFunction"):
        import trl

        raise Unavailable(f"TRL {trl.__version__} has no compact output layer that could be switched on")
    utils._use_triton = lambda device: True  # read by the choice of tokens only; the kernels ask for themselves


class Marks:
    """When steps and epochs begin and end, and how many tokens went through the collator."""

    def __init__(self) -> None:
        self.steps: list[tuple[Moment, Moment]] = []
        self.epochs: list[tuple[Moment, Moment]] = []
        self.reference = Moment(0.0, 0.0)
        self.tokens = self.padded = 0

    def callback(self) -> Any:
        from transformers import TrainerCallback

        marks = self

        class Callback(TrainerCallback):
            def on_epoch_begin(self, *_: Any, **__: Any) -> None:
                self.epoch = Moment.now()

            def on_epoch_end(self, *_: Any, **__: Any) -> None:
                marks.epochs.append((self.epoch, Moment.now()))

            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.step = Moment.now()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                marks.steps.append((self.step, Moment.now()))

        return Callback()

    def count(self, collate: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def counting(examples: Any) -> Any:
            batch = collate(examples)
            self.tokens += int(batch["attention_mask"].sum())
            self.padded += batch["attention_mask"].numel()
            return batch

        return counting

    def time_reference(self, trainer_class: Any) -> Any:
        """The trainer with its pass over the reference model timed."""
        marks = self

        class Timed(trainer_class):
            def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
                start = Moment.now()
                found = super()._precompute_ref_logps(*args, **kwargs)
                marks.reference = Moment.now() - start
                return found

        return Timed

    def steady(self, pairs: int, batch: int) -> tuple[Moment, int]:
        """Time and pairs of steady training: the median epoch after the first, or what follows the warm-up."""
        later = [end - begin for begin, end in self.epochs[1:]]
        if later:
            return Moment(statistics.median(t.wall for t in later), statistics.median(t.cpu for t in later)), pairs
        if len(self.steps) <= WARM_UP:
            raise SystemExit(f"one epoch needs more than {WARM_UP} steps: take more pairs or epochs")
        return self.steps[-1][1] - self.steps[WARM_UP - 1][1], pairs - WARM_UP * batch


def train(asked: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """One run; what it measured."""
    import torch
    import transformers
    import trl
    from datasets import disable_progress_bars

    torch.set_num_threads(asked.threads)
    disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    if settings.compact:
        make_compact()
    if settings.compile:
        load_compiler()
    model = asked.data / ("lm" if asked.task == "dpo" else "rm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    pairs = dataset(read_pairs(asked.data / f"{asked.shape}.jsonl", asked.pairs), tokenizer, settings)
    marks = Marks()
    trainer_class = marks.time_reference(trl.DPOTrainer) if asked.task == "dpo" else trl.RewardTrainer
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as memory:
        config = arguments(asked.task, asked, settings, folder)
        begin = Moment.now()
        trainer = trainer_class(
            model=str(model), args=config, train_dataset=pairs, processing_class=tokenizer, callbacks=[marks.callback()]
        )
        if settings.padding_free and not getattr(trainer, "padding_free", False):
            raise Unavailable(f"TRL {trl.__version__} trains {asked.task} with padding whatever is asked")
        trainer.data_collator = marks.count(trainer.data_collator)
        ready = Moment.now()
        trainer.train()
        whole = Moment.now() - begin
    return report(asked, settings, marks, trainer, {"whole": whole, "setup": ready - begin}, memory)


def report(
    asked: argparse.Namespace,
    settings: Settings,
    marks: Marks,
    trainer: Any,
    spans: dict[str, Moment],
    memory: PeakMemory,
) -> dict[str, Any]:
    """The measured figures as one JSON object."""
    import torch
    import transformers
    import trl

    count = len(trainer.train_dataset)
    time, pairs = marks.steady(count, asked.batch)
    full = [end - begin for begin, end in marks.steps[count // asked.batch if asked.epochs > 1 else WARM_UP :]]
    first = marks.epochs[0][1] - marks.epochs[0][0]
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {
        "task": asked.task,
        "variant": asked.variant,
        "shape": asked.shape,
        "precision": asked.precision,
        "settings": asdict(settings),
        "pairs": count,
        "epochs": asked.epochs,
        "batch": asked.batch,
        "threads": asked.threads,
        "pairs_per_s": pairs / time.wall,
        "pairs_per_cpu_s": pairs / time.cpu,
        "pairs_per_s_median_step": asked.batch / statistics.median(step.wall for step in full),
        "pairs_per_cpu_s_median_step": asked.batch / statistics.median(step.cpu for step in full),
        "reference_s": marks.reference.wall,
        "reference_cpu_s": marks.reference.cpu,
        "compile_s": compile_seconds(),
        "setup_s": spans["setup"].wall,
        "first_epoch_s": first.wall,
        "whole_s": spans["whole"].wall,
        "whole_cpu_s": spans["whole"].cpu,
        "peak_mib": memory.above_mib,
        "resident_before_mib": memory.start_mib,
        "tokens": marks.tokens,
        "tokens_with_padding": marks.padded,
        "loss": losses[-1],
        "losses": losses,
        "attention": trainer.model.config._attn_implementation,
        "dtype": str(trainer.model.dtype),
        "versions": {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
    }


def parsed(arguments: list[str] | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The command line: what is asked, and the settings given by hand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("dpo", "reward"), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--shape", choices=("paper", "all"), default="paper")
    parser.add_argument("--variant", choices=("plain", "tuned", "batched", "compact"), default="plain")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=None, help="the first so many pairs; all when not given")
    parser.add_argument("--batch", type=int, default=8, help="pairs in an optimizer step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    by_hand = parser.add_argument_group("settings, over those of the variant")
    for field in fields(Settings):
        kind = str if field.name == "attention" else int
        by_hand.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=None)
    asked = parser.parse_args(arguments)
    return asked, {field.name: getattr(asked, field.name) for field in fields(Settings)}


def main() -> None:
    asked, given = parsed()
    settings = chosen_settings(asked.task, asked.variant, given)
    if settings.keep_memory and not KEEP_MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)
    os.environ |= {"OMP_NUM_THREADS": str(asked.threads), "MKL_NUM_THREADS": str(asked.threads)}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    warnings.filterwarnings("ignore")
    try:
        if asked.task == "reward" and settings.compact:
            raise Unavailable("a reward model has no logits over a vocabulary to make compact")
        found = train(asked, settings)
    except Unavailable as reason:
        found = {"task": asked.task, "variant": asked.variant, "skipped": str(reason)}
        print(f"skipped: {reason}", flush=True)
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
