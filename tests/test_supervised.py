"""The starting model: built here from texts, or any model in Hugging Face layout."""

import json
import shutil

import pytest
import torch
from conftest import CLIENT_LINES, GOOD_REPLIES, TINY, make_speech
from tiny_training import CHATML, plain_logp, rows, save_tokenizer

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_causal, load_tokenizer
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.recipe import LoraTable
from psychocounsel.records import Response
from psychocounsel.supervised import SPECIAL, Texts, build_embedded, starting_model, supervise
from psychocounsel.training.batches import Group
from psychocounsel.training.encoding import Encoder


@pytest.fixture
def texts(speeches, responses):
    """Warm replies are rated 4.5, plain ones 2."""
    return Texts(speeches, responses, {r.id: 4.5 if "good" in r.model else 2.0 for r in responses})


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A Qwen2-shaped model as it lies in a hub cache snapshot: ChatML, bfloat16, sampling defaults of its own."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("hub") / "qwen2-tiny"
    save_tokenizer(
        folder, CHATML, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, ["<|im_start|>", "<|object_ref|>"]
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=350, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                    num_key_value_heads=1, max_position_embeddings=512, eos_token_id=1, pad_token_id=0)
    )  # fmt: skip
    model.generation_config = GenerationConfig(do_sample=True, top_k=20, top_p=0.8, eos_token_id=[1, 0])
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, speeches, responses):
    folder = tmp_path_factory.mktemp("supervised")
    from psychocounsel.recipe import SupervisedTable

    table = SupervisedTable(lr=3e-3, epochs=2.0, batch=4, max_length=256, min_overall=4.0, precision="fp32",
                            embedded=TINY.model_copy(update={"epochs": 4.0}))  # fmt: skip
    scores = {r.id: 4.5 if "good" in r.model else 2.0 for r in responses}
    return folder, supervise(Texts(speeches, responses, scores), "embedded", table, 0, folder)


