"""The reward model: learns an easy rule, scores as plain transformers would, and says when it cannot."""

import json
import math
import shutil

import pytest
import torch
from conftest import GOOD_REPLIES, PLAIN_REPLIES, make_speech
from tiny_training import CHATML, examples_of, groups_of, plain_scores, rows, save_tokenizer

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_scorer, load_tokenizer
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.recipe import RewardTable
from psychocounsel.reward.score import RewardModel
from psychocounsel.reward.train import reward_task, train_reward
from psychocounsel.training.examples import Example
from psychocounsel.training.packed import PackedScorer, opened
from psychocounsel.training.packs import make_pack

TABLE = RewardTable(lr=5e-3, epochs=6, batch=18, max_length=256, precision="fp32", evaluate_steps=6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pairs, speeches, responses, model_folder):
    folder = tmp_path_factory.mktemp("reward")
    counts = train_reward(examples_of(pairs, speeches, responses), str(model_folder), TABLE, 0, folder)
    return folder, counts


def test_an_easy_rule_is_learnt_from_pairs(trained, speeches):
    folder, counts = trained
    assert counts["pairs"] == 54 and counts["dev_pairs"] == 18 and counts["left_out"] == {}
    assert counts["steps"] == 18 and counts["dev_loss"] < 0.1
    model = RewardModel(folder / "model", 256)
    dev = [speech for speech in speeches if speech.split == "dev"]
    good = model.score([(speech, text) for speech in dev for text in GOOD_REPLIES])
    plain = model.score([(speech, text) for speech in dev for text in PLAIN_REPLIES])
    assert min(good) > max(plain) + 1


def test_metrics_count_pairs_won_and_their_margin(trained):
    folder, _ = trained
    found = rows(folder)
    first, last = found[0], found[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=0.2)
    assert last["dev_accuracy"] == 1.0 and last["dev_margin"] > 2
    assert all(0 <= row["accuracy"] <= 1 for row in found if "accuracy" in row)


def test_the_saved_model_is_a_plain_one_output_classifier(trained):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, _ = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert model.config.num_labels == 1 and model.config.problem_type == "regression"
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_scores_equal_plain_transformers_one_row_at_a_time(trained, speeches):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, _ = trained
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    items = [(speech, text) for speech in speeches for text in (*GOOD_REPLIES, *PLAIN_REPLIES, "Yes.", "So? " * 20)]
    expected = []
    for speech, text in items:
        chat = [{"role": "user", "content": speech.text}, {"role": "assistant", "content": text}]
        with torch.inference_mode():
            inputs = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
            expected.append(plain(**inputs).logits.item())
    for budget in (1, 700, 8192):
        model = RewardModel(folder / "model", 256, budget)
        assert model.packed.shared and model.score(items) == pytest.approx(expected, abs=1e-5)
    shuffled = items[::3] + items[1::3] + items[2::3]  # replies to one speech far apart
    assert model.score(shuffled) == pytest.approx(expected[::3] + expected[1::3] + expected[2::3], abs=1e-5)
    assert max(expected) - min(expected) > 1  # not all the same
    assert model.score([]) == []


@pytest.mark.parametrize("text", ["", "\x00", "🌙" * 300, "<|pad|><|pad|>", "<|end|>", "word " * 5000])
def test_any_reply_gets_a_finite_score(trained, text):
    folder, _ = trained
    model = RewardModel(folder / "model", 256)
    scores = model.score([(make_speech("I am tired."), text), (make_speech("I am tired."), GOOD_REPLIES[0])])
    assert all(map(math.isfinite, scores))
    assert scores[0] == pytest.approx(model.score([(make_speech("I am tired."), text)])[0], abs=1e-5)
    assert sum(model.encoder.counts.values()) == (2 if len(text) >= 300 else 0)


def test_weights_that_are_no_numbers_are_said(trained, tmp_path):
    folder, _ = trained
    model = RewardModel(folder / "model", 256)
    with torch.no_grad():
        model.packed.bare.score.weight.fill_(math.nan)
    with pytest.raises(UserError, match="scores that are not numbers; retrain"):
        model.score([(make_speech("I am tired."), "Since when?")])


def damaged(model_folder, place, change):
    shutil.copytree(model_folder, place)
    path = place / "tokenizer_config.json"
    config = json.loads(path.read_text())
    change(place, config)
    path.write_text(json.dumps(config))
    return place


def no_template(place, config):
    config.pop("chat_template", None)
    (place / "chat_template.jinja").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [(no_template, "no chat template"), (lambda place, config: config.pop("eos_token"), "no end token")],
    ids=["no template", "no end token"],
)
def test_a_tokenizer_that_cannot_hold_a_chat_is_named(trained, tmp_path, change, words):
    place = damaged(trained[0] / "model", tmp_path / "model", change)
    with pytest.raises(UserError, match=words) as caught:
        RewardModel(place)
    assert str(place) in str(caught.value)


