"""Texts to token ids: trained as generated, cut or left out openly and counted."""

import math

import pytest
from conftest import make_speech
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_training import CHATML, save_tokenizer

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_tokenizer
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.records import Pair, Response, Turn
from psychocounsel.training.batches import write_groups
from psychocounsel.training.encoding import Encoder
from psychocounsel.training.examples import Example, pair_examples

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:<think>{% endif %}"
)
STYLES = {
    "chatml": (CHATML, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, ["<|im_start|>"]),
    "llama3": (
        LLAMA3,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        ["<|start_header_id|>", "<|end_header_id|>"],
    ),
    "pad is end": (CHATML, {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, ["<|im_start|>"]),
    "pad is unknown": (CHATML, {"eos_token": "<|im_end|>", "unk_token": "<|unk|>"}, ["<|im_start|>"]),
}


@pytest.fixture(scope="session")
def styles(tmp_path_factory, model_folder):
    """Folders with tokenizers of four kinds, and the embedded one."""
    place = tmp_path_factory.mktemp("tokenizers")
    return {"embedded": model_folder} | {
        name: save_tokenizer(place / name.replace(" ", "-"), *style) for name, style in STYLES.items()
    }


@pytest.fixture
def dialogue():
    turns = (
        Turn(role="client", text="I cannot sleep."),
        Turn(role="therapist", text="Since when?"),
        Turn(role="client", text="Since March. 🌙"),
    )
    return chat_messages(turns)


def user(text):
    return [{"role": "user", "content": text}]


def encoded(encoder, messages, text):
    """Token ids of the prompt, and of a reply to it."""
    kept, prompt = encoder.prompt(messages)
    return prompt, encoder.reply(kept, prompt, text)


def encoded_reply(encoder, messages, text):
    return encoded(encoder, messages, text)[1]


@pytest.mark.parametrize("style", ["embedded", *STYLES])
def test_prompt_and_reply_are_what_generation_sees_and_what_the_template_adds(styles, style, dialogue):
    tokenizer = load_tokenizer(str(styles[style]))
    encoder = Encoder(tokenizer, 512)
    messages, text = dialogue, "Half a year, then. What keeps you awake – a thought?"
    prompt, reply = encoded(encoder, messages, text)
    shown = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": text}], tokenize=False)
    assert tokenizer.decode(prompt) == shown
    assert whole.startswith(tokenizer.decode(prompt + reply))
    assert tokenizer.decode(reply) == text + tokenizer.eos_token
    assert reply.count(tokenizer.eos_token_id) == 1 and reply[-1] == tokenizer.eos_token_id
    assert not encoder.counts


@pytest.mark.parametrize("style", ["embedded", *STYLES])
def test_the_pad_token_is_never_the_end_token(styles, style):
    tokenizer = load_tokenizer(str(styles[style]))
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.pad_token_id not in encoded_reply(Encoder(tokenizer, 512), user("I am tired."), "Since when?")


def test_a_template_that_changes_the_prompt_is_refused(tmp_path, dialogue):
    folder = save_tokenizer(tmp_path / "t", THINKING, {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}, [])
    with pytest.raises(UserError, match="chat template changes the prompt"):
        encoded(Encoder(load_tokenizer(str(folder)), 512), dialogue, "Since March?")


@pytest.mark.parametrize("style", ["embedded", "chatml", "llama3"])
def test_nobody_can_end_or_open_a_turn_by_spelling_a_special_token(styles, style):
    tokenizer = load_tokenizer(str(styles[style]))
    encoder = Encoder(tokenizer, 1024)
    marks = "".join(t.content for t in tokenizer.added_tokens_decoder.values())
    plain, hostile = user("I am tired."), user(f"I am tired.{marks}")
    special = set(tokenizer.added_tokens_decoder)
    count = lambda ids: sum(i in special for i in ids)  # noqa: E731
    assert count(encoder.prompt(hostile)[1]) == count(encoder.prompt(plain)[1])
    reply = encoded_reply(encoder, plain, f"Good.{marks}And then insults.")
    assert reply.index(tokenizer.eos_token_id) == len(reply) - 1
    assert tokenizer.decode(reply).endswith("And then insults." + tokenizer.eos_token)


@pytest.mark.parametrize("text", ["", " ", "\x00\x01", "‮evil", "a" * 5000, "<script>alert(1)</script>", "{{ 7*7 }}"])
def test_any_reply_text_ends_with_exactly_one_end_token(tokenizer, text):
    prompt, reply = encoded(Encoder(tokenizer, 256), user("I am tired."), text)
    assert reply.count(tokenizer.eos_token_id) == 1 and reply[-1] == tokenizer.eos_token_id
    assert len(prompt) + len(reply) <= 256
    if len(text) < 100:
        assert tokenizer.decode(reply) == text + tokenizer.eos_token


def test_what_had_to_be_cut_is_counted_and_cut_at_the_right_end(tokenizer):
    encoder, full = Encoder(tokenizer, 40), Encoder(tokenizer, 10_000)
    messages, short = user("long story. " * 60 + "And then Friday came."), user("Hi.")
    kept, prompt = encoder.prompt(messages)
    assert encoder.counts == {"prompts cut": 1} and len(prompt) <= 20
    shown = tokenizer.decode(prompt)
    assert shown.startswith("<|begin|><|user|>") and shown.endswith("And then Friday came.<|end|><|assistant|>")
    assert messages[0]["content"].endswith(kept[0]["content"])  # the end of the story stays, whole in its template
    assert len(encoded_reply(encoder, short, "ok")) < 20 and sum(encoder.counts.values()) == 1
    prompt, reply = encoded(encoder, short, "Tell me more. " * 60)
    assert encoder.counts == {"prompts cut": 1, "replies cut": 1} and len(prompt) + len(reply) == 40
    whole = encoded_reply(full, short, "Tell me more. " * 60)
    assert reply == [*whole[: len(reply) - 1], tokenizer.eos_token_id]


TURNS = ("client", "therapist") * 4


def long_dialogue(words=12):
    said = [Turn(role=role, text=f"Turn {number}. " + "word " * words) for number, role in enumerate(TURNS)]
    return chat_messages([*said, Turn(role="client", text="And what now?")])


@pytest.mark.parametrize("system", ["", "Be kind and brief."])
def test_a_long_dialogue_loses_its_oldest_turns_first_and_keeps_the_system_text(tokenizer, system):
    encoder = Encoder(tokenizer, 300)
    messages = [*([{"role": "system", "content": system}] if system else []), *long_dialogue()]
    kept, ids = encoder.prompt(messages)
    assert encoder.counts == {"prompts that lost turns": 1} and len(ids) <= 150
    first = 1 if system else 0
    assert kept[:first] == messages[:first]
    rest = kept[first:]
    assert rest == messages[len(messages) - len(rest) :] and rest[0]["role"] == "user" and 1 < len(rest) < 9
    one_more = [*messages[:first], *messages[len(messages) - len(rest) - 2 :]]
    assert len(tokenizer.apply_chat_template(one_more, add_generation_prompt=True)["input_ids"]) > 150  # none too many
    assert ids == tokenizer.apply_chat_template(kept, add_generation_prompt=True)["input_ids"]


def test_a_prompt_that_fits_exactly_is_left_alone_and_one_token_less_is_not(tokenizer):
    messages = long_dialogue()
    length = len(Encoder(tokenizer, 10_000).prompt(messages)[1])
    exact, tight = Encoder(tokenizer, 2 * length), Encoder(tokenizer, 2 * length - 1)
    assert exact.prompt(messages)[0] == messages and not exact.counts
    assert tight.prompt(messages)[0] == messages[2:] and tight.counts == {"prompts that lost turns": 1}


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=60), st.text(max_size=60)), max_size=4),
    st.text(min_size=1, max_size=200),
    st.text(max_size=200),
    st.booleans(),
    st.integers(40, 120),
    st.sampled_from(["cut", "drop"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_said_prompt_and_reply_fit_and_end_with_the_end_token(
    tokenizer, turns, last, text, system, most, too_long
):
    encoder, end = Encoder(tokenizer, most, too_long), tokenizer.eos_token_id
    messages = [{"role": "system", "content": "Be kind."}] if system else []
    for asked, answered in turns:
        messages += [*user(asked), {"role": "assistant", "content": answered}]
    kept, prompt = encoder.prompt([*messages, *user(last)])
    assert len(prompt) <= most // 2 and kept[-1]["role"] == "user"
    assert [m for m in kept if m["role"] == "system"] == [m for m in messages if m["role"] == "system"]
    reply = encoder.reply(kept, prompt, text)
    if reply is None:
        assert too_long == "drop" and encoder.counts["replies left out, too long"] == 1
    else:
        assert len(prompt) + len(reply) <= most and reply.index(end) == len(reply) - 1
        assert encoder.counts["replies cut"] == (len(prompt) + len(reply) == most and reply != encoder_free(
            tokenizer, kept, text))  # fmt: skip


def encoder_free(tokenizer, kept, text):
    """The reply without any limit."""
    return encoded_reply(Encoder(tokenizer, 100_000), kept, text)


@pytest.mark.parametrize("style", ["embedded", *STYLES])
def test_a_length_without_room_for_the_template_is_said(styles, style):
    tokenizer = load_tokenizer(str(styles[style]))
    with pytest.raises(UserError, match=r"max_length = 8 leaves no room for a prompt: .*alone take \d+ tokens.*raise"):
        Encoder(tokenizer, 8).prompt(user("I am tired of all this, and nobody asks."))
    long = [{"role": "system", "content": "Be kind. " * 40}, *user("I am tired.")]
    with pytest.raises(UserError, match="max_length = 64 leaves no room"):
        Encoder(tokenizer, 64).prompt(long)


def test_a_reply_that_does_not_fit_is_left_out_and_counted_under_drop(tokenizer):
    encoder = Encoder(tokenizer, 60, "drop")
    example = Example(
        "e", user("Hi."), ["Yes.", "Tell me more. " * 60, "No."], [(0, 1), (0, 2), (1, 2)], [1.0, 2.0, 3.0]
    )
    group = encoder.group(example)
    assert [tokenizer.decode(reply) for reply in group.replies] == ["Yes.<|end|>", "No.<|end|>"]
    assert (group.pairs, group.gaps) == ([(0, 1)], [2.0])
    assert encoder.counts == {"replies left out, too long": 1, "pairs without both replies": 2}


def test_empty_and_identical_replies_are_left_out_and_counted(tokenizer):
    encoder = Encoder(tokenizer, 256)
    replies = ["Yes.", "", " \n", "No.", "Yes."]
    pairs = [(0, 1), (2, 3), (0, 3), (0, 4), (3, 4)]
    group = encoder.group(Example("e", user("Hi."), replies, pairs, [1.0, 2.0, 3.0, 4.0, 5.0], [[i] for i in range(5)]))
    assert [tokenizer.decode(reply) for reply in group.replies] == ["Yes.<|end|>", "No.<|end|>", "Yes.<|end|>"]
    assert group.pairs == [(0, 1), (1, 2)] and group.gaps == [3.0, 5.0] and group.differences == [[2], [4]]
    expected = {"empty replies": 2, "pairs without both replies": 2, "pairs of identical replies": 1}
    assert encoder.counts == expected


@pytest.mark.parametrize(
    ("replies", "pairs"), [(["", " "], []), (["Yes.", "Yes."], [(0, 1)]), (["Yes.", ""], [(0, 1)]), ([], [])]
)
def test_an_example_that_leaves_nothing_to_learn_is_left_out(tokenizer, replies, pairs):
    encoder = Encoder(tokenizer, 256)
    example = Example("e", user("Hi."), replies, pairs, [1.0] * len(pairs))
    assert encoder.group(example) is None and list(encoder.groups([example])) == []


def test_replies_that_only_differ_behind_the_cut_are_the_same_to_the_model(tokenizer):
    encoder = Encoder(tokenizer, 40)
    assert encoder.group(Example("e", user("Hi."), ["a " * 90 + "b", "a " * 90 + "c"], [(0, 1)], [1.0])) is None
    assert encoder.counts == {"replies cut": 2, "pairs of identical replies": 1}


def test_the_number_that_seeds_resampling_is_that_of_the_pairs_content(tokenizer):
    def draws(replies, pairs, name="e"):
        return Encoder(tokenizer, 256).group(Example(name, user("Hi."), replies, pairs, [1.0] * len(pairs))).draws

    whole = draws(["Yes.", "No.", "Ah."], [(0, 1), (0, 2), (1, 0)])
    assert len(set(whole)) == 3 and draws(["No.", "Yes."], [(1, 0)]) == whole[:1] != draws(
        ["No.", "Yes."], [(1, 0)], "f"
    )
    assert all(0 <= draw < 1 << 63 for draw in whole)


def test_a_whole_chat_is_cut_at_the_length(tokenizer, dialogue):
    ids = Encoder(tokenizer, 1000).whole(dialogue)
    assert (
        ids == tokenizer.apply_chat_template(dialogue)["input_ids"] and Encoder(tokenizer, 8).whole(dialogue) == ids[:8]
    )


def test_every_unique_reply_stands_once(tmp_path, tokenizer, speeches, responses, pairs):
    by_speech, by_id = {s.id: s for s in speeches}, {r.id: r for r in responses}
    encoder = Encoder(tokenizer, 256)
    groups = write_groups(tmp_path / "g.arrow", encoder.groups(pair_examples(pairs["train"], by_speech, by_id)))
    assert not encoder.counts
    assert [len(g.pairs) for g in groups] == [9] * 6 and [len(g.replies) for g in groups] == [6] * 6
    found = [(group, *pair) for group in groups for pair in group.pairs]
    for pair, (group, chosen, rejected) in zip(pairs["train"], found, strict=True):
        for number, response_id in ((chosen, pair.chosen), (rejected, pair.rejected)):
            assert tokenizer.decode(group.replies[number], skip_special_tokens=True) == by_id[response_id].text
        assert by_speech[pair.speech_id].text in tokenizer.decode(group.prompt)


def test_replies_of_two_speeches_with_one_text_stay_apart(tokenizer):
    one, two = make_speech("I am tired."), make_speech("I am angry.")
    replies = [Response(speech_id=s.id, model=m, text=t) for s in (one, two) for m, t in (("a", "Yes."), ("b", "No."))]
    pairs = [
        Pair(speech_id=s.id, chosen=c.id, rejected=r.id, chosen_scores={}, rejected_scores={}, gap=1.0)
        for s, c, r in ((two, replies[3], replies[2]), (one, replies[0], replies[1]), (two, replies[3], replies[2]))
    ]
    examples = pair_examples(pairs, {s.id: s for s in (one, two)}, {r.id: r for r in replies})
    groups = list(Encoder(tokenizer, 64).groups(examples))
    assert [(g.id, len(g.replies), g.pairs) for g in groups] == [(two.id, 2, [(0, 1)] * 2), (one.id, 2, [(0, 1)])]
    assert tokenizer.decode(groups[0].replies[0]) == "No.<|end|>"


def test_differences_by_principle_travel_with_their_pairs_and_unscored_ones_are_not_numbers():
    speech = make_speech("I am tired.")
    replies = [Response(speech_id=speech.id, model=m, text=m) for m in "ab"]
    scores = {"chosen_scores": {"empathy": 4.0, "safety": 2.0}, "rejected_scores": {"empathy": 2.5, "clarity": 3.0}}
    pair = Pair(speech_id=speech.id, chosen=replies[0].id, rejected=replies[1].id, gap=1.0, **scores)
    given_to = ({speech.id: speech}, {r.id: r for r in replies})
    [example] = pair_examples([pair], *given_to, ["empathy", "safety", "clarity"])
    assert example.differences == [[1.5, pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True)]]
    assert [e.differences for e in pair_examples([pair], *given_to)] == [[]]
