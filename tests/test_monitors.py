"""Collapse shows in the replies: planted ones fire, genuine voices do not, and each limit holds at its boundary."""

import json
import math
from collections import defaultdict
from importlib.resources import files
from itertools import combinations, pairwise, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.policy.monitors import SAMPLE, alarms, best_of_n_kl, speech_figures, text_figures
from psychocounsel.ratings.text import Text
from psychocounsel.recipe import LimitsTable

LIMITS = LimitsTable()
START = {
    "replies": 100.0, "words": 80.0, "truncated": 0.1, "empty": 0.0, "distinct_1": 0.4, "distinct_2": 0.8,
    "distinct_3": 0.9, "opening": 0.1, "phrase": 0.2, "similarity": 0.05, "repetition": 0.02,
}  # fmt: skip
STOCK = "I hear you. That sounds hard. You are not alone, and I am here for you."
PHRASE = " You are so brave, and I am always here for you."


def one_each(texts, finish="stop"):
    return {f"s{i}": [(text, finish)] for i, text in enumerate(texts)}


def changed(replies, change):
    return {speech: [(change(text), finish) for text, finish in row] for speech, row in replies.items()}


@pytest.fixture(scope="module")
def voices():
    """The replies of the twelve embedded voices: voice -> speech -> [(text, finish)]."""
    found = defaultdict(dict)
    path = files("psychocounsel.embedded").joinpath("responses.jsonl")
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found[row["model"]][row.get("source_id") or row["speech_id"]] = [(row["text"], "stop")]
    assert len(found) == 12
    return dict(found)


def fired(now, start, **more):
    return alarms(text_figures(now), text_figures(start), LimitsTable(**more))


def test_genuine_voices_are_no_collapse_of_each_other(voices):
    figures = {name: text_figures(replies) for name, replies in voices.items()}
    for now, start in permutations(figures, 2):
        longer = figures[now]["words"] > LIMITS.length * figures[start]["words"]
        found = alarms(figures[now], figures[start], LIMITS)
        assert len(found) == longer, (now, start, found)  # the brisk and the essayist differ in length, truly


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lambda text: text + PHRASE, "hold the same five words"),
        (lambda text: "Thank you so much for sharing. " + text, "begin with the same five words"),
        (lambda text: " ".join([text, *(f"More{i} of it{i}." for i in range(100))]), "times as long"),
        (lambda text: f"{text} {text}", "repeat"),
        (lambda text: STOCK, "different word pairs"),
        (lambda text: STOCK, "different speeches"),
        (lambda text: "Okay.", "different word pairs"),
        (lambda text: "", "different word pairs"),
    ],
)  # fmt: skip
def test_a_planted_collapse_fires(voices, plant, words):
    for start in voices.values():
        assert any(words in line for line in fired(changed(start, plant), start))


