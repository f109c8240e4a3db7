"""Further heads, adapters and gradient checkpointing of the reward model: what they add, and what they leave alone."""

import json
import math

import pytest
import torch
from conftest import GOOD_REPLIES, PLAIN_REPLIES
from tiny_training import examples_of, groups_of, plain_scores, rows
from transformers import AutoModelForSequenceClassification

from psychocounsel.principles.prompts import chat_messages
from psychocounsel.recipe import LoraTable, RewardTable
from psychocounsel.reward.score import RewardModel
from psychocounsel.reward.train import train_reward

TABLE = RewardTable(lr=5e-3, epochs=6, batch=18, max_length=256, precision="fp32", evaluate_steps=6)
NAMES = ["warmth", "brevity", "silence"]


@pytest.fixture
def examples(speeches, responses, pairs):
    """Pairs whose warm reply is warmer, whose plain one is rated shorter, and whose silence nobody rated."""
    found = examples_of(pairs, speeches, responses)
    for example in (example for split in found for example in split):
        example.differences = [[1.0, -2.0, math.nan] for _ in example.pairs]
    return found


@pytest.fixture
def trained(tmp_path, examples, model_folder):
    """`trained(name, names, **changes)`: a folder and its counts."""

    def make(name, names=(), **changes):
        table = TABLE.model_copy(update=changes)
        return tmp_path / name, train_reward(examples, str(model_folder), table, 0, tmp_path / name, names)

    return make


def weights(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder / "model").state_dict()


def read(folder, speeches, texts):
    model = RewardModel(folder / "model", 256)
    return [scored for row in model.read([(chat_messages(s.turns), texts) for s in speeches]) for scored in row]


def test_principle_heads_learn_labels_of_their_own(trained, speeches):
    folder, counts = trained("heads", NAMES, principles=1.0)
    dev = [speech for speech in speeches if speech.split == "dev"]
    good, plain = (read(folder, dev, texts) for texts in (GOOD_REPLIES, PLAIN_REPLIES))
    assert all(list(scored.principles) == NAMES and scored.resamples == () for scored in good + plain)
    for a in good:
        for b in plain:
            assert a.reward > b.reward and a.principles["warmth"] > b.principles["warmth"]
            assert a.principles["brevity"] < b.principles["brevity"]  # the other way round, as it was rated
    figures = rows(folder)
    assert figures[-1]["dev_principles_loss"] < 0.2 < figures[0]["principles_loss"]
    assert figures[0]["principles_loss"] == pytest.approx(2 / 3 * math.log(2), abs=0.1)
    assert counts["dev_loss"] == pytest.approx(figures[-1]["dev_loss"])


def test_principle_heads_shape_the_model_and_nobody_gets_them_unasked(trained):
    asked, _ = trained("asked", NAMES, principles=1.0)
    unasked, _ = trained("unasked", NAMES)
    names = {path.name for path in (asked / "model").iterdir()} - {path.name for path in (unasked / "model").iterdir()}
    assert names == {"heads.json", "heads.safetensors"}
    one, other = weights(asked), weights(unasked)
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_an_unrated_principles_head_stays_as_it_was_drawn(trained, tmp_path):
    from safetensors.torch import load_file

    folder, _ = trained("heads", NAMES, principles=1.0)
    drawn = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)) * 0.02
    found = load_file(folder / "model" / "heads.safetensors")["weight"]
    assert torch.equal(found[2], drawn[2]) and (found[:2] - drawn[:2]).abs().max() > 1e-3


def test_bootstrap_heads_change_nothing_in_the_overall_model(trained):
    """Up to rounding: gradients of the heads stop at the hidden states. Only a clip by the common norm could tell."""
    with_heads, counts = trained("with", bootstrap=5, clip=1e9)
    without, plain = trained("without", clip=1e9)
    assert {**counts, "dev_loss": 0} == {**plain, "dev_loss": 0}
    one, other = weights(with_heads), weights(without)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-5, rtol=0, msg=name)
    for row, same in zip(rows(with_heads), rows(without), strict=True):
        assert {**row, "grad_norm": 0} == {**same, "grad_norm": 0} | {
            key: pytest.approx(value, abs=1e-5) for key, value in same.items() if key not in ("step", "grad_norm")
        }


def test_bootstrap_heads_learn_the_rule_each_a_little_differently(trained, speeches):
    folder, _ = trained("bootstrap", NAMES, bootstrap=5)
    found = json.loads((folder / "model" / "heads.json").read_text())
    assert found == {"heads": [f"resample {number}" for number in range(1, 6)], "guiding": 0}
    dev = [speech for speech in speeches if speech.split == "dev"]
    good, plain = (read(folder, dev, texts) for texts in (GOOD_REPLIES, PLAIN_REPLIES))
    for a in good:
        assert a.principles == {} and len(a.resamples) == 5
        for b in plain:
            assert all(x > y for x, y in zip(a.resamples, b.resamples, strict=True))
    assert all(len({round(value, 4) for value in scored.resamples}) == 5 for scored in good)


def test_all_heads_together_are_told_apart(trained, speeches):
    folder, counts = trained("all", NAMES, principles=0.5, bootstrap=2)
    (scored,) = read(folder, speeches[:1], GOOD_REPLIES[:1])
    assert list(scored.principles) == NAMES and len(scored.resamples) == 2
    assert math.isfinite(scored.reward) and counts["steps"] == 18


CHANGES = {
    "plain": {},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "adapters": {"lora": LoraTable(rank=4, alpha=8.0), "lr": 1e-2},
    "adapters, checkpointing and heads": {
        "gradient_checkpointing": True, "lora": LoraTable(rank=4, alpha=8.0), "lr": 1e-2, "principles": 1.0,
        "bootstrap": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_what_was_trained_is_what_plain_transformers_loads(trained, monkeypatch, kind, tokenizer, pairs, speeches,
                                                           responses):  # fmt: skip
    from psychocounsel.training import checkpoints
    from psychocounsel.training.packed import PackedScorer
    from psychocounsel.training.packs import make_pack

    groups = groups_of(tokenizer, pairs["train"], speeches, responses)
    kept, merge = [], checkpoints.merged

    def spied(model, base):
        """What the model that was trained says, before its adapters are merged."""
        with torch.no_grad():
            kept.append(PackedScorer(model).eval()(make_pack(groups))[:, 0])
        return merge(model, base)

    monkeypatch.setattr(checkpoints, "merged", spied)
    folder, counts = trained("model", NAMES, **CHANGES[kind])
    assert counts["shared_prefix"] and rows(folder)[-1]["dev_accuracy"] == 1.0
    exported = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    assert type(exported).__name__ == "LlamaForSequenceClassification"
    with torch.no_grad():
        found = torch.cat([plain_scores(exported, group) for group in groups])
    torch.testing.assert_close(found, kept[0], atol=1e-4, rtol=0)
    assert found.max() - found.min() > 1
    by_id = {speech.id: speech for speech in speeches}
    items = [(chat_messages(by_id[group.id].turns), [tokenizer.decode(ids[:-1]) for ids in group.replies])
             for group in groups]  # fmt: skip
    again = [scored.reward for row in RewardModel(folder / "model", 256).read(items) for scored in row]
    assert again == pytest.approx(found.tolist(), abs=1e-4)