def test_a_classifier_with_several_outputs_is_no_reward_model(tmp_path, tokenizer):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, num_labels=3, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no usable model there") as caught:
        RewardModel(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_the_new_head_and_an_added_pad_token_do_not_depend_on_what_ran_before(tmp_path):
    """A hub model whose pad token is its end token: one token is added, the rest stays."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = save_tokenizer(
        tmp_path / "m", CHATML, {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, ["<|im_start|>"]
    )
    base = LlamaForCausalLM(
        LlamaConfig(vocab_size=350, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    base.save_pretrained(folder)
    tokenizer = load_tokenizer(str(folder))
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made.append(load_scorer(str(folder), tokenizer.pad_token_id, len(tokenizer)))
    assert tokenizer.pad_token_id == 350 and made[0].get_input_embeddings().num_embeddings == 351
    assert made[0].config.pad_token_id == 350
    for name, value in made[0].state_dict().items():
        assert torch.equal(value, made[1].state_dict()[name]), name
    assert torch.equal(made[0].model.embed_tokens.weight[:350], base.model.embed_tokens.weight)


def test_no_train_pairs_is_said(tmp_path, model_folder):
    with pytest.raises(UserError, match=r"reward: there are no train pairs \(\{\}\); lower pairs\.gap"):
        train_reward(([], []), str(model_folder), TABLE, 0, tmp_path)
    same = Example("e", chat_messages(make_speech("I am tired.").turns), ["Yes.", "Yes."], [(0, 1)], [1.0])
    with pytest.raises(UserError, match=r"no train pairs \(\{'pairs of identical replies': 1\}\)"):
        train_reward(([same], []), str(model_folder), TABLE, 0, tmp_path)


def test_margin_and_centring_change_the_loss_as_written(tokenizer, model_folder, pairs, speeches, responses):
    groups = groups_of(tokenizer, pairs["train"][:9], speeches, responses)
    plain, inside = (load_scorer(str(model_folder), tokenizer.pad_token_id, len(tokenizer)).eval() for _ in range(2))
    model, pack = opened(PackedScorer(inside)).eval(), make_pack(groups)
    with torch.no_grad():
        scores = plain_scores(plain, groups[0])
        chosen, rejected = scores[pack.chosen].tolist(), scores[pack.rejected].tolist()
    for table in (
        RewardTable(),
        RewardTable(margin=True),
        RewardTable(centre=0.5),
        RewardTable(margin=True, centre=0.5),
    ):
        gap = 1.5 if table.margin else 0.0
        expected = sum(
            math.log(1 + math.exp(-(a - b - gap))) + table.centre * (a + b) ** 2
            for a, b in zip(chosen, rejected, strict=True)
        )
        with torch.no_grad():
            loss, figures = reward_task(groups, [], table).compute(model, pack)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        assert figures["accuracy"] == sum(a > b for a, b in zip(chosen, rejected, strict=True))
        assert figures["margin"] == pytest.approx(sum(chosen) - sum(rejected), abs=1e-4)


def conversation(speech):
    return chat_messages(speech.turns)


def test_read_says_tokens_and_what_was_cut_and_takes_whole_dialogues(trained, speeches, tokenizer):
    folder, _ = trained
    model = RewardModel(folder / "model", 256)
    long = [{"role": "system", "content": "Be kind."}]
    for number in range(12):
        long += [{"role": "user", "content": f"{number}. I am tired. " * 4}, {"role": "assistant", "content": "Since?"}]
    long.append({"role": "user", "content": "Since March."})
    one, two = conversation(speeches[0]), conversation(speeches[1])
    items = [(one, GOOD_REPLIES[:2]), (long, ["Go on.", "Stop."]), (two, [])]
    first, second, third = model.read(items)
    assert third == [] and model.read([]) == []
    assert [scored.truncated for scored in first + second] == [False, False, True, True]
    for scored, text in zip(first, GOOD_REPLIES, strict=False):
        chat = [*one, {"role": "assistant", "content": text}]
        assert scored.tokens == len(tokenizer.apply_chat_template(chat)["input_ids"])
        assert scored.reward == pytest.approx(model.score([(speeches[0], text)])[0], abs=1e-5)
        assert scored.principles == {} and scored.resamples == ()
    many = model.read([(conversation(speech), [GOOD_REPLIES[0]] * 3) for speech in speeches] * 5)
    assert len(many) == 40 and all(len(row) == 3 and row[0].reward == row[2].reward for row in many)
