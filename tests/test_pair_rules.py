"""What a recipe may demand of pairs: votes, fit replies, safety. And the same pairs whatever the order of the input."""

import json
import random

import pytest
from conftest import make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.errors import UserError
from psychocounsel.pairs import HARD_SETS, build_pairs
from psychocounsel.pairs.audit import audit, share_by_cluster
from psychocounsel.pairs.checks import repetition
from psychocounsel.principles import load_principles
from psychocounsel.ratings.reliability import wilson
from psychocounsel.recipe import PairsTable
from psychocounsel.records import Rating, Response

SEVEN = load_principles()
NAMES = [principle.id for principle in SEVEN]
PLAIN = "I hear how long this has gone on for you."


def reply(speech, text, model="m", finish="stop"):
    return Response(speech_id=speech.id, model=model, text=text, finish=finish)


def rate(response, *scores):
    """One rating by each of the judges j0, j1, …; a score of None is a judge that did not rate the reply."""
    return [
        Rating(response_id=response.id, judge=f"j{i}", scores=dict.fromkeys(NAMES, score))
        for i, score in enumerate(scores)
        if score is not None
    ]


def paired(replies, split="train", **table):
    """Pair sets of one speech; replies are (text, scores by judge, fields of the response)."""
    speech = make_speech("The flat is quiet since she moved out.", split)
    responses = [reply(speech, text, **fields) for text, _, fields in replies]
    ratings = [r for one, (_, scores, _) in zip(responses, replies, strict=True) for r in rate(one, *scores)]
    return build_pairs([speech], responses, ratings, SEVEN, PairsTable(**table))


def texts(sets, split="train"):
    return [tuple(sets.replies[key].response.text for key in (p.chosen, p.rejected)) for p in sets.pairs[split]]


@pytest.mark.parametrize(
    ("first", "second", "judges", "votes"),
    [
        ((5, 5, 5), (1, 1, 1), 3, 1.0),
        ((5, 5, 2), (1, 1, 3), 3, 0.666667),
        ((5, 3), (1, 3), 2, 0.75),  # a judge's tie counts half
        ((5, 5, None), (1, None, 4), 1, 1.0),  # only who scored both has a vote
        ((5, None), (None, 1), 0, 0.0),
    ],
)
def test_votes_are_the_share_of_the_judges_of_both_that_put_the_chosen_one_first(first, second, judges, votes):
    sets = paired([("a", first, {}), ("b", second, {})], gap=0.5)
    (pair,) = sets.pairs["train"]
    assert (pair.judges, pair.votes) == (judges, votes)
    assert paired([("a", first, {}), ("b", second, {})], gap=0.5, votes=votes).pairs["train"] == [pair]
    if votes < 1:
        asked = paired([("a", first, {}), ("b", second, {})], gap=0.5, votes=votes + 0.01)
        assert asked.pairs["train"] == []
        assert asked.left_out == {"train: too few votes": 1}


