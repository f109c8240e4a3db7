"""The win rate at equal length: statsmodels' fit, the truth under bias, and when it cannot be told."""

import time

import numpy as np
import pytest
from scipy.special import expit
from scripted_verdicts import Judged, biased, fair
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import weight_blocks
from psychocounsel.evaluate.contest.length import difficulties, length_controlled
from psychocounsel.evaluate.contest.style import style_density
from psychocounsel.evaluate.contest.verdicts import ballots
from psychocounsel.evaluate.logit import FARTHEST, fit_logit

TRUTH = 0.568


def drawn(random, n, slope=1.0, longer=0.5):
    """s_i on nine levels with mean sigma(theta + slope tanh(d)), sigma(theta) the truth; two speeches to a cluster."""
    d = np.repeat(random.normal(longer, 1, n // 2), 2)
    mean = expit(np.log(TRUTH / (1 - TRUTH)) + slope * np.tanh(d))
    chance = np.clip(random.beta(3 * mean, 3 * (1 - mean)), 1e-9, 1 - 1e-9)
    lengths = 900 + 200 * np.maximum(d, -4)
    return random.binomial(8, chance) / 8, [f"c{i // 2}" for i in range(n)], lengths, np.full(n, 900)


# --- the solver -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_the_solver_is_statsmodels_to_six_digits_for_any_weights(columns):
    random = np.random.default_rng(columns)
    x = np.column_stack([np.ones(300), random.normal(size=(300, columns - 1))])
    y = random.binomial(6, expit(x @ random.normal(0, 1, columns))) / 6
    weights = next(weight_blocks(300, 20, 3))
    found = fit_logit(y, x, weights)
    for row, beta in zip(weights, found.beta, strict=True):
        assert beta == pytest.approx(GLM(y, x, family=Binomial(), freq_weights=row).fit(tol=1e-12).params, abs=1e-6)
    assert not found.penalised.any()


def test_a_separated_sample_is_penalised_and_only_that_one():
    x = np.column_stack([np.ones(40), np.linspace(-1, 1, 40)])
    y = (x[:, 1] > 0).astype(float)
    y[5] = 1.0  # without this one, length decides everything
    weights = np.ones((2, 40))
    weights[1, 5] = 0
    found = fit_logit(y, x, weights)
    assert found.penalised.tolist() == [False, True]
    assert found.beta[0] == pytest.approx(GLM(y, x, family=Binomial()).fit().params, abs=1e-6)
    assert np.isfinite(found.beta).all() and np.abs(found.beta[1] @ x.T).max() < FARTHEST
    slope = (weights[1] * (y - expit(x @ found.beta[1]))) @ x - 1e-3 * 39 * found.beta[1]
    assert slope == pytest.approx(np.zeros(2), abs=1e-6)  # the penalised likelihood is at its top
    for constant in (0.0, 1.0):
        wins = fit_logit(np.full(40, constant), x, np.ones((1, 40)))
        assert wins.penalised[0] and abs(expit(wins.beta[0, 0]) - constant) < 0.02


def test_two_thousand_refits_of_a_full_test_set_take_seconds():
    random = np.random.default_rng(0)
    s, clusters, a, b = drawn(random, 2324)
    start = time.perf_counter()
    found = length_controlled(s, clusters, a, b)
    assert time.perf_counter() - start < 20  # about 2 s of a core of its own
    assert found.draws == 2000 and found.controlled.low <= TRUTH <= found.controlled.high


# --- the rate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slope", "longer", "raw"), [(1, 0.5, 0.64), (1, -0.3, 0.52), (2, 0.8, 0.75)])
def test_the_truth_is_recovered_within_two_points_under_three_biases(slope, longer, raw):
    random = np.random.default_rng(7)
    found = [length_controlled(*drawn(random, 2324, slope, longer), bootstrap=0) for _ in range(6)]
    assert np.mean([row.win_rate for row in found]) == pytest.approx(raw, abs=0.03)
    assert np.mean([row.controlled.value for row in found]) == pytest.approx(TRUTH, abs=0.02)
    assert np.mean([row.slope.value for row in found]) == pytest.approx(slope, abs=0.15)


def test_intervals_of_the_controlled_rate_and_of_the_slope_cover():
    random, hits = np.random.default_rng(3), np.zeros(2)
    for run in range(150):
        row = length_controlled(*drawn(random, 400, 1.0, 0.5), bootstrap=250, seed=run)
        # d is divided by its own spread, and the lengths are cut at -4: the slope is 1 all the same, nearly
        hits += [row.controlled.low <= TRUTH <= row.controlled.high, row.slope.low <= 1.0 <= row.slope.high]
    assert (hits / 150 >= 0.90).all() and hits[0] / 150 <= 0.99, hits


def test_without_bias_the_controlled_rate_is_the_raw_one():
    found = length_controlled(*drawn(np.random.default_rng(2), 2000, slope=0.0), bootstrap=300)
    assert found.controlled.value == pytest.approx(found.win_rate, abs=0.01) and found.notes == ()
    assert found.slope.low <= 0 <= found.slope.high


def test_turning_the_policies_round_turns_the_rate_round():
    s, clusters, a, b = drawn(np.random.default_rng(2), 300)
    one, other = length_controlled(s, clusters, a, b), length_controlled(1 - s, clusters, b, a)
    assert other.controlled.value == pytest.approx(1 - one.controlled.value, abs=2e-4)
    assert other.slope.value == pytest.approx(one.slope.value, abs=2e-4)


def test_the_slope_is_that_of_statsmodels_with_clusters():
    s, clusters, a, b = drawn(np.random.default_rng(4), 400)
    found = length_controlled(s, clusters, a, b, bootstrap=200)
    d = (a - b) / np.std(a - b)
    groups = np.unique(clusters, return_inverse=True)[1]
    theirs = GLM(s, np.column_stack([np.ones(400), np.tanh(d)]), family=Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": groups}
    )
    assert found.slope.value == pytest.approx(theirs.params[1], abs=1e-4)
    assert found.controlled.value == pytest.approx(expit(theirs.params[0]), abs=1e-4)
    assert (found.slope.low, found.slope.high) == pytest.approx(tuple(theirs.conf_int()[1]), abs=0.01)


def test_a_scripted_judge_with_a_length_bias_is_put_right():
    judged = Judged(1200, better=0.05, spread=0.15, longer=0.6)
    tables = [ballots(judged.by(judge=judge), judged.clusters) for judge in (fair(0.1), biased(length=0.2, noise=0.1))]
    names = [judged.clusters[name] for name in tables[0].speeches]
    clean, long = (
        length_controlled(t.by_speech(), names, t.words_a, t.words_b, unit="words", bootstrap=300) for t in tables
    )
    assert long.win_rate > clean.win_rate + 0.05
    assert long.controlled.value == pytest.approx(clean.controlled.value, abs=0.02)
    assert long.slope.low > 0.5 and clean.slope.low <= 0 <= clean.slope.high


# --- guards -----------------------------------------------------------------------------------------------------------


def names(n):
    return [f"c{i}" for i in range(n)]


def test_a_large_correction_and_a_guess_beyond_the_data_are_said():
    s, clusters, a, b = drawn(np.random.default_rng(1), 600, slope=2.0, longer=1.5)
    found = length_controlled(s, clusters, a, b, bootstrap=200)
    assert any("length control moves the win rate by -" in note for note in found.notes)
    assert found.near < 0.2 and found.extrapolated
    assert any(note.startswith("extrapolated: only ") for note in found.notes)
    calm = length_controlled(*drawn(np.random.default_rng(1), 600, slope=0.2, longer=0.0), bootstrap=200)
    assert not calm.extrapolated and calm.notes == ()


def test_all_ties_give_one_half_and_a_wide_interval():
    found = length_controlled(np.full(50, 0.5), names(50), np.arange(50) + 100.0, np.full(50, 110.0))
    assert found.controlled.value == 0.5 and found.controlled.low < 0.4 < 0.6 < found.controlled.high
    assert found.notes[0] == "every verdict is a tie" and found.slope.low is None


def test_one_speech_and_a_constant_difference_tell_nothing():
    one = length_controlled([1.0], ["a"], [120], [100])
    assert one.controlled.value is None and one.notes == ("one speech: nothing can be told about length",)
    same = length_controlled([1.0, 0.5, 0.5], names(3), [120, 130, 140], [100, 110, 120])
    assert same.controlled.value is None and "cannot be told from the policies" in same.notes[0]
    assert same.win_rate == pytest.approx(0.6667, abs=1e-4)


def test_replies_of_one_length_need_no_control():
    random = np.random.default_rng(0)
    s = random.integers(0, 5, 80) / 4
    found = length_controlled(s, names(80), np.full(80, 100), np.full(80, 100), bootstrap=300)
    assert found.controlled.value == found.win_rate and found.near == 1.0 and found.slope.value is None
    assert found.controlled.low < found.win_rate < found.controlled.high
    assert "nothing to control for" in found.notes[0]


def test_length_that_decides_everything_is_penalised_and_said():
    a = np.r_[np.linspace(50, 95, 30), np.linspace(105, 150, 30)]
    found = length_controlled((a > 100).astype(float), names(60), a, np.full(60, 100.0), bootstrap=100)
    assert "length (or the policy) decides every verdict: the fit is penalised" in found.notes
    assert found.penalised == found.draws == 100 and found.slope.low is None
    assert found.controlled.value == pytest.approx(0.5, abs=0.01)
    wins = length_controlled(np.ones(60), names(60), a, np.full(60, 100.0), bootstrap=100)
    assert wins.controlled.value > 0.98 and wins.controlled.low < 0.95  # 60 of 60 do not prove 1


def test_few_clusters_give_no_interval():
    found = length_controlled([0.25, 0.5, 0.75, 0.5], names(4), [90, 120, 110, 80], [100, 90, 100, 90])
    assert found.controlled.value is not None and found.controlled.low is None and found.draws == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"s": [np.nan, 0.5]}, "win values: 1 of 2 are not numbers"),
        ({"a": [np.inf, 1.0]}, "lengths: 1 of 2 are not numbers"),
        ({"s": [2.0, 0.5]}, "within 0 and 1"),
        ({"b": [-1.0, 5.0]}, "lengths of 0 or more"),
        ({"b": [1.0]}, "a cluster and two lengths for each"),
        ({"s": [], "a": [], "b": [], "c": []}, "a cluster and two lengths for each"),
        ({"difficulty": [0.1]}, "one number for each value"),
        ({"difficulty": [np.nan, 0.1]}, "difficulties: 1 of 2 are not numbers"),
        ({"style": [[0.1, 0.2]]}, "a row of 3 differences"),
    ],
)
def test_bad_input_is_one_line(change, words):
    given = {"s": [0.5, 1.0], "c": ["a", "b"], "a": [10.0, 30.0], "b": [10.0, 10.0]} | change
    more = {key: given[key] for key in ("difficulty", "style") if key in given}
    with pytest.raises(UserError, match=words):
        length_controlled(given["s"], given["c"], given["a"], given["b"], **more)


