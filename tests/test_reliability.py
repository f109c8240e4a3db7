"""Coefficients of agreement, against published tables, other libraries and what must hold of any of them."""

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.proportion import proportion_confint

from psychocounsel.ratings.order import order_agreement, order_sums
from psychocounsel.ratings.reliability import (
    COEFFICIENTS,
    LEVELS,
    coefficients,
    estimate,
    ordinal_weights,
    quadratic_weights,
    wilson,
)
from psychocounsel.ratings.scale import scale_use

NONE = np.nan
# Krippendorff (2011), Computing Krippendorff's alpha-reliability, section D; also `cac.raw4raters` of Gwet's irrCAC.
FOUR_OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ]
).T
# Shrout & Fleiss (1979), table 2: six targets, four judges, scores to 10.
SIX_TARGETS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
)
CHANCE_CORRECTED = [name for name in COEFFICIENTS if name not in ("exact", "within_one", "correlation", "difference")]
tables = st.integers(2, 4).flatmap(
    lambda columns: st.lists(
        st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, NONE]), min_size=columns, max_size=columns),
        min_size=2,
        max_size=25,
    )
).map(np.array)  # fmt: skip


def values(table, levels=LEVELS):
    """Every coefficient of a table, None where undefined."""
    table = np.asarray(table, dtype=float)
    (found,) = coefficients([table], np.arange(len(table)), raters=table.shape[1], levels=levels)
    return {name: None if np.isnan(draws[0]) else float(draws[0]) for name, draws in found.items()}


def close(one, other):
    return all(
        other[name] is None if value is None else other[name] == pytest.approx(value, abs=1e-9)
        for name, value in one.items()
    )


def test_alpha_and_gwet_are_those_of_the_published_example():
    """AC1 .775 (Gwet 2014), alpha nominal .743, ordinal .815, interval .849 (Krippendorff 2011); AC2 by irrCAC 0.4."""
    found = values(FOUR_OBSERVERS)
    published = {"ac1": 0.77544, "ac2": 0.91400, "ac2_ordinal": 0.89894, "exact": 0.81818}
    published |= {"alpha_nominal": 0.74342, "alpha": 0.81539, "alpha_interval": 0.84911}
    assert {name: round(found[name], 5) for name in published} == published


def test_icc_is_that_of_shrout_and_fleiss():
    """ICC(1,1) .17, ICC(2,1) .29, ICC(2,4) .62; more digits from pingouin 0.6.1."""
    found = values(SIX_TARGETS, range(1, 11))
    assert found["icc_one_way"] == pytest.approx(0.165742, abs=1e-6)
    assert found["icc"] == pytest.approx(0.289764, abs=1e-6)
    assert found["icc_mean"] == pytest.approx(0.620051, abs=1e-6)


def test_gwet_worked_by_hand_shows_what_the_kappa_paradox_is():
    """The table (118, 5 / 2, 0) of Gwet (2002): alike on 118 of 125, nearly all in one level.

    Agreement is .944; chance is .054 for AC1 but .945 for kappa, which is below 0 for it.
    """
    table = [[1, 1]] * 118 + [[1, 2]] * 5 + [[2, 1]] * 2
    share = (118 * 2 + 5 + 2) / 250
    chance = 2 * share * (1 - share)
    found = values(table, (1, 2))
    assert found["ac1"] == pytest.approx((118 / 125 - chance) / (1 - chance), abs=1e-12)
    assert found["ac1"] == pytest.approx(0.9407, abs=5e-4)
    assert found["kappa"] == pytest.approx(-0.0234, abs=5e-4)


def test_weights_by_hand():
    assert quadratic_weights(5)[0].tolist() == [1, 15 / 16, 12 / 16, 7 / 16, 0]
    assert ordinal_weights(5)[0].tolist() == [1, 0.9, 0.7, 0.4, 0]
    assert quadratic_weights(2).tolist() == ordinal_weights(2).tolist() == [[1, 0], [0, 1]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=40))