def test_the_embedded_model_opens_with_plain_transformers(embedded):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, counts = embedded
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert sum(p.numel() for p in model.parameters()) == counts["parameters"]
    assert len(tokenizer) == counts["vocabulary"] == model.config.vocab_size == 400
    assert tokenizer.pad_token_id == model.config.pad_token_id != tokenizer.eos_token_id == model.config.eos_token_id
    messages = [{"role": "user", "content": "I am tired."}]
    shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert shown == "<|begin|><|user|>I am tired.<|end|><|assistant|>"
    for token in SPECIAL:
        assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1
    text = "Naïve “quotes”, 漢字, 🌙 and\ttabs"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    made = model.generate(**tokenizer("I", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert (
        made.shape[1] == tokenizer("I", return_tensors="pt")["input_ids"].shape[1] + 3
        or model.config.eos_token_id in made
    )


def test_counts_say_what_was_learnt_from(embedded):
    folder, counts = embedded
    assert counts["replies"] == 18 and counts["left_out"] == {} and counts["base"] == "embedded"
    assert counts["steps"] == 9  # two epochs of six speeches with three replies each: 36 replies, 4 a step
    assert counts["language_steps"] > 0 and counts["language_loss"] < 6.0
    assert starting_model(folder) == str(folder / "model")


def reply_loss(place, speech, text):
    tokenizer, model = load_tokenizer(str(place)), load_causal(str(place)).float().eval()
    encoder = Encoder(tokenizer, 256)
    messages, prompt = encoder.prompt(chat_messages(speech.turns))
    group = Group("g", prompt, [encoder.reply(messages, prompt, text)])
    with torch.no_grad():
        return -plain_logp(model, group).item() / len(group.replies[0])


def test_well_rated_replies_become_likely_and_others_are_not_imitated(embedded, speeches):
    folder, _ = embedded
    before, after = (reply_loss(folder / name, speeches[0], GOOD_REPLIES[0]) for name in ("embedded", "model"))
    assert after < before - 0.2


def test_a_second_call_continues_from_the_built_model(tmp_path, texts, supervised_table):
    table = supervised_table(epochs=0.0)
    first = supervise(texts, "embedded", table, 0, tmp_path)
    stamp = (tmp_path / "embedded" / "model.safetensors").stat().st_mtime_ns
    second = supervise(texts, "embedded", table, 0, tmp_path)
    assert first["parameters"] > 0 and second == first
    assert (tmp_path / "embedded" / "model.safetensors").stat().st_mtime_ns == stamp
    ours = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert ours == (tmp_path / "embedded" / "model.safetensors").read_bytes()


def test_the_same_seed_builds_the_same_model_and_another_seed_another(tmp_path, texts, supervised_table):
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(made))
        build_embedded(texts, supervised_table(), seed, tmp_path / name)
        made.append((tmp_path / name / "embedded" / "model.safetensors").read_bytes())
    assert made[0] == made[1] != made[2]


def test_another_base_without_training_is_pointed_to_not_copied(tmp_path, texts, model_folder, supervised_table):
    counts = supervise(texts, str(model_folder), supervised_table(epochs=0.0), 0, tmp_path)
    assert counts == {"base": str(model_folder)}
    assert [path.name for path in tmp_path.iterdir()] == ["base.json"]
    assert starting_model(tmp_path) == str(model_folder)


def test_a_hub_model_of_another_make_is_fine_tuned(tmp_path, texts, qwen, supervised_table, speeches):
    counts = supervise(texts, str(qwen), supervised_table(epochs=3.0, lr=5e-3, min_overall=4.0), 0, tmp_path)
    assert counts["steps"] > 0 and counts["replies"] == 18
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert load_tokenizer(str(tmp_path / "model")).chat_template == CHATML
    before, after = (reply_loss(place, speeches[1], GOOD_REPLIES[1]) for place in (qwen, tmp_path / "model"))
    assert after < before - 0.5


@pytest.mark.parametrize(
    "changes",
    [{"lora": LoraTable(rank=8, alpha=16.0), "lr": 2e-2, "epochs": 6.0}, {"gradient_checkpointing": True}],
    ids=["adapters", "gradient checkpointing"],
)
def test_other_ways_of_training_imitate_too(tmp_path, texts, model_folder, supervised_table, speeches, changes):
    table = supervised_table(**{"epochs": 3.0, "lr": 5e-3, "min_overall": 4.0, **changes})
    supervise(texts, str(model_folder), table, 0, tmp_path)
    before, after = (reply_loss(place, speeches[1], GOOD_REPLIES[1]) for place in (model_folder, tmp_path / "model"))
    assert after < before - (0.2 if "lora" in changes else 0.5)  # the embeddings stay as they were drawn
    last = [row["dev_loss"] for row in rows(tmp_path) if "dev_loss" in row][-1]
    dev = [speech for speech in speeches if speech.split == "dev"]
    found = [(reply_loss(tmp_path / "model", speech, text), text) for speech in dev for text in GOOD_REPLIES]
    tokens = {text: len(load_tokenizer(str(model_folder)).encode(text)) + 1 for text in GOOD_REPLIES}
    mean = sum(loss * tokens[text] for loss, text in found) / sum(tokens[text] for _, text in found)
    assert mean == pytest.approx(last, abs=1e-4)  # over all tokens, and of the exported model


def test_replies_below_the_least_rating_are_left_out(texts):
    assert {r.text for _, replies in texts.replies("train", 4.0) for r in replies} == set(GOOD_REPLIES)
    assert [len(replies) for _, replies in texts.replies("train", 1.0)] == [6] * 6
    assert texts.replies("train", 4.6) == [] and texts.replies("arena") == []
    ids = [speech.id for speech, _ in texts.replies("dev")]
    assert ids == sorted(ids) and len(ids) == 2


def test_empty_and_unrated_replies_are_never_imitated(speeches):
    empty = Response(speech_id=speeches[0].id, model="m", text="")
    unrated = Response(speech_id=speeches[0].id, model="m", text="Hello.")
    texts = Texts(speeches, [empty, unrated], {empty.id: 5.0})
    assert texts.replies("train", 1.0) == []


def test_no_reply_good_enough_is_said(tmp_path, texts, model_folder, supervised_table):
    with pytest.raises(
        UserError, match=r"supervised: no train reply is rated 4.9 or better; lower supervised.min_overall"
    ):
        supervise(texts, str(model_folder), supervised_table(min_overall=4.9), 0, tmp_path)


def test_too_high_a_demand_is_said_before_the_language_model_is_trained(tmp_path, texts, supervised_table):
    with pytest.raises(UserError, match=r"no train reply is rated 4.9 or better; lower supervised.min_overall"):
        supervise(texts, "embedded", supervised_table(min_overall=4.9), 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", [None, "counts.json.part"])
def test_counts_lost_in_a_kill_are_made_again_and_are_the_same(tmp_path, texts, supervised_table, left):
    table = supervised_table(epochs=0.0)
    whole = supervise(texts, "embedded", table, 0, tmp_path / "whole")
    place = tmp_path / "killed"
    build_embedded(texts, table, 0, place)
    if left:
        (place / "language" / left).write_text('{"parame')
    assert supervise(texts, "embedded", table, 0, place) == whole
    first, second = (
        {name: (folder / name).read_bytes() for name in ("language/counts.json", "model/model.safetensors")}
        for folder in (tmp_path / "whole", place)
    )
    assert first == second


@pytest.mark.parametrize(
    ("epochs", "says"), [(0.0, "train split holds no replies"), (1.0, r"no train reply is rated 1.0 or better")]
)
def test_an_empty_train_split_cannot_build_a_model(tmp_path, responses, supervised_table, epochs, says):
    texts = Texts([make_speech(CLIENT_LINES[0], "test")], responses, {})
    with pytest.raises(UserError, match=says):
        supervise(texts, "embedded", supervised_table(epochs=epochs), 0, tmp_path)


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


FAULTS = {
    "no such place": shutil.rmtree,
    "empty folder": lambda place: (shutil.rmtree(place), place.mkdir()),
    "truncated weights": lambda place: cut(place / "model.safetensors", 2000),
    "weights cut at the end": lambda place: cut(place / "model.safetensors", -100),
    "no weights": lambda place: (place / "model.safetensors").unlink(),
    "config is no JSON": lambda place: cut(place / "config.json", 20),
    "config of no known kind": lambda place: (place / "config.json").write_text('{"model_type": "nonsense"}'),
    "weights of another shape": lambda place: (place / "config.json").write_text(
        (place / "config.json").read_text().replace('"hidden_size": 32', '"hidden_size": 64')
    ),
    "truncated tokenizer": lambda place: cut(place / "tokenizer.json", 300),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_base_that_cannot_be_used_is_named(tmp_path, texts, model_folder, supervised_table, fault):
    place = tmp_path / "base"
    shutil.copytree(model_folder, place)
    FAULTS[fault](place)
    with pytest.raises(UserError, match="no usable model there") as caught:
        supervise(texts, str(place), supervised_table(), 0, tmp_path)
    assert str(place) in str(caught.value) and "\n" not in str(caught.value)
