"""The policy: DPO starts from no difference and raises the margin; sampling depends on nothing but its seed."""

import json
import shutil

import pytest
import torch
from conftest import CLIENT_LINES, GOOD_REPLIES, TINY, make_speech
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_causal, load_tokenizer
from psychocounsel.policy.generate import generate
from psychocounsel.policy.offline import add_reference, open_encoder, train_policy
from psychocounsel.policy.online import best_against_worst, draw_speeches, run_round
from psychocounsel.recipe import OnlineTable, PolicyTable
from psychocounsel.records import read_rows, write_rows
from psychocounsel.reward.train import pair_groups, train_reward
from psychocounsel.training.batches import Encoder
from psychocounsel.training.checkpoints import save_model

TABLE = PolicyTable(lr=2e-3, epochs=4, batch=18, max_length=256, precision="fp32", evaluate_steps=4, micro_batch=12,
                    online=OnlineTable(speeches=4, samples=4, steps=3, max_new_tokens=12))  # fmt: skip


@pytest.fixture
def groups(tokenizer, speeches, responses, pairs):
    by_speech, by_id = {s.id: s for s in speeches}, {r.id: r for r in responses}
    return tuple(pair_groups(Encoder(tokenizer, 256), pairs[split], by_speech, by_id) for split in ("train", "dev"))


@pytest.fixture(scope="module")
def talker(tmp_path_factory, speeches, responses):
    """A tiny policy that has learnt to end its replies."""
    from psychocounsel.recipe import SupervisedTable
    from psychocounsel.supervised import Texts, supervise

    folder = tmp_path_factory.mktemp("talker")
    table = SupervisedTable(lr=5e-3, epochs=40.0, batch=8, max_length=256, min_overall=1.0, precision="fp32",
                            embedded=TINY.model_copy(update={"epochs": 2.0}))  # fmt: skip
    supervise(Texts(speeches, responses, {r.id: 4.0 for r in responses}), "embedded", table, 0, folder)
    return folder / "model"


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory, talker, pairs, speeches, responses):
    from psychocounsel.recipe import RewardTable

    folder = tmp_path_factory.mktemp("judge")
    table = RewardTable(lr=3e-3, epochs=3, batch=18, max_length=256, precision="fp32")
    train_reward(pairs, {s.id: s for s in speeches}, {r.id: r for r in responses}, str(talker), table, 0, folder)
    return str(folder / "model")


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
    from psychocounsel.training.losses import sequence_log_probabilities

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


def online(folder, talker, judge_model, speeches, **changes):
    table = TABLE.model_copy(update={"online": TABLE.online.model_copy(update=changes)})
    return run_round(0, str(talker), judge_model, speeches, table, 3, folder)


def test_an_online_round_samples_scores_and_learns(tmp_path, talker, judge_model, speeches):
    counts = online(tmp_path, talker, judge_model, speeches, drop_truncated=False)
    rows = [row for _, row in read_rows(tmp_path / "candidates.jsonl")]
    assert counts["speeches"] == 4 and counts["candidates"] == len(rows) == 16
    assert counts["pairs"] + counts["left_out"]["speeches without a pair"] == 4 and counts["pairs"] >= 1
    assert 1 <= counts["steps"] <= 3
    assert {row["speech_id"] for row in rows} == {s.id for s in draw_speeches(speeches, 0, TABLE.online, 3)}
    from psychocounsel.reward.score import RewardModel

    by_id = {s.id: s for s in speeches}
    again = RewardModel(judge_model, 256).score([(by_id[row["speech_id"]], row["text"]) for row in rows])
    assert [row["reward"] for row in rows] == pytest.approx(again, abs=1e-5)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.vocab_size == 400


def candidate(speech, text, reward, finish="stop"):
    return {"speech_id": speech.id, "text": text, "finish": finish, "reward": reward}


def test_candidates_on_disk_are_used_and_truncated_ones_dropped_and_counted(tmp_path, talker, speeches):
    drawn = draw_speeches(speeches, 0, TABLE.online, 3)
    write_rows(
        tmp_path / "candidates.jsonl",
        [
            *(candidate(drawn[0], f"Reply {i}.", i) for i in range(3)),
            candidate(drawn[0], "Never ends", 99, "length"),
            candidate(drawn[1], "", 5),
            candidate(drawn[1], "Alone.", 1),
            *(candidate(drawn[2], "The same.", i) for i in range(2)),
        ],
    )
    before = (tmp_path / "candidates.jsonl").read_bytes()
    counts = online(tmp_path, talker, "no reward model is needed any more", speeches)
    assert counts["left_out"] == {"truncated": 1, "empty": 1, "speeches without a pair": 3}
    assert counts["pairs"] == 1 and counts["candidates"] == 8
    assert (tmp_path / "candidates.jsonl").read_bytes() == before


