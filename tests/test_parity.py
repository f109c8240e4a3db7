"""Shared-prefix packs against separate, unpadded sequences through the plain Hugging Face model."""

import copy

import pytest
import torch
from families import (
    EOS,
    FAMILIES,
    RANDOM,
    ROWS,
    all_pairs,
    drawn_groups,
    gradients,
    make_family,
    plain_logps,
    plain_scores,
    shaken,
    worst,
)
from tiny_training import CHATML, save_tokenizer, table
from torch.nn.functional import logsigmoid

from psychocounsel.models.weights import load_tokenizer
from psychocounsel.policy.offline import policy_task
from psychocounsel.recipe import LoraTable, PolicyTable, RewardTable
from psychocounsel.reward.train import reward_task
from psychocounsel.training import packed as packing
from psychocounsel.training.adapters import add_adapters
from psychocounsel.training.encoding import Encoder
from psychocounsel.training.examples import Example
from psychocounsel.training.packed import PackedPolicy, PackedScorer, opened
from psychocounsel.training.packs import make_pack
from psychocounsel.training.processes import prepare

BETA = 0.3
NEAR = 1e-4


def model_of(kind, name, lora=False, **changes):
    """A family's policy or scorer, with adapters that do something."""
    model = make_family(name, labels=int(kind == "scorer"), **changes)
    if lora:
        model = add_adapters(model, LoraTable(rank=2, alpha=4), 0)
        shaken(torch.nn.ParameterList([value for name, value in model.named_parameters() if "lora_" in name]), 5)
    return model


def compared(kind, model, groups, multiple=1, settings=None):
    """Relative differences of the values, the loss and all gradients of a model in packs from the same model plain."""
    plain = copy.deepcopy(model)
    packed = opened(PackedPolicy(model) if kind == "policy" else PackedScorer(model))
    called = prepare(packed, settings).model if settings else packed
    pack = make_pack(groups, multiple=multiple)
    chosen, rejected = all_pairs(groups)
    if kind == "policy":
        task = policy_task("dpo", groups, [], PolicyTable(beta=BETA))
        expected = plain_logps(plain, groups)
        ratio = expected - torch.tensor([value for group in groups for value in group.reference])
        loss = -logsigmoid(BETA * (ratio[chosen] - ratio[rejected])).sum()
    else:
        task = reward_task(groups, [], RewardTable())
        expected = plain_scores(plain, groups)
        loss = -logsigmoid(expected[chosen] - expected[rejected]).sum()
    found, _ = task.compute(called, pack)
    values = called(pack).detach()
    return packed, {
        "values": worst(values if kind == "policy" else values[:, 0], expected.detach()),
        "loss": worst(found.detach(), loss.detach()),
        "gradients": worst(gradients(model, found), gradients(plain, loss)),
    }


@pytest.mark.parametrize("kind", ["policy", "scorer"])
@pytest.mark.parametrize("name", FAMILIES)
def test_packs_give_what_separate_sequences_give(name, kind):
    packed, errors = compared(kind, model_of(kind, name), drawn_groups())
    assert packed.shared is (name not in ROWS)
    assert max(errors.values()) < NEAR, errors


@pytest.mark.parametrize("kind", ["policy", "scorer"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "bloom"])
def test_inert_tokens_at_the_end_of_a_pack_change_nothing(name, kind):
    groups = drawn_groups(1)
    assert len(make_pack(groups, multiple=128).ids) == 128
    _, errors = compared(kind, model_of(kind, name), groups, multiple=128)
    assert max(errors.values()) < NEAR, errors