@pytest.mark.parametrize(
    ("text", "fields", "table", "why"),
    [
        (PLAIN, {"finish": "length"}, {}, "cut off"),
        (PLAIN, {"finish": "refused"}, {}, "a refusal"),
        (PLAIN, {}, {"max_words": 9}, "too long"),
        ("Breathe in and out. " * 6, {}, {"max_repetition": 0.2}, "repetitive"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_unfit_reply_is_never_chosen_but_may_be_rejected(text, fields, table, why, split):
    good, poor = ("What would help tonight?", [4], {}), ("Call.", [2], {})
    sets = paired([(text, [5], fields), good, poor], split, **table)
    assert texts(sets, split) == [(good[0], poor[0])], "a test speech gives the best of the fit replies"
    assert sets.set_aside == {f"{split}: {why}, never chosen": 1}
    sets = paired([(text, [1], fields), good], split, **table)
    assert texts(sets, split) == [(good[0], text)]
    alone = paired([(text, [5], fields), poor], split, **table)
    assert alone.left_out == {f"{split}: chosen reply is {why}": 1}


@pytest.mark.parametrize(("text", "finish", "why"), [(PLAIN, "filtered", "filtered"), (" \n", "stop", "empty")])
def test_a_filtered_or_empty_reply_is_on_neither_side(text, finish, why):
    for score in (5, 1):
        sets = paired([(text, [score], {"finish": finish}), ("Tell me more.", [3], {})])
        assert sets.pairs["train"] == [] and not sets.left_out
        assert sets.set_aside == {f"train: {why}, in no pair": 1}


def test_limits_hold_exactly():
    replies = [(PLAIN, [5], {}), ("Call.", [2], {})]
    assert len(PLAIN.split()) == 10
    assert texts(paired(replies, max_words=10)) == [(PLAIN, "Call.")]
    assert texts(paired(replies, max_words=9)) == []


def test_repetition_is_the_share_of_word_4_grams_seen_before():
    assert repetition("one two three") == repetition("") == 0
    assert repetition("one two three four") == 0
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert repetition("No no NO no no no") == pytest.approx(2 / 3)
    assert repetition("word " * 10_000) > 0.999


def test_the_audit_counts_inversions_that_the_paper_rule_lets_through():
    speech = make_speech("I said yes again and meant no.")
    warm, safer = reply(speech, "warm words"), reply(speech, "plain")
    ratings = [
        Rating(response_id=warm.id, judge="j", scores=dict.fromkeys(NAMES, 5) | {"safety": 3}),
        Rating(response_id=safer.id, judge="j", scores=dict.fromkeys(NAMES, 2) | {"safety": 4}),
    ]

    def made(rule):
        return build_pairs([speech], [warm, safer], ratings, SEVEN, PairsTable(rule=rule))

    row = audit(made("paper"), SEVEN)["sets"]["train"]
    assert row["inversions"] == {"pairs": 1, "share": 1.0}
    assert row["principles"]["safety"] == -1 and row["principles"]["empathy"] == 3
    assert row["words"] == {"chosen": 2.0, "rejected": 1.0}
    assert row["chosen_longer"]["share"] == 1.0 > row["chosen_longer"]["low"]
    assert row["models"] == {"m": {"chosen": 1, "rejected": 1, "share": 0.5}}
    gated = audit(made("gate"), SEVEN)
    assert gated["sets"]["train"] == {"pairs": 0}
    assert gated["left_out"] == {"train: rejected reply is safer": 1}


def test_the_interval_of_a_share_counts_clusters_and_not_pairs():
    values = [1.0, 0.0, 1.0, 1.0] * 25
    alone = share_by_cluster(values, [str(i) for i in range(100)])
    assert (alone["low"], alone["high"]) == pytest.approx(wilson(0.75, 99), abs=1e-6)
    copied = share_by_cluster(values * 3, [str(i) for i in range(100)] * 3)
    assert copied == pytest.approx(alone, abs=1e-6), "copies of a cluster's pairs tell nothing new"
    certain = share_by_cluster([1.0] * 30, ["a", "b", "c"] * 10)
    assert (certain["low"], certain["high"]) == pytest.approx(wilson(1, 3), abs=1e-6)


def test_a_cluster_in_two_splits_stops_the_stage():
    speeches = [make_speech(f"Speech {split}.", split, cluster="c7") for split in ("train", "test")]
    with pytest.raises(UserError, match=r"cluster c7 .* train and test; .*--redo speeches"):
        build_pairs(speeches, [], [], SEVEN, PairsTable())


def corpus(draw):
    """Speeches, responses and ratings with ties, gaps, gates, missing judges, faults and duplicates."""
    speeches = [
        make_speech(f"Speech {i}.", draw.choice(["train", "dev", "test"]), cluster=f"c{i}")
        for i in range(draw.randint(1, 5))
    ]
    responses, ratings = [], []
    for speech in speeches:
        for k in range(draw.randint(0, 4)):
            text = " ".join(draw.choices(["yes", "no", "so", "and", "you"], k=draw.randint(0, 12)))
            finish = draw.choice(["stop"] * 6 + ["length", "refused", "filtered"])
            responses.append(reply(speech, f"{text} {k}" if draw.random() < 0.9 else " ", draw.choice("mn"), finish))
            for judge in draw.sample(["a", "b", "c"], draw.randint(0, 3)):
                scores = {name: draw.choice([None, 1, 2, 3, 3.4, 4, 5, 5]) for name in NAMES}
                ratings.append(Rating(response_id=responses[-1].id, judge=judge, scores=scores))
    return speeches, responses + responses[:1], ratings


def everything(sets):
    kinds = [*sets.pairs.items(), *sets.hard.items()]
    rows = {name: [pair.model_dump() for pair in pairs] for name, pairs in kinds}
    return json.dumps([rows, audit(sets, SEVEN), sets.overall], sort_keys=True)


TABLES = st.builds(
    PairsTable,
    rule=st.sampled_from(["gate", "paper"]),
    gap=st.sampled_from([0.0, 0.5, 1.0]),
    test_gap=st.sampled_from([0.0, 0.5, 1.0]),
    votes=st.sampled_from([0.0, 0.6]),
    max_words=st.sampled_from([None, 8]),
    max_repetition=st.sampled_from([None, 0.3]),
)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), table=TABLES)
def test_the_order_of_the_input_changes_nothing(seed, table):
    draw = random.Random(seed)
    rows = corpus(draw)
    made = everything(build_pairs(*rows, SEVEN, table))
    for part in rows:
        draw.shuffle(part)
    assert everything(build_pairs(*rows, SEVEN, table)) == made


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), table=TABLES)
def test_every_pair_keeps_every_rule(seed, table):
    speeches, responses, ratings = corpus(random.Random(seed))
    sets = build_pairs(speeches, responses, ratings, SEVEN, table)
    by_id, answers = {s.id: s for s in speeches}, {r.id: r for r in responses}
    least = {"train": table.gap, "dev": table.gap, "near-ties": 0.0}
    clusters = {}
    for name, pairs in [*sets.pairs.items(), *sets.hard.items()]:
        assert len({pair.id for pair in pairs}) == len(pairs)
        clusters[name] = {by_id[pair.speech_id].cluster for pair in pairs}
        for pair in pairs:
            chosen, rejected = answers[pair.chosen], answers[pair.rejected]
            assert chosen.speech_id == rejected.speech_id == pair.speech_id
            assert pair.gap > 0 and pair.gap >= least.get(name, table.test_gap)
            assert name != "near-ties" or pair.gap < table.test_gap
            assert pair.votes >= table.votes
            assert chosen.finish == "stop" and rejected.finish != "filtered"
            assert chosen.text.strip() and rejected.text.strip()
            assert table.max_words is None or len(chosen.text.split()) <= table.max_words
            assert table.max_repetition is None or repetition(chosen.text) <= table.max_repetition
            safe, unsafe = pair.chosen_scores["safety"], pair.rejected_scores["safety"]
            assert table.rule == "paper" or safe is None or unsafe is None or safe >= unsafe
            assert by_id[pair.speech_id].split == (name if name in ("train", "dev") else "test")
    trained = clusters["train"] | clusters["dev"]
    assert all(not trained & clusters[name] for name in ("test", *HARD_SETS))
