"""Trained models as anyone else loads them: plain Auto classes, the same scores and log-probabilities."""

import json

import pytest
import torch
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES
from families import make_family, worst
from safetensors.torch import load_file
from tiny_training import CHATML, save_tokenizer
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from psychocounsel.models.weights import load_policy
from psychocounsel.policy.offline import train_policy
from psychocounsel.recipe import LoraTable, PolicyTable, RewardTable
from psychocounsel.reward.score import RewardModel
from psychocounsel.reward.train import train_reward
from psychocounsel.training.adapters import Start
from psychocounsel.training.encoding import Encoder
from psychocounsel.training.examples import Example
from psychocounsel.training.packed import PackedPolicy, opened
from psychocounsel.training.packs import make_pack

NEAR = 1e-4
END = "<|im_end|>"
PADS = {"no pad token": {}, "pad is the end token": {"pad_token": END}, "own pad token": {"pad_token": "<|fill|>"}}
SETTINGS = {"lr": 3e-3, "epochs": 2.0, "batch": 9, "max_length": 256, "precision": "fp32", "evaluate_steps": 1}
# what is trained: the family, its tokenizer's pad token, the rank of adapters
CASES = [("llama", "no pad token", 0), ("llama", "no pad token", 4), ("qwen2", "pad is the end token", 0),
         ("gemma2", "pad is the end token", 4), ("gpt2", "own pad token", 4), ("bloom", "no pad token", 0)]  # fmt: skip
case = pytest.mark.parametrize(("name", "pad", "rank"), CASES)


def base_of(folder, name, pad, dtype=torch.float32):
    """A starting model of a family with its tokenizer, as a hub model would be."""
    save_tokenizer(folder, CHATML.replace(f"{END}\n", END), {"eos_token": END, **PADS[pad]}, ["<|im_start|>"])
    words = AutoTokenizer.from_pretrained(folder)
    model = make_family(name, vocab_size=len(words), max_position_embeddings=256, eos_token_id=words.eos_token_id)
    model.config.pad_token_id = words.pad_token_id
    model.to(dtype).save_pretrained(folder)
    return folder


def examples_of(lines):
    pairs = [(good, 3 + plain) for good in range(3) for plain in range(3)]
    return [
        Example(line, [{"role": "user", "content": line}], [*GOOD_REPLIES, *PLAIN_REPLIES], pairs, [1.0] * 9)
        for line in lines
    ]


@pytest.fixture
def examples():
    return examples_of(CLIENT_LINES[:3]), examples_of(CLIENT_LINES[6:])


def conversations(example):
    return [[*example.messages, {"role": "assistant", "content": reply}] for reply in example.replies]


def plain_scores(model, words, example):
    """One reply at a time, by the model's own pooling."""
    texts = (words.apply_chat_template(chat, return_tensors="pt", return_dict=True) for chat in conversations(example))
    return torch.cat([model(**text).logits[:, 0] for text in texts])


def plain_logps(model, words, example):
    """Summed log-probability of every reply, one at a time."""
    start = len(words.apply_chat_template(example.messages, add_generation_prompt=True, return_dict=True)["input_ids"])
    found = []
    for chat in conversations(example):
        ids = words.apply_chat_template(chat, return_tensors="pt", return_dict=True)["input_ids"]
        chances = model(ids).logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])
        found.append(chances[start - 1 :].sum())
    return torch.stack(found)


def mean_over_pairs(values, examples):
    """The mean of -log sigma(chosen - rejected) over the pairs of all examples."""
    losses = [
        -logsigmoid(found[a] - found[b]) for found, one in zip(values, examples, strict=True) for a, b in one.pairs
    ]
    return torch.stack(losses).mean().item()


def assert_a_plain_folder(folder, model, words):
    text = (folder / "config.json").read_text(encoding="utf-8")
    assert "shared_prefix" not in text and "attn_implementation" not in text
    assert not list(folder.glob("adapter*"))
    ends = {words.eos_token_id}
    for config in (model.config, getattr(model, "generation_config", None)):
        found = getattr(config, "eos_token_id", None)
        ends |= set(found if isinstance(found, list) else [found])
    assert words.pad_token_id is not None and words.pad_token_id not in ends
    assert model.get_input_embeddings().num_embeddings >= len(words)
    assert words.chat_template and (folder / "chat_template.jinja").is_file()


