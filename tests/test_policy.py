"""The offline policy: DPO starts from no difference and raises the margin; sampling depends on its seed only."""

import json

import pytest
import torch
from conftest import GOOD_REPLIES, make_speech
from peft import PeftModel
from safetensors.torch import load_file
from tiny_training import add_plain_reference, examples_of, groups_of, plain_logp, rows
from transformers import AutoModelForCausalLM

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_causal, load_tokenizer
from psychocounsel.policy.generate import Replies
from psychocounsel.policy.offline import open_encoder, policy_task, train_policy
from psychocounsel.policy.sampling import Sampling, read_prompts
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.recipe import LoraTable, OnlineTable, PolicyTable
from psychocounsel.training import checkpoints
from psychocounsel.training.adapters import Start
from psychocounsel.training.encoding import Encoder
from psychocounsel.training.packed import PackedPolicy, opened
from psychocounsel.training.packs import make_pack

TABLE = PolicyTable(lr=2e-3, epochs=4, batch=18, max_length=256, precision="fp32", evaluate_steps=4, token_budget=1500,
                    online=OnlineTable(speeches=4, samples=4, steps=3, max_new_tokens=12))  # fmt: skip


@pytest.fixture
def examples(speeches, responses, pairs):
    return examples_of(pairs, speeches, responses)


@pytest.fixture
def groups(tokenizer, speeches, responses, pairs):
    return groups_of(tokenizer, pairs["train"], speeches, responses)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch", [18, 1000], ids=["two prompts a step", "all at once"])
def test_the_first_margin_is_nothing(tmp_path, examples, model_folder, precision, batch):
    """Reference and policy are the same model in the same precision, so nothing is won before the first step."""
    table = TABLE.model_copy(update={"precision": precision, "batch": batch, "epochs": 0.3 if batch == 18 else 1})
    train_policy("offline", Start(str(model_folder)), examples, table, 0, tmp_path)
    first = rows(tmp_path)[0]
    assert first["margin"] == pytest.approx(0, abs=2e-6) and first["chosen_reward"] == pytest.approx(0, abs=2e-6)
    assert first["loss"] == pytest.approx(0.693147, abs=2e-6)


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_training_raises_the_margin_of_chosen_replies(tmp_path, examples, model_folder, loss):
    counts = train_policy(
        "offline", Start(str(model_folder)), examples, TABLE.model_copy(update={"loss": loss}), 0, tmp_path
    )
    assert counts["pairs"] == 54 and counts["steps"] == 12
    dev = [row for row in rows(tmp_path) if "dev_margin" in row]
    assert dev[-1]["dev_accuracy"] == 1.0 and dev[-1]["dev_margin"] > 0.1
    assert dev[-1]["dev_loss"] < dev[0]["dev_loss"]
    before, after = (AutoModelForCausalLM.from_pretrained(place) for place in (model_folder, tmp_path / "model"))
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)


def test_most_steps_bounds_a_policy_training(tmp_path, examples, model_folder):
    assert train_policy("offline", Start(str(model_folder)), examples, TABLE, 0, tmp_path, max_steps=2)["steps"] == 2


def test_no_train_pairs_is_said(tmp_path, model_folder):
    with pytest.raises(UserError, match="offline: there are no train pairs"):
        train_policy("offline", Start(str(model_folder)), ([], []), TABLE, 0, tmp_path)


def generate(model, tokenizer, speeches, *, samples, temperature, max_new_tokens, max_length, seed, rows=64):
    """Texts and finishes by speech, from a loaded policy."""
    prompts = read_prompts(Encoder(tokenizer, max_length), speeches, samples)
    found = Replies(tokenizer, model, rows).sample(prompts, Sampling(temperature, max_new_tokens, seed))
    return [[(reply.text, reply.finish) for reply in replies] for replies in found]


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
    messages, prompt = encoder.prompt(chat_messages(make_speech("I am tired. " * 99).turns))
    assert len(prompt) <= 128 and len(prompt) + len(encoder.reply(messages, prompt, GOOD_REPLIES[0] * 99)) == 256
    assert encoder.too_long == "cut"
    assert open_encoder(str(model_folder), TABLE.model_copy(update={"too_long": "drop"})).too_long == "drop"


def test_length_normalised_dpo_compares_means_over_reply_tokens(groups, model_folder):
    """The loss of a batch is DPO of log-probabilities divided by each reply's own number of tokens."""
    plain, model = load_causal(str(model_folder)).eval(), load_causal(str(model_folder))
    add_plain_reference(plain, groups)
    for group in groups:
        group.reference = [value - 0.7 * place for place, value in enumerate(group.reference)]  # not the model itself
    pack = make_pack(groups)
    table = TABLE.model_copy(update={"length_normalised": True, "beta": 3.0})
    with torch.no_grad():
        loss, _ = policy_task("offline", groups, [], table).compute(opened(PackedPolicy(model)).eval(), pack)
        logp = torch.cat([plain_logp(plain, group) for group in groups])
    lengths = torch.tensor([len(reply) for group in groups for reply in group.replies])
    ratio = (logp - pack.reference) / lengths
    expected = -torch.nn.functional.logsigmoid(3.0 * (ratio[pack.chosen] - ratio[pack.rejected])).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


