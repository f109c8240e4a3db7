"""Verdicts as arrays: what is missing stays missing, twice is an error, and a faulty judge is seen and set aside."""

import time

import numpy as np
import pytest
from conftest import CLIENT_LINES, make_speech
from scripted_verdicts import Judged, always_first, always_tie, biased, contradicts_itself, fair, refuses_a_third

from psychocounsel.errors import UserError
from psychocounsel.evaluate.contest.arena import Contest, hold, speech_values
from psychocounsel.evaluate.contest.verdicts import ballots, headline, standings
from psychocounsel.models.scripted import Scripted
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles
from psychocounsel.ratings.model_judge import ModelJudge

QUICK = {"bootstrap": 500, "seed": 0}


def measured(judged, **judges):
    table = ballots(judged.by(**judges), judged.clusters)
    found = standings(table, **QUICK)
    return table, {row.judge: row for row in found}, headline(table, found, **QUICK)


def by_hand(*rows):
    """Verdicts from (speech number, judge, value a first, value b first); '-' leaves a line out."""
    judged, found = Judged(10), []
    for i, judge, first, second in rows:
        for a_first, value in ((True, first), (False, second)):
            if value != "-":
                found.append(judged.verdict(i, judge, a_first, np.nan if value is None else value))
    return judged, found


def test_values_worked_out_by_hand():
    judged, verdicts = by_hand(
        (0, "x", 1.0, 0.5), (0, "y", 1.0, None), (1, "x", 0.5, 0.5),
        (1, "y", 0.75, 0.25), (2, "x", 0, 0), (2, "y", "-", 1),
    )  # fmt: skip
    table = ballots(verdicts, judged.clusters)
    assert table.by_judge == pytest.approx(np.array([[0.75, np.nan], [0.5, 0.5], [0.0, np.nan]]), nan_ok=True)
    assert table.by_speech() == pytest.approx(np.array([0.75, 0.5, 0.0]))
    x, y = standings(table, **QUICK)
    assert (x.order_effect.value, x.consistency.value, x.pairs) == (pytest.approx(0.1667), pytest.approx(0.6667), 3)
    assert (y.order_effect.value, y.parsed, y.turned) == (0.5, pytest.approx(4 / 6, abs=1e-6), 1.0)
    assert (x.turned, y.pairs, y.incomplete) == (0.0, 1, 2)
    found = headline(table, (x.model_copy(update={"excluded": ""}), y), **QUICK)
    assert (found.wins, found.ties, found.losses, found.missing) == (1, 1, 1, 0)
    assert found.win_rate.value == pytest.approx((0.75 + 0.5 + 0) / 3, abs=1e-4)
    assert found.missing_verdicts == pytest.approx(2 / 12, abs=1e-6)
    assert found.invalid == "16.7% of verdicts are missing, over 2%"


def test_the_arrays_say_what_the_loop_of_the_arena_says():
    judged = Judged(60)
    verdicts = judged.by(fair=fair(), refusing=refuses_a_third, place=biased(place=0.2))
    table = ballots(verdicts, judged.clusters)
    slow = speech_values(verdicts)
    assert table.by_speech() == pytest.approx([slow[name] for name in table.speeches])
    again = ballots(verdicts[::-1], judged.clusters)
    assert np.array_equal(again.values, table.values, equal_nan=True) and again.judges == table.judges


def test_samples_are_means_within_a_speech_and_a_judge_may_lack_one():
    judged, verdicts = by_hand((0, "x", 1.0, 1.0), (1, "x", 0.5, 0.5))
    verdicts += [judged.verdict(0, "x", True, 0.0, sample=1), judged.verdict(0, "x", False, 0.0, sample=1)]
    table = ballots(verdicts, judged.clusters)
    assert table.values.shape == (2, 1, 2, 2)
    assert table.by_judge[:, 0].tolist() == [0.5, 0.5]
    assert table.expected.sum() == 6 and headline(table, standings(table), **QUICK).missing_verdicts == 0