def test_kappas_are_those_of_sklearn(pairs):
    first, second = zip(*pairs, strict=True)
    found = values(pairs)
    for name, weights in (("kappa", None), ("kappa_quadratic", "quadratic")):
        if len({*first, *second}) == 1:
            assert found[name] is None
        else:
            expected = cohen_kappa_score(first, second, weights=weights, labels=[1, 2, 3, 4, 5])
            assert found[name] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_alpha_is_that_of_the_library_with_any_gaps(table):
    pairable = table[np.isfinite(table).sum(axis=1) > 1]
    found = values(table)
    for name, metric in (("alpha_nominal", "nominal"), ("alpha", "ordinal"), ("alpha_interval", "interval")):
        if len(np.unique(pairable[np.isfinite(pairable)])) < 2:
            assert found[name] is None
        else:
            expected = krippendorff.alpha(table.T, level_of_measurement=metric, value_domain=[1, 2, 3, 4, 5])
            assert found[name] == pytest.approx(float(expected), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_units_never_counts_and_that_of_raters_only_where_it_must(table, random):
    rows, columns = list(range(len(table))), list(range(table.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    found = values(table)
    assert close(found, values(table[rows]))
    ordered = ("kappa", "kappa_quadratic", "correlation", "difference") if len(columns) > 2 else ("difference",)
    turned = values(table[:, columns])
    assert close({k: v for k, v in found.items() if k not in ordered}, turned)


@settings(max_examples=100, deadline=None)
@given(tables)
def test_no_coefficient_leaves_its_bounds(table):
    found = values(table)
    for name in ("exact", "within_one"):
        assert found[name] is None or 0 <= found[name] <= 1
    for name in CHANCE_CORRECTED:
        assert found[name] is None or found[name] <= 1 + 1e-9, name
    for name in ("correlation", "kappa", "kappa_quadratic"):
        assert found[name] is None or found[name] >= -1 - 1e-9, name


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=30), st.integers(2, 4))
def test_perfect_agreement_is_one_with_variation_and_undefined_without(scores, raters):
    found = values(np.repeat(np.array(scores)[:, None], raters, axis=1))
    for name in CHANCE_CORRECTED:
        expected = None if len(set(scores)) == 1 else pytest.approx(1.0)
        assert found[name] == expected, name
    assert found["exact"] == found["within_one"] == 1


@pytest.mark.parametrize("table", [np.empty((0, 2)), np.full((4, 2), NONE), [[1, NONE], [NONE, 5]], [[3, 3]] * 20])
def test_without_pairs_or_variation_nothing_chance_corrected_is_defined(table):
    found = values(table)
    assert {name: found[name] for name in CHANCE_CORRECTED} == dict.fromkeys(CHANCE_CORRECTED)


def test_scores_between_levels_are_rounded_for_levels_and_kept_for_distances():
    table = np.array([[1.4, 1.2], [2.5, 3.4], [4.4, 3.5], [4.6, 5.0]])
    found, whole = values(table), values([[1, 1], [3, 3], [4, 4], [5, 5]])
    assert found["exact"] == whole["exact"] == 1
    assert found["kappa_quadratic"] < 1
    assert found["icc"] < 1


def noisy(count, seed=0, raters=2):
    """`count` units whose raters see the same quality with noise; scores 1 to 5."""
    random = np.random.default_rng(seed)
    quality = random.normal(3, 1, count)
    return np.clip(np.round(quality[:, None] + random.normal(0, 0.6, (count, raters))), 1, 5)


def test_the_bootstrap_is_one_by_one_resampling():
    """The matrix product gives what computing each drawn table anew gives."""
    table, units = noisy(40, raters=3), np.arange(40)
    table[::7, 1] = NONE
    (found,) = coefficients([table], units, raters=3, bootstrap=5, seed=9)
    random = np.random.Generator(np.random.Philox(9))
    for draw in range(1, 6):
        again = values(table[random.integers(0, 40, 40)])
        for name, draws in found.items():
            assert again[name] == pytest.approx(draws[draw], abs=1e-9), name


def test_rows_of_a_unit_are_drawn_together():
    """Four copies of each row add no information: by unit the interval stays, by row it would halve."""
    table = noisy(60)
    four = np.repeat(table, 4, axis=0)
    widths = []
    for rows, units in ((table, np.arange(60)), (four, np.repeat(np.arange(60), 4)), (four, np.arange(240))):
        (found,) = coefficients([rows], units, raters=2, bootstrap=1000, seed=1)
        row = estimate(found["kappa_quadratic"])
        widths.append(row["high"] - row["low"])
    assert widths[1] == pytest.approx(widths[0], abs=1e-6)
    assert widths[2] < 0.65 * widths[0]


def test_intervals_cover_the_true_value_as_often_as_they_say():
    truth = values(noisy(100_000, seed=99))
    names = ("kappa_quadratic", "alpha", "ac2", "icc", "exact")
    hits = dict.fromkeys(names, 0)
    for seed in range(200):
        (found,) = coefficients([noisy(80, seed)], np.arange(80), raters=2, bootstrap=300, seed=seed)
        for name in names:
            row = estimate(found[name])
            hits[name] += row["low"] <= truth[name] <= row["high"]
    assert all(0.88 <= count / 200 <= 0.99 for count in hits.values()), hits


def test_equal_seeds_give_equal_draws_and_another_seed_others():
    table, units = noisy(30), np.arange(30)
    first, again, other = (
        coefficients([table], units, raters=2, bootstrap=50, seed=seed)[0]["alpha"] for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert first[0] == other[0]
    assert (first[1:] != other[1:]).any()


def test_wilson_is_that_of_statsmodels():
    for count, n in ((174, 200), (184, 200), (170, 200), (0, 7), (7, 7)):
        assert wilson(count / n, n) == pytest.approx(proportion_confint(count, n, method="wilson"), abs=1e-6)


def test_too_little_to_draw_from_gives_no_interval_and_a_share_gets_wilsons():
    few = estimate(np.array([0.5]), 8)
    assert (few["low"], few["high"]) == pytest.approx(wilson(0.5, 8), abs=1e-6)
    assert estimate(np.array([0.5])) == {"value": 0.5, "low": None, "high": None}
    assert estimate(np.ones(100)) == {"value": 1.0, "low": None, "high": None}
    assert estimate(np.ones(100), 30)["low"] == pytest.approx(wilson(1, 30)[0], abs=1e-6)
    often = np.where(np.arange(101) % 10 == 5, NONE, np.linspace(0, 1, 101))
    assert estimate(often)["low"] is None, "a tenth of the resamples is undefined"
    assert estimate(np.array([NONE, 1.0, 2.0])) == {"value": None, "low": None, "high": None}


def test_order_by_hand():
    """Speech 0: both order its three pairs, two alike. Speech 1: a tie for the second judge. Speech 2: one reply."""
    first = np.array([1.0, 2.0, 3.0, 1.0, 2.0, 5.0])
    second = np.array([1.0, 3.0, 2.0, 4.0, 4.0, 5.0])
    sums, rows = order_sums(first, second, np.array([0, 0, 0, 1, 1, 2]))
    row, _ = order_agreement(sums, np.array([0, 0, 0, 1, 1, 2])[rows])
    assert (row["pairs"], row["with_ties"]) == (3, 4)
    assert row["alike"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert row["gamma"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert row["three_way"]["value"] == 0.5
    chance = 0 * 0.25 + 1 * 0.75 / 2
    assert row["three_way_kappa"]["value"] == pytest.approx((0.5 - chance) / (1 - chance), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_order_is_what_counting_all_pairs_one_by_one_gives(rows, random):
    decided = alike = 0
    for i, (speech, a, b) in enumerate(rows):
        for other, c, d in rows[i + 1 :]:
            if speech == other and a != c and b != d:
                decided += 1
                alike += (a > c) == (b > d)
    random.shuffle(rows)
    speech, first, second = (np.array(column) for column in zip(*rows, strict=True))
    sums, at = order_sums(first.astype(float), second.astype(float), speech)
    row, _ = order_agreement(sums, speech[at])
    assert row["pairs"] == decided
    assert row["alike"]["value"] == (pytest.approx(alike / decided, abs=1e-6) if decided else None)


def test_a_missing_overall_score_orders_nothing():
    sums, _ = order_sums(np.array([1.0, NONE, 3.0]), np.array([1.0, 2.0, 3.0]), np.zeros(3, dtype=int))
    assert sums[:, 2].sum() == sums[:, 0].sum() == 1


def test_use_of_the_scale_shows_ceiling_halo_and_missing_scores():
    random = np.random.default_rng(0)
    impression = random.integers(3, 6, 50).astype(float)
    halo = np.stack([impression] * 3, axis=1)
    apart = random.integers(1, 6, (50, 3)).astype(float)
    apart[:5, 0] = NONE
    one, other = scale_use(halo, ("a", "b", "c")), scale_use(apart, ("a", "b", "c"))
    assert (one["halo"], one["flat"]) == (1.0, 1.0)
    assert abs(other["halo"]) < 0.3 > other["flat"]
    assert one["all"]["counts"]["1"] == one["all"]["counts"]["2"] == 0
    assert other["principles"]["a"]["none"] == 0.1
    assert sum(other["principles"]["a"]["counts"].values()) == 45
    assert scale_use(np.empty((0, 2)), ("a", "b"))["all"]["mean"] is None
