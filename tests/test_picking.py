"""Pairs of candidates: best against worst under every rule, and everything left out is counted."""

from itertools import permutations

import pytest
from conftest import make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.policy.picking import Candidate, length_slope, pair_examples, pick_pairs, widest
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.recipe import OnlineTable

SPEECH = make_speech("My sister has not spoken to me since the funeral.")
WORDS = ("Yes.", "Tell me.", "What is it?", "What would you say?", "I hear how long that has been.")


def rows_of(texts, speech=SPEECH, **more):
    return [{"speech_id": speech.id, "sample": place, "text": text, "finish": "stop", **more}
            for place, text in enumerate(texts)]  # fmt: skip


def pick(rows, rewards, barred=(), **changes):
    keys = [(row["speech_id"], row["sample"]) for row in rows]
    merits = dict(zip(keys, rewards, strict=True))
    return pick_pairs(rows, merits, {keys[place]: "a rule" for place in barred}, OnlineTable(**changes))


def test_best_stands_against_worst():
    [pair], left_out = pick(rows_of(["Mid.", "Best.", "Worst."]), [1, 3, -2])
    assert pair == {"speech_id": SPEECH.id, "chosen": 1, "rejected": 2, "gap": 5}
    assert set(left_out.values()) == {0}


def test_what_cannot_stand_in_a_pair_is_left_out_by_its_reason():
    rows = rows_of(["Good.", "Never ends", "", "Poor.", "Nobody scored this.", "Good."])
    rows[1]["finish"] = "length"
    [pair], left_out = pick(rows, [2, 99, 50, 1, None, 2])
    assert (pair["chosen"], pair["rejected"]) == (0, 3)
    assert left_out == {"truncated": 1, "empty": 1, "without a reward": 1, "barred": 0, "speeches without a pair": 0}
    [pair], left_out = pick(rows, [2, 99, 50, 1, None, 2], truncated="keep")
    assert (pair["chosen"], pair["rejected"]) == (1, 3) and left_out["truncated"] == 0
    [pair], left_out = pick(rows, [2, -99, 50, 1, None, 2], truncated="lose")
    assert (pair["chosen"], pair["rejected"]) == (0, 1) and left_out["barred"] == 0
    [pair], _ = pick(rows, [2, 99, 50, 1, None, 2], truncated="lose")
    assert (pair["chosen"], pair["rejected"]) == (0, 3)


def test_a_barred_reply_is_never_chosen_but_may_lose():
    rows = rows_of(["Barred and loved.", "Fine.", "Barred and hated."])
    [pair], left_out = pick(rows, [9, 1, -1], barred=[0, 2])
    assert (pair["chosen"], pair["rejected"]) == (1, 2) and left_out["barred"] == 2
    pairs, left_out = pick(rows[:2], [9, 1], barred=[0])
    assert pairs == [] and left_out["speeches without a pair"] == 1


def test_a_missing_reward_is_not_a_zero():
    pairs, left_out = pick(rows_of(["One.", "Two."]), [-5, None])
    assert pairs == [] and left_out["without a reward"] == 1 and left_out["speeches without a pair"] == 1


@given(st.dictionaries(st.sampled_from("abcde"), st.floats(-5, 5)), st.floats(0, 3))
@settings(max_examples=50, deadline=None)
def test_a_pair_is_made_exactly_when_the_margin_is_reached(found, least):
    rewards = [round(reward, 6) for reward in found.values()]
    pairs, left_out = pick(rows_of(found), rewards, min_margin=least)
    if not found:
        assert (pairs, left_out["speeches without a pair"]) == ([], 0)
        return
    assert len(pairs) + left_out["speeches without a pair"] == 1
    assert bool(pairs) == (max(rewards) - min(rewards) >= max(least, 1e-5))
    for pair in pairs:
        assert rewards[pair["chosen"]] == max(rewards) and rewards[pair["rejected"]] == min(rewards)
        assert pair["gap"] == pytest.approx(max(rewards) - min(rewards), abs=1e-6)


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(-3, 3), st.booleans()), max_size=6),
    st.none() | st.floats(1, 4),
)
@settings(max_examples=100, deadline=None)
def test_no_other_allowed_pair_is_wider(found, ratio):
    candidates = [Candidate(place, f"{'word ' * words}{place}", float(merit), barred)
                  for place, (words, merit, barred) in enumerate(found)]  # fmt: skip
    wider = [
        a.merit - b.merit
        for a, b in permutations(candidates, 2)
        if not a.barred and a.merit > b.merit
        and (ratio is None or max(a.words, b.words) <= ratio * min(a.words, b.words))
    ]  # fmt: skip
    pair = widest(candidates, ratio)
    assert pair == widest(candidates[::-1], ratio)
    assert (pair[0].merit - pair[1].merit if pair else 0) == max(wider, default=0)
    assert pair is None or not pair[0].barred


