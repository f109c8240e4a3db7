"""The tokens a policy is asked with and answers with are those it is trained on, template by template."""

import pytest
import torch
from conftest import CLIENT_LINES
from families import make_family
from tiny_training import CHATML, save_tokenizer
from transformers import GenerationConfig

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_tokenizer
from psychocounsel.policy.generate import Replies
from psychocounsel.policy.sampling import Prompt, Sampling
from psychocounsel.training.checkpoints import save_model
from psychocounsel.training.encoding import Encoder
from psychocounsel.training.examples import Example

PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
    "message['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{{ message['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + ' ' + eos_token }}"
    "{% else %}{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
NO_MARK = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
HEADERS = ["<|start_header_id|>", "<|end_header_id|>"]
IM = ["<|im_start|>", "<|im_end|>"]
# template, named tokens, others, what ends a reply
STYLES = {
    "llama-3": (LLAMA3, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, HEADERS, ["<|eot_id|>"]),
    "llama-3 with the end token of its base": (
        LLAMA3, {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}, [*HEADERS, "<|eot_id|>"],
        ["<|eot_id|>", "<|end_of_text|>"],
    ),
    "qwen": (CHATML, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, IM, ["<|im_end|>"]),
    "chatml": (PLAIN, {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}, IM, ["<|im_end|>"]),
    "chatml with another end token": (
        PLAIN, {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}, IM, ["<|im_end|>", "<|endoftext|>"],
    ),
    "gemma": (
        GEMMA, {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        ["<start_of_turn>", "<end_of_turn>"], ["<end_of_turn>", "<eos>"],
    ),
    "llama-2": (LLAMA2, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, [], ["</s>"]),
    "no mark behind a reply": (NO_MARK, {"eos_token": "</s>", "pad_token": "<pad>"}, [], ["</s>"]),
}  # fmt: skip
ONE = [{"role": "user", "content": CLIENT_LINES[0]}]
SEVERAL = [
    {"role": "system", "content": "You listen first."},
    {"role": "user", "content": CLIENT_LINES[1]},
    {"role": "assistant", "content": "Since spring?"},
    {"role": "user", "content": "Since March. 🌙"},
]
NO_SYSTEM = SEVERAL[1:]
style = pytest.mark.parametrize("name", STYLES)
dialogue = pytest.mark.parametrize("messages", [ONE, SEVERAL, NO_SYSTEM], ids=["one message", "system", "turns"])


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """The tokenizers of all styles; some add a BOS of their own to whatever is encoded, as those of the hub do."""
    from tokenizers.processors import TemplateProcessing

    found = {}
    for number, (name, (template, named, extra, _)) in enumerate(STYLES.items()):
        words = load_tokenizer(str(save_tokenizer(tmp_path_factory.mktemp(f"style-{number}"), template, named, extra)))
        if bos := named.get("bos_token"):
            words._tokenizer.post_processor = TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, words.bos_token_id)]
            )
            assert words.encode("Hello")[0] == words.bos_token_id
        found[name] = words
    return found


@style
def test_what_ends_a_reply_is_the_token_that_closes_a_turn_then_the_end_token(tokenizers, name):
    words = tokenizers[name]
    assert list(Encoder(words, 256).ends) == words.convert_tokens_to_ids(STYLES[name][3])


@style
@dialogue
def test_the_prompt_that_is_sampled_from_is_the_prompt_that_is_trained_on_with_one_bos(tokenizers, name, messages):
    words, text = tokenizers[name], "Half a year, then. What keeps you awake?"
    encoder = Encoder(words, 512)
    kept, ids = encoder.prompt(messages)
    group = encoder.group(Example("one", messages, [text]))
    assert kept == messages and group.prompt == ids and not encoder.counts
    shown = words.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert words.decode(ids) == shown
    whole = words.apply_chat_template([*messages, {"role": "assistant", "content": text}], tokenize=False)
    trained = words.decode(group.prompt + group.replies[0])
    end = STYLES[name][3][0]
    assert whole.startswith(trained) if name != "no mark behind a reply" else trained == whole + end
    assert trained.endswith(end) and group.replies[0].count(encoder.ends[0]) == 1
    if words.bos_token and name != "llama-2":  # which begins each exchange with one
        assert (group.prompt + group.replies[0]).count(words.bos_token_id) == 1 and ids[0] == words.bos_token_id
    if name == "llama-2":
        assert ids.count(words.bos_token_id) == sum(m["role"] != "assistant" for m in messages)


