"""Best of N: nested picks, paired intervals, and a turn that is only said when the intervals carry it."""

import math
import random
import re
from itertools import pairwise

import pytest
from conftest import make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.evaluate.best_of import best, curve, sizes, verdicts_of_picks
from psychocounsel.evaluate.contest.arena import hold
from psychocounsel.evaluate.wording import number_text
from psychocounsel.models.scripted import Scripted
from psychocounsel.models.store import CallStore
from psychocounsel.policy.monitors import best_of_n_kl
from psychocounsel.principles import load_principles
from psychocounsel.ratings.judge import ScoringJudge
from psychocounsel.ratings.model_judge import ModelJudge
from psychocounsel.records import Verdict

PRINCIPLES = load_principles()
SETTINGS = {"bootstrap": 2000, "seed": 0}


def asked(count):
    return [make_speech(f"Line {i} of a long day.", "arena") for i in range(count)]


def verdict(speech, value):
    shared = {"speech_id": speech.id, "a": "best-of", "b": "base", "judge": "j", "value": value}
    return [Verdict(**shared, a_first=first) for first in (True, False)]


def drawn(speeches, most, seed=0):
    """Standard normal rewards of so many replies."""
    draw = random.Random(seed)
    return {speech.id: [draw.gauss(0, 1) for _ in range(most)] for speech in speeches}


def curve_of(speeches, rewards, verdicts):
    return curve(rewards, verdicts, {s.id: s for s in speeches}, best_of_n_kl, **SETTINGS)


def test_sizes_double_up_to_the_most_and_it_is_one_of_them():
    assert sizes(16) == [1, 2, 4, 8, 16] and sizes(24) == [1, 2, 4, 8, 16, 24] and sizes(2) == [1, 2]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=24))
@settings(max_examples=60, deadline=None)
def test_picks_are_nested_and_their_reward_never_falls(rewards):
    picks = [best(rewards, 0, n) for n in range(1, len(rewards) + 1)]
    assert picks[0] == 0 and all(rewards[pick] == max(rewards[: n + 1]) for n, pick in enumerate(picks))
    assert all(one == other or other == n for n, (one, other) in enumerate(pairwise(picks), 1))


def test_the_reward_gain_is_what_order_statistics_say():
    """The mean of the best of n standard normal draws is 0, 0.564, 1.029 and 1.424 (n = 1, 2, 4, 8)."""
    speeches = asked(3000)
    rewards = {key: [7 * value + 3 for value in row] for key, row in drawn(speeches, 8).items()}
    found = curve_of(speeches, rewards, {n: [v for s in speeches for v in verdict(s, 0.5)] for n in sizes(8)})
    for point, expected in zip(found.points, (0, 0.564, 1.029, 1.424), strict=True):
        assert point.reward.value == pytest.approx(expected, abs=0.06)  # on the scale of the spread, not of the model
        assert point.kl == pytest.approx(math.log(point.n) - (point.n - 1) / point.n)
        if point.n > 1:
            assert point.reward.low < expected < point.reward.high
    assert found.spread == pytest.approx(7, rel=0.05) and found.turn is None and found.sentence == ""


def judged(speeches, rates, seed=1):
    """Verdicts by N whose mean is about the given rate."""
    draw = random.Random(seed)
    return {n: [v for s in speeches for v in verdict(s, float(draw.random() < rate))] for n, rate in rates.items()}


def test_a_turn_is_told_with_both_sizes_and_the_interval():
    speeches = asked(400)
    found = curve_of(speeches, drawn(speeches, 8), judged(speeches, {1: 0.5, 2: 0.6, 4: 0.75, 8: 0.3}))
    assert found.turn == 8 and found.figures()["best_of.turn"].value == 8
    assert re.fullmatch(
        r"Over-optimisation from N = 8: compared with N = 1 the reward rises by 1\.\d\d standard deviations, and the "
        r"judges' win rate changes by -\d+\.\d points \[-\d+\.\d, -\d+\.\d\]", found.sentence
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rates", "count"),
    [
        ({1: 0.5, 2: 0.6, 4: 0.7, 8: 0.7}, 400),  # levels off
        ({1: 0.5, 2: 0.6, 4: 0.7, 8: 0.62}, 60),  # falls, but not by what 60 speeches can tell
        ({1: 0.5, 2: 0.9, 4: 0.9, 8: 0.1}, 8),  # under 10 clusters there is no interval
    ],
)
def test_no_turn_is_told_that_the_intervals_do_not_carry(rates, count):
    speeches = asked(count)
    found = curve_of(speeches, drawn(speeches, 8), judged(speeches, rates))
    assert found.turn is None and found.figures()["best_of.turn"].value is None