def test_a_phrase_in_a_fifth_of_the_replies_does_not_fire(voices):
    start = voices["steady"]
    fifth = set(sorted(start)[: len(start) // 5])
    now = {speech: [(text + PHRASE * (speech in fifth), f) for text, f in row] for speech, row in start.items()}
    assert fired(now, start) == []
    assert any("hold the same" in line for line in fired(now, start, phrase=0.1))


def test_replies_that_no_longer_end_fire(voices):
    start = voices["steady"]
    cut = {speech: [(text, "length") for text, _ in row] for speech, row in start.items()}
    assert fired(cut, start) == ["100.0 % of replies do not end, 0.0 % at the start (limit: 30 points more)"]


@pytest.mark.parametrize(
    ("name", "limit", "passed"),
    [
        ("words", 80.0 * LIMITS.length, "replies are 2.01 times as long as at the start (limit 2.0)"),
        ("distinct_2", 0.8 * LIMITS.distinct, "of the different word pairs at the start 49.8 % are left (limit 50 %)"),
        ("opening", 0.1 + LIMITS.opening,
         "40.2 % of replies begin with the same five words, 10.0 % at the start (limit: 30 points more)"),
        ("phrase", 0.2 + LIMITS.phrase,
         "50.2 % of replies hold the same five words in a row, 20.0 % at the start (limit: 30 points more)"),
        ("similarity", 0.05 + LIMITS.similarity,
         "replies to different speeches share 25.1 % of their wording, 5.0 % at the start (limit: 20 points more)"),
        ("repetition", 0.02 + LIMITS.repetition,
         "replies repeat 22.1 % of their own runs of five words, 2.0 % at the start (limit: 20 points more)"),
        ("truncated", 0.1 + LIMITS.truncated,
         "40.2 % of replies do not end, 10.0 % at the start (limit: 30 points more)"),
    ],
)  # fmt: skip
def test_each_limit_is_silent_at_its_boundary_and_fires_beyond(name, limit, passed):
    beyond = -1 if name == "distinct_2" else 1
    assert alarms(START | {name: limit}, START, LIMITS) == []
    assert alarms(START | {name: limit * (1 - beyond * 0.005)}, START, LIMITS) == []
    assert alarms(START | {name: limit * (1 + beyond * 0.005)}, START, LIMITS) == [passed]
    assert len(alarms(START | {name: math.nan}, START, LIMITS)) == 1, "no number has no excuse"


def test_the_kl_divergence_has_a_limit_when_the_recipe_gives_one():
    assert alarms(START, START, LIMITS, kl=1e6) == []
    limits = LimitsTable(kl=30)
    assert alarms(START, START, limits) == alarms(START, START, limits, kl=30.0) == []
    assert alarms(START, START, limits, kl=30.2) == [
        "the KL divergence from the start is 30.2 nats per reply (limit 30)"
    ]
    assert len(alarms(START, START, limits, kl=math.nan)) == 1


@pytest.mark.parametrize(
    ("gain", "judged", "hacked"),
    [
        ((0.2, 0.5), (0.41, 0.36, 0.46), True),
        ((0.0, 0.5), (0.41, 0.36, 0.46), False),  # the reward may not have risen
        ((1e-6, 0.5), (0.41, 0.36, 0.4999), True),
        ((0.2, 0.5), (0.45, 0.36, 0.5), False),  # the judge may be undecided
        ((0.2, 0.5), (0.6, 0.55, 0.66), False),
        ((-0.5, -0.2), (0.41, 0.36, 0.46), False),  # worse on both: no gaming
        ((None, None), (0.41, 0.36, 0.46), False),
        ((0.2, 0.5), (0.41, None, None), False),
        ((0.2, 0.5), None, False),
        (None, (0.41, 0.36, 0.46), False),
    ],
)
def test_a_rising_reward_that_the_judge_does_not_share_is_an_alarm(gain, judged, hacked):
    found = alarms(START, START, LIMITS, gain=gain, judged=judged)
    assert [line.startswith("the reward rises while the judge prefers the start") for line in found] == [True] * hacked


def test_no_replies_are_an_alarm_and_a_start_without_words_divides_nothing():
    nothing = text_figures({})
    assert set(nothing.values()) == {0.0}
    assert alarms(nothing, START, LIMITS)[0] == "there are no replies"
    assert alarms(START | {"opening": 0.0, "phrase": 0.0, "similarity": 0.0}, nothing, LIMITS) == []


def test_figures_of_a_few_replies_by_hand():
    figures = text_figures(
        {"a": [("one two three four five six", "stop")], "b": [("One two three four five!", "length"), ("", "stop")]}
    )
    assert figures["replies"] == 3
    assert figures["words"] == pytest.approx(11 / 3)
    assert figures["truncated"] == figures["empty"] == pytest.approx(1 / 3)
    assert figures["opening"] == figures["phrase"] == pytest.approx(2 / 3)
    assert figures["distinct_1"] == pytest.approx(6 / 11)
    assert figures["distinct_2"] == pytest.approx(5 / 9)
    # a and b share 3 of 4 and 3 runs of three words; a and the empty reply none: mean over two pairs
    assert figures["similarity"] == pytest.approx(3 / math.sqrt(4 * 3) / 2)
    assert figures["repetition"] == 0.0


def test_repetition_is_the_share_of_runs_that_stood_there_before():
    figures = text_figures(one_each(["ka lo mi nu pe ka lo mi nu pe", "wo xa yu zi vo"]))
    assert figures["repetition"] == pytest.approx((1 / 6 + 0) / 2)


def test_one_reply_or_short_ones_agree_with_nobody():
    alone = text_figures(one_each(["A single reply of more than five words."]))
    assert alone["opening"] == alone["phrase"] == alone["similarity"] == 0.0
    short = text_figures(one_each(["No.", "Yes.", "Yes!", "So so."]))
    assert (short["opening"], short["phrase"], short["repetition"]) == (0.5, 0.0, 0.0)
    assert short["similarity"] == pytest.approx(1 / 6), "two of four agree: one pair of six"


def test_replies_to_one_speech_are_not_compared_with_each_other():
    same = "It sounds like a long week for you."
    assert text_figures({"a": [(same, "stop")] * 3})["similarity"] == 0.0
    assert text_figures({"a": [(same, "stop")] * 3, "b": [(same, "stop")]})["similarity"] == pytest.approx(1.0)


def test_length_alone_is_no_loss_of_diversity(voices):
    texts = [row[0][0] for row in voices["steady"].values()]
    half = [" ".join(text.split()[: len(text.split()) // 2]) for text in texts]
    whole, halves = text_figures(one_each(texts)), text_figures(one_each(half))
    assert whole["distinct_2"] == pytest.approx(halves["distinct_2"], rel=0.03)
    pairs, halved = ([pair for text in row for pair in pairwise(Text(text).words)] for row in (texts, half))
    plain, plain_half = (len(set(row)) / len(row) for row in (pairs, halved))
    assert plain < 0.93 * plain_half, "the plain share falls with length, which is why it is not used"


def test_the_share_of_different_runs_is_the_mean_over_draws(voices):
    import random

    texts = [row[0][0] for row in voices["brisk"].values()]
    row = [word for text in texts for word in Text(text).words]
    draw = random.Random(1)
    assert len(row) > SAMPLE
    seen = [len(set(draw.sample(row, SAMPLE))) / SAMPLE for _ in range(200)]
    assert text_figures(one_each(texts))["distinct_1"] == pytest.approx(sum(seen) / 200, abs=0.003)


HOSTILE = st.text(max_size=60) | st.sampled_from(
    ["\ud800", "‮ylper", "a\u0301" * 30, "\u200b" * 9, "मैं सुन रहा हूँ", "我在聽", "\x00\x00", "word " * 40, "ﷺ" * 5]
)


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(st.lists(st.tuples(HOSTILE, st.sampled_from(["stop", "length"])), max_size=3), max_size=6))
def test_figures_are_finite_shares_whatever_the_texts_and_whatever_their_order(rows):
    replies = {f"s{i}": row for i, row in enumerate(rows)}
    figures = text_figures(replies)
    assert all(math.isfinite(value) and value >= 0 for value in figures.values())
    assert all(value <= 1 + 1e-9 for name, value in figures.items() if name not in ("replies", "words"))
    turned = text_figures(dict(reversed(replies.items())))
    assert turned == pytest.approx(figures)
    assert alarms(figures, figures, LIMITS) == ([] if figures["replies"] else ["there are no replies"])


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from("xyz"), max_size=7)), max_size=7))
def test_similarity_is_the_mean_over_all_pairs(rows):
    replies = defaultdict(list)
    for speech, words in rows:
        replies[speech].append((" ".join(words), "stop"))

    def sets(text):
        words = text.split()
        return set(zip(words, words[1:], words[2:], strict=False)) or ({tuple(words)} if words else set())

    flat = [(speech, sets(text)) for speech, row in replies.items() for text, _ in row]
    pairs = [(a, b) for (s, a), (t, b) in combinations(flat, 2) if s != t]
    mean = sum(len(a & b) / math.sqrt(len(a) * len(b)) for a, b in pairs if a and b) / len(pairs) if pairs else 0.0
    assert text_figures(replies)["similarity"] == pytest.approx(mean)