CHANGES = {
    "gradient checkpointing": {"gradient_checkpointing": True},
    "adapters": {"lora": LoraTable(rank=4, alpha=8.0), "lr": 2e-2},
    "both": {"gradient_checkpointing": True, "lora": LoraTable(rank=4, alpha=8.0), "lr": 2e-2},
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_was_trained_is_what_plain_transformers_loads(tmp_path, monkeypatch, examples, groups, model_folder, kind):
    kept, merge = [], checkpoints.merged

    def spied(model, base):
        """What the model that was trained says, before its adapters are merged."""
        packed = PackedPolicy(model)
        packed.shared = True
        with torch.no_grad():
            kept.append(packed.eval()(make_pack(groups)))
        return merge(model, base)

    monkeypatch.setattr(checkpoints, "merged", spied)
    table = TABLE.model_copy(update=CHANGES[kind])
    counts = train_policy("offline", Start(str(model_folder)), examples, table, 0, tmp_path)
    assert counts["steps"] == 12 and counts["shared_prefix"]
    dev = [row for row in rows(tmp_path) if "dev_margin" in row]
    assert dev[-1]["dev_loss"] < dev[0]["dev_loss"] and dev[-1]["dev_accuracy"] == 1.0
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert type(exported).__name__ == "LlamaForCausalLM" and exported.config._attn_implementation == "sdpa"
    before = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    assert [name for name, _ in exported.named_parameters()] == [name for name, _ in before.named_parameters()]
    with torch.no_grad():
        found, start = (torch.cat([plain_logp(model, group) for group in groups]) for model in (exported, before))
    torch.testing.assert_close(found, kept[0], atol=1e-4, rtol=0)
    assert (found - start).abs().max() > 1  # it has moved
    if "lora" in CHANGES[kind]:
        assert torch.equal(exported.model.embed_tokens.weight, before.model.embed_tokens.weight)


def test_gradient_checkpointing_gives_the_same_policy(tmp_path, examples, model_folder):
    made = []
    for name, changes in (("plain", {}), ("made again", {"gradient_checkpointing": True})):
        table = TABLE.model_copy(update={"epochs": 1.0, **changes})
        train_policy("offline", Start(str(model_folder)), examples, table, 0, tmp_path / name)
        made.append(AutoModelForCausalLM.from_pretrained(tmp_path / name / "model").state_dict())
    for name, value in made[0].items():
        torch.testing.assert_close(made[1][name], value, atol=1e-4, rtol=0, msg=name)


def test_the_last_policy_is_the_start_of_the_next(tmp_path, examples, model_folder):
    """The exported folder is a start like any other, and its own reference."""
    train_policy("offline", Start(str(model_folder)), examples, TABLE, 0, tmp_path / "one", max_steps=2)
    train_policy("again", Start(str(tmp_path / "one" / "model")), examples, TABLE, 0, tmp_path / "two", max_steps=1)
    assert rows(tmp_path / "two")[0]["margin"] == pytest.approx(0, abs=2e-6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft reads what was renamed
def test_one_adapter_is_trained_on_and_stands_beside_what_is_merged(tmp_path, examples, groups, model_folder):
    """Rounds with adapters: the policy in parts is the merged one, its own reference, and learns on from there."""
    table = TABLE.model_copy(update={"lora": LoraTable(rank=4, alpha=8.0)})
    base, one, two = str(model_folder), tmp_path / "one", tmp_path / "two"
    train_policy("one", Start(base), examples, table, 0, one, max_steps=4)
    parts = Start(str(one / "model"), base, str(one / "adapter"))
    wholes = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), parts.adapter),
        AutoModelForCausalLM.from_pretrained(parts.model),
    ]
    with torch.no_grad():
        found = [torch.cat([plain_logp(model.eval(), group) for group in groups]) for model in wholes]
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=0)
    cache = tmp_path / "reference.sqlite"
    train_policy("base", Start(base), examples, table, 0, tmp_path / "other", max_steps=1, cache=cache)
    train_policy("two", parts, examples, table, 0, two, max_steps=2, cache=cache)  # not the base's reference
    assert rows(two)[0]["margin"] == pytest.approx(0, abs=2e-6)
    before, after = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, two))
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    config = json.loads((two / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base and config["r"] == 4


def test_a_reference_other_than_the_start(tmp_path, examples, model_folder):
    """The second round against the policy before the first: the margin of its first step is what the first learnt."""
    base, one = str(model_folder), tmp_path / "one"
    train_policy("one", Start(base), examples, TABLE, 0, one, max_steps=4)
    train_policy("two", Start(str(one / "model")), examples, TABLE, 0, tmp_path / "two", max_steps=1, reference=base)
    learnt = [row["margin"] for row in rows(one) if "margin" in row][-1]
    assert rows(tmp_path / "two")[0]["margin"] > 0.3 * learnt > 0