def test_a_fall_of_the_judges_without_a_rise_of_the_reward_is_no_over_optimisation():
    speeches = asked(400)
    rewards = {speech.id: [1.0] * 4 for speech in speeches}
    found = curve_of(speeches, rewards, judged(speeches, {1: 0.5, 2: 0.5, 4: 0.1}))
    assert found.turn is None and [point.reward.value for point in found.points] == [0, 0, 0] and found.spread == 0


def test_a_false_turn_is_rare():
    """Judges that do not care: of 60 curves of six sizes at most a few may be said to turn (5 % of all together)."""
    speeches, rewards = asked(40), drawn(asked(40), 32)
    turns = [
        curve(rewards, judged(speeches, dict.fromkeys(sizes(32), 0.5), seed), {s.id: s for s in speeches}, best_of_n_kl,
              bootstrap=2000, seed=seed).turn
        for seed in range(60)
    ]  # fmt: skip
    assert sum(turn is not None for turn in turns) <= 6


def test_replies_to_near_duplicates_widen_the_interval():
    speeches = [s.model_copy(update={"cluster": str(i % 12)}) for i, s in enumerate(asked(120))]
    draw = random.Random(3)
    values = [float(draw.random() < 0.5) for _ in range(12)]
    verdicts = {1: [v for i, s in enumerate(speeches) for v in verdict(s, values[i % 12])]}
    alone = [s.model_copy(update={"cluster": s.id}) for s in speeches]
    wide, narrow = (curve_of(some, drawn(speeches, 1), verdicts).points[0].winrate for some in (speeches, alone))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


# --- judging ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as made:
        yield made


def test_a_pick_is_judged_once_for_all_n_and_reply_0_never(store):
    speeches = asked(6)
    replies = [{s.id: f"Reply {number}." for s in speeches} for number in range(8)]
    tops = (0, 1, 3, 5, 7, 2)
    rewards = {s.id: [10.0 if number == top else -number for number in range(8)]
               for s, top in zip(speeches, tops, strict=True)}  # fmt: skip
    model = Scripted(lambda request: '{"overall": "A better"}')
    contests = []

    def judge(contest, some):
        contests.append(contest.a)
        return hold(contest, some, [ModelJudge(model)], PRINCIPLES, store)

    found = verdicts_of_picks(speeches, replies, rewards, 8, "base", judge)
    assert len(model.sent) == 2 * 5  # five picks that are not reply 0, in both orders
    assert {n: len(verdicts) for n, verdicts in found.items()} == {1: 12, 2: 12, 4: 12, 8: 12}
    shown = {re.search(r"Reply ([1-7])\.", request.messages[-1]["content"])[1] for request in model.sent}
    assert shown == {"1", "3", "5", "7", "2"} and contests == ["best-of-1", "best-of-2", "best-of-4", "best-of-8"]
    assert {v.value for v in found[1]} == {0.5}


class Short:
    """A scorer that likes few words: what a reward for length over-optimises against."""

    def score(self, speech, response):
        return {p.id: max(1.0, 5 - len(response.split()) * 0.4) for p in PRINCIPLES}


def test_choosing_by_length_is_seen_by_a_judge_that_likes_few_words(store):
    speeches, draw = asked(30), random.Random(5)
    counts = {s.id: [draw.randint(1, 10) for _ in range(8)] for s in speeches}
    replies = [{s.id: "word " * counts[s.id][number] for s in speeches} for number in range(8)]
    rewards = {key: [float(count) for count in row] for key, row in counts.items()}
    judges = [ScoringJudge("short", Short())]
    verdicts = verdicts_of_picks(speeches, replies, rewards, 8, "base",
                                 lambda contest, some: hold(contest, some, judges, PRINCIPLES, store))  # fmt: skip
    found = curve_of(speeches, rewards, verdicts)
    assert found.turn == 2 and found.points[-1].winrate.value < 0.2 < found.points[-1].reward.low
    told = found.told()
    assert [row["n"] for row in told["points"]] == [1, 2, 4, 8] and told["turn"] == 2
    assert number_text(told["points"][1]["reward"]).count("[") == 1


def test_a_judge_without_a_verdict_takes_the_speech_out_of_the_rate_only(store):
    speeches = asked(12)
    replies = [{s.id: f"Reply {number}." for s in speeches} for number in range(2)]
    rewards = {s.id: [0.0, 1.0] for s in speeches}
    silent = speeches[0].text
    model = Scripted(lambda request: "no" if silent in request.messages[1]["content"] else '{"overall": "A better"}')
    judges = [ModelJudge(model)]
    verdicts = verdicts_of_picks(speeches, replies, rewards, 2, "base",
                                 lambda contest, some: hold(contest, some, judges, PRINCIPLES, store))  # fmt: skip
    point = curve_of(speeches, rewards, verdicts).points[1]
    assert (point.reward.n, point.winrate.n) == (12, 11)
