"""Intervals over clusters: which one is taken when, that they cover, and that single judgements would not."""

import tracemalloc

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import skew
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import (
    Clusters,
    Interval,
    bca,
    clopper_pearson,
    cluster_t,
    clusters_of,
    left_out_means,
    mean_draws,
    mean_interval,
    numbers,
    of_draws,
    percentile,
    skewness,
    weight_blocks,
)


def alone(count):
    return Clusters(np.arange(count), count)


def judgements(random, runs, clusters, speeches=2, judges=3, orders=2):
    """Verdicts on five levels, (clusters, speeches * judges * orders, runs), alike within clusters; the mean is .5."""
    hard = random.normal(0, 0.25, (clusters, 1, 1, runs))
    speech = random.normal(0, 0.15, (clusters, speeches, 1, runs))
    noise = random.normal(0, 0.2, (clusters, speeches, judges * orders, runs))
    values = np.clip(np.round(4 * (0.5 + hard + speech + noise)) / 4, 0, 1)
    return values.reshape(clusters, -1, runs)


def test_cluster_intervals_cover_and_single_judgements_do_not():
    """Nominal 95 %: 93 to 97 over clusters, by percentiles (320) and by t (60); under 85 over single judgements."""
    random, runs = np.random.default_rng(4), 600
    many = judgements(random, runs, 320)
    ones = np.ones((320, runs))
    draws = mean_draws(many.sum(axis=1), ones * many.shape[1], 1000, 0)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    assert 0.93 <= ((low <= 0.5) & (high >= 0.5)).mean() <= 0.97
    single = many.reshape(-1, runs)[:, :200]
    draws = mean_draws(single, np.ones_like(single), 600, 0)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    assert ((low <= 0.5) & (high >= 0.5)).mean() < 0.85
    few = judgements(random, runs, 60)
    member = Clusters(np.repeat(np.arange(60), few.shape[1]), 60)
    found = [mean_interval(few[..., k].ravel(), member, share=True, draws=200) for k in range(runs)]
    assert np.mean([row.method == "cluster t" for row in found]) > 0.95  # the rest is skewed by chance
    assert 0.93 <= np.mean([row.low <= 0.5 <= row.high for row in found]) <= 0.97


@pytest.mark.parametrize(("clusters", "mean"), [(12, 0.9), (40, 0.97), (100, 0.97), (320, 0.97)])
def test_shares_near_an_end_are_covered_at_least_as_often_as_said(clusters, mean):
    random, hits = np.random.default_rng(clusters), 0
    for run in range(200):
        chances = random.beta(2 * mean, 2 * (1 - mean), clusters)
        member = np.repeat(np.arange(clusters), 2)
        values = random.binomial(4, chances[member]) / 4
        found = mean_interval(values, Clusters(member, clusters), share=True, draws=300, seed=run)
        hits += found.low <= mean <= found.high
    assert hits >= 0.93 * 200


def test_weights_are_multinomial_and_do_not_depend_on_the_block():
    whole = np.vstack(list(weight_blocks(37, 4000, 5)))
    assert whole.shape == (4000, 37) and (whole.sum(axis=1) == 37).all()
    assert (np.vstack(list(weight_blocks(37, 4000, 5, block=37 * 7))) == whole).all()
    assert whole.mean(axis=0) == pytest.approx(np.ones(37), abs=0.08)
    assert whole.var() == pytest.approx(1 - 1 / 37, abs=0.02)  # n p (1 - p)
    assert np.cov(whole[:, 0], whole[:, 1])[0, 1] == pytest.approx(-1 / 37, abs=0.05)
    assert (np.vstack(list(weight_blocks(37, 4000, 6))) != whole).any()


