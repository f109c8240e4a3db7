"""Both sides of accuracy_vs_trl.py, and the neutral scorer that reads what they made.

Ours trains through train_reward and train_policy as a recipe does. TRL trains through RewardTrainer and DPOTrainer; the
settings that are not the same by default are set to ours here: fp32, beta2 0.95, our schedule (cosine after a warm-up
over a tenth of the steps). Weight decay (0), clipping (1) and AdamW's other numbers are the same by default; dropout is
off on both sides. A batch goes through TRL pair by pair with gradients added up: less padding, the same mean.
The scorer is plain transformers, one unpadded sequence at a time, and shares no code with either.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psychocounsel.recipe import PolicyTable, RewardTable
from psychocounsel.training.batches import Entry, steps
from psychocounsel.training.examples import Example

Table = RewardTable | PolicyTable
Row = dict[str, Any]
Margins = list[list[float]]


def ours(start: Path, examples: list[Example], table: Table, seed: int, folder: Path) -> Path:
    """Train with the package; the folder of the model."""
    from psychocounsel.policy.offline import train_policy
    from psychocounsel.reward.train import train_reward
    from psychocounsel.training.adapters import Start

    if isinstance(table, PolicyTable):
        counts = train_policy("policy", Start(str(start)), (examples, []), table, seed, folder)
    else:
        counts = train_reward((examples, []), str(start), table, seed, folder)
    pairs = sum(len(example.pairs) for example in examples)
    if counts["left_out"] or counts["pairs"] != pairs or not counts["shared_prefix"]:
        raise ValueError(f"both sides must train on the same {pairs} pairs, uncut and in packs: {counts}")
    return folder / "model"


def rows_of(examples: list[Example]) -> list[Row]:
    """The pairs one by one, as TRL takes them."""
    return [row(example, number) for example in examples for number in range(len(example.pairs))]


def row(example: Example, number: int) -> Row:
    chosen, rejected = ([{"role": "assistant", "content": example.replies[i]}] for i in example.pairs[number])
    return {"prompt": example.messages, "chosen": chosen, "rejected": rejected}


def rows_in_our_order(examples: list[Example], table: Table, seed: int) -> list[Row]:
    """The pairs of all our steps of all epochs, one after the other."""
    entries = [Entry(example.id, len(example.pairs), len(example.replies), 0) for example in examples]
    return [
        row(examples[share.place], number)
        for step in steps(entries, "pairs", table.batch, seed, table.epochs)
        for share in step
        for number in range(share.start, share.stop)
    ]


def theirs(
    start: Path, examples: list[Example], table: Table, seed: int, folder: Path, our_order: bool = False
) -> tuple[Path, list[float]]:
    """Train with TRL; the folder of the model, and the loss of every step.

    TRL draws its own order of pairs from the seed; with `our_order` it gets the batches of our steps instead.
    """
    import datasets
    import transformers
    import trl
    from torch.optim.lr_scheduler import LambdaLR

    from psychocounsel.training.loop import learning_rate

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    policy = isinstance(table, PolicyTable)
    settings: dict[str, Any] = {
        "output_dir": str(folder / "out"), "use_cpu": True, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "logging_steps": 1, "seed": seed, "bf16": False,
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": table.batch,  # less padding, the same mean
        "num_train_epochs": 1 if our_order else table.epochs,
        "train_sampling_strategy": "sequential" if our_order else "random",
        "learning_rate": table.lr, "max_grad_norm": table.clip, "weight_decay": table.weight_decay,
        "adam_beta1": 0.9, "adam_beta2": 0.95, "max_length": None, "activation_checkpointing": False,
    }  # fmt: skip
    if policy:
        settings |= {"beta": table.beta, "precompute_ref_log_probs": True, "precompute_ref_batch_size": table.batch}
    rows = rows_in_our_order(examples, table, seed) if our_order else rows_of(examples)
    if len(rows) % table.batch:
        raise ValueError(f"{len(rows)} pairs are no multiple of the batch of {table.batch}")
    kind, config = (trl.DPOTrainer, trl.DPOConfig) if policy else (trl.RewardTrainer, trl.RewardConfig)
    tokenizer = transformers.AutoTokenizer.from_pretrained(start)
    trainer = kind(
        model=str(start),
        args=config(**settings),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    total = round(len(rows) * settings["num_train_epochs"] / table.batch)
    # TRL's own schedules of these names run one step behind ours: the first step has the rate of step 0, which is 0
    trainer.create_optimizer()
    trainer.lr_scheduler = LambdaLR(
        trainer.optimizer, lambda done: learning_rate(min(done + 1, total), total, table) / table.lr
    )
    trainer.train()
    if trainer.state.global_step != total:
        raise ValueError(f"TRL took {trainer.state.global_step} steps, not {total}")
    trainer.model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model", [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def reward_scores(folder: Path, examples: list[Example]) -> Margins:
    """The score of every reply: the last token's state through the score head, one sequence at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()

    def score(ids: Any, start: int) -> float:
        states = model.base_model(input_ids=ids).last_hidden_state
        return float(model.score(states[0, -1]))

    return _read(tokenizer, examples, score)


def log_probabilities(folder: Path, examples: list[Example]) -> Margins:
    """The summed log-probability of every reply with its end token, one sequence at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def score(ids: Any, start: int) -> float:
        table = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
        return float(table.gather(1, ids[0, start:, None]).sum())

    return _read(tokenizer, examples, score)


def _read(tokenizer: Any, examples: list[Example], score: Any) -> Margins:
    import torch

    found = []
    with torch.no_grad():
        for example in examples:
            start = len(tokenizer.apply_chat_template(example.messages, add_generation_prompt=True)["input_ids"])
            whole = [[*example.messages, {"role": "assistant", "content": text}] for text in example.replies]
            encoded = [tokenizer.apply_chat_template(messages)["input_ids"] for messages in whole]
            found.append([score(torch.tensor([ids]), start) for ids in encoded])
    return found


def margins(scores: Margins, examples: list[Example], beta: float = 1.0, reference: Margins | None = None) -> Margins:
    """How much higher the better reply of each pair is scored, by post; beta times what the reference leaves."""
    found = []
    for place, example in enumerate(examples):
        values = scores[place]
        if reference is not None:
            values = [beta * (value - known) for value, known in zip(values, reference[place], strict=True)]
        found.append([values[better] - values[worse] for better, worse in example.pairs])
    return found
