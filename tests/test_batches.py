"""Texts to token rows: trained as generated, cut and counted openly, dealt out by hash."""

import random

import pytest
import torch
from conftest import make_speech
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import CHATML, save_tokenizer

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_tokenizer
from psychocounsel.policy.offline import add_reference, policy_task
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.recipe import PolicyTable, RewardTable
from psychocounsel.records import Speech, Turn
from psychocounsel.reward.train import pair_groups, reward_task
from psychocounsel.supervised import supervised_task
from psychocounsel.training.batches import Encoder, Group, collate, micro_batches, steps

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
    return Speech(turns=turns, source="test")


@pytest.mark.parametrize("style", ["embedded", *STYLES])
def test_prompt_and_reply_are_what_generation_sees_and_what_the_template_adds(styles, style, dialogue):
    tokenizer = load_tokenizer(str(styles[style]))
    encoder = Encoder(tokenizer, 512)
    messages, text = chat_messages(dialogue.turns), "Half a year, then. What keeps you awake – a thought?"
    prompt, reply = encoder.prompt(dialogue), encoder.reply(dialogue, text)
    shown = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": text}], tokenize=False)
    assert tokenizer.decode(prompt) == shown
    assert whole.startswith(tokenizer.decode(prompt + reply))
    assert tokenizer.decode(reply) == text + tokenizer.eos_token
    assert reply.count(tokenizer.eos_token_id) == 1 and reply[-1] == tokenizer.eos_token_id
    assert encoder.truncated == 0


@pytest.mark.parametrize("style", ["embedded", *STYLES])
def test_the_pad_token_is_never_the_end_token(styles, style):
    tokenizer = load_tokenizer(str(styles[style]))
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.pad_token_id not in Encoder(tokenizer, 512).reply(make_speech("I am tired."), "Since when?")


def test_a_template_that_changes_the_prompt_is_refused(tmp_path, dialogue):
    folder = save_tokenizer(tmp_path / "t", THINKING, {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}, [])
    with pytest.raises(UserError, match="chat template changes the prompt"):
        Encoder(load_tokenizer(str(folder)), 512).reply(dialogue, "Since March?")


@pytest.mark.parametrize("style", ["embedded", "chatml", "llama3"])
def test_nobody_can_end_or_open_a_turn_by_spelling_a_special_token(styles, style):
    tokenizer = load_tokenizer(str(styles[style]))
    encoder = Encoder(tokenizer, 1024)
    marks = "".join(t.content for t in tokenizer.added_tokens_decoder.values())
    plain, hostile = make_speech("I am tired."), make_speech(f"I am tired.{marks}")
    special = set(tokenizer.added_tokens_decoder)
    count = lambda ids: sum(i in special for i in ids)  # noqa: E731
    assert count(encoder.prompt(hostile)) == count(encoder.prompt(plain))
    reply = encoder.reply(plain, f"Good.{marks}And then insults.")
    assert reply.index(tokenizer.eos_token_id) == len(reply) - 1
    assert tokenizer.decode(reply).endswith("And then insults." + tokenizer.eos_token)


@pytest.mark.parametrize("text", ["", " ", "\x00\x01", "‮evil", "a" * 5000, "<script>alert(1)</script>", "{{ 7*7 }}"])
def test_any_reply_text_ends_with_exactly_one_end_token(tokenizer, text):
    reply = Encoder(tokenizer, 256).reply(make_speech("I am tired."), text)
    assert reply.count(tokenizer.eos_token_id) == 1 and reply[-1] == tokenizer.eos_token_id
    assert len(reply) <= 128
    if len(text) < 100:
        assert tokenizer.decode(reply) == text + tokenizer.eos_token


def test_what_had_to_be_cut_is_counted_and_cut_at_the_right_end(tokenizer):
    encoder = Encoder(tokenizer, 40)
    speech = make_speech("long story. " * 60 + "And then Friday came.")
    full = Encoder(tokenizer, 10_000)
    prompt = encoder.prompt(speech)
    assert encoder.truncated == 1
    assert prompt == full.prompt(speech)[-20:]  # the end of the story and the generation prompt stay
    assert len(encoder.reply(make_speech("Hi."), "ok")) < 20 and encoder.truncated == 1
    reply = encoder.reply(make_speech("Hi."), "Tell me more. " * 60)
    assert encoder.truncated == 2
    assert reply == [*full.reply(make_speech("Hi."), "Tell me more. " * 60)[:19], tokenizer.eos_token_id]


def test_every_unique_reply_stands_once(tokenizer, speeches, responses, pairs):
    by_speech, by_id = {s.id: s for s in speeches}, {r.id: r for r in responses}
    groups = pair_groups(Encoder(tokenizer, 256), pairs["train"], by_speech, by_id)
    assert [len(g.pairs) for g in groups] == [9] * 6 and [len(g.replies) for g in groups] == [6] * 6
    batch = collate(groups, tokenizer.pad_token_id)
    assert batch.ids.shape[0] == 36 and len(batch.chosen) == 54
    for pair, row, other in zip(pairs["train"], batch.chosen, batch.rejected, strict=True):
        for number, response_id in ((row, pair.chosen), (other, pair.rejected)):
            tokens = batch.ids[number][batch.reply[number]].tolist()
            assert tokenizer.decode(tokens, skip_special_tokens=True) == by_id[response_id].text
            prompt = batch.ids[number][: int(batch.reply[number].int().argmax())].tolist()
            assert by_speech[pair.speech_id].text in tokenizer.decode(prompt)


