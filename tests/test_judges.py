"""What a panel is worth: shared errors, results that hang on one judge, and judges who lean."""

import numpy as np
import pytest
from scripted_verdicts import Judged, always_tie, biased, fair
from sklearn.metrics import cohen_kappa_score
from statsmodels.regression.linear_model import OLS

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import Clusters, clusters_of
from psychocounsel.evaluate.contest.judges import dependence, judge_agreement, leanings, slope
from psychocounsel.evaluate.contest.verdicts import ballots
from psychocounsel.evaluate.significance import holm


def table_of(judged, **judges):
    return ballots(judged.by(**judges), judged.clusters)


def alike(shared, own, seed):
    """Judges whose errors come from one source (`shared`) and their own noise."""
    common = np.random.default_rng(seed).normal(0, shared, 5000) if shared else np.zeros(5000)
    return lambda quality, longer, first, random: quality + common[: len(quality)] + random.normal(0, own, len(quality))


def test_judges_with_errors_of_their_own_are_as_many_and_those_of_one_mind_are_one():
    judged = Judged(2000, better=0.0, spread=0.15)
    experts = dict(zip(judged.speeches, np.clip(0.5 + judged.quality, 0, 1), strict=True))
    own = dependence(table_of(judged, a=fair(0.2), b=fair(0.2), c=fair(0.2)), experts=experts)
    assert own.of == "errors" and abs(own.rho) < 0.06 and own.effective > 2.7
    one = dependence(table_of(judged, **{name: alike(0.2, 0.01, 3) for name in "abc"}), experts=experts)
    assert one.rho > 0.9 and one.effective == pytest.approx(3 / (1 + 2 * one.rho), abs=1e-3) and one.effective < 1.1
    half = dependence(table_of(judged, **{name: alike(0.14, 0.2, 4) for name in "abc"}), experts=experts)
    assert half.rho == pytest.approx(0.14**2 / (0.14**2 + 0.2**2 / 2), abs=0.07)  # each mean of two orders halves noise


def test_without_experts_the_correlation_is_that_of_verdicts():
    table = table_of(Judged(500), a=fair(0.2), b=fair(0.2), c=fair(0.2))
    found = dependence(table)
    pairs = np.corrcoef(table.by_judge.T)[np.triu_indices(3, 1)]
    assert found.of == "verdicts" and found.rho == pytest.approx(pairs.mean(), abs=1e-4)
    assert found.effective < 3


def test_opposed_judges_are_not_more_than_all_of_them():
    judged = Judged(300)
    found = dependence(table_of(judged, a=fair(0.01), b=lambda q, length, first, random: -q))
    assert found.rho < -0.9 and found.effective == 2.0


def test_a_judge_who_does_not_vary_correlates_with_nobody():
    found = dependence(table_of(Judged(100), a=fair(), b=always_tie))
    assert (found.rho, found.effective, found.undefined) == (None, None, 1)


def test_a_result_that_hangs_on_one_judge_is_stamped():
    judged = Judged(400, better=-0.03)
    table = table_of(judged, one=fair(), two=fair(), friend=biased(family=0.3))
    found = dependence(table)
    assert found.dependent and found.stamp == "judge-dependent: the result turns without friend"
    assert found.without["friend"] < 0.5 < found.win_rate and found.low == found.without["friend"]
    sound = dependence(table_of(Judged(400), one=fair(), two=fair(), three=fair()))
    assert not sound.dependent and sound.stamp == "" and 0.5 < sound.low <= sound.win_rate <= sound.high
    alone = dependence(table, ["one"])
    assert alone.dependent and "one judge" in alone.stamp and alone.effective == 1.0 and alone.low is None


def test_experts_must_have_judged_some_of_the_same_speeches_on_the_same_scale():
    table = table_of(Judged(20), a=fair(), b=fair())
    with pytest.raises(UserError, match="none of the judged speeches is among those of the experts"):
        dependence(table, experts={"other": 1.0})
    with pytest.raises(UserError, match="outside 0 to 1"):
        dependence(table, experts={"s0000": 4.0})