@pytest.mark.parametrize("kind", ["policy", "scorer"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3", "phi", "gpt2", "bloom"])
def test_packs_with_adapters_give_what_separate_sequences_give(name, kind):
    model = model_of(kind, name, lora=True)
    trained = [key for key, value in model.named_parameters() if value.requires_grad]
    assert all("lora_" in key for key in trained) or kind == "scorer"
    packed, errors = compared(kind, model, drawn_groups())
    assert packed.shared is (name not in ROWS)
    assert max(errors.values()) < NEAR, errors


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
@pytest.mark.parametrize("kind", ["policy", "scorer"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "gpt2", "bloom"])
def test_gradient_checkpointing_makes_layers_again_and_changes_nothing(name, kind, lora):
    model, calls = model_of(kind, name, lora), []
    packed, errors = compared(kind, model, drawn_groups(), settings=table(gradient_checkpointing=True))
    assert packed.shared is (name not in ROWS)
    assert max(errors.values()) < NEAR, errors
    values = packed(make_pack(drawn_groups()))
    attentions = [
        part for key, part in packed.named_modules() if key.endswith((".self_attn", ".attn", ".self_attention"))
    ]
    for number, part in enumerate(attentions):
        part.register_forward_hook(lambda *_, number=number: calls.append(number))
    values.sum().backward()
    assert sorted(calls) == [0, 1]  # on the way back, each layer once


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", RANDOM)
def test_training_draws_nothing_at_random(name, checkpointing):
    settings = table(gradient_checkpointing=checkpointing)
    _, errors = compared("policy", model_of("policy", name, random=True), drawn_groups(), settings=settings)
    assert max(errors.values()) < NEAR, errors


@pytest.mark.parametrize("kind", ["policy", "scorer"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "phi", "gpt2", "gpt_oss"])
def test_bfloat16_is_as_near_to_float32_as_the_plain_model_in_bfloat16(name, kind):
    groups, model = drawn_groups(), model_of(kind, name)
    read = plain_logps if kind == "policy" else plain_scores
    with torch.no_grad():
        exact = read(model, groups)
        with torch.autocast("cpu", torch.bfloat16):
            plain = read(model, groups)
    packed = opened(PackedPolicy(model) if kind == "policy" else PackedScorer(model))
    with torch.autocast("cpu", torch.bfloat16):
        values = packed(make_pack(groups))
        found = values if kind == "policy" else values[:, 0]
        logsigmoid(found).sum().backward()
    assert found.dtype == torch.float32
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)
    assert worst(found.detach(), plain) < 0.05
    assert worst(found.detach(), exact) < 2 * worst(plain, exact) + 0.005


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_a_model_kept_in_bfloat16_reads_packs_as_it_reads_sequences(name):
    groups, model = drawn_groups(), model_of("policy", name).bfloat16()
    with torch.no_grad():
        expected = plain_logps(model, groups)
        packed = opened(PackedPolicy(model))
        assert packed.shared
        assert worst(packed(make_pack(groups)), expected) < 0.05


def test_a_dialogue_with_system_text_is_read_as_its_chat_template_writes_it(tmp_path):
    save_tokenizer(tmp_path, CHATML, {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}, ["<|im_start|>"])
    tokenizer = load_tokenizer(str(tmp_path))
    dialogue = [
        {"role": "system", "content": "You listen first and advise last."},
        {"role": "user", "content": "I cannot sleep before Monday."},
        {"role": "assistant", "content": "What is on your mind on Sunday night?"},
        {"role": "user", "content": "The meeting. And whether anybody would notice if I said nothing."},
    ]
    replies = ["It sounds lonely to wonder about that.", "What would you like to say there?", "Hm."]
    group = Encoder(tokenizer, 512).group(Example("one", dialogue, replies, [(0, 2), (1, 2)], [1.0, 1.0]))
    model = make_family("llama", vocab_size=len(tokenizer), max_position_embeddings=512)
    expected = []
    with torch.no_grad():
        for reply in replies:
            start = tokenizer.apply_chat_template(dialogue, add_generation_prompt=True, tokenize=False)
            whole = tokenizer.apply_chat_template([*dialogue, {"role": "assistant", "content": reply}], tokenize=False)
            start, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (start, whole.rstrip()))
            assert whole[: len(start)] == start and whole[-1] == tokenizer.eos_token_id
            chances = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            expected.append(sum(chances[place - 1, whole[place]] for place in range(len(start), len(whole))))
        found = opened(PackedPolicy(model))(make_pack([group]))
    assert worst(found, torch.stack(expected)) < NEAR


# --- log-probabilities in chunks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1 << 26], ids=["made again", "kept"])
@pytest.mark.parametrize("chunk", [4, 11, 1024])
@pytest.mark.parametrize("trained", ["both", "states", "weight", "neither"])
def test_chunked_log_probabilities_and_gradients_are_those_of_log_softmax(trained, chunk, keep, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", chunk)
    monkeypatch.setattr(packing, "KEEP", keep)
    draw = torch.Generator().manual_seed(0)
    states, weight, above = (torch.randn(*shape, generator=draw) for shape in ((11, 6), (23, 6), (11,)))
    targets = torch.randint(0, 23, (11,), generator=draw)
    states.requires_grad_(trained in ("both", "states"))
    weight.requires_grad_(trained in ("both", "weight"))
    leaves = [value for value in (states, weight) if value.requires_grad]
    found = packing._Logp.apply(states, weight, targets)
    expected = (states @ weight.t()).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if leaves:
        pairs = zip(
            torch.autograd.grad(found, leaves, above), torch.autograd.grad(expected, leaves, above), strict=True
        )
        assert max(worst(*pair) for pair in pairs) < 1e-5
    doubles = [value.detach().double().requires_grad_(value.requires_grad) for value in (states, weight)]
    if leaves:  # float32 inside: a wide step
        assert torch.autograd.gradcheck(packing._Logp.apply, (*doubles, targets), eps=1e-3, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
@pytest.mark.parametrize("keep", [0, 1 << 26], ids=["made again", "kept"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "phi"])  # own, tied, capped, and biased output layers
def test_small_chunks_change_nothing(name, keep, lora, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 5)
    monkeypatch.setattr(packing, "KEEP", keep)
    _, errors = compared("policy", model_of("policy", name, lora), drawn_groups())
    assert max(errors.values()) < NEAR, errors


def test_an_end_token_is_predicted_like_any_other():
    groups, model = drawn_groups(), make_family("llama")
    for group in groups:
        group.replies = [[*reply, EOS] for reply in group.replies]
    _, errors = compared("policy", model, groups)
    assert max(errors.values()) < NEAR, errors
