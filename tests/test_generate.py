"""Sampling in this process: a reply depends on its own row, and equals plain generation, for every kind of model."""

import json
from itertools import chain

import pytest
import torch
import transformers
from conftest import CLIENT_LINES, make_speech
from families import EOS, FAMILIES, PAD, VOCABULARY, make_family
from tiny_training import CHATML, save_tokenizer

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_policy, load_tokenizer
from psychocounsel.policy import growing
from psychocounsel.policy.decoding import Decoder, Row, choose, draws
from psychocounsel.policy.generate import Replies, TransformersEngine, reply_ends
from psychocounsel.policy.sampling import Engine, Prompt, Sampling, open_engine, read_prompts, read_sample
from psychocounsel.recipe import EngineTable
from psychocounsel.training.adapters import Start
from psychocounsel.training.encoding import Encoder

# the cache of these is no DynamicCache of attention layers, or they prepare their inputs in a way of their own
OTHERS = {
    "mamba": lambda: transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4,
                                              pad_token_id=PAD, eos_token_id=EOS),
    "qwen3_next": lambda: transformers.Qwen3NextConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, layer_types=["linear_attention", "full_attention"], num_experts=2,
        num_experts_per_tok=1, moe_intermediate_size=16, shared_expert_intermediate_size=16, linear_num_key_heads=2,
        linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8, pad_token_id=PAD, eos_token_id=EOS),
}  # fmt: skip
BY_GENERATE = {"phi3", "phimoe", *OTHERS}
SAMPLING = Sampling(temperature=1.0, max_new_tokens=24, seed=5)


def family(name):
    if name not in OTHERS:
        return make_family(name)
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(OTHERS[name]()).eval()


def some_rows(most=16):
    """Prompts of several lengths with one to three replies each, of several limits."""
    draw = torch.Generator().manual_seed(1)
    prompts = [tuple(torch.randint(3, VOCABULARY, (length,), generator=draw).tolist()) for length in (11, 1, 9)]
    return [Row(prompts[i], 100 * i + k, most - k % 3) for i, count in enumerate((3, 1, 2)) for k in range(count)]


@pytest.mark.parametrize(
    ("name", "temperature"), [*((name, 1.0) for name in (*FAMILIES, *OTHERS)), ("llama", 0.0), ("mamba", 0.0)]
)
def test_replies_are_those_of_plain_generation_in_one_row_each_whatever_the_family(name, temperature):
    model, ends = family(name), (EOS, 7, 8, 9, 10)
    decoder = Decoder(model, PAD, ends)
    rows = some_rows()
    found = decoder.decode(rows, temperature)
    assert decoder.shares == (name not in BY_GENERATE) or name == "bloom"  # by generate in older transformers
    plain = Decoder(model, PAD, ends)
    plain.shares = False
    assert [plain.decode([row], temperature)[0] for row in rows] == found
    ended = [ids[-1] in ends for ids in found]
    assert all(len(ids) == row.most for ids, row, end in zip(found, rows, ended, strict=True) if not end)
    assert not any(token in ends for ids in found for token in ids[:-1])
    if temperature:
        assert any(ended) and len({len(ids) for ids in found}) > 2  # rows left the batch at different steps


def test_a_reply_is_the_same_in_every_company_and_order():
    model = make_family("llama")
    rows = some_rows()
    alone = [Decoder(model, PAD, (EOS,)).decode([row], 1.0)[0] for row in rows]
    torch.manual_seed(7)
    assert Decoder(model, PAD, (EOS,)).decode(rows[::-1], 1.0)[::-1] == alone
    assert len({tuple(ids) for ids in alone}) == len(rows)


def test_a_cache_grows_and_loses_rows_as_the_plain_one_does(monkeypatch):
    monkeypatch.setattr(growing, "LEAST_ROOM", 1)  # it has to grow more than once
    from transformers.cache_utils import DynamicCache

    draw = torch.Generator().manual_seed(0)
    start = [torch.randn(2, 2, 3, 4, generator=draw) for _ in range(2)]
    ours, plain = DynamicCache(), DynamicCache()
    for cache in (ours, plain):
        cache.update(*start, 0)
    places = torch.tensor([0, 0, 1, 1, 1])
    assert growing.grow(ours, places, 1)
    plain.batch_select_indices(places)
    for keep in ([0, 1, 2, 3, 4], [0, 2, 4], [1, 2], [1], [0]):
        order = growing.keep_rows(ours, keep)
        plain.batch_select_indices(torch.tensor(keep)[[keep.index(old) for old in order]])
        new = [torch.randn(len(keep), 2, 2, 4, generator=draw) for _ in range(2)]
        for mine, expected in zip(ours.update(*new, 0), plain.update(*new, 0), strict=True):
            assert torch.equal(mine, expected)
        assert ours.get_seq_length() == plain.get_seq_length()