def test_the_agreement_of_judges_is_that_of_scikit_learn():
    judged = Judged(300, better=0.0)
    table = table_of(judged, a=fair(0.1), b=fair(0.3), tie=always_tie)
    found = judge_agreement(table)
    one, two = (np.sign(np.round(table.by_judge[:, k] - 0.5, 9)).astype(int) for k in (0, 1))
    assert found.judges == ("a", "b", "tie") and found.n[0][1] == found.n[0][0] == 300
    assert found.alike[0][1] == pytest.approx(np.mean(one == two), abs=1e-6)
    assert found.kappa[0][1] == pytest.approx(
        cohen_kappa_score(one, two, weights="quadratic", labels=[-1, 0, 1]), abs=1e-6
    )
    assert found.correlation[0][1] == pytest.approx(np.corrcoef(table.by_judge[:, :2].T)[0, 1], abs=1e-6)
    assert found.correlation[0][2] is None and found.kappa[0][0] is None
    assert found.kappa[1][0] == found.kappa[0][1]


def test_judges_who_share_no_speech_have_no_agreement():
    judged = Judged(20)
    verdicts = [v for v in judged.by(a=fair(), b=fair()) if (v.judge == "a") == (v.speech_id < "s0010")]
    found = judge_agreement(ballots(verdicts, judged.clusters))
    assert found.n[0][1] == 0 and found.alike[0][1] is None and found.correlation[0][1] is None


def test_a_judge_of_the_same_family_is_found_and_by_how_much_it_leans():
    judged = Judged(800, better=0.0, spread=0.1)
    table = table_of(judged, one=fair(0.1), two=fair(0.1), kin=biased(family=0.1, noise=0.1))
    found = {row.judge: row for row in leanings(table, bootstrap=1000)}
    kin = found["kin"].towards_a
    assert kin.low <= 0.1 <= kin.high and kin.low > 0.05
    corrected = holm({name: row.p for name, row in found.items()}, ["one", "two", "kin"])
    assert corrected["kin"].significant
    assert found["one"].towards_a.value == pytest.approx(-0.05, abs=0.015)  # against a mean that kin has raised


def test_a_judge_who_likes_length_is_found_and_by_how_much():
    judged = Judged(800, better=0.0, spread=0.1, longer=0.4)
    table = table_of(judged, one=fair(0.1), two=fair(0.1), long=biased(length=0.2, noise=0.1))
    found = {row.judge: row for row in leanings(table, bootstrap=1000)}
    assert found["long"].per_length.low <= 0.2 <= found["long"].per_length.high
    assert found["long"].per_length.low > 0.15
    for name in ("one", "two"):
        assert found[name].per_length.value == pytest.approx(-0.1, abs=0.03)
    clean = {row.judge: row for row in leanings(table_of(judged, one=fair(0.1), two=fair(0.1)), bootstrap=1000)}
    assert clean["one"].per_length.low <= 0 <= clean["one"].per_length.high
    assert clean["one"].towards_a.low <= 0 <= clean["one"].towards_a.high


def test_one_judge_leans_by_nobodys_measure_and_equal_lengths_tell_nothing():
    judged = Judged(50)
    with pytest.raises(UserError, match="a is the only judge"):
        leanings(table_of(judged, a=fair()))
    judged.longer[:] = 0
    assert leanings(table_of(judged, a=fair(), b=fair()), bootstrap=100)[0].per_length.value is None


@pytest.mark.parametrize("count", [60, 400])
def test_the_slope_is_least_squares_with_a_cluster_robust_interval(count):
    random = np.random.default_rng(count)
    clusters = clusters_of([f"c{i // 3:03}" for i in range(3 * count)])
    x = random.normal(0, 1, 3 * count)
    y = 0.3 * x + np.repeat(random.normal(0, 1, count), 3) + random.normal(0, 1, 3 * count)
    found = slope(x, y, clusters, draws=4000)
    design = np.column_stack([np.ones_like(x), x])
    theirs = OLS(y, design).fit(cov_type="cluster", cov_kwds={"groups": clusters.member}, use_t=True)
    assert found.slope == pytest.approx(theirs.params[1], abs=1e-9)
    assert found.interval[:2] == pytest.approx(tuple(theirs.conf_int()[1]), abs=0.025)
    assert slope(np.ones(5), np.arange(5), Clusters(np.arange(5), 5)) is None