def test_ten_thousand_draws_of_a_full_test_set_need_little_memory():
    random = np.random.default_rng(0)
    sums = random.random((2324, 1))
    tracemalloc.start()
    draws = mean_draws(sums, np.ones((2324, 1)), 10_000, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(draws) == 10_000 and peak < 100e6  # all weights at once would be 186 MB
    assert draws.std() == pytest.approx(sums.std() / np.sqrt(2324), rel=0.03)


def test_bca_is_that_of_scipy():
    values = np.random.default_rng(3).exponential(1, 400) ** 2
    draws = mean_draws(values[:, None], np.ones((400, 1)), 20_000, 1)[:, 0]
    found = bca(values.mean(), draws, left_out_means(values, np.ones(400)))
    theirs = scipy_bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(9))
    assert found[:2] == pytest.approx(tuple(theirs.confidence_interval), rel=0.01)
    low, high, _ = percentile(draws)
    assert found.low > low and found.high > high  # both ends move towards the long tail
    assert skewness(draws) == pytest.approx(skew(draws))


def test_the_jackknife_leaves_out_whole_clusters_of_any_size():
    found = left_out_means(np.array([6.0, 1.0, 2.0]), np.array([3.0, 1.0, 1.0]))
    assert found.tolist() == [3 / 2, 8 / 4, 7 / 4]


def test_cluster_t_is_the_cluster_robust_regression_on_a_constant():
    random = np.random.default_rng(2)
    member = np.sort(random.integers(0, 40, 150))
    clusters = clusters_of([f"c{k:02}" for k in member])
    values = random.normal(0.3, 1, 150) + random.normal(0, 1, 40)[member]
    found = cluster_t(clusters.totals(values), clusters.totals(np.ones(150)))
    settings = {"groups": clusters.member, "df_correction": True}
    theirs = OLS(values, np.ones(150)).fit(cov_type="cluster", cov_kwds=settings, use_t=True)
    low, high = theirs.conf_int()[0]
    assert found[:2] == pytest.approx((low, high), abs=1e-9)


def test_clopper_pearson_is_that_of_statsmodels():
    for events, n in ((0, 30), (3, 400), (30, 30), (7, 12)):
        theirs = proportion_confint(events, n, method="beta")
        assert clopper_pearson(events / n, n)[:2] == pytest.approx(theirs, abs=1e-9)
    assert clopper_pearson(0, 300).high == pytest.approx(0.0122, abs=1e-4)  # two-sided; one-sided it is 1 %


def coins(wins, n):
    return np.repeat([1.0, 0.0], [wins, n - wins])


@pytest.mark.parametrize(
    ("values", "count", "share", "method"),
    [
        (coins(4, 9), 9, True, "Wilson"),
        (coins(40, 99), 99, True, "Wilson"),
        (coins(9, 400), 400, True, "Clopper-Pearson"),
        (coins(391, 400), 400, True, "Clopper-Pearson"),
        (coins(60, 120), 120, True, "cluster t"),
        (coins(200, 400), 400, True, "percentile"),
        (np.full(400, 0.5), 400, True, "Wilson"),
        (np.linspace(-1, 1, 9), 9, False, "under 10 clusters"),
        (np.zeros(50), 50, False, "nothing varies"),
        (np.r_[np.zeros(398), 60, 80], 400, False, "BCa"),
    ],
)
def test_the_interval_is_the_one_the_rules_name(values, count, share, method):
    found = mean_interval(values, alone(count), share=share, draws=2000)
    assert found.method == method
    if method in ("under 10 clusters", "nothing varies"):
        assert found[:2] == (None, None)
    else:
        assert found.low < values.mean() < found.high


def test_a_share_stays_within_0_and_1_and_a_difference_may_leave_them():
    values = np.r_[np.full(14, 0.75), np.zeros(1), np.full(15, 1.0)]
    assert mean_interval(values - 1, alone(30), share=False, draws=500).low < 0
    assert mean_interval(values, alone(30), share=True, draws=500).high <= 1


def test_undefined_draws_are_left_out_and_constant_ones_give_no_interval():
    assert of_draws(0.5, np.array([np.nan, 0.4, 0.6, np.nan]))[:2] == pytest.approx((0.405, 0.595))
    assert of_draws(0.5, np.full(9, 0.5)) == Interval(None, None, "the draws do not vary")
    assert of_draws(0.5, np.full(9, np.nan)).low is None


def test_a_missing_value_is_no_number():
    with pytest.raises(UserError, match="win values: 2 of 3 are not numbers; leave missing ones out"):
        numbers([np.nan, 1.0, np.inf], "win values")
