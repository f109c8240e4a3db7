"""Adapters: they start as nothing, are all that is trained, and leave a plain model behind."""

import copy
import sys

import pytest
import torch
from tiny_training import PAD, make_model

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_causal, load_scorer
from psychocounsel.recipe import LoraTable
from psychocounsel.training.adapters import adapter_state, add_adapters, load_adapter_state, merged, quantisation

IDS = torch.randint(6, 60, (3, 12), generator=torch.Generator().manual_seed(5))
FOUR = LoraTable(rank=4, alpha=8.0)


def make_scorer(folder):
    make_model().save_pretrained(folder)
    return load_scorer(str(folder), PAD, 64)


def make_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2)
    return GPT2LMHeadModel(config)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.float()


def learn(model, steps=3):
    """A few steps that move every trainable parameter."""
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=3e-2)
    for _ in range(steps):
        model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def trained(model):
    return {name for name, value in model.named_parameters() if value.requires_grad}


def test_rank_zero_leaves_the_model_as_it_is():
    model = make_model()
    assert add_adapters(model, LoraTable(), 0) is model and merged(model) is model
    assert all(value.requires_grad for value in model.parameters())


def test_adapters_start_as_nothing_and_are_all_that_learns():
    model = make_model()
    before, frozen = logits(model), copy.deepcopy(model.state_dict())
    adapted = add_adapters(model, FOUR, 0)
    torch.testing.assert_close(logits(adapted), before, rtol=0, atol=0)
    assert len(trained(adapted)) == 2 * 7 and all("lora_" in name for name in trained(adapted))  # A and B of 7 layers
    assert not any("lm_head" in name or "embed" in name for name in trained(adapted))
    learn(adapted)
    now = {name.replace(".base_layer", "").removeprefix("base_model.model."): value
           for name, value in adapted.state_dict().items() if "lora_" not in name}  # fmt: skip
    assert now.keys() == frozen.keys() and all(torch.equal(now[name], frozen[name]) for name in frozen)


@pytest.mark.parametrize("make", [make_model, make_gpt2])
def test_a_merged_model_answers_alike_and_is_a_plain_folder(tmp_path, make):
    model = make()
    kind, config, names = type(model), model.config.to_dict(), set(model.state_dict())
    adapted = learn(add_adapters(model, FOUR, 0))
    after = logits(adapted)
    plain = merged(adapted)
    assert (after - logits(make())).abs().max() > 1e-2
    torch.testing.assert_close(logits(plain), after, rtol=0, atol=1e-5)
    assert type(plain) is kind and plain.config.to_dict() == config and set(plain.state_dict()) == names
    assert all(value.requires_grad for value in plain.parameters())
    plain.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    torch.testing.assert_close(logits(load_causal(str(tmp_path))), after, rtol=0, atol=1e-5)


def test_a_scorer_trains_its_head_whole_and_keeps_it(tmp_path):
    model = make_scorer(tmp_path / "base")
    head = model.score.weight.detach().clone()
    adapted = add_adapters(model, FOUR, 0)
    assert {name for name in trained(adapted) if "lora_" not in name} == {"base_model.model.score.weight"}
    after = logits(learn(adapted))
    plain = merged(adapted)
    assert (plain.score.weight - head).abs().min() > 0
    plain.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(load_scorer(str(tmp_path / "merged"), PAD, 64)), after, rtol=0, atol=1e-5)


def test_a_head_added_above_the_backbone_is_trained_and_kept(tmp_path):
    model = make_scorer(tmp_path)
    model.principles = torch.nn.ModuleDict({"empathy": torch.nn.Linear(16, 1)})
    adapted = add_adapters(model, FOUR, 0)
    above = {name for name in trained(adapted) if "lora_" not in name}
    assert above == {f"base_model.model.{name}" for name in
                     ("score.weight", "principles.empathy.weight", "principles.empathy.bias")}  # fmt: skip
    assert isinstance(merged(adapted).principles["empathy"], torch.nn.Linear)


def test_embeddings_grown_for_a_pad_token_are_saved(tmp_path):
    model = make_model()
    model.resize_token_embeddings(65)
    row = model.get_input_embeddings().weight[64].detach().clone()
    merged(learn(add_adapters(model, FOUR, 0))).save_pretrained(tmp_path)
    again = load_causal(str(tmp_path))
    assert again.config.vocab_size == 65 == again.lm_head.out_features
    assert torch.equal(again.get_input_embeddings().weight[64], row)


