"""What a comparison can show: the figures of the protocol, clusters, judges, and designs that cannot be."""

import numpy as np
import pytest
from scripted_verdicts import Judged, fair

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import Clusters, mean_interval
from psychocounsel.evaluate.contest.verdicts import ballots
from psychocounsel.evaluate.power import (
    calls,
    design_effect,
    detectable,
    half_width,
    panel_spread,
    plan,
    speeches_for,
    speeches_to_detect,
)
from psychocounsel.evaluate.significance import paired_difference


@pytest.mark.parametrize(("speeches", "points"), [(200, 4.2), (500, 2.6), (1000, 1.9), (2324, 1.2)])
def test_half_widths_are_those_of_the_protocol(speeches, points):
    assert round(100 * half_width(speeches, 0.30), 1) == points


@pytest.mark.parametrize(("speeches", "points"), [(500, 4.4), (1000, 3.1), (2324, 2.0)])
def test_detectable_differences_are_those_of_the_protocol(speeches, points):
    assert round(100 * detectable(speeches, 0.35), 1) == points


def test_the_full_test_costs_the_calls_of_the_protocol():
    assert calls(2324, 3) == 13_944 and calls(800, 3, samples=3) == 14_400
    found = plan(2324)
    assert (found.calls, found.clusters, found.effective) == (13_944, 2324, 2324.0)
    assert (round(found.half_width, 3), round(found.detectable, 3)) == (0.012, 0.020)


def test_the_planned_half_width_is_that_of_the_interval():
    random = np.random.default_rng(0)
    values = np.clip(0.5 + 0.3 * random.choice([-1, 1], 400), 0, 1)
    found = mean_interval(values, Clusters(np.arange(400), 400), share=True)
    assert (found.high - found.low) / 2 == pytest.approx(half_width(400, values.std()), rel=0.03)
    judged = Judged(200, spread=0.3)
    table = ballots(judged.by(a=fair(0.1), b=fair(0.1)), judged.clusters)
    s = table.by_speech()
    rest = s - s.mean()
    alike = (table.clusters.totals(rest) ** 2 - table.clusters.totals(rest**2)).sum() / (rest**2).sum()  # pairs
    low, high, method = mean_interval(s, table.clusters, share=True)
    assert method == "cluster t"
    assert (high - low) / 2 == pytest.approx(half_width(200, s.std(), clusters=100, alike=alike), rel=0.02)


def test_a_difference_is_found_as_often_as_planned():
    random, found = np.random.default_rng(1), 0
    names = [f"s{i}" for i in range(400)]
    true = detectable(400, 0.35)
    for run in range(150):
        first = np.clip(random.normal(true, 0.35, 400), -1, 1)
        made = paired_difference(
            dict(zip(names, first, strict=True)), dict.fromkeys(names, 0.0), dict(zip(names, names, strict=True)),
            bootstrap=400, seed=run,
        )  # fmt: skip
        found += made.difference.low > 0
    assert 0.72 <= found / 150 <= 0.88


def test_near_duplicates_are_worth_less():
    assert design_effect(200, 100, 1.0) == 2 and design_effect(200, 200, 1.0) == 1
    alone, twins = half_width(800), half_width(800, clusters=400)
    assert twins == pytest.approx(np.sqrt(2) * alone) and half_width(800, clusters=400, alike=0.0) == alone
    assert plan(800, clusters=400).effective == 400
    assert half_width(299) / half_width(300) > np.sqrt(300 / 299)  # Student's t under 300 clusters


def test_more_judges_help_as_far_as_they_differ():
    assert panel_spread(0.4, 4, 0.0) == pytest.approx(0.2)
    assert panel_spread(0.4, 4, 1.0) == panel_spread(0.4, 1, 0.3) == pytest.approx(0.4)
    random = np.random.default_rng(2)
    verdicts = random.normal(0, np.sqrt(0.5), (20_000, 1)) + random.normal(0, np.sqrt(0.5), (20_000, 3))
    assert verdicts.mean(axis=1).std() == pytest.approx(panel_spread(1.0, 3, 0.5), rel=0.02)


def test_the_fewest_speeches_are_just_enough():
    for width in (0.05, 0.02):
        n = speeches_for(width)
        assert half_width(n) <= width < half_width(n - 1)
        n = speeches_to_detect(width)
        assert detectable(n) <= width < detectable(n - 1)
    assert speeches_to_detect(0.02) == pytest.approx(2404, abs=2)  # (2.8 * .35 / .02)^2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: half_width(1), "1 clusters of 1 speeches; give two or more"),
        (lambda: half_width(10, clusters=11), "11 clusters of 10 speeches"),
        (lambda: half_width(10, 0.0), "the spread must be above 0"),
        (lambda: half_width(10, alike=2), "likeness within clusters from 0 to 1"),
        (lambda: detectable(100, power=1.0), "1.0 is no power"),
        (lambda: speeches_for(0), "a half-width of 0 is not one"),
        (lambda: speeches_to_detect(2), "a difference of 2 is not one"),
        (lambda: panel_spread(0.3, 0, 0.5), "a panel needs a judge"),
        (lambda: calls(10, 0), "at least one speech, one judge and one sample"),
        (lambda: plan(10, judges=0), "at least one speech, one judge and one sample"),
    ],
)
def test_a_design_that_cannot_be_is_one_line(make, words):
    with pytest.raises(UserError, match=words):
        make()
