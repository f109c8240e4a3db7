"""Models, tasks and tokenizers small enough to train in a test, built here from config."""

import json

import torch
from conftest import CLIENT_LINES, GOOD_REPLIES

from psychocounsel.recipe import Training
from psychocounsel.supervised import supervised_task
from psychocounsel.training.batches import Group
from psychocounsel.training.encoding import Encoder
from psychocounsel.training.examples import pair_examples
from psychocounsel.training.loop import Task, train
from psychocounsel.training.packed import PackedPolicy, opened
from psychocounsel.training.packs import make_pack
from psychocounsel.training.processes import prepare

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAD = 0
BASE = {"lr": 1e-2, "epochs": 3.0, "batch": 4, "token_budget": 64, "checkpoint_steps": 5, "evaluate_steps": 3,
        "max_length": 64, "precision": "fp32"}  # fmt: skip


def table(**changes):
    return Training(**BASE | changes)


def make_groups(count, seed=0, replies=1):
    draw = torch.Generator().manual_seed(seed)
    return [
        Group(f"prompt-{seed}-{i}", torch.randint(6, 60, (3 + i % 4,), generator=draw).tolist(),
              [torch.randint(6, 60, (2 + i % 3,), generator=draw).tolist() for _ in range(replies)])
        for i in range(count)
    ]  # fmt: skip


def make_pairs(count, seed=0):
    """Groups of three replies and two pairs each."""
    groups = make_groups(count, seed, replies=3)
    for place, group in enumerate(groups):
        group.pairs, group.gaps, group.draws = [(0, 1), (0, 2)], [1.0, 0.5], [2 * place, 2 * place + 1]
        group.differences = [[1.0, -1.0], [0.5, 0.0]]
    return groups


def make_model(seed=0):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                    num_key_value_heads=2, max_position_embeddings=64, pad_token_id=PAD, bos_token_id=1, eos_token_id=2)
    )  # fmt: skip


def make_task(**changes):
    task = supervised_task("supervised", make_groups(16), make_groups(4, seed=1))
    return Task(**{**task.__dict__, **changes})


def prepared(model, settings=None):
    """A causal model ready for training."""
    return prepare(opened(PackedPolicy(model)), settings or table())


def run(model, task, settings, seed, folder, **more):
    """Train the model in place."""
    return train(prepared(model, settings), task, seed, folder, **more)


def step_loss(task, model, groups):
    """The mean loss of groups as one pack, with the graph, and the figures that were summed."""
    loss, figures = task.compute(model, make_pack(groups))
    return loss / sum(map(task.over, groups)), figures


def plain_logp(model, group):
    """The log-probability of each reply by a plain forward of prompt and reply alone, (replies,)."""
    found, start = [], len(group.prompt)
    for reply in group.replies:
        ids = torch.tensor([group.prompt + reply])
        table = model(input_ids=ids).logits[0].float().log_softmax(-1)
        found.append(table[start - 1 : -1].gather(1, ids[0, start:, None]).sum())
    return torch.stack(found)


def plain_scores(model, group):
    """The score of each reply by a plain classifier on prompt and reply alone, (replies,)."""
    rows = [torch.tensor([group.prompt + reply]) for reply in group.replies]
    return torch.cat([model(input_ids=ids).logits[0] for ids in rows])


def add_plain_reference(model, groups):
    for group in groups:
        with torch.no_grad():
            group.reference = plain_logp(model.eval(), group).tolist()


def examples_of(pairs, speeches, responses):
    """Examples to train on and to choose by."""
    given_to = {s.id: s for s in speeches}, {r.id: r for r in responses}
    return tuple(list(pair_examples(pairs[split], *given_to)) for split in ("train", "dev"))


def groups_of(tokenizer, pairs, speeches, responses):
    given_to = {s.id: s for s in speeches}, {r.id: r for r in responses}
    return list(Encoder(tokenizer, 256).groups(pair_examples(pairs, *given_to)))


class Stopped(Exception):
    pass


def stopping_task(after, stop):
    """The same task, interrupted in the step after `after` training steps."""
    task, seen = make_task(), [0]

    def compute(model, pack):
        if torch.is_grad_enabled():
            seen[0] += 1
            if seen[0] > after:
                stop()
        return task.compute(model, pack)

    return Task(**{**task.__dict__, "compute": compute})


def raise_stopped():
    raise Stopped


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def save_tokenizer(folder, template, named, extra):
    """A byte-level BPE tokenizer saved as a hub model would be."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=sorted({*named.values(), *extra}), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator([*CLIENT_LINES, *GOOD_REPLIES], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, additional_special_tokens=extra, **named)
    made.chat_template = template
    made.save_pretrained(folder)
    return folder