def test_a_verdict_that_is_there_twice_is_named_even_when_one_is_missing():
    judged, verdicts = by_hand((0, "x", 1.0, 1.0))
    for more in (1.0, None, 0.0):
        with pytest.raises(UserError, match=r"the verdict of x on speech s0000 \(a first, sample 0\) is there twice"):
            ballots([*verdicts, verdicts[0].model_copy(update={"value": more})], judged.clusters)


def test_what_does_not_belong_together_is_an_error():
    judged, verdicts = by_hand((0, "x", 1.0, 1.0))
    with pytest.raises(UserError, match="there are no verdicts"):
        ballots([], {})
    with pytest.raises(UserError, match="1 judged speeches are not among those given, first s0000"):
        ballots(verdicts, {})
    with pytest.raises(UserError, match="verdicts of new against old and of other against old"):
        ballots([*verdicts, verdicts[0].model_copy(update={"a": "other"})], judged.clusters)
    with pytest.raises(UserError, match=r"speech s0000 \(b first, sample 0\) is of other replies"):
        ballots([verdicts[0], verdicts[1].model_copy(update={"words_a": 7})], judged.clusters)
    with pytest.raises(UserError, match="z judged nothing in new against old"):
        ballots(verdicts, judged.clusters).by_speech(["z"])


def test_identical_replies_are_ties_that_show_nothing_about_a_judge():
    judged, verdicts = by_hand(*[(i, "x", 1.0, 0.0) for i in range(4)], *[(i, "x", 0.5, 0.5) for i in range(4, 10)])
    silent = [v.model_copy(update={"call_id": ""}) if v.value == 0.5 else v for v in verdicts]
    told, mute = (standings(ballots(rows, judged.clusters), **QUICK)[0] for rows in (verdicts, silent))
    assert told.consistency.value == 0.6 and mute.consistency.value == 0.0
    assert (mute.pairs, mute.parsed, mute.order_effect.value) == (4, 1.0, 1.0)
    assert mute.win_rate == told.win_rate and mute.win_rate.n == 10
    without = [v.model_copy(update={"call_id": ""}) for v in verdicts]  # a judge that makes no calls at all
    assert standings(ballots(without, judged.clusters), **QUICK)[0].consistency.value == 0.6


def test_a_principle_has_its_own_verdicts_and_its_own_gaps():
    judged, verdicts = by_hand((0, "x", 1.0, 1.0), (1, "x", 1.0, 1.0))
    verdicts = [
        v.model_copy(update={"principles": {"empathy": 0.25} if v.speech_id == "s0000" else {}}) for v in verdicts
    ]
    assert ballots(verdicts, judged.clusters, "empathy").by_speech().tolist()[0] == 0.25
    assert np.isnan(ballots(verdicts, judged.clusters, "empathy").by_speech()[1])


def test_a_judge_with_a_favourite_place_is_measured_and_moves_no_figure():
    for place in (0.1, 0.25):
        judged = Judged(600, better=0.05, spread=0.1)
        _, found, _ = measured(judged, fair=fair(0.1), placed=biased(place=place, noise=0.1))
        effect = found["placed"].order_effect
        assert effect.low <= 2 * place <= effect.high and effect.high - effect.low < 0.1
        assert found["fair"].order_effect.low <= 0 <= found["fair"].order_effect.high
        assert found["placed"].win_rate.value == pytest.approx(found["fair"].win_rate.value, abs=0.02)
    assert "alike after the swap, under 75%" in found["placed"].excluded


def test_a_judge_who_always_names_the_first_is_set_aside():
    _, found, top = measured(Judged(), one=fair(0.05), two=fair(0.05), stuck=always_first)
    row = found["stuck"]
    assert (row.order_effect.value, row.consistency.value, row.win_rate.value) == (1.0, 0.0, 0.5)
    assert (row.parsed, row.decided) == (1.0, 1.0)
    assert row.excluded == "judges 0.0% of pairs alike after the swap, under 75%"
    assert top.judges == ("one", "two") and top.excluded == {"stuck": row.excluded} and top.invalid == ""