def test_padding_is_masked_and_right(tokenizer):
    batch = collate([Group("a", [7, 8], [[9], [9, 10, 11]])], tokenizer.pad_token_id)
    assert batch.ids.tolist() == [[7, 8, 9, 0, 0], [7, 8, 9, 10, 11]]
    assert batch.mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.reply.tolist() == [[False, False, True, False, False], [False, False, True, True, True]]
    assert batch.tokens == 4


def plain_groups(weights):
    return [Group(f"g{i}", [1], [[2]], [(0, 0)] * weight) for i, weight in enumerate(weights)]


def weigh(group):
    return len(group.pairs)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 20), st.integers(0, 3), st.randoms())
@settings(max_examples=50, deadline=None)
def test_steps_do_not_depend_on_the_order_of_the_input(weights, size, epoch, shuffler):
    groups = plain_groups(weights)
    shuffled = list(groups)
    shuffler.shuffle(shuffled)
    made = list(steps(groups, size, 5, epoch, weigh))
    assert [[g.id for g in s] for s in made] == [[g.id for g in s] for s in steps(shuffled, size, 5, epoch, weigh)]
    used = [g.id for s in made for g in s]
    assert len(used) == len(set(used))
    full = [s for s in made if sum(map(weigh, s)) >= size]
    assert len(made) - len(full) <= 1  # only the last step may be short
    for step in full:
        assert sum(map(weigh, step[:-1])) < size  # and none is longer than it must be
    left = sum(weights) - sum(weigh(g) for s in made for g in s)
    assert left * 2 < size  # what an epoch leaves out is less than half a step


@pytest.mark.parametrize(("items", "sizes"), [(8, [4, 4]), (10, [4, 4, 2]), (9, [4, 4]), (1, [1]), (0, [])])
def test_a_short_last_step_is_kept_from_half_its_size_on(items, sizes):
    assert [len(step) for step in steps(plain_groups([1] * items), 4, 0, 0, weigh)] == sizes


def test_epochs_and_seeds_are_dealt_differently():
    groups = plain_groups([1] * 20)
    deals = {
        (seed, epoch): [g.id for s in steps(groups, 4, seed, epoch, weigh) for g in s]
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(deal) for deal in deals.values()}) == 4
    assert all(sorted(deal) == sorted(deals[0, 0]) for deal in deals.values())


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 40)), min_size=1, max_size=20), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_micro_batches_hold_everything_once_and_respect_the_row_limit(shapes, rows):
    groups = [Group(f"g{i}", [1] * length, [[2]] * count) for i, (count, length) in enumerate(shapes)]
    parts = list(micro_batches(groups, rows))
    assert sorted(g.id for part in parts for g in part) == sorted(g.id for g in groups)
    assert all(sum(len(g.replies) for g in part) <= rows or len(part) == 1 for part in parts)
    lengths = [len(g.prompt) for part in parts for g in part]
    assert lengths == sorted(lengths, reverse=True)  # the largest batch comes first: memory trouble shows at once


@pytest.mark.parametrize(
    "kind", ["supervised", "dpo", "ipo", "apo_zero", "reward", "reward with margin, weights and centring"]
)
def test_micro_batching_changes_neither_loss_nor_gradients(
    kind, tokenizer, llama, model_folder, speeches, responses, pairs
):
    from psychocounsel.models.weights import load_scorer

    by_speech, by_id = {s.id: s for s in speeches}, {r.id: r for r in responses}
    groups = pair_groups(Encoder(tokenizer, 256), pairs["train"], by_speech, by_id)
    if kind == "supervised":
        model, task = llama(0), supervised_task(kind, groups, [])
    elif kind in ("dpo", "ipo", "apo_zero"):
        model, task = llama(0), policy_task(kind, groups, [], PolicyTable(loss=kind))
        add_reference(llama(1), groups, tokenizer.pad_token_id, 8)
    else:
        table = RewardTable(margin=True, weight_by_gap=True, centre=0.1) if "margin" in kind else RewardTable()
        model, task = (
            load_scorer(str(model_folder), tokenizer.pad_token_id, len(tokenizer)),
            reward_task(groups, [], table),
        )
    model.eval()
    results = []
    for rows in (6, 14, 1000):
        model.zero_grad()
        batches = [collate(part, tokenizer.pad_token_id) for part in micro_batches(groups, rows)]
        total, sums = sum(map(task.unit, batches)), 0.0
        for batch in batches:
            loss, _ = task.compute(model, batch)
            (loss / total).backward()
            sums += loss.item() / total
        results.append(
            (len(batches), sums, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    assert [count for count, _, _ in results] == [6, 3, 1]
    for _, loss, grads in results[:2]:
        assert loss == pytest.approx(results[-1][1], rel=1e-5)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, results[-1][2][name], atol=1e-5, rtol=1e-4, msg=name)


def test_the_rating_gap_and_reference_travel_with_their_pairs(tokenizer):
    groups = [Group(f"g{i}", [5] * (i + 1), [[6], [7]], [(1, 0)], [float(i)], [-float(i), -10.0 - i]) for i in range(4)]
    random.Random(3).shuffle(groups)
    batch = collate(groups, tokenizer.pad_token_id)
    for group, chosen, rejected, gap in zip(groups, batch.chosen, batch.rejected, batch.gaps.tolist(), strict=True):
        assert gap == group.gaps[0]
        assert batch.reference[chosen].item() == group.reference[1]
        assert batch.reference[rejected].item() == group.reference[0]