@pytest.mark.parametrize("slope", [0.1, 2.0, -1 / 3])
def test_length_alone_earns_no_pair(slope):
    speeches = [make_speech(f"It is night number {night} without sleep.") for night in range(3)]
    rows = [row for speech in speeches for row in rows_of(WORDS, speech)]
    rewards = [round(slope * len(row["text"].split()) + place // len(WORDS), 6) for place, row in enumerate(rows)]
    pairs, left_out = pick(rows, rewards, length_control=True)
    assert pairs == [] and left_out["speeches without a pair"] == 3
    pairs, _ = pick(rows, rewards)
    assert {pair["chosen"] for pair in pairs} == {4 if slope > 0 else 0} and len(pairs) == 3


def test_what_length_does_not_explain_still_earns_its_pair():
    rewards = [len(text.split()) + 3 * (text == WORDS[1]) for text in WORDS]
    [pair], _ = pick(rows_of(WORDS), rewards, length_control=True)
    assert pair["chosen"] == 1


def test_a_penalty_is_taken_off_for_every_hundred_words():
    rows = rows_of(["word " * 100, "word " * 300, "short"])
    [pair], _ = pick(rows, [0, 1, 0], length_penalty=1.0)
    assert (pair["chosen"], pair["rejected"]) == (2, 1)
    assert pair["gap"] == pytest.approx(-0.01 - (1 - 3))
    [pair], _ = pick(rows, [0, 1, 0])
    assert pair["chosen"] == 1


def test_pairs_of_matched_length():
    rows = rows_of(["one two three four", "one two three", "one"])
    [pair], _ = pick(rows, [1, 0.5, -9], length_ratio=1.5)
    assert (pair["chosen"], pair["rejected"]) == (0, 1)
    pairs, left_out = pick(rows[::2], [1, -9], length_ratio=1.5)
    assert pairs == [] and left_out["speeches without a pair"] == 1


@pytest.mark.parametrize("candidates", [[], [[]], [[Candidate(0, "Yes.", 3.0, False)]]])
def test_without_different_lengths_there_is_no_slope(candidates):
    assert length_slope(candidates) == 0.0


def test_pairs_become_examples_with_the_tokens_that_were_sampled():
    rows = rows_of(["Good.", "Poor."])
    rows[1]["ids"] = [5, 6, 2]
    pair = {"speech_id": SPEECH.id, "chosen": 0, "rejected": 1, "gap": 2.5}
    heads = {(SPEECH.id, 0): {"empathy": 2.0, "safety": 1.0}, (SPEECH.id, 1): {"empathy": 0.5, "safety": 3.0}}
    [example] = pair_examples([pair], rows, {SPEECH.id: SPEECH}, heads, ["empathy", "safety"])
    assert example.replies == ["Good.", "Poor."] and example.messages == chat_messages(SPEECH.turns)
    assert (example.pairs, example.gaps, example.tokens) == ([(0, 1)], [2.5], [(), (5, 6, 2)])
    assert example.differences == [[1.5, -2.0]]
    [plain] = pair_examples([pair], rows, {SPEECH.id: SPEECH}, {}, [])
    assert plain.differences == []