def test_a_judge_who_always_ties_decides_nothing_and_it_is_said():
    _, found, top = measured(Judged(), tie=always_tie)
    assert (found["tie"].decided, found["tie"].consistency.value, found["tie"].order_effect.value) == (0.0, 1.0, 0.0)
    assert (top.wins, top.ties, top.losses, top.win_rate.value) == (0, 300, 0, 0.5)


def test_a_judge_who_refuses_a_third_is_set_aside_and_the_run_is_invalid():
    _, found, top = measured(Judged(), one=fair(0.05), two=fair(0.05), shy=refuses_a_third)
    assert found["shy"].excluded == "gave a verdict in 66.7% of calls, under 98%"
    assert (found["shy"].incomplete, found["shy"].pairs, found["shy"].win_rate.n) == (100, 200, 200)
    assert top.judges == ("one", "two") and top.win_rate.n == 300 and top.missing == 0
    assert top.invalid == "11.1% of verdicts are missing, over 2%"


def test_a_judge_whose_lines_are_lost_is_no_better_than_one_who_refuses():
    judged = Judged()
    verdicts = [v for v in judged.by(one=fair(0.05), shy=refuses_a_third) if v.value is not None]
    found = standings(ballots(verdicts, judged.clusters), **QUICK)
    assert found[1].parsed == pytest.approx(2 / 3, abs=1e-6) and "66.7%" in found[1].excluded


def test_a_judge_who_contradicts_itself_is_set_aside_and_alone_gives_no_result():
    _, found, top = measured(Judged(), coin=contradicts_itself)
    assert found["coin"].consistency.low <= 0.5 <= found["coin"].consistency.high
    assert top.win_rate.value is None and top.missing == 300 and top.judges == ()
    assert top.invalid == "no judge is fit for the headline"


def test_the_headline_is_the_truth_within_its_interval():
    judged = Judged(800)
    _, _, top = measured(judged, one=fair(), two=fair(), placed=biased(place=0.3, noise=0.05))
    truth = np.clip(0.5 + judged.quality, 0, 1).mean()
    assert top.win_rate.low <= truth <= top.win_rate.high
    assert top.wins + top.ties + top.losses == 800 and top.wins > 2 * top.losses


def test_verdicts_of_the_arena_become_the_same_figures(tmp_path):
    speeches = [make_speech(text, "arena") for text in CLIENT_LINES]
    contest = Contest("new", "old", {s.id: f"Warm words, {i}." for i, s in enumerate(speeches)},
                      {s.id: "Warm words, 0." for s in speeches})  # fmt: skip
    models = [Scripted(['{"overall": "A much better"}'], name="stuck"), Scripted(["No verdict."], name="mute")]
    with CallStore(tmp_path / "calls.sqlite") as store:
        verdicts = hold(contest, speeches, [ModelJudge(model) for model in models], load_principles(), store)
    found = standings(ballots(verdicts, {s.id: s.cluster for s in speeches}), **QUICK)
    rows = {row.judge.split(":")[-1]: row for row in found}
    assert rows["stuck"].order_effect.value == 1.0 and rows["stuck"].pairs == 7  # the first replies are identical
    assert rows["mute"].parsed == 0.0 and "gave a verdict in 0.0% of calls" in rows["mute"].excluded


def test_a_full_test_set_takes_seconds():
    judged = Judged(2324)
    verdicts = judged.by(one=fair(), two=fair(), three=biased(place=0.05))
    assert len(verdicts) == 13_944
    start = time.perf_counter()
    table = ballots(verdicts, judged.clusters)
    top = headline(table, standings(table))
    assert time.perf_counter() - start < 15  # about 2 s of one core, with 10,000 draws for each of ten figures
    assert top.win_rate.high - top.win_rate.low < 0.05