@style
def test_the_tokens_that_were_sampled_are_the_tokens_that_are_trained_on(tokenizers, name):
    words = tokenizers[name]
    encoder = Encoder(words, 512)
    model = make_family("llama", vocab_size=len(words), max_position_embeddings=512, eos_token_id=words.eos_token_id)
    kept, ids = encoder.prompt(SEVERAL)
    seen = []
    model.register_forward_pre_hook(lambda _, args, given: seen.append(given["input_ids"]), with_kwargs=True)
    prompt = Prompt("one", kept, ids, tuple(range(12)))
    [found] = Replies(words, model, 64).sample([prompt], Sampling(1.0, 40, 3))
    assert seen[0].tolist() == [ids]  # what the model reads, once for all replies
    texts, tokens = [sample.text or "-" for sample in found], [sample.ids for sample in found]
    group = encoder.group(Example("one", SEVERAL, texts, tokens=tokens))
    assert group.prompt == ids and len(group.replies) == 12
    whole = [place for place, sample in enumerate(found) if sample.ids]
    assert len(whole) > 3
    for place, sample in enumerate(found):
        if place in whole:
            assert tuple(group.replies[place]) == sample.ids
            assert sample.finish == "length" or sample.ids[-1] in encoder.ends
        else:  # a special token stood in it: trained on is the text that was judged
            assert group.replies[place] == encoder.reply(kept, ids, texts[place])
    assert any(group.replies[place] != encoder.reply(kept, ids, texts[place]) for place in whole), "texts would do"


@style
def test_a_reply_that_was_sampled_as_its_text_is_encoded_is_the_same_either_way(tokenizers, name):
    encoder = Encoder(tokenizers[name], 512)
    kept, ids = encoder.prompt(NO_SYSTEM)
    reply = encoder.reply(kept, ids, "Since March.")
    given, read = (
        encoder.group(Example("one", NO_SYSTEM, ["Since March.", "Hm."], [(0, 1)], [1.0], tokens=tokens))
        for tokens in ([tuple(reply), ()], [])
    )
    assert given == read


def test_sampled_tokens_are_cut_as_other_replies_are_and_pairs_of_the_same_tokens_are_counted(tokenizers):
    words = tokenizers["chatml with another end token"]
    example = Example("e", ONE, ["a", "b", "b", ""], [(0, 1), (1, 2), (0, 3)], [1.0] * 3,
                      tokens=[(9,) * 300, (7, 8), (7, 8), (5,)])  # fmt: skip
    encoder = Encoder(words, 200)
    group = encoder.group(example)
    room = 200 - len(group.prompt)
    assert group.replies == [[9] * (room - 1) + [encoder.ends[0]], [7, 8], [7, 8]] and group.pairs == [(0, 1)]
    expected = {"replies cut": 1, "pairs of identical replies": 1, "empty replies": 1, "pairs without both replies": 1}
    assert encoder.counts == expected
    encoder = Encoder(words, 200, "drop")
    assert encoder.group(example) is None and encoder.counts["replies left out, too long"] == 1


def test_a_policy_stops_at_whatever_ends_a_reply(tokenizers):
    """One whose every next token is certain: the end of a turn, or the end token, whichever comes."""
    words = tokenizers["gemma"]
    ends = Encoder(words, 64).ends
    for end in ends:
        model = make_family("llama", vocab_size=len(words), max_position_embeddings=256)
        path = iter([30, 31, end, 33, 34])
        model.lm_head.register_forward_hook(
            lambda *given, path=path: torch.zeros_like(given[2]).index_fill_(-1, torch.tensor([next(path)]), 99.0)
        )
        prompt = Prompt("one", ONE, Encoder(words, 512).prompt(ONE)[1], (0,))
        [[sample]] = Replies(words, model, 4).sample([prompt], Sampling(1.0, 40, 3))
        assert (sample.ids, sample.finish) == ((30, 31, end), "stop")


def test_a_template_that_cannot_write_a_reply_is_said(tmp_path):
    template = "{% if messages | length > 1 %}{{ raise_exception('one message only') }}{% endif %}"
    words = load_tokenizer(str(save_tokenizer(tmp_path, template, {"eos_token": "</s>", "pad_token": "<pad>"}, [])))
    with pytest.raises(UserError, match=r"template cannot write a user's message and a reply \(one message only\)"):
        Encoder(words, 64)


@style
def test_an_exported_policy_names_what_ends_its_replies(tmp_path, tokenizers, name):
    """So that a server which knows nothing of the template stops where we do."""
    words = tokenizers[name]
    model = make_family("llama", vocab_size=len(words))
    model.generation_config.eos_token_id = 2
    save_model(tmp_path / "model", model, words)
    found = GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id
    ends = Encoder(words, 64).ends
    assert set(found if isinstance(found, list) else [found]) == {2, *ends}
