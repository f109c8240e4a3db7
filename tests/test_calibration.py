"""Rewards on held-out pairs: credit for ties, the curve and its band, temperature from other pairs, and length."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from statsmodels.regression.linear_model import OLS

from psychocounsel.errors import UserError
from psychocounsel.evaluate.pairs.calibration import (
    best_of,
    held_calibration,
    length_probes,
    margin_auc,
    reliability_curve,
)
from psychocounsel.reward.calibrate import Sides

QUICK = {"bootstrap": 400, "seed": 0}


def sides(n, temperature=2.0, seed=0, name="c"):
    """Pairs whose labels were drawn at a temperature, two to a cluster."""
    random = np.random.default_rng(seed)
    d = random.normal(0, 2, n)
    return Sides(d, (random.random(n) < expit(d / temperature)).astype(float), [f"{name}{i // 2}" for i in range(n)])


def test_a_tie_of_k_replies_earns_one_kth():
    scores = [[4, 1, 2, 3], [1, 4, 2, 3], [2, 2, 1, 0], [1, 1, 1, 1], [5, np.nan, 5, 5], [np.inf, 0, 0, np.nan]]
    found = best_of(scores, [0] * 6, [f"c{i}" for i in range(6)], **QUICK)
    assert found.value == pytest.approx((1 + 0 + 1 / 2 + 1 / 4 + 1 / 3 + 1) / 6, abs=1e-4) and found.n == 6
    random = np.random.default_rng(0)
    chance = best_of(random.normal(size=(2000, 4)), [0] * 2000, [str(i) for i in range(2000)], **QUICK)
    assert chance.low <= 0.25 <= chance.high
    constant = best_of(np.zeros((50, 4)), list(range(4)) * 12 + [0, 1], [str(i) for i in range(50)], **QUICK)
    assert constant.value == 0.25  # one score for all is worth no more than lots


def test_best_of_needs_the_best_reply_and_its_score():
    with pytest.raises(UserError, match="in 1 speeches the best reply has no score"):
        best_of([[np.nan, 1.0]], [0], ["a"])
    with pytest.raises(UserError, match="beyond the row"):
        best_of([[1.0, 2.0]], [2], ["a"])
    with pytest.raises(UserError, match="a row of scores, the best reply and a cluster"):
        best_of([[1.0, 2.0]], [0, 1], ["a"])
    assert best_of(np.zeros((0, 4)), [], []).value is None


def test_the_temperature_is_fitted_on_other_pairs_and_measured_on_these():
    found = held_calibration(sides(4000, name="v"), sides(2000, seed=1, name="t"), **QUICK)
    assert found.temperature == pytest.approx(2.0, rel=0.1) and found.note == ""
    assert found.after.nll.value < found.before.nll.value and found.after.ece.value < found.before.ece.value
    assert found.after.accuracy == found.before.accuracy and found.after.n == 2000
    assert sum(row.n for row in found.curve) == 2000 and len(found.curve) == 15
    inside = [row.low <= row.said <= row.high for row in found.curve]
    assert sum(inside) >= 12  # after the temperature the line of the honest lies within most bands
    raw = reliability_curve(sides(2000, seed=1, name="t"), **QUICK)
    assert sum(row.low <= row.said <= row.high for row in raw) <= 8


def test_validation_and_test_share_no_cluster():
    with pytest.raises(UserError, match="20 clusters of speeches are in validation and in test; split by cluster"):
        held_calibration(sides(40), sides(60, seed=1))
    with pytest.raises(UserError, match="no test pairs"):
        held_calibration(sides(40), Sides(np.zeros(0), np.zeros(0), []))
    with pytest.raises(UserError, match="there are no pairs"):
        held_calibration(Sides(np.zeros(0), np.zeros(0), []), sides(40))


def test_the_curve_by_hand_and_its_band_by_clusters():
    d, won, names = np.log([3.0] * 30), np.repeat([1.0, 0.0], [20, 10]), [f"c{i}" for i in range(30)]
    one = reliability_curve(Sides(d, won, names), **QUICK)
    assert len(one) == 1 and (one[0].said, one[0].won, one[0].n) == (0.75, pytest.approx(2 / 3, abs=1e-6), 30)
    assert one[0].low < 2 / 3 < one[0].high
    twice = reliability_curve(Sides(np.tile(d, 2), np.tile(won, 2), names * 2), **QUICK)
    assert (twice[0].low, twice[0].high) == (one[0].low, one[0].high)  # copies say nothing new
    assert reliability_curve(Sides(d, won, ["c"] * 30), **QUICK)[0].low is None
    with pytest.raises(UserError, match="reward differences: 1 of 2 are not numbers"):
        reliability_curve(Sides(np.array([np.nan, 1.0]), np.array([1.0, 0.0]), ["a", "b"]))


def test_the_margin_tells_where_experts_agree():
    random = np.random.default_rng(0)
    d = random.normal(0, 2, 500)
    agreed = (random.random(500) < expit(np.abs(d) - 1)).astype(float)
    clusters = [f"c{i // 2}" for i in range(500)]
    found = margin_auc(d, agreed, clusters, **QUICK)
    assert found.value == pytest.approx(roc_auc_score(agreed, np.abs(d)), abs=1e-4) and found.n == 500
    assert 0.5 < found.low < found.value < found.high
    copied = margin_auc(np.tile(d, 3), np.tile(agreed, 3), clusters * 3, **QUICK)
    assert (copied.low, copied.high) == (found.low, found.high)  # copies say nothing new
    assert margin_auc(d, np.ones(500), clusters, **QUICK).value is None
    with pytest.raises(UserError, match="whether experts agree on it"):
        margin_auc([1.0], [1.0, 0.0], ["a"])


# --- length -----------------------------------------------------------------------------------------------------------


def pairs(n, likes_length, seed=0, quality=1.0):
    """Rewards of pairs in which the longer reply is chosen six times in ten."""
    random = np.random.default_rng(seed)
    chosen, rejected = (np.exp(random.normal(5, 0.4, n)) for _ in range(2))
    turn = (chosen < rejected) == (random.random(n) < 0.6)
    chosen, rejected = np.where(turn, rejected, chosen), np.where(turn, chosen, rejected)
    ahead = quality + likes_length * np.log(chosen / rejected) + random.normal(0, 1, n)
    return ahead, chosen, rejected, [f"c{i // 2}" for i in range(n)]


def test_a_reward_that_likes_length_fails_the_gate_and_one_that_does_not_passes():
    fair, long = (length_probes(*pairs(4000, liking), **QUICK) for liking in (0.0, 1.5))
    assert (
        fair.passes
        and abs(fair.apart.value) <= 0.05
        and fair.apart.low < 0 < fair.apart.high
        and fair.per_log_length.low <= 0.4
    )
    assert not long.passes and long.apart.low > 0.2
    assert long.longer.value > long.within.value > long.shorter.value
    assert long.longer.n + long.shorter.n + long.within.n == 4000


def test_the_slope_is_least_squares_through_the_origin_of_pairs_turned_both_ways():
    ahead, chosen, rejected, clusters = pairs(600, 1.5)
    ratio = np.log(chosen / rejected)
    found = length_probes(ahead, chosen, rejected, clusters, **QUICK).per_log_length
    assert found.value == pytest.approx((ratio @ ahead) / (ratio @ ratio), abs=1e-4)
    copies = [np.tile(part, 3) for part in (ahead, chosen, rejected)]
    tripled = length_probes(*copies, clusters * 3, **QUICK).per_log_length
    once = length_probes(ahead, chosen, rejected, clusters, **QUICK).per_log_length
    assert (tripled.low, tripled.high) == pytest.approx((once.low, once.high), abs=1e-3)  # copies say nothing new
    by_regression = OLS(np.r_[ahead, -ahead], np.r_[ratio, -ratio]).fit(
        cov_type="cluster", cov_kwds={"groups": np.tile(np.unique(clusters, return_inverse=True)[1], 2)}
    )
    assert once.high - once.low == pytest.approx(float(np.diff(by_regression.conf_int()[0])[0]), rel=0.15)
    blind = length_probes(1.5 * ratio, chosen, rejected, clusters, **QUICK)
    assert blind.per_log_length.value == pytest.approx(1.5, abs=1e-4)
    assert blind.longer.value == 1.0 and blind.shorter.value == 0.0 and blind.apart.value == 1.0


def test_the_length_baseline_is_logistic_regression_on_other_pairs():
    _, chosen, rejected, clusters = pairs(1500, 0.0, seed=1)
    _, *fitted, _ = pairs(1000, 0.0, seed=2)
    found = length_probes(np.ones(1500), chosen, rejected, clusters, tuple(fitted), **QUICK)
    x = np.log(fitted[0] / fitted[1])
    both, labels = np.r_[x, -x][:, None], np.r_[np.ones(1000), np.zeros(1000)]
    model = LogisticRegression(C=np.inf, fit_intercept=False).fit(both, labels)
    expected = (model.predict(np.log(chosen / rejected)[:, None]) == 1).mean()
    assert found.length_only.value == pytest.approx(expected, abs=1e-4)
    assert found.length_only.low > 0.5  # six of ten
    turned = length_probes(np.ones(1500), chosen, rejected, clusters, tuple(fitted[::-1]), **QUICK)
    assert turned.length_only.value == pytest.approx(1 - expected, abs=1e-4)  # shorter is better there
    assert length_probes(np.ones(1500), chosen, rejected, clusters, **QUICK).length_only.value is None


def test_within_a_tenth_counts_as_equal_and_a_part_without_pairs_is_undefined():
    found = length_probes([1.0, -1.0, 0.0], [100, 100, 111], [91, 110, 100], ["a", "b", "c"], **QUICK)
    assert (found.within.n, found.longer.n, found.shorter.n) == (3, 0, 0)
    assert found.within.value == 0.5 and found.apart.value is None and found.passes is None
    beyond = length_probes([1.0, 1.0], [100, 100], [89, 112], ["a", "b"], **QUICK)
    assert (beyond.within.n, beyond.longer.n, beyond.shorter.n) == (0, 1, 1)
    level = length_probes([1.0, 1.0], [100, 100], [100, 100], ["a", "b"], ([5, 6], [5, 6]), **QUICK)
    assert level.per_log_length.value is None and level.length_only.value == 0.5


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (([], [], [], []), "a reward difference, two lengths and a cluster"),
        (([1.0], [10], [0], ["a"]), "two lengths above 0"),
        (([np.nan], [10], [9], ["a"]), "reward differences: 1 of 1 are not numbers"),
        (([1.0], [10], [9, 8], ["a"]), "two lengths above 0 for each pair"),
        (([1.0], [10], [9], ["a"], ([], [])), "the length baseline has no pairs"),
    ],
)
def test_bad_pairs_are_one_line(args, words):
    with pytest.raises(UserError, match=words):
        length_probes(*args)
