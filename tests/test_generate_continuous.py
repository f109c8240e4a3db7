"""Continuous batching: greedy replies equal those of the other engine, sampled ones follow the policy."""

import pytest
import torch
import transformers
from families import make_family
from tiny_training import CHATML, save_tokenizer

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_policy, load_tokenizer
from psychocounsel.policy.continuous import ContinuousEngine
from psychocounsel.policy.generate import TransformersEngine
from psychocounsel.policy.sampling import Prompt, Sampling, open_engine, read_prompts
from psychocounsel.recipe import EngineTable
from psychocounsel.training.adapters import Start
from psychocounsel.training.encoding import Encoder

TABLE = EngineTable(name="continuous", num_blocks=32, max_batch_tokens=512)
GREEDY = Sampling(0.0, 30, 5)


@pytest.fixture
def prompts(talker, speeches):
    return read_prompts(Encoder(load_tokenizer(str(talker)), 256), speeches, 2)


def test_greedy_replies_are_those_of_the_other_engine(talker, prompts):
    engine = open_engine(Start(str(talker)), TABLE)
    assert isinstance(engine, ContinuousEngine) and (engine.name, engine.shared) == ("continuous", True)
    assert engine.prompts_at_once(8) == 512 and engine.sample([], GREEDY) == []
    expected = TransformersEngine(Start(str(talker)), EngineTable()).sample(prompts, GREEDY)
    assert engine.sample(prompts, GREEDY) == expected
    assert {sample.finish for found in expected for sample in found} >= {"stop"}
    engine.close()
    assert engine.sample(prompts[:1], Sampling(0.0, 2, 5))[0][1].finish == "length"  # and it loads again


def test_sampled_replies_follow_the_softmax_whatever_the_models_own_settings_and_leave_torchs_numbers_alone(
    talker, prompts
):
    tokenizer, model = load_policy(str(talker))
    prompt = Prompt("one", prompts[0].messages, prompts[0].ids, tuple(range(400)))
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=0.01, top_k=1, top_p=0.1, repetition_penalty=9.0, max_length=3, max_new_tokens=2
    )
    engine = ContinuousEngine(Start(str(talker)), TABLE)
    engine._policy = tokenizer, model
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    [found] = engine.sample([prompt], Sampling(1.5, 1, 5))
    assert torch.equal(torch.rand(4), expected)
    assert [sample.number for sample in found] == list(range(400))
    drawn = [sample.ids[0] for sample in found if sample.ids]
    with torch.inference_mode():
        chances = (model(torch.tensor([prompt.ids])).logits[0, -1] / 1.5).softmax(-1)
    shares = torch.bincount(torch.tensor(drawn), minlength=len(chances)) / len(found)
    assert (shares - chances).abs().sum() < 0.5 and len(set(drawn)) > 20


def test_ends_come_from_the_template_and_replies_stay_within_the_positions(tmp_path):
    names = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    save_tokenizer(tmp_path, CHATML, names, ["<|im_start|>", "<|im_end|>"])
    tokenizer = load_tokenizer(str(tmp_path))
    model = make_family("llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(tmp_path)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = Encoder(tokenizer, 256).prompt([{"role": "user", "content": "I am tired."}])[1]
    prompts = [Prompt(str(i), [], [*ids[:-2], i, *ids[-2:]], (0,)) for i in range(40, 100)]
    prompts.append(Prompt("long", [], (ids * 9)[:120], (0,)))
    engine = ContinuousEngine(Start(str(tmp_path)), TABLE)
    found = [sample for [sample] in engine.sample(prompts, Sampling(1.0, 60, 1))]
    whole = [sample for sample in found if sample.ids]
    assert {sample.ids[-1] for sample in whole if sample.finish == "stop"} >= {end}
    assert not any(token in (end, tokenizer.eos_token_id) for sample in whole for token in sample.ids[:-1])
    assert len(found[-1].ids or range(8)) <= 8  # 128 positions
    with pytest.raises(UserError, match="fills the model's 128 positions"):
        engine.sample([Prompt("full", [], [5] * 128, (0,))], GREEDY)


def test_what_it_cannot_run_is_said(talker, prompts, tmp_path):
    """Its paged memory takes as many heads for keys as the config says; this GPT-2 has another number."""
    tokenizer = load_tokenizer(str(talker))
    tokenizer.save_pretrained(tmp_path)
    make_family("gpt2", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    engine = ContinuousEngine(Start(str(tmp_path)), TABLE)
    with pytest.raises(UserError, match=r"engine 'continuous': all 2 replies failed \(.*choose .* 'transformers'"):
        engine.sample([Prompt("a", [], prompts[0].ids[:20], (0, 1))], GREEDY)
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"engine 'continuous'.* 'transformers' for this model"):
        ContinuousEngine(Start(str(tmp_path)), TABLE).sample(prompts[:1], GREEDY)
