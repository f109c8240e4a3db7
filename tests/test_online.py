"""Online rounds: the policy's own candidates, best against worst, with everything left out counted."""

import shutil

import pytest
import torch
from conftest import make_speech
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import examples_of
from transformers import AutoModelForCausalLM

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_causal, load_tokenizer
from psychocounsel.policy.online import best_against_worst, draw_speeches, length_slope, run_round
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.recipe import OnlineTable, PolicyTable, RewardTable
from psychocounsel.records import read_rows, write_rows
from psychocounsel.reward.score import RewardModel
from psychocounsel.reward.train import train_reward
from psychocounsel.training.checkpoints import save_model

TABLE = PolicyTable(lr=2e-3, epochs=4, batch=18, max_length=256, precision="fp32", evaluate_steps=4, token_budget=1500,
                    online=OnlineTable(speeches=4, samples=4, steps=3, max_new_tokens=12))  # fmt: skip


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory, talker, pairs, speeches, responses):
    folder = tmp_path_factory.mktemp("judge")
    table = RewardTable(lr=3e-3, epochs=3, batch=18, max_length=256, precision="fp32")
    train_reward(examples_of(pairs, speeches, responses), str(talker), table, 0, folder)
    return str(folder / "model")


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
    again = [candidate(drawn[0], "a " * 300 + end, i) for i, end in enumerate("bc")]  # alike up to where they are cut
    write_rows(
        tmp_path / "long" / "candidates.jsonl", [*again, *(candidate(drawn[1], text, len(text)) for text in WORDS)]
    )
    counts = online(tmp_path / "long", talker, "", speeches)
    left_out = {
        "truncated": 0,
        "empty": 0,
        "speeches without a pair": 2,
        "replies cut": 2,
        "pairs of identical replies": 1,
    }
    assert counts["left_out"] == left_out and counts["pairs"] == 1


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


def test_best_stands_against_worst(speeches):
    rows = [candidate(speeches[0], text, reward) for text, reward in (("Mid.", 1), ("Best.", 3), ("Worst.", -2))]
    [example], left_out = best_against_worst(rows, {speeches[0].id: speeches[0]}, OnlineTable())
    assert example.replies == ["Best.", "Worst."] and example.messages == chat_messages(speeches[0].turns)
    assert example.pairs == [(0, 1)] and example.gaps == [5] and example.id == speeches[0].id
    assert set(left_out.values()) == {0}


@given(st.dictionaries(st.sampled_from("abcde"), st.floats(-5, 5)), st.floats(0, 3))
@settings(max_examples=25, deadline=None)
def test_a_pair_is_made_exactly_when_the_margin_is_reached(found, least):
    speech = make_speech("Hi.")
    rows = [candidate(speech, text, round(reward, 6)) for text, reward in found.items()]
    examples, left_out = best_against_worst(rows, {speech.id: speech}, OnlineTable(min_margin=least))
    ranked = sorted((-row["reward"], row["text"]) for row in rows) or [(0, "")]
    (first, best), (last, worst) = ranked[0], ranked[-1]
    assert len(examples) + left_out["speeches without a pair"] == 1
    assert bool(examples) == (last - first >= max(least, 1e-5))
    for example in examples:
        assert example.replies == [best, worst]
        assert example.gaps == pytest.approx([last - first])


WORDS = ("Yes.", "Tell me.", "What is it?", "What would you say?", "I hear how long that has been.")


@pytest.mark.parametrize("slope", [0.1, 2.0, -1 / 3])
def test_length_alone_earns_no_pair(speeches, slope):
    chosen = {s.id: s for s in speeches[:3]}
    rows = [
        candidate(s, text, round(slope * len(text.split()) + level, 6))
        for level, s in enumerate(chosen.values())
        for text in WORDS
    ]
    assert length_slope([[row for row in rows if row["speech_id"] == key] for key in chosen]) == pytest.approx(slope)
    examples, left_out = best_against_worst(rows, chosen, OnlineTable(length_control=True))
    assert examples == [] and left_out["speeches without a pair"] == 3
    examples, _ = best_against_worst(rows, chosen, OnlineTable(length_control=False))
    assert len(examples) == 3 and {example.replies[0] for example in examples} == {WORDS[-1] if slope > 0 else WORDS[0]}


def test_what_length_does_not_explain_still_earns_its_pair(speeches):
    chosen = {s.id: s for s in speeches[:3]}
    rows = [candidate(s, text, len(text.split()) + 3 * (text == WORDS[1])) for s in chosen.values() for text in WORDS]
    examples, _ = best_against_worst(rows, chosen, OnlineTable(length_control=True))
    assert [example.replies[0] for example in examples] == [WORDS[1]] * 3


@pytest.mark.parametrize("candidates", [[], [[]], [[candidate(make_speech("Hi."), "Yes.", 3.0)]]])
def test_without_different_lengths_there_is_no_slope(candidates):
    assert length_slope(candidates) == 0.0


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