def test_numbers_are_a_stream_of_the_seed_alone_and_tokens_follow_the_softmax():
    assert torch.equal(draws([3, 4], 5), torch.cat([draws([3], 9)[:, :5], draws([4], 5)]))
    assert draws([1 << 62, (1 << 63) - 1], 2).shape == (2, 2)
    assert draws([0], 3)[0].tolist() == pytest.approx([0.01153, 0.24150, 0.11136], abs=1e-4)  # on every machine
    logits = torch.tensor([[0.0, 2.0, -torch.inf, 1.0, -3.0]])
    numbers = draws([11], 40_000)[0]
    tokens = choose(logits.expand(len(numbers), -1), numbers, 0.7)
    shares = torch.bincount(tokens, minlength=5) / len(numbers)
    torch.testing.assert_close(shares, (logits[0] / 0.7).softmax(-1), atol=0.01, rtol=0)
    edge = choose(torch.tensor([[1.0, -torch.inf]] * 3), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), 1.0)
    assert edge.tolist() == [0, 0, 0]  # what is impossible is never drawn, not even at the rim
    assert choose(torch.tensor([[0.0, torch.nan], [1.0, 2.0]]), torch.zeros(2), 0.0).tolist() == [-1, 1]


@pytest.mark.parametrize("shares", [True, False])
def test_outputs_that_are_not_finite_are_an_error(shares):
    model = make_family("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    decoder = Decoder(model, PAD, (EOS,))
    decoder.shares = shares
    with pytest.raises(UserError, match="outputs are not finite numbers"):
        decoder.decode(some_rows(), 1.0)


@pytest.fixture
def prompts(talker, speeches):
    return read_prompts(Encoder(load_tokenizer(str(talker)), 256), speeches, 4)


HOSTILE = {"do_sample": True, "temperature": 0.01, "top_p": 0.1, "top_k": 2, "repetition_penalty": 9.0, "max_length": 3,
           "min_new_tokens": 20, "no_repeat_ngram_size": 1, "suppress_tokens": list(range(50)), "num_beams": 3,
           "max_new_tokens": 2, "min_p": 0.5, "typical_p": 0.3, "use_cache": False, "bad_words_ids": [[9]],
           "forced_eos_token_id": 60, "length_penalty": 4.0, "early_stopping": True}  # fmt: skip


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_generation_settings_of_a_model_change_nothing_but_what_ends_a_reply(talker, prompts, shares, temperature):
    sampling = Sampling(temperature, 24, 5)
    tokenizer, model = load_policy(str(talker))
    expected = Replies(tokenizer, model, 64).sample(prompts, sampling)
    model.generation_config = transformers.GenerationConfig(**HOSTILE)
    hostile = Replies(tokenizer, model, 64)
    hostile.decoder.shares = shares
    assert hostile.sample(prompts, sampling) == expected
    assert model.generation_config.top_k == 2  # as it was


def test_the_engine_reads_a_hostile_file_of_generation_settings_and_stops_at_its_end_tokens(talker, tmp_path, prompts):
    folder = tmp_path / "model"
    tokenizer, model = load_policy(str(talker))
    model.generation_config = transformers.GenerationConfig()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    plain = Replies(tokenizer, model, 64).sample(prompts, SAMPLING)
    stops = next(sample.ids[3] for found in plain for sample in found if len(sample.ids) > 5)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(HOSTILE | {"eos_token_id": [tokenizer.eos_token_id, stops]}), encoding="utf-8")
    found = TransformersEngine(Start(str(folder)), EngineTable()).sample(prompts, SAMPLING)
    for ours, theirs in zip(chain(*found), chain(*plain), strict=True):
        if stops in theirs.ids:
            assert ours.ids == theirs.ids[: theirs.ids.index(stops) + 1] and ours.finish == "stop"
        else:
            assert ours == theirs
    assert found != plain


def test_an_engine_loads_at_its_first_call_and_gives_every_sample_asked_for(talker, prompts):
    engine: Engine = open_engine(Start(str(talker)), EngineTable(rows=6))
    assert isinstance(engine, TransformersEngine) and (engine.name, engine.shared) == ("transformers", True)
    assert (engine.prompts_at_once(3), engine.prompts_at_once(8)) == (2, 1)
    assert engine.sample([], SAMPLING) == [] and engine._replies is None
    found = engine.sample(prompts, SAMPLING)
    assert [[sample.number for sample in samples] for samples in found] == [[0, 1, 2, 3]] * len(prompts)
    some = [Prompt(prompt.id, prompt.messages, prompt.ids, (3, 1)) for prompt in prompts[5:1:-1]]
    again = engine.sample(some, SAMPLING)  # what a retry asks for, in another order and other batches
    assert again == [[samples[3], samples[1]] for samples in found[5:1:-1]]
    assert engine.sample(prompts[:2], Sampling(1.0, 24, 6)) != found[:2]
    tokenizer = load_tokenizer(str(talker))
    for sample in chain(*found):
        assert sample.text == tokenizer.decode(sample.ids, skip_special_tokens=True).strip()
        assert (sample.finish == "stop") == (sample.ids[-1] == tokenizer.eos_token_id)
        assert len(sample.ids) == 24 or sample.finish == "stop"
    engine.close()
    assert engine._replies is None