# --- difficulty and style ---------------------------------------------------------------------------------------------


def test_difficulty_is_the_mean_logit_of_the_other_policies():
    values = {"a": [0.5, 0.5, 0.5], "b": [0.75, 0.25, np.nan], "c": [0.75, 0.5, np.nan], "d": [1.0, 0.0, np.nan]}
    found = difficulties(values, "a")
    three, top = np.log(3), np.log(0.98 / 0.02)
    means = np.array([(2 * three + top) / 3, (-three - top) / 3])
    assert found == pytest.approx([*(means - means.mean()), 0.0])
    assert difficulties({key: values[key] for key in "abc"}, "a") is None
    with pytest.raises(UserError, match="there is no policy z among a, b, c, d"):
        difficulties(values, "z")
    with pytest.raises(UserError, match="on the same speeches"):
        difficulties(values | {"b": [0.5]}, "a")


def test_difficulty_narrows_the_interval_and_keeps_the_mean_chance():
    random = np.random.default_rng(5)
    gamma = random.normal(0, 1.2, 800)
    d = random.normal(0.3, 1, 800)
    s = random.binomial(8, expit(0.3 + np.tanh(d) + gamma)) / 8
    args = (s, names(800), 900 + 200 * np.maximum(d, -4), np.full(800, 900))
    with_it, without = (length_controlled(*args, difficulty=g, bootstrap=400) for g in (gamma, None))
    truth = expit(0.3 + gamma).mean()
    assert with_it.controlled.value == pytest.approx(truth, abs=0.02)
    assert with_it.slope.high - with_it.slope.low < 0.8 * (without.slope.high - without.slope.low)


