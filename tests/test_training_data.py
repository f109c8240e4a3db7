"""What the training benchmark trains on: the same from the same seed, in lengths as promised, from our own texts."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def data():
    """benchmarks/training_data.py; benchmarks import each other by name, as scripts of one folder do."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("training_data")
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def texts(data):
    return data.read_texts("embedded")


@pytest.fixture(scope="module")
def tokenizer(data, texts):
    return data.build_tokenizer([data.SYSTEM, *texts.all()])


@pytest.fixture(scope="module")
def rows(data, texts, tokenizer):
    return {shape: data.preference_rows(texts, tokenizer, 100, shape) for shape in data.SHAPES}


def test_the_tokenizer_is_full_and_its_end_is_not_its_padding(tokenizer, texts):
    assert len(tokenizer) == 8192
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    text = texts.speeches[0][0]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_tokenizer_of_the_same_texts_is_the_same(data):
    texts = [" ".join(text.split()[::-1]) for text, _ in data.read_texts("embedded").speeches[:40]]
    one, two = (data.build_tokenizer(texts, 1000) for _ in range(2))
    assert one.get_vocab() == two.get_vocab()
    assert len(one) == 1000


def test_a_reply_ends_with_the_end_token_and_its_prompt_is_tokenised_as_in_generation(rows, tokenizer):
    row = rows["paper"][0]
    head = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
    reply = [{"role": "assistant", "content": row["replies"][0]}]
    whole = tokenizer.apply_chat_template(row["prompt"] + reply)["input_ids"]
    assert whole[: len(head)] == head
    assert tokenizer.eos_token_id in whole[-2:]


def test_rows_are_the_same_from_the_same_seed_and_others_from_another(data, texts, tokenizer, rows):
    assert data.preference_rows(data.read_texts("embedded"), tokenizer, 100, "paper") == rows["paper"]
    other = data.preference_rows(data.read_texts("embedded", seed=1), tokenizer, 100, "paper", seed=1)
    assert [row["id"] for row in other] != [row["id"] for row in rows["paper"]]


def test_more_rows_begin_with_the_rows_of_fewer_and_no_prompt_comes_twice(data, texts, tokenizer, rows):
    more = data.preference_rows(texts, tokenizer, 250, "paper")
    assert more[:100] == rows["paper"]
    assert len({row["id"] for row in more}) == 250
    assert len({row["prompt"][-1]["content"] for row in more}) == 250


def test_a_prompt_has_four_different_replies_and_pairs_among_them(rows):
    for shape, most in (("paper", 3), ("all", 6)):
        for row in rows[shape]:
            assert [message["role"] for message in row["prompt"]] == ["system", "user"]
            assert len(set(row["replies"])) == 4
            assert 1 <= len(row["pairs"]) <= most
            assert len({frozenset(pair) for pair in row["pairs"]}) == len(row["pairs"])
    assert all(len(row["pairs"]) == 6 for row in rows["all"])
    for few, every in zip(rows["paper"], rows["all"], strict=True):
        assert few["replies"] == every["replies"]
        assert set(few["pairs"]) <= set(every["pairs"])


def test_lengths_and_pairs_are_those_of_counselling_data(data, rows, tokenizer):
    found = data.length_statistics(rows["paper"], tokenizer)
    assert found["pairs_per_prompt"] == pytest.approx(1.42, abs=0.03)
    assert 50 <= found["system_tokens"] <= 75
    assert found["speech_tokens"]["min"] >= 40
    assert found["speech_tokens"]["max"] <= 250
    assert found["reply_tokens"]["min"] >= 80
    assert found["reply_tokens"]["max"] <= 350
    assert found["tokens_pair_by_pair"] > 1.5 * found["tokens_each_once"]
    assert data.length_statistics(rows["all"], tokenizer)["tokens_ratio"] > 4


def test_models_have_the_asked_size_and_the_same_weights_from_the_same_seed(data, tokenizer):
    small = data.Size(hidden=32, layers=1, heads=2, intermediate=64)
    one, two = (data.build_model(tokenizer, small) for _ in range(2))
    assert all(bool((a == b).all()) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    reward = data.build_model(tokenizer, small, reward=True)
    assert reward.config.num_labels == 1
    assert reward.config.problem_type == "regression"
    assert reward.config.pad_token_id == tokenizer.pad_token_id
    with torch.device("meta"):
        full = data.build_model(tokenizer, data.Size())
    assert 19e6 < sum(parameter.numel() for parameter in full.parameters()) < 22e6


def test_a_written_folder_gives_back_as_many_pairs_as_are_asked_for(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PSYCHOCOUNSEL_DATA", str(tmp_path / "nothing here"))
    found = data.build(tmp_path, 20, size=data.Size(hidden=32, layers=1, heads=2, intermediate=64))
    assert found["source"] == "embedded"
    assert json.loads((tmp_path / "statistics.json").read_text()) == found
    assert all((tmp_path / name / "tokenizer.json").is_file() for name in ("lm", "rm"))
    assert sum(len(row["pairs"]) for row in data.read_pairs(tmp_path / "all.jsonl", 50)) == 50
    assert len(data.read_pairs(tmp_path / "paper.jsonl")) == 20
    with pytest.raises(ValueError, match="build it with more prompts"):
        data.read_pairs(tmp_path / "paper.jsonl", 1000)


def test_more_prompts_than_the_texts_can_give_are_an_error(data, tokenizer):
    few = data.Texts("two words", [("two words", [])])
    with pytest.raises(ValueError, match="give 0 prompts, not 5"):
        data.preference_rows(few, tokenizer, 5)
