"""Looks between rounds: which one is best, when they stop, and who is asked."""

import pytest
from conftest import make_speech
from hypothesis import given
from hypothesis import strategies as st

from psychocounsel.policy.look import decide, dev_speeches
from psychocounsel.recipe import OnlineTable

START = (0.5, [])


@pytest.mark.parametrize(
    ("looks", "patience", "best", "stopped"),
    [
        ([START], 0, 0, ""),
        ([START, (0.6, []), (0.55, []), (0.7, [])], 0, 3, ""),
        ([START, (0.6, []), (0.6, [])], 0, 1, ""),
        ([START, (0.4, []), (0.45, [])], 0, 0, ""),
        ([START, (0.6, []), (0.9, ["replies are twice as long"])], 0, 1, "round 2: replies are twice as long"),
        ([START, (0.9, ["one", "two"]), (0.6, [])], 0, 0, "round 1: one; two"),
        ([START, (0.6, []), (0.5, []), (0.4, [])], 2, 1, "no better round since round 1"),
        ([START, (0.6, []), (0.5, []), (0.7, [])], 2, 3, ""),
        ([START, (0.3, [])], 1, 0, "no better round since round 0"),
        ([(None, []), (None, []), (None, [])], 1, 2, ""),
        ([(None, []), (None, []), (None, ["collapsed"])], 1, 1, "round 2: collapsed"),
        ([START, (None, []), (0.6, [])], 0, 2, ""),
    ],
)
def test_the_best_round_and_why_they_stop(looks, patience, best, stopped):
    assert decide(looks, patience) == (best, stopped)


@given(st.lists(st.tuples(st.none() | st.floats(0, 1), st.sampled_from([[], [], ["alarm"]])), min_size=1, max_size=9))
def test_the_best_round_never_raised_an_alarm_and_nothing_before_the_stop_was_better(looks):
    best, stopped = decide([(0.5, []), *looks], 0)
    end = next((place for place, (_, alarms) in enumerate(looks, 1) if alarms), len(looks) + 1)
    assert bool(stopped) == (end <= len(looks))
    seen = [0.5, *(value for value, _ in looks[: end - 1])]
    assert seen[best] == max(value for value in seen if value is not None)


def test_looks_are_at_the_dev_split_or_at_train_speeches_that_rounds_leave_alone():
    train = [make_speech(f"The rent went up for the {number}th time.") for number in range(20)]
    dev = [make_speech(f"My grandmother forgot my name {number} times.", "dev") for number in range(5)]
    table = OnlineTable(dev_speeches=3)
    chosen = dev_speeches([*train, *dev], table, 1)
    assert len(chosen) == 3 and all(speech.split == "dev" for speech in chosen)
    assert chosen == dev_speeches([*dev, *train][::-1], table, 1)
    assert len(dev_speeches(train, OnlineTable(), 1)) == 2  # a tenth
    assert len(dev_speeches(train, OnlineTable(hold_out=0.5, dev_speeches=4), 1)) == 4
    assert dev_speeches(train, OnlineTable(hold_out=0.0), 1) == []
    assert dev_speeches([], OnlineTable(), 1) == []