@pytest.mark.parametrize("reward", [0.0, -3.5])
def test_equal_rewards_leave_nothing_to_learn(tmp_path, talker, speeches, reward):
    drawn = draw_speeches(speeches, 0, TABLE.online, 3)
    write_rows(tmp_path / "candidates.jsonl", [candidate(s, f"Reply {i}.", reward) for s in drawn for i in range(3)])
    with pytest.raises(UserError, match=r"policy.online round 1: no pair is left .*without a pair': 4.*min_margin"):
        online(tmp_path, talker, "", speeches)


def test_a_policy_that_says_nothing_is_said(tmp_path, talker, judge_model, speeches):
    """Its output layer always prefers the end token."""
    mute = tmp_path / "mute"
    shutil.copytree(talker, mute)
    model, tokenizer = load_causal(str(mute)), load_tokenizer(str(mute))
    head = torch.zeros_like(model.lm_head.weight)
    head[tokenizer.eos_token_id] = 1.0
    with torch.no_grad():  # every token looks the same, no layer adds anything, and only the end token gets a logit
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.fill_(1.0)
        model.model.norm.weight.fill_(10.0)
    model.lm_head.weight = torch.nn.Parameter(head)
    model.config.tie_word_embeddings = False
    save_model(mute, model, tokenizer)
    with pytest.raises(UserError, match="the policy emits nothing; check its chat template and end token"):
        online(tmp_path / "round", mute, judge_model, speeches)
    assert not (tmp_path / "round" / "candidates.jsonl").exists()


def test_best_stands_against_worst(tokenizer, speeches):
    rows = [candidate(speeches[0], text, reward) for text, reward in (("Mid.", 1), ("Best.", 3), ("Worst.", -2))]
    encoder = Encoder(tokenizer, 256)
    [group], left_out = best_against_worst(rows, {speeches[0].id: speeches[0]}, encoder, OnlineTable())
    assert [tokenizer.decode(reply) for reply in group.replies] == ["Best.<|end|>", "Worst.<|end|>"]
    assert group.pairs == [(0, 1)] and group.gaps == [5] and group.prompt == encoder.prompt(speeches[0])
    assert set(left_out.values()) == {0}


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(-5, 5)), max_size=8), st.floats(0, 3))
@settings(max_examples=50, deadline=None)
def test_a_pair_is_made_exactly_when_the_margin_is_reached(tokenizer, found, least):
    speech = make_speech(CLIENT_LINES[0])

    rows = [candidate(speech, text, reward) for text, reward in found]
    encoder = Encoder(tokenizer, 64)
    groups, left_out = best_against_worst(rows, {speech.id: speech}, encoder, OnlineTable(min_margin=least))
    ranked = sorted((-reward, text) for text, reward in found)
    (first, best), (last, worst) = (ranked[0], ranked[-1]) if ranked else ((0, ""), (0, ""))
    gap = last - first
    if gap > 0 and gap >= least and best != worst:
        assert [tokenizer.decode(reply) for reply in groups[0].replies] == [best + "<|end|>", worst + "<|end|>"]
        assert groups[0].gaps == [gap] and left_out["speeches without a pair"] == 0
    else:
        assert groups == [] and left_out["speeches without a pair"] == 1


@pytest.mark.parametrize(("total", "count"), [(12, 4), (12, 5), (3, 8), (7, 1)])
def test_no_speech_is_drawn_twice_before_all_were_used(total, count):
    pool = [make_speech(f"This is trouble number {i}.") for i in range(total)]
    pool += [make_speech("Only for dev.", "dev"), make_speech("Only for test.", "test")]
    table = OnlineTable(speeches=count)
    drawn = [s.id for number in range(10) for s in draw_speeches(pool, number, table, 1)]
    train = {s.id for s in pool if s.split == "train"}
    for start in range(0, len(drawn) - total + 1, total):
        assert set(drawn[start : start + total]) == train
    assert drawn == [s.id for number in range(10) for s in draw_speeches(pool[::-1], number, table, 1)]
    assert len(drawn) == 10 * min(count, total)


def test_an_empty_train_split_is_said():
    with pytest.raises(UserError, match=r"policy\.online: the train split is empty"):
        draw_speeches([make_speech("Only for dev.", "dev")], 0, OnlineTable(), 1)


def test_the_encoder_of_a_model_knows_its_length(model_folder):
    encoder = open_encoder(str(model_folder), TABLE)
    assert encoder.max_length == 256 and encoder.tokenizer.eos_token == "<|end|>"
    assert len(encoder.reply(make_speech("I am tired."), GOOD_REPLIES[0])) <= 128
