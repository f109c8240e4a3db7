"""Preference pairs: pure decisions over stored scores."""

import math

import pytest
from conftest import make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.pairs import build_pairs
from psychocounsel.pairs.scores import pool
from psychocounsel.principles import load_principles, overall_score
from psychocounsel.recipe import PairsTable, PrinciplesTable
from psychocounsel.records import Rating, Response

SEVEN = load_principles()
NAMES = [principle.id for principle in SEVEN]


def rated(replies, split="train", principles=SEVEN, **table):
    """Pairs of one speech's replies, given as {text: scores}; scores are one number for all or one per principle."""
    speech = make_speech("I keep putting off the call.", split)
    responses = {text: Response(speech_id=speech.id, model=text, text=text) for text in replies}
    ratings = [
        Rating(response_id=responses[text].id, judge=f"j{i}", scores=dict(zip(NAMES, scores, strict=True)))
        for text, judges in replies.items()
        for i, scores in enumerate(judges if isinstance(judges, list) else [judges])
        for scores in [scores if isinstance(scores, tuple) else (scores,) * 7]
    ]
    sets = build_pairs([speech], list(responses.values()), ratings, principles, PairsTable(**table))
    names = {response.id: text for text, response in responses.items()}
    return sets, [(names[pair.chosen], names[pair.rejected]) for pair in sets.pairs.get(split, [])]


def with_safety(score, others):
    return tuple(score if name == "safety" else others for name in NAMES)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_every_two_replies_far_enough_apart_make_a_pair(split):
    sets, found = rated({"a": 5, "b": 4, "c": 3.5}, split)
    assert sorted(found) == [("a", "b"), ("a", "c")]
    assert sets.left_out == {f"{split}: gap too small": 1}
    assert [pair.gap for pair in sets.pairs[split]] == [1.0, 1.5]
    assert {other: pairs for other, pairs in sets.pairs.items() if other != split and pairs} == {}


def test_a_test_speech_gives_its_best_against_its_worst():
    sets, found = rated({"b": 3, "a": 4.5, "c": 2, "d": 4}, "test")
    assert found == [("a", "c")]
    assert sets.pairs["test"][0].gap == 2.5


@pytest.mark.parametrize(("worst", "expected"), [(4.5, [("a", "b")]), (4.6, [])])
def test_the_test_gap_is_its_own(worst, expected):
    assert rated({"a": 5, "b": worst}, "test", gap=3.0)[1] == expected


@pytest.mark.parametrize("split", ["arena", None])
def test_arena_speeches_and_speeches_without_split_make_no_pairs(split):
    sets, _ = rated({"a": 5, "b": 1}, split)
    assert sets.pairs == {"train": [], "dev": [], "test": []}
    assert len(sets.overall) == 2


def test_the_gate_sinks_an_unsafe_reply_and_the_paper_rule_does_not():
    replies = {"warm but unsafe": with_safety(1, 5), "plain": 3}
    assert rated(replies, rule="paper")[1] == [("warm but unsafe", "plain")]
    assert rated(replies, rule="gate")[1] == [("plain", "warm but unsafe")]


def test_a_less_safe_reply_is_never_chosen_under_the_gate_rule():
    replies = {"warm": with_safety(3, 5), "safer": with_safety(4, 3)}
    sets, found = rated(replies, rule="gate")
    assert found == []
    assert sets.left_out == {"train: rejected reply is safer": 1}
    assert rated(replies, rule="paper")[1] == [("warm", "safer")]


def test_an_unscored_safety_stops_no_pair():
    assert rated({"a": with_safety(None, 5), "b": with_safety(4, 3)})[1] == [("a", "b")]


def test_ties_never_become_pairs():
    sets, found = rated({"a": 4, "b": 4, "c": 4}, gap=0.0)
    assert found == []
    assert sets.left_out == {"train: tie": 3}


def test_equal_scores_summed_in_another_order_are_a_tie():
    principles = load_principles(PrinciplesTable(weight=dict.fromkeys(NAMES, 0.1)))
    replies = {"a": (5, 4, 3, 2, 1, 2, 3), "b": (1, 2, 3, 2, 3, 4, 5)}
    assert sum(replies["a"]) == sum(replies["b"])
    sets, found = rated(replies, principles=principles, gap=0.0, rule="paper")
    assert found == []
    assert sets.left_out == {"train: tie": 1}


def test_the_same_words_twice_are_no_pair():
    speech = make_speech("Hello?")
    twins = [Response(speech_id=speech.id, model=name, text="Same.") for name in "ab"]
    ratings = [
        Rating(response_id=twin.id, judge="j", scores={"empathy": score})
        for twin, score in zip(twins, (5, 1), strict=True)
    ]
    sets = build_pairs([speech], twins, ratings, SEVEN, PairsTable())
    assert sets.pairs["train"] == []
    assert sets.left_out == {"train: tie": 1}


def test_a_gap_of_exactly_one_point_passes_whatever_the_sevenths_sum_to():
    better, worse = (5, 5, 4, 5, 3, 4, 3), (4, 4, 3, 4, 2, 3, 2)
    assert sum(better) - sum(worse) == 7
    sets, found = rated({"a": better, "b": worse}, gap=1.0)
    assert found == [("a", "b")]
    assert sets.pairs["train"][0].gap == 1.0
    assert rated({"a": better, "b": worse}, gap=1.001)[1] == []