def test_a_policy_that_only_ends_gives_empty_replies(talker, prompts):
    tokenizer, model = load_policy(str(talker))
    ends = tokenizer.eos_token_id
    model.lm_head.register_forward_hook(lambda *given: torch.nn.functional.one_hot(
        torch.tensor(ends), given[2].shape[-1]).expand_as(given[2]) * 100.0)  # fmt: skip
    found = Replies(tokenizer, model, 64).sample(prompts, SAMPLING)
    assert {(sample.text, sample.finish, sample.ids) for samples in found for sample in samples} == {
        ("", "stop", (ends,))
    }


def test_prompt_and_reply_stay_within_the_models_positions(talker):
    """The model has 256 positions; a prompt may have any length up to there."""
    tokenizer, model = load_policy(str(talker))
    never = 0  # no reply ends
    model.lm_head.register_forward_hook(
        lambda *given: given[2].index_fill(-1, torch.tensor([tokenizer.eos_token_id]), -1e9)
    )
    encoder = Encoder(tokenizer, 2 * 256)
    long = make_speech(" ".join(CLIENT_LINES) * 3)
    prompts = read_prompts(encoder, [long, make_speech("I am tired.")], 2)
    prompts[0] = Prompt("cut", prompts[0].messages, prompts[0].ids[-250:], (0, 1))
    found = Replies(tokenizer, model, 64).sample(prompts, SAMPLING)
    assert [[len(sample.ids) for sample in samples] for samples in found] == [[6, 6], [24, 24]]
    assert {sample.finish for samples in found for sample in samples} == {"length"}
    full = Prompt("full", prompts[0].messages, [never] * 256, (0,))
    with pytest.raises(UserError, match="a prompt of 256 tokens fills the model's 256 positions; lower max_length"):
        Replies(tokenizer, model, 64).sample([full], SAMPLING)


def test_a_special_token_inside_a_reply_leaves_it_without_ids(tmp_path):
    names = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    tokenizer = load_tokenizer(str(save_tokenizer(tmp_path, CHATML, names, ["<|im_start|>", "<|im_end|>"])))
    ends = Encoder(tokenizer, 64).ends
    end, other = (tokenizer.convert_tokens_to_ids(text) for text in ("<|im_end|>", "<|im_start|>"))
    assert ends == (end, tokenizer.eos_token_id)
    said = tokenizer.encode(" Since when?")
    sample = read_sample(tokenizer, 2, [*said, end, 5, 6], ends)
    assert (sample.text, sample.finish, sample.ids) == ("Since when?", "stop", (*said, end))
    sample = read_sample(tokenizer, 2, [*said, tokenizer.eos_token_id], ends)
    assert (sample.finish, sample.ids[-1]) == ("stop", tokenizer.eos_token_id)
    sample = read_sample(tokenizer, 2, [*said[:1], other, *said[1:], end], ends)
    assert (sample.text, sample.finish, sample.ids) == ("Since when?", "stop", ())
    sample = read_sample(tokenizer, 2, said, ends)
    assert (sample.finish, sample.ids) == ("length", tuple(said))


def test_what_ends_a_reply_is_what_template_tokenizer_and_model_say(talker):
    tokenizer, model = load_policy(str(talker))
    for named, more in ((None, ()), (9, (9,)), ([tokenizer.eos_token_id, 9, 8], (9, 8))):
        model.generation_config.eos_token_id = named
        assert reply_ends(tokenizer, model) == (tokenizer.eos_token_id, *more)


def test_too_little_memory_is_advice(talker, prompts, monkeypatch):
    tokenizer, model = load_policy(str(talker))
    policy = Replies(tokenizer, model, 3)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.lm_head.register_forward_hook(full)
    with pytest.raises(
        UserError, match=r"sampling 3 replies at once: memory ran out; lower policy\.online\.engine\.ro"
    ):
        policy.sample(prompts, SAMPLING)


def test_a_model_that_is_not_there_is_said(tmp_path, prompts):
    with pytest.raises(UserError, match="no usable model there"):
        TransformersEngine(Start(str(tmp_path / "absent")), EngineTable()).sample(prompts, SAMPLING)
