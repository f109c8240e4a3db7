"""Online rounds: the policy's own candidates, rewarded, paired and trained on, with everything left out counted."""

import json
import shutil

import pytest
import torch
from conftest import make_speech
from tiny_training import examples_of
from transformers import AutoModelForCausalLM

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_causal, load_tokenizer
from psychocounsel.policy.online import Tools, draw_speeches, run_round
from psychocounsel.policy.rewards import Reading, open_rewards
from psychocounsel.recipe import OnlineTable, PolicyTable, Recipe, RewardTable
from psychocounsel.records import read_rows
from psychocounsel.reward.score import RewardModel
from psychocounsel.reward.train import train_reward
from psychocounsel.training.adapters import Start
from psychocounsel.training.checkpoints import save_model

TABLE = PolicyTable(lr=2e-3, epochs=4, batch=18, max_length=256, precision="fp32", evaluate_steps=4, token_budget=1500,
                    online=OnlineTable(speeches=4, samples=4, steps=3, max_new_tokens=64, gate=""))  # fmt: skip


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory, talker, pairs, speeches, responses):
    folder = tmp_path_factory.mktemp("judge")
    table = RewardTable(lr=3e-3, epochs=3, batch=18, max_length=256, precision="fp32")
    train_reward(examples_of(pairs, speeches, responses), str(talker), table, 0, folder)
    return str(folder / "model")


class Paying:
    """A source of rewards that pays what it is told for each text (by default its length); None is no reward."""

    name, shared = "paying", True

    def __init__(self, pay=len):
        self.pay, self.asked, self.closed = pay, 0, 0

    def check(self):
        pass

    def score(self, items, label):
        self.asked += sum(len(texts) for _, texts in items)
        return [[Reading(self.pay(text), why="it was told so") for text in texts] for _, texts in items]

    def close(self):
        self.closed += 1


def online(folder, talker, source, speeches, gate=lambda speech, text: "", **changes):
    table = TABLE.model_copy(update={"online": TABLE.online.model_copy(update=changes)})
    sources = open_rewards(Recipe(name="tiny", policy=table), source) if isinstance(source, str) else [source]
    start = Start(str(talker))
    return run_round(0, start, start, speeches, table, Tools(sources, gate), 3, folder)


def test_an_online_round_samples_scores_and_learns(tmp_path, talker, judge_model, speeches):
    counts = online(tmp_path, talker, judge_model, speeches, truncated="keep")
    rows = [row for _, row in read_rows(tmp_path / "candidates.jsonl")]
    assert counts["speeches"] == 4 and counts["candidates"] == len(rows) == 16
    assert counts["pairs"] + counts["left_out"]["speeches without a pair"] == 4 and counts["pairs"] >= 1
    assert 1 <= counts["steps"] <= 3
    drawn = {s.id: s for s in draw_speeches(speeches, 0, TABLE.online, 3)}
    assert {row["speech_id"] for row in rows} == set(drawn)
    again = RewardModel(judge_model, 256).score([(drawn[row["speech_id"]], row["text"]) for row in rows])
    scores = {(row["speech_id"], row["sample"]): row for _, row in read_rows(tmp_path / "scores.jsonl")}
    found = [scores[row["speech_id"], row["sample"]]["rewards"]["reward"] for row in rows]
    assert found == pytest.approx(again, abs=1e-5)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.vocab_size == 400
    sampled = sum(len(row["ids"]) for row in rows)
    assert counts["tokens"]["sample"] == sampled < counts["tokens"]["score"] and counts["tokens"]["train"] > 0


def test_what_is_trained_on_are_the_tokens_that_were_sampled(tmp_path, talker, speeches, monkeypatch):
    from psychocounsel.training import encoding

    trained = []
    group_files = encoding.write_groups

    def spied(path, groups):
        groups = list(groups)
        trained.extend(groups)
        return group_files(path, groups)

    monkeypatch.setattr(encoding, "write_groups", spied)
    online(tmp_path, talker, Paying(), speeches)
    rows = [row for _, row in read_rows(tmp_path / "candidates.jsonl")]
    sampled = {(row["speech_id"], tuple(row["ids"])) for row in rows}
    assert trained
    assert {(group.id, tuple(reply)) for group in trained for reply in group.replies} <= sampled


def test_candidates_and_scores_on_disk_are_used(tmp_path, talker, speeches):
    first, second = Paying(), Paying()
    counts = online(tmp_path, talker, first, speeches)
    kept = {name: (tmp_path / name).read_bytes() for name in ("candidates.jsonl", "scores.jsonl", "pairs.jsonl")}
    assert first.asked > 0 and first.closed
    (tmp_path / "trained.json").unlink()
    again = online(tmp_path, tmp_path / "model", second, speeches)  # the start is not sampled from any more
    assert second.asked == 0 and counts["pairs"] == again["pairs"]
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept


def test_a_finished_training_is_not_made_again(tmp_path, talker, speeches, monkeypatch):
    from psychocounsel.policy import online as module

    counts = online(tmp_path, talker, Paying(), speeches)
    monkeypatch.setattr(module, "train_policy", None)
    assert online(tmp_path, talker, Paying(), speeches) == counts


@pytest.mark.parametrize("reward", [0.0, -3.5])
def test_equal_rewards_leave_nothing_to_learn(tmp_path, talker, speeches, reward):
    with pytest.raises(UserError, match=r"policy\.online round 1: paying gave each of the 16 replies the same reward"):
        online(tmp_path, talker, Paying(lambda text: reward), speeches)
    assert (tmp_path / "candidates.jsonl").exists()  # sampled once, whatever is mended


def test_missing_rewards_are_quarantined_and_too_many_stop_the_round(tmp_path, talker, speeches):
    missing = Paying(lambda text: None if len(text) % 2 else float(len(text)))
    with pytest.raises(UserError, match=r"policy\.online round 1: .*max_missing"):
        online(tmp_path, talker, missing, speeches)
    rows = [row for _, row in read_rows(tmp_path / "quarantine.jsonl")]
    assert rows and all("it was told so" in json.dumps(row) for row in rows)
    texts = {(row["speech_id"], row["sample"]): row["text"] for _, row in read_rows(tmp_path / "candidates.jsonl")}
    assert all(len(texts[row["speech_id"], row["sample"]]) % 2 for row in rows)
    few = Paying(lambda text: float(len(text)) if len(text) != 33 else None)
    counts = online(tmp_path / "few", talker, few, speeches, max_missing=0.99)
    assert counts["left_out"]["without a reward"] > 0 and counts["pairs"] > 0


def test_a_gate_bars_what_it_names(tmp_path, talker, speeches):
    counts = online(tmp_path, talker, Paying(), speeches, gate=lambda speech, text: "vowel" if text[0] in "EI" else "",
                    samples=8)  # fmt: skip
    texts = {(row["speech_id"], row["sample"]): row["text"] for _, row in read_rows(tmp_path / "candidates.jsonl")}
    assert counts["left_out"]["barred"] > 0
    assert not any(texts[row["speech_id"], row["chosen"]][0] in "EI" for _, row in read_rows(tmp_path / "pairs.jsonl"))


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
        online(tmp_path / "round", mute, Paying(), speeches)
    assert not (tmp_path / "round" / "scores.jsonl").exists()


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
