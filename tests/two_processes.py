"""What test_processes.py runs, in one process or under torchrun: steps of DPO on a tiny Llama, plain or sharded."""

import json
import os
import sys
from pathlib import Path

import torch
from tiny_training import make_model

from psychocounsel.policy.offline import policy_task
from psychocounsel.recipe import PolicyTable
from psychocounsel.training.batches import Group, GroupFile, write_groups
from psychocounsel.training.checkpoints import finished
from psychocounsel.training.loop import train
from psychocounsel.training.packed import PackedPolicy, opened
from psychocounsel.training.processes import main_process, open_accelerator, prepare, together
from psychocounsel.training.reference import add_reference

TABLE = PolicyTable(lr=3e-3, epochs=4, batch=6, precision="fp32", token_budget=40, evaluate_steps=5,
                    checkpoint_steps=10, beta=0.3, weight_decay=0.1)  # fmt: skip


def pair_groups(count, seed=0):
    """Prompts with two to four replies of several lengths, and one to three pairs among them."""
    draw = torch.Generator().manual_seed(seed)

    def ids(least, most):
        return torch.randint(6, 60, (int(torch.randint(least, most, (1,), generator=draw)),), generator=draw).tolist()

    groups = []
    for number in range(count):
        replies = [ids(2, 9) for _ in range(2 + number % 3)]
        pairs = [(0, place) for place in range(1, len(replies))]
        groups.append(Group(f"{seed}-{number}", ids(3, 8), replies, pairs, [1.0] * len(pairs)))
    return groups


def sharded(packed):
    """The model spread over all processes by torch itself, layer by layer."""
    from torch.distributed.fsdp import fully_shard

    for layer in packed.model.model.layers:
        fully_shard(layer)
    fully_shard(packed)
    return packed


def main(kind, folder, steps):
    torch.set_num_threads(1)
    accelerator = open_accelerator(TABLE)
    assert accelerator.num_processes == int(os.environ.get("WORLD_SIZE", "1")) == (2 if kind != "one" else 1)
    if main_process():
        for name, count in (("train", 16), ("dev", 4)):
            write_groups(folder / f"{name}.arrow", pair_groups(count, len(name)))
    together()
    files = [GroupFile(folder / f"{name}.arrow") for name in ("train", "dev")]

    def made(quantised=True):
        return PackedPolicy(make_model())

    packed = opened(made())
    prepared = prepare(sharded(packed) if kind == "sharded" else packed, TABLE, accelerator)
    assert prepared.sharded == (kind == "sharded") and prepared.packed.shared
    add_reference(prepared, files)
    task = policy_task("offline", *files, TABLE, max_steps=steps)
    state = train(prepared, task, 3, folder)
    whole = finished(prepared, made)
    if main_process():
        torch.save(whole.model.state_dict(), folder / "weights.pt")
        references = [values for file in files for _, values in sorted(file.references.items())]
        (folder / "state.json").write_text(json.dumps({"state": state, "references": references}))
    together()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
