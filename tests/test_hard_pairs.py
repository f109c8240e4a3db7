"""Hard test pairs: near ties, replies of one length, replies of one model."""

import pytest
from conftest import make_speech

from psychocounsel.pairs import HARD_SETS, build_pairs
from psychocounsel.principles import load_principles
from psychocounsel.recipe import PairsTable
from psychocounsel.records import Rating, Response

SEVEN = load_principles()
NAMES = [principle.id for principle in SEVEN]


def hard(replies, split="test", **table):
    """{set: [(chosen, rejected)]} of one speech; replies as {name: (words, scores by judge, model)}."""
    speech = make_speech("My brother stopped answering in spring.", split)
    made, ratings = {}, []
    for name, (words, scores, model) in replies.items():
        made[name] = Response(speech_id=speech.id, model=model, text=" ".join([name, *["word"] * (words - 1)]))
        ratings += [
            Rating(response_id=made[name].id, judge=f"j{i}", scores=dict.fromkeys(NAMES, score))
            for i, score in enumerate(scores)
        ]
    sets = build_pairs([speech], list(made.values()), ratings, SEVEN, PairsTable(**table))
    names = {response.id: name for name, response in made.items()}
    return {key: [(names[p.chosen], names[p.rejected]) for p in pairs] for key, pairs in sets.hard.items()}, sets


def test_every_hard_set_is_there_even_when_it_is_empty():
    found, _ = hard({})
    assert found == {name: [] for name in HARD_SETS} == {"near-ties": [], "length-matched": [], "same-model": []}


def test_a_near_tie_lies_above_a_tie_and_below_the_test_gap():
    found, sets = hard({"a": (10, [4.0], "m"), "b": (50, [3.8], "n"), "c": (90, [3.5], "o"), "d": (200, [3.5], "p")})
    assert set(found["near-ties"]) == {("a", "b"), ("b", "c"), ("b", "d")}, "0.5 is no near tie, 0 is none either"
    assert found["length-matched"] == found["same-model"] == []
    assert all(0 < pair.gap < 0.5 for pair in sets.hard["near-ties"])
    assert hard({"a": (10, [4.0], "m"), "b": (50, [3.8], "n")}, test_gap=0.0)[0]["near-ties"] == []


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ((4, 4, 4), (3.7, 3.7, 4.3), True),  # two of three
        ((4.6, 3.8), (4, 4), False),  # one of two: an even panel
        ((4.4, 4), (4, 4), True),  # one and a half of two
        ((5, 3.5, 3.5), (3.6, 3.6, 3.6), False),  # the mean says so, the majority does not
    ],
)
def test_a_near_tie_needs_the_majority_of_several_judges(first, second, kept):
    found, _ = hard({"a": (10, first, "m"), "b": (50, second, "n")})
    assert found["near-ties"] == ([("a", "b")] if kept else [])


@pytest.mark.parametrize(("words", "matched"), [(90, True), (110, True), (89, False), (112, False), (100, True)])
def test_matched_lengths_differ_by_no_more_than_the_share_of_the_longer(words, matched):
    found, _ = hard({"a": (100, [5], "m"), "b": (words, [3], "n")})
    assert found["length-matched"] == ([("a", "b")] if matched else [])
    assert hard({"a": (100, [5], "m"), "b": (words, [3], "n")}, length_tolerance=0.01)[0]["length-matched"] == (
        [("a", "b")] if words == 100 else []
    )


def test_replies_of_one_model_make_same_model_pairs():
    found, _ = hard({"a": (10, [5], "m"), "b": (50, [3], "m"), "c": (90, [1], "n")})
    assert found["same-model"] == [("a", "b")]


def test_a_pair_may_be_in_several_sets_and_keeps_the_test_gap_in_all_but_one():
    found, _ = hard({"a": (50, [5], "m"), "b": (50, [3], "m"), "c": (50, [2.8], "m")})
    clear = [("a", "b"), ("a", "c")]
    assert sorted(found["length-matched"]) == sorted(found["same-model"]) == clear
    assert found["near-ties"] == [("b", "c")]


@pytest.mark.parametrize("split", ["train", "dev", "arena"])
def test_only_test_speeches_give_hard_pairs(split):
    found, _ = hard({"a": (50, [5], "m"), "b": (50, [3], "m"), "c": (50, [2.8], "m")}, split)
    assert not any(found.values())


def test_the_safety_of_a_chosen_reply_holds_in_hard_sets_too():
    speech = make_speech("It was a long week.", "test")
    responses = [Response(speech_id=speech.id, model="m", text=text) for text in ("warm one", "safe one")]
    scores = [dict.fromkeys(NAMES, 5) | {"safety": 3}, dict.fromkeys(NAMES, 3) | {"safety": 4}]
    ratings = [
        Rating(response_id=response.id, judge="j", scores=row) for response, row in zip(responses, scores, strict=True)
    ]
    found = {
        rule: {name: len(pairs) for name, pairs in
               build_pairs([speech], responses, ratings, SEVEN, PairsTable(rule=rule)).hard.items()}
        for rule in ("gate", "paper")
    }  # fmt: skip
    assert found == {
        "gate": dict.fromkeys(HARD_SETS, 0),
        "paper": {"near-ties": 0, "length-matched": 1, "same-model": 1},
    }


def test_votes_hold_for_near_ties_and_a_demanded_probability_does_not():
    replies = {"a": (10, (4, 4, 4), "m"), "b": (50, (3.7, 3.7, 4.1), "n"), "c": (90, (1, 1, 2), "o")}
    assert ("a", "b") in hard(replies, probability=0.99)[0]["near-ties"]
    assert hard(replies, votes=0.9)[0]["near-ties"] == []