def test_the_interval_is_that_of_refits_by_statsmodels_one_by_one():
    random = np.random.default_rng(8)
    member = np.sort(np.r_[np.arange(40), random.integers(0, 40, 80)])  # clusters of unequal size
    gamma = random.normal(0, 1.5, 40)[member]
    d = random.normal(0.3, 1, 120)
    s = random.binomial(8, expit(0.3 + np.tanh(d) + gamma)) / 8
    clusters = [f"c{k:02}" for k in member]
    a = 900 + 200 * np.maximum(d, -4)
    found = length_controlled(s, clusters, a, np.full(120, 900), difficulty=gamma, bootstrap=200, seed=4)
    x = np.column_stack([np.ones(120), np.tanh((a - 900) / np.std(a)), gamma])
    rates = []
    for row in np.vstack(list(weight_blocks(40, 200, 4)))[:, member]:
        theta, _, psi = GLM(s, x, family=Binomial(), freq_weights=row).fit().params
        rates.append(np.average(expit(theta + psi * gamma), weights=row))
    assert (found.controlled.low, found.controlled.high) == pytest.approx(
        tuple(np.percentile(rates, [2.5, 97.5])), abs=1e-3
    )


def test_style_is_counted_by_kind_in_a_hundred_words():
    plain = "You have been carrying this alone. - and it is heavy. 2 * 3 * 4 is 24."
    assert style_density(plain) == (0.0, 0.0, 0.0) and style_density("") == (0.0, 0.0, 0.0)
    marked = "## What may help\n\n- **Rest** when you can\n* a walk\n1. someone you trust\n"
    words = len(marked.split())
    assert style_density(marked) == pytest.approx(np.log1p(100 * np.array([3, 1, 1]) / words))