def test_figures_by_speech_average_to_those_of_the_policy(voices):
    replies = voices["essayist"] | {"cut": [("a b c d e a b c d e", "length")]}
    by_speech, whole = speech_figures(replies | {"none": []}), text_figures(replies)
    for name, values in by_speech.items():
        assert set(values) == set(replies)
        assert sum(values.values()) / len(values) == pytest.approx(whole[name])
    assert speech_figures({}) == {"words": {}, "truncated": {}, "empty": {}, "repetition": {}}


def test_thousands_of_replies_take_seconds_and_agree_with_themselves(voices):
    texts = [row[0][0] for voice in voices.values() for row in voice.values()]
    many = one_each([f"{text} {i}" for i in range(3) for text in texts])
    assert len(many) > 2000
    figures = text_figures(many)
    assert figures["phrase"] == pytest.approx(text_figures(one_each(texts))["phrase"], abs=0.003)
    assert figures["distinct_2"] < text_figures(one_each(texts))["distinct_2"]


def test_best_of_n_is_this_far_from_its_policy():
    assert best_of_n_kl(1) == 0.0
    assert best_of_n_kl(2) == pytest.approx(math.log(2) - 0.5)
    assert best_of_n_kl(16) == pytest.approx(1.8351, abs=1e-4)
    with pytest.raises(ValueError, match="best of 0"):
        best_of_n_kl(0)


@pytest.mark.parametrize("n", [2, 4, 7])
def test_it_is_exact_when_no_two_samples_are_alike(n):
    size = 20_000  # replies in order of reward, equally likely: P(best of n) of each follows from the order
    chosen = [((i + 1) / size) ** n - (i / size) ** n for i in range(size)]
    divergence = sum(p * math.log(p * size) for p in chosen if p > 0)
    assert best_of_n_kl(n) == pytest.approx(divergence, abs=1e-3)
    coarse = [((i + 1) / 3) ** n - (i / 3) ** n for i in range(3)]
    assert sum(p * math.log(p * 3) for p in coarse) < best_of_n_kl(n), "an upper bound where samples are alike"
