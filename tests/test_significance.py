"""Sign flips, paired policies, Holm's correction, and topics that chance alone has parted."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import betabinom, permutation_test, ttest_1samp

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import clusters_of
from psychocounsel.evaluate.contest.cells import fit_prior, shrunk_cells
from psychocounsel.evaluate.significance import holm, paired_difference, sign_flip


def clustered(random, count=60, mean=0.0):
    """Differences in pairs of one cluster each."""
    shared = np.repeat(random.normal(0, 0.2, count), 2)
    return mean + shared + random.normal(0, 0.1, 2 * count), [f"c{i // 2:03}" for i in range(2 * count)]


def test_few_clusters_are_flipped_in_every_way():
    values, clusters = np.array([0.5, 0.25, 0.25, -0.1, 0.4]), clusters_of(["a", "b", "b", "c", "d"])
    sums = [0.5, 0.5, -0.1, 0.4]
    far = [
        abs(sum(s * v for s, v in zip(signs, sums, strict=True))) >= 1.3 - 1e-9 for signs in product((1, -1), repeat=4)
    ]
    assert sign_flip(values, clusters) == sum(far) / 16 == 4 / 16


def test_many_clusters_are_flipped_as_scipy_does():
    values, names = clustered(np.random.default_rng(3), 40, 0.05)
    clusters = clusters_of(names)
    theirs = permutation_test(
        (clusters.totals(values),), np.sum, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    )
    assert sign_flip(values, clusters, draws=20_000) == pytest.approx(theirs.pvalue, abs=0.015)
    assert sign_flip(values, clusters) == sign_flip(values[::-1], clusters_of(names[::-1]))


def test_the_sign_flip_errs_as_often_as_it_says_and_one_over_values_would_not():
    random = np.random.default_rng(8)
    wrong = {"clusters": 0, "values": 0}
    for run in range(400):
        values, names = clustered(random, 40)
        wrong["clusters"] += sign_flip(values, clusters_of(names), draws=400, seed=run) <= 0.05
        wrong["values"] += sign_flip(values, clusters_of([str(i) for i in range(80)]), draws=400, seed=run) <= 0.05
    assert 0.02 <= wrong["clusters"] / 400 <= 0.08
    assert wrong["values"] / 400 > 0.1


def test_all_ties_are_no_evidence_and_no_values_are_an_error():
    assert sign_flip(np.zeros(50), clusters_of([str(i) for i in range(50)])) == 1.0
    assert sign_flip(np.full(50, 0.5), clusters_of([str(i) for i in range(50)]), draws=999) == 1 / 1000
    with pytest.raises(UserError, match="no values"):
        sign_flip(np.zeros(0), clusters_of([]))
    with pytest.raises(UserError, match="1 of 2 are not numbers"):
        sign_flip(np.array([0.1, np.nan]), clusters_of(["a", "b"]))


def policies(better, count=300, seed=0):
    random = np.random.default_rng(seed)
    hard = random.normal(0.5, 0.2, count)
    names = [f"s{i}" for i in range(count)]
    first, second = (np.clip(hard + lift + random.normal(0, 0.1, count), 0, 1) for lift in (better, 0.0))
    return dict(zip(names, first, strict=True)), dict(zip(names, second, strict=True)), {n: n for n in names}


def test_a_paired_difference_is_found_that_two_intervals_would_hide():
    first, second, clusters = policies(0.04)
    found = paired_difference(first, second, clusters)
    assert found.difference.low > 0 and found.difference.n == 300
    assert found.p < 0.001 and found.p_bootstrap < 0.001
    assert found.difference.high - found.difference.low < 0.04  # unpaired it would be twice as wide
    turned = paired_difference(second, first, clusters)
    assert turned.difference.value == -found.difference.value and turned.p == found.p


def test_both_p_values_are_about_that_of_a_t_test_on_normal_differences():
    first, second, clusters = policies(0.02, seed=5)
    found = paired_difference(first, second, clusters, bootstrap=20_000)
    p = ttest_1samp([first[name] - second[name] for name in first], 0).pvalue
    assert 0.01 < p < 0.1
    assert found.p == pytest.approx(p, rel=0.1) and found.p_bootstrap == pytest.approx(p, rel=0.1)


def test_equal_policies_differ_by_nothing():
    first, second, clusters = policies(0.0, seed=5)
    found = paired_difference(first, second, clusters)
    assert found.difference.low < 0 < found.difference.high and found.p > 0.05 and found.p_bootstrap > 0.05
    same = paired_difference(first, first, clusters)
    assert (same.difference.value, same.difference.low, same.p, same.p_bootstrap) == (0.0, None, 1.0, None)
    few = paired_difference({"a": 0.9, "b": 0.8}, {"a": 0.5, "b": 0.5}, {"a": "a", "b": "b"})
    assert (few.p, few.p_bootstrap, few.difference.low) == (0.5, None, None)


def test_policies_on_different_speeches_are_not_compared():
    with pytest.raises(UserError, match="1 only the first, 2 only the second, 1 both"):
        paired_difference({"a": 1, "b": 1}, {"a": 1, "c": 1, "d": 0}, {})
    with pytest.raises(UserError, match="1 judged speeches are not among those given, first a"):
        paired_difference({"a": 1}, {"a": 1}, {})
    with pytest.raises(UserError, match="on no speeches"):
        paired_difference({}, {}, {})


def test_holm_by_hand():
    """.01, .02, .04 of three: times 3, times 2, times 1, never falling."""
    found = holm({"c": 0.04, "a": 0.01, "b": 0.02}, ["a", "b", "c"])
    assert [found[name].adjusted for name in ("a", "b", "c")] == pytest.approx([0.03, 0.04, 0.04])
    assert all(row.significant for row in found.values())
    assert not holm({"a": 0.03, "b": 0.04}, ["a", "b"])["a"].significant


def test_a_family_holds_what_was_declared_no_more_and_no_less():
    with pytest.raises(UserError, match="of a family of 2 tests, 'b' has no p-value"):
        holm({"a": 0.01}, ["a", "b"])
    with pytest.raises(UserError, match="'b' was not declared"):
        holm({"a": 0.01, "b": 0.5}, ["a"])
    for family in ([], ["a", "a"]):
        with pytest.raises(UserError, match="needs names, each once"):
            holm({"a": 0.01}, family)
    for wrong in (np.nan, -0.1, 1.1):
        with pytest.raises(UserError, match="the p-value of 'b' is not one"):
            holm({"a": 0.01, "b": wrong}, ["a", "b"])


# --- topics -----------------------------------------------------------------------------------------------------------


def topics(random, spread, coins=4, count=42, most=80):
    """Values of topics whose true rates differ by `spread` around .6."""
    rates = np.clip(random.normal(0.6, spread, count), 0.02, 0.98)
    sizes = random.integers(5, most, count)
    names = np.repeat([f"t{k:02}" for k in range(count)], sizes)
    values = random.binomial(coins, np.repeat(rates, sizes)) / coins
    return rates, values, [str(i) for i in range(len(values))], names.tolist()


def test_the_prior_is_the_one_the_rates_were_drawn_from_and_the_likeliest():
    random = np.random.default_rng(1)
    trials = random.integers(5, 60, 800).astype(float)
    wins = random.binomial(trials.astype(int), random.beta(6, 4, 800)).astype(float)
    found = fit_prior(wins, trials)
    assert found.mean == pytest.approx(0.6, abs=0.02) and found.trials == pytest.approx(10, rel=0.15)

    def likelihood(mean, worth):
        return betabinom.logpmf(wins, trials.astype(int), mean * worth, (1 - mean) * worth).sum()

    best = likelihood(*found)
    for mean, worth in ((0.61, 1), (0.59, 1), (0.6, 1.1), (0.6, 0.9)):
        assert likelihood(mean, worth * found.trials) < best + 0.05


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.15])
def test_shrunk_topics_are_nearer_to_the_truth_than_measured_ones(spread):
    random = np.random.default_rng(5)
    rates, *data = topics(random, spread)
    found = shrunk_cells(*data)
    raw, shrunk = (np.array([getattr(cell, name) for cell in found]) for name in ("value", "shrunk"))
    assert np.mean((shrunk - rates) ** 2) < np.mean((raw - rates) ** 2)
    covered = np.mean([cell.low <= rate <= cell.high for cell, rate in zip(found, rates, strict=True)])
    assert covered >= 0.88
    assert [cell.n for cell in found] == [data[2].count(cell.cell) for cell in found]


def test_small_topics_are_pulled_further_and_near_duplicates_count_less():
    _, values, clusters, names = topics(np.random.default_rng(2), 0.1)
    found = shrunk_cells(values, clusters, names)
    small, large = min(found, key=lambda cell: cell.n), max(found, key=lambda cell: cell.n)
    assert small.weight < large.weight
    thrice = shrunk_cells(np.tile(values, 3), clusters * 3, names * 3)
    for once, again in zip(found, thrice, strict=True):
        assert again.shrunk == pytest.approx(once.shrunk, abs=0.002) and again.n == 3 * once.n
        assert again.high - again.low == pytest.approx(once.high - once.low, abs=0.004)


def test_few_topics_are_hardly_pulled_and_bad_ones_are_an_error():
    (cell,) = shrunk_cells([1.0] * 8, list("abcdefgh"), ["grief"] * 8)
    assert (cell.value, cell.n, cell.clusters) == (1.0, 8, 8) and cell.low < 0.85 < cell.shrunk < 1
    with pytest.raises(UserError, match="outside 0 to 1"):
        shrunk_cells([4.0], ["a"], ["grief"])
    with pytest.raises(UserError, match="a cluster and a topic for each"):
        shrunk_cells([0.5], [], ["grief"])
