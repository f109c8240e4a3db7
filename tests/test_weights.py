"""A tokenizer that got a pad token of its own, beyond the model's embeddings: every use of the model still works."""

import asyncio

import pytest
import torch
from tiny_training import CHATML, save_tokenizer

from psychocounsel.evaluate.policies import Policy, policy_replies
from psychocounsel.models.chat import Request
from psychocounsel.models.local import LocalModel
from psychocounsel.models.weights import load_causal, load_policy, load_tokenizer
from psychocounsel.recipe import EvaluateTable
from psychocounsel.training.adapters import Start


@pytest.fixture(scope="module")
def padless(tmp_path_factory):
    """A model as many are on the hub: no pad token, and exactly as many embeddings as tokens."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("hub") / "padless"
    save_tokenizer(folder, CHATML, {"eos_token": "<|im_end|>"}, ["<|im_start|>"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token is None
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
                         bos_token_id=None, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def test_the_embeddings_grow_with_the_pad_token_and_the_old_ones_stay(padless):
    old, (tokenizer, model) = load_causal(padless).get_input_embeddings(), load_policy(padless)
    assert tokenizer.pad_token_id == old.num_embeddings == len(load_tokenizer(padless)) - 1
    new = model.get_input_embeddings()
    assert new.num_embeddings == model.config.vocab_size == len(tokenizer)
    assert torch.equal(new.weight[: old.num_embeddings], old.weight)


def test_every_loading_gives_the_same_model(padless):
    first = load_policy(padless)[1].state_dict()
    torch.manual_seed(99)  # another random state, as in a process that has done other things before
    second = load_policy(padless)[1].state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_model_with_embeddings_enough_is_left_alone(model_folder):
    whole, (_, model) = load_causal(str(model_folder)).state_dict(), load_policy(str(model_folder))
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())


def test_policies_answer_with_a_pad_token_beyond_the_embeddings(padless, speeches, tmp_path):
    table = EvaluateTable(max_new_tokens=4, samples=2, temperature=1.0)
    found = policy_replies([Policy("base", Start(padless))], speeches, table, 512, 0, tmp_path)
    assert [set(sample) for sample in found["base"]] == [{speech.id for speech in speeches}] * 2


def test_a_local_model_answers_too(padless):
    model = LocalModel(padless)
    request = Request(messages=({"role": "user", "content": "I am tired."},), sampling={"max_tokens": 3})
    answer = model.read(asyncio.run(model.send(request)))
    assert answer.tokens_out <= 3 and answer.finish in ("stop", "length")