def test_unrated_and_baseless_replies_stand_aside():
    sets, found = rated({"a": 5, "b": 1, "no basis": None, "unrated": []})
    assert found == [("a", "b")]
    assert len(sets.overall) == 2


def test_a_single_reply_and_no_reply_make_no_pair():
    assert rated({"a": 5})[1] == []
    assert rated({"a": 5}, "test")[0].left_out == {}
    assert rated({})[0].overall == {}


def test_judges_are_averaged_and_their_spread_is_kept():
    sets, found = rated({"a": [5, 4], "b": [2, 2]})
    assert found == [("a", "b")]
    (pair,) = sets.pairs["train"]
    assert pair.gap == 2.5
    assert pair.chosen_scores == dict.fromkeys(NAMES, 4.5)
    assert pair.rejected_scores == dict.fromkeys(NAMES, 2.0)
    assert pair.uncertainty == 0.25
    assert rated({"a": 5, "b": 2})[0].pairs["train"][0].uncertainty is None


def test_pooling_skips_missing_scores_and_keeps_their_absence():
    ratings = [
        Rating(response_id="r", judge="j", scores={"empathy": 4, "clarity": None}),
        Rating(response_id="r", judge="k", scores={"empathy": None, "clarity": None, "warmth": 5}),
    ]
    judged = pool(ratings, SEVEN, gated=True)["r"]
    assert judged.scores == dict.fromkeys(NAMES) | {"empathy": 4}
    assert judged.overall == 4
    assert judged.own == {"j": 4}, "a judge without a score has no say"
    assert pool([], SEVEN, gated=True) == {}


def test_a_judge_that_rated_a_reply_twice_counts_once():
    twice, once = (
        [Rating(response_id="r", judge=judge, scores={"empathy": score}) for judge, score in rows]
        for rows in ([("j", 5), ("j", 5), ("k", 2)], [("j", 5), ("k", 2)])
    )
    assert pool(twice, SEVEN, gated=True) == pool(once, SEVEN, gated=True)
    assert pool(twice, SEVEN, gated=True)["r"].overall == 3.5


@given(
    rows=st.lists(st.tuples(*[st.sampled_from([None, 1, 1.4, 2, 2.4, 2.5, 3, 5])] * 7), min_size=1, max_size=5),
    weight=st.sampled_from([0.0, 0.3, 2.0]),
    gated=st.booleans(),
)
def test_overall_scores_of_many_replies_are_those_of_each(rows, weight, gated):
    principles = load_principles(PrinciplesTable(weight={"safety": weight}))
    ratings = [
        Rating(response_id=str(i), judge="j", scores=dict(zip(NAMES, row, strict=True))) for i, row in enumerate(rows)
    ]
    found = {key: judged.overall for key, judged in pool(ratings, principles, gated=gated).items()}
    expected = {r.response_id: overall_score(r.scores, principles, gated=gated) for r in ratings}
    assert found == {key: pytest.approx(value, abs=1e-9) for key, value in expected.items() if value is not None}


def test_the_uncertainty_compares_each_judges_own_overall_score_with_the_pooled_one():
    def uncertainty(first, rule="gate"):
        (pair,) = rated({"a": first, "b": [1, 1]}, rule=rule, gap=0.0, principles=SEVEN)[0].pairs["train"]
        return pair.uncertainty * 2  # the mean over both replies, and the judges agree on the second

    uneven, unsafe = (5, 3, 4, 4, None, 4, 4), with_safety(2, 4)
    assert uncertainty([uneven, uneven]) == 0, "principles that differ are no disagreement"
    assert uncertainty([uneven, 3]) == 0.5
    assert uncertainty([unsafe, unsafe]) == 0
    assert uncertainty([unsafe, 4], "paper") == pytest.approx(1 / 7, abs=1e-5)
    assert uncertainty([unsafe, 4]) == pytest.approx(1.0, abs=1e-5), "the gate holds one judge's score at 2"


def test_identical_judges_are_certain_whatever_the_principles_say():
    (pair,) = rated({"a": [with_safety(5, 4), with_safety(5, 4)], "b": [2, 2]})[0].pairs["train"]
    assert pair.uncertainty == 0.0


SCORES = st.sampled_from([None, 1.0, 2.0, 3.0, 3.3, 4.0, 4.7, 5.0])


@settings(max_examples=40, deadline=None)
@given(
    replies=st.dictionaries(st.sampled_from("abcd"), st.lists(st.tuples(*[SCORES] * 7), min_size=1, max_size=2)),
    rule=st.sampled_from(["gate", "paper"]),
    gap=st.sampled_from([0.0, 0.5, 1.0]),
    split=st.sampled_from(["train", "dev", "test"]),
)
def test_the_chosen_reply_is_always_the_better_one(replies, rule, gap, split):
    sets, _ = rated(replies, split, rule=rule, gap=gap, test_gap=gap)
    pairs = sets.pairs[split]
    for pair in pairs:
        difference = sets.overall[pair.chosen] - sets.overall[pair.rejected]
        assert difference > 0
        assert difference >= gap - 1e-9
        assert math.isclose(pair.gap, difference, abs_tol=1e-6)
        safe, unsafe = pair.chosen_scores["safety"], pair.rejected_scores["safety"]
        assert rule == "paper" or safe is None or unsafe is None or safe >= unsafe
    count = len(sets.overall)
    possible = min(count // 2, 1) if split == "test" else count * (count - 1) // 2
    assert len(pairs) + sum(sets.left_out.values()) == possible
    assert len({pair.id for pair in pairs}) == len(pairs)
