"""The offline policy: DPO starts from no difference and raises the margin; sampling depends on its seed only."""

import json

import pytest
import torch
from conftest import GOOD_REPLIES, make_speech
from transformers import AutoModelForCausalLM

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_causal, load_tokenizer
from psychocounsel.policy.generate import generate
from psychocounsel.policy.offline import add_reference, open_encoder, policy_task, train_policy
from psychocounsel.recipe import OnlineTable, PolicyTable
from psychocounsel.reward.train import pair_groups
from psychocounsel.training.batches import Encoder, collate
from psychocounsel.training.losses import sequence_log_probabilities

TABLE = PolicyTable(lr=2e-3, epochs=4, batch=18, max_length=256, precision="fp32", evaluate_steps=4, token_budget=1500,
                    online=OnlineTable(speeches=4, samples=4, steps=3, max_new_tokens=12))  # fmt: skip


@pytest.fixture
def groups(tokenizer, speeches, responses, pairs):
    by_speech, by_id = {s.id: s for s in speeches}, {r.id: r for r in responses}
    return tuple(pair_groups(Encoder(tokenizer, 256), pairs[split], by_speech, by_id) for split in ("train", "dev"))


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch", [18, 1000], ids=["two prompts a step", "all at once"])
def test_the_first_margin_is_nothing(tmp_path, groups, model_folder, precision, batch):
    """Reference and policy are the same model in the same precision, so nothing is won before the first step."""
    table = TABLE.model_copy(update={"precision": precision, "batch": batch, "epochs": 0.3 if batch == 18 else 1})
    train_policy("offline", str(model_folder), groups, table, 0, tmp_path)
    first = metrics(tmp_path)[0]
    assert first["margin"] == pytest.approx(0, abs=2e-6) and first["chosen_reward"] == pytest.approx(0, abs=2e-6)
    assert first["loss"] == pytest.approx(0.693147, abs=2e-6)


def test_the_reference_is_that_of_each_reply(groups, model_folder, tokenizer):
    model = load_causal(str(model_folder)).eval()
    add_reference(model, groups[0], tokenizer.pad_token_id, 8)
    for group in groups[0][:2]:
        for reply, value in zip(group.replies, group.reference, strict=True):
            ids = torch.tensor([group.prompt + reply])
            marks = torch.tensor([[False] * len(group.prompt) + [True] * len(reply)])
            with torch.no_grad():
                alone = sequence_log_probabilities(model, ids, torch.ones_like(ids), marks).item()
            assert value == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_training_raises_the_margin_of_chosen_replies(tmp_path, groups, model_folder, loss):
    counts = train_policy("offline", str(model_folder), groups, TABLE.model_copy(update={"loss": loss}), 0, tmp_path)
    rows = metrics(tmp_path)
    assert counts["pairs"] == 54 and counts["steps"] == 12
    dev = [row for row in rows if "dev_margin" in row]
    assert dev[-1]["dev_accuracy"] == 1.0 and dev[-1]["dev_margin"] > 0.1
    assert dev[-1]["dev_loss"] < dev[0]["dev_loss"]
    before, after = (AutoModelForCausalLM.from_pretrained(place) for place in (model_folder, tmp_path / "model"))
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)


def test_most_steps_bounds_a_policy_training(tmp_path, groups, model_folder):
    assert train_policy("offline", str(model_folder), groups, TABLE, 0, tmp_path, max_steps=2)["steps"] == 2


def test_no_train_pairs_is_said(tmp_path, model_folder):
    with pytest.raises(UserError, match="offline: there are no train pairs"):
        train_policy("offline", str(model_folder), ([], []), TABLE, 0, tmp_path)


SAMPLING = {"samples": 3, "temperature": 1.0, "max_new_tokens": 8, "max_length": 256}


def test_sampling_depends_on_its_seed_and_on_nothing_else(talker, speeches):
    model, tokenizer = load_causal(str(talker)), load_tokenizer(str(talker))
    speeches = [*speeches, *(make_speech(f"I feel like a {digit}.") for digit in "12345")]  # prompts of one length too
    torch.manual_seed(1)
    first = generate(model, tokenizer, speeches, seed=5, **SAMPLING)
    torch.manual_seed(2)
    torch.rand(17)
    assert generate(model, tokenizer, speeches, seed=5, **SAMPLING) == first
    backwards = generate(model, tokenizer, speeches[::-1], seed=5, **SAMPLING)
    assert backwards[::-1] == first
    assert generate(model, tokenizer, speeches, seed=6, **SAMPLING) != first
    assert [len(replies) for replies in first] == [3] * len(speeches)
    assert len({text for replies in first for text, _ in replies}) > len(speeches)  # samples differ


def test_greedy_replies_equal_plain_generation_row_by_row(talker, speeches):
    tokenizer, model = load_tokenizer(str(talker)), load_causal(str(talker)).eval()
    made = generate(model, tokenizer, speeches, samples=1, temperature=0, max_new_tokens=60, max_length=256, seed=0)
    plain = AutoModelForCausalLM.from_pretrained(talker).eval()
    finishes = set()
    for speech, [(text, finish)] in zip(speeches, made, strict=True):
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": speech.text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            new = plain.generate(**inputs, do_sample=False, max_new_tokens=60)[
                0, inputs["input_ids"].shape[1] :
            ].tolist()
        assert text == tokenizer.decode(new, skip_special_tokens=True).strip()
        assert finish == ("stop" if tokenizer.eos_token_id in new else "length")
        finishes.add(finish)
    assert "stop" in finishes
    small = generate(
        model, tokenizer, speeches, samples=1, temperature=0, max_new_tokens=60, max_length=256, seed=0, rows=3
    )
    assert small == made


def test_a_reply_that_did_not_end_is_marked(talker, speeches):
    tokenizer, model = load_tokenizer(str(talker)), load_causal(str(talker))
    made = generate(model, tokenizer, speeches[:1], samples=1, temperature=0, max_new_tokens=1, max_length=256, seed=0)
    assert made[0][0][1] == "length"
    assert generate(model, tokenizer, [], seed=0, **SAMPLING) == []


def test_the_encoder_of_a_model_knows_its_length(model_folder):
    encoder = open_encoder(str(model_folder), TABLE)
    assert encoder.max_length == 256 and encoder.tokenizer.eos_token == "<|end|>"
    assert len(encoder.reply(make_speech("I am tired."), GOOD_REPLIES[0])) <= 128


def test_length_normalised_dpo_compares_means_over_reply_tokens(groups, model_folder, tokenizer):
    """The loss of a batch is DPO of log-probabilities divided by each reply's own number of tokens."""
    model = load_causal(str(model_folder)).eval()
    add_reference(model, groups[0], tokenizer.pad_token_id, 8)
    for group in groups[0]:
        group.reference = [value - 0.7 * place for place, value in enumerate(group.reference)]  # not the model itself
    batch = collate(groups[0], tokenizer.pad_token_id)
    table = TABLE.model_copy(update={"length_normalised": True, "beta": 3.0})
    with torch.no_grad():
        loss, _ = policy_task("offline", groups[0], [], table).compute(model, batch)
        logp = sequence_log_probabilities(model, batch.ids, batch.mask, batch.reply)
    lengths = torch.tensor([len(reply) for group in groups[0] for reply in group.replies])
    ratio = (logp - batch.reference) / lengths
    expected = -torch.nn.functional.logsigmoid(3.0 * (ratio[batch.chosen] - ratio[batch.rejected])).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