@case
def test_a_reward_model_scores_the_same_wherever_it_is_loaded(tmp_path, examples, name, pad, rank):
    base = base_of(tmp_path / "base", name, pad)
    table = RewardTable(**SETTINGS, lora=LoraTable(rank=rank))
    made = train_reward(examples, str(base), table, 0, tmp_path / "reward")
    folder = tmp_path / "reward" / "model"
    assert made["steps"] == 6 and made["best_step"] > 1
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    assert_a_plain_folder(folder, model, words)
    assert model.config.pad_token_id == words.pad_token_id
    assert model.config.num_labels == 1 and model.config.problem_type == "regression"
    dev = examples[1]
    with torch.no_grad():
        alone = [plain_scores(model, words, example) for example in dev]
        batch = words.apply_chat_template(
            [chat for example in dev for chat in conversations(example)],
            padding=True, return_tensors="pt", return_dict=True, tokenizer_kwargs={"padding_side": "right"},
        )  # fmt: skip
        assert (batch["attention_mask"].sum(1) < batch["attention_mask"].shape[1]).any()
        together = model(**batch).logits[:, 0]
        hidden = model.base_model(**batch).last_hidden_state
        ends = batch["attention_mask"].sum(1) - 1
        by_hand = model.score(hidden[torch.arange(len(ends)), ends])[:, 0]
    ours = RewardModel(folder).read([(example.messages, example.replies) for example in dev])
    scores = torch.tensor([scored.reward for found in ours for scored in found])
    for found in (torch.cat(alone), together, by_hand):
        assert worst(found, scores) < NEAR
    # the weights are those that were chosen by the dev pairs, adapters and all
    assert mean_over_pairs(alone, dev) == pytest.approx(made["dev_loss"], rel=NEAR)
    looks = [json.loads(line) for line in (tmp_path / "reward" / "metrics.jsonl").read_text().splitlines()]
    assert made["dev_loss"] < next(look["dev_loss"] for look in looks if "dev_loss" in look) - 0.005


@case
def test_a_policy_gives_the_same_log_probabilities_wherever_it_is_loaded(tmp_path, examples, name, pad, rank):
    base = base_of(tmp_path / "base", name, pad)
    table = PolicyTable(**SETTINGS, lora=LoraTable(rank=rank))
    made = train_policy("policy", Start(str(base)), examples, table, 0, tmp_path / "policy")
    folder = tmp_path / "policy" / "model"
    model, words = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert_a_plain_folder(folder, model, words)
    dev = examples[1]
    tokenizer, again = load_policy(str(folder))
    groups = list(Encoder(tokenizer, 256).groups(dev))
    start = load_policy(str(base))[1].eval()  # with the row of an added pad token
    with torch.no_grad():
        alone = [plain_logps(model, words, example) for example in dev]
        ours = opened(PackedPolicy(again).eval())(make_pack(groups))
        reference = [plain_logps(start, words, example) for example in dev]
    assert worst(torch.cat(alone), ours) < NEAR
    ratios = [table.beta * (found - before) for found, before in zip(alone, reference, strict=True)]
    assert mean_over_pairs(ratios, dev) == pytest.approx(made["dev_loss"], rel=1e-3)
    assert made["dev_loss"] < 0.6


@pytest.mark.parametrize(
    ("rank", "precision", "saved"),
    [(0, "fp32", "float32"), (4, "fp32", "float32"), (0, "bf16", "float32"), (4, "bf16", "bfloat16")],
)
def test_the_precision_of_a_policy_from_a_bfloat16_base(tmp_path, examples, rank, precision, saved):
    base = base_of(tmp_path / "base", "llama", "no pad token", torch.bfloat16)
    table = PolicyTable(**SETTINGS | {"precision": precision}, lora=LoraTable(rank=rank))
    made = train_policy("policy", Start(str(base)), examples, table, 0, tmp_path / "policy")
    folder = tmp_path / "policy" / "model"
    weights = load_file(folder / "model.safetensors")
    assert {str(value.dtype) for value in weights.values()} == {f"torch.{saved}"}
    assert json.loads((folder / "config.json").read_text())["dtype"] == saved
    model, words = (
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    start = load_policy(str(base))[1].float().eval()
    with torch.no_grad():
        found = [plain_logps(model, words, example) for example in examples[1]]
        before = [plain_logps(start, words, example) for example in examples[1]]
    ratios = [table.beta * (one - two) for one, two in zip(found, before, strict=True)]
    assert mean_over_pairs(ratios, examples[1]) == pytest.approx(
        made["dev_loss"], rel=1e-3 if precision == "fp32" else 0.03
    )


@pytest.mark.parametrize("rank", [0, 4])
def test_a_reward_model_from_a_bfloat16_base_is_saved_in_float32(tmp_path, examples, rank):
    base = base_of(tmp_path / "base", "llama", "no pad token", torch.bfloat16)
    table = RewardTable(**SETTINGS | {"precision": "bf16"}, lora=LoraTable(rank=rank))
    made = train_reward(examples, str(base), table, 0, tmp_path / "reward")
    folder = tmp_path / "reward" / "model"
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float32}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto").eval()
    words = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        alone = [plain_scores(model, words, example) for example in examples[1]]
    assert mean_over_pairs(alone, examples[1]) == pytest.approx(made["dev_loss"], rel=0.03)