def test_the_seed_alone_decides_how_adapters_start():
    torch.manual_seed(1)
    first = adapter_state(add_adapters(make_model(), FOUR, 3))
    torch.manual_seed(2)
    model, before = make_model(), torch.get_rng_state()
    second = adapter_state(add_adapters(model, FOUR, 3))
    assert torch.equal(torch.get_rng_state(), before)
    other = adapter_state(add_adapters(make_model(), FOUR, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "lora_A" in name)


def test_adapters_go_where_the_recipe_says():
    table = LoraTable(rank=2, targets=["q_proj", "layers.0.mlp.up_proj"])
    names = trained(add_adapters(make_model(), table, 0))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == {"q_proj", "up_proj"}


@pytest.mark.parametrize(
    ("target", "hint"),
    [("q_prj", ", did you mean 'q_proj'?"), ("embed_tokens", ""), ("lm_head", ""), ("proj", "")],
)
def test_a_target_that_is_not_there_names_those_that_are(target, hint):
    with pytest.raises(UserError) as caught:
        add_adapters(make_model(), LoraTable(rank=2, targets=["k_proj", target]), 0)
    text = str(caught.value)
    assert f"no linear layer '{target}' under the output layer{hint}" in text
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; leave lora.targets out" in text


@pytest.mark.parametrize("make", [make_model, make_gpt2])
def test_a_rank_above_what_a_layer_holds_is_refused(make):
    with pytest.raises(UserError, match=r"lora.rank = 17: layer '.*' has rank 16 at most; set lora.rank to 16 or less"):
        add_adapters(make(), LoraTable(rank=17), 0)
    add_adapters(make(), LoraTable(rank=16), 0)


def test_adapter_state_restores_adapters_and_nothing_else_fits():
    adapted = learn(add_adapters(make_model(), FOUR, 0))
    state = {name: value.clone() for name, value in adapter_state(adapted).items()}
    fresh = add_adapters(make_model(), FOUR, 9)
    load_adapter_state(fresh, state)
    torch.testing.assert_close(logits(fresh), logits(adapted), rtol=0, atol=0)
    with pytest.raises(KeyError, match="adapters do not match"):
        load_adapter_state(add_adapters(make_model(), LoraTable(rank=4, targets=["q_proj"]), 0), state)


def test_adapters_and_head_merge_into_a_base_loaded_anew(tmp_path):
    adapted = learn(add_adapters(make_scorer(tmp_path), FOUR, 0))
    plain = merged(adapted, base=load_scorer(str(tmp_path), PAD, 64, seed=8))
    torch.testing.assert_close(logits(plain), logits(adapted), rtol=0, atol=1e-5)
    assert not any("lora_" in name for name in plain.state_dict())


def test_weights_in_4_bits_need_adapters_and_bitsandbytes(monkeypatch):
    assert quantisation(FOUR) is None
    with pytest.raises(UserError, match=r"weights in 4 bits cannot be trained; set lora.rank"):
        quantisation(LoraTable(quantised=True))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"needs bitsandbytes .*pip install 'psychocounsel\[quantised\]'"):
        quantisation(LoraTable(rank=4, quantised=True))


@pytest.mark.parametrize("kind", ["policy", "scorer"])
def test_a_model_in_4_bits_learns_and_merges_in_full_precision(tmp_path, kind):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (the 'quantised' extra)")
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    make_model().save_pretrained(tmp_path)
    auto, more = (
        (AutoModelForCausalLM, {})
        if kind == "policy"
        else (AutoModelForSequenceClassification, {"num_labels": 1, "pad_token_id": PAD})
    )
    table = LoraTable(rank=4, alpha=8.0, quantised=True)
    torch.manual_seed(0)
    model = auto.from_pretrained(tmp_path, quantization_config=quantisation(table), device_map={"": "cpu"}, **more)
    small = add_adapters(model, table, 0)
    assert small.base_model.model.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    assert {value.dtype for value in adapter_state(small).values()} == {torch.float32}
    start = logits(small)  # as a look at the dev split, without gradients, before more training
    small(input_ids=IDS).logits.float().square().mean().backward()
    assert all(value.grad.abs().max() > 0 for name, value in small.named_parameters() if "lora_B" in name)
    small.zero_grad()
    learn(small)
    moved = logits(small) - start
    with pytest.raises(ValueError, match="give `base`"):
        merged(small)
    base = load_causal(str(tmp_path)) if kind == "policy" else load_scorer(str(tmp_path), PAD, 64)
    plain = merged(small, base=base)
    assert {value.dtype for value in plain.parameters()} == {torch.float32}
    assert not hasattr(plain.config, "quantization_config")
    # quantising moved the outputs a little, training moved them much further
    assert (logits(plain) - logits(small)).abs().mean() < moved.abs().mean() / 3