def test_style_is_controlled_and_a_style_nobody_uses_is_dropped_with_a_note():
    random = np.random.default_rng(6)
    n = 1500
    bullets = random.normal(0.7, 0.7, n)
    d = random.normal(0, 1, n)
    s = random.binomial(8, expit(0.2 + 0.8 * np.tanh(d) + bullets)) / 8
    style = np.column_stack([bullets, np.zeros(n), np.full(n, 0.3)])
    args = (s, names(n), 900 + 200 * np.maximum(d, -4), np.full(n, 900))
    with_it, without = length_controlled(*args, style=style, bootstrap=200), length_controlled(*args, bootstrap=200)
    assert with_it.controlled.value == pytest.approx(expit(0.2), abs=0.025) and without.controlled.value > 0.65
    assert with_it.style == {"bullets": pytest.approx(0.7, abs=0.1)}  # one standard deviation of 1 a unit
    assert "bold: used alike in every pair, not controlled" in with_it.notes
    assert "headers: the same difference in every pair, not controlled" in with_it.notes
    level = length_controlled(s, names(n), np.full(n, 900), np.full(n, 900), style=style, bootstrap=50)
    assert level.style["bullets"] == pytest.approx(0.7, abs=0.1)


def test_styles_that_always_go_together_are_controlled_once():
    random = np.random.default_rng(8)
    bullets, d = random.integers(0, 3, 200).astype(float), random.normal(0, 1, 200)
    s = random.binomial(8, expit(0.2 + 0.5 * bullets)) / 8
    style = np.column_stack([bullets, 2 * bullets, np.zeros(200)])
    found = length_controlled(
        s, names(200), 900 + 200 * np.maximum(d, -4), np.full(200, 900), style=style, bootstrap=50
    )
    assert list(found.style) == ["bullets"] and found.slope.low is not None
    assert "bold: goes with length or another style in every pair, not controlled apart from it" in found.notes
