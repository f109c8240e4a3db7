"""What a reward means: temperature, calibration figures against scikit-learn, the line to ratings, and their guards."""

import json
import math

import numpy as np
import pytest
from conftest import GOOD_REPLIES, PLAIN_REPLIES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from tiny_reward import make_reward_model

from psychocounsel.errors import UserError
from psychocounsel.reward.calibrate import (
    ALL_EQUAL,
    NO_BETTER,
    SEPARABLE,
    Calibration,
    Sides,
    calibrate,
    calibrate_model,
    calibration_figures,
    draw_sides,
    fit_scale,
    fit_temperature,
    probability,
    rating,
    read_calibration,
    write_calibration,
)
from psychocounsel.reward.figures import equal_mass_bins
from psychocounsel.reward.score import RewardModel


def drawn(n, temperature=2.0, spread=4.0, seed=0):
    """Differences, and labels that are right with P = sigma(difference / temperature)."""
    random = np.random.default_rng(seed)
    differences = random.normal(0, spread, n)
    return differences, (random.random(n) < expit(differences / temperature)).astype(float)


@pytest.fixture
def made():
    """A calibration from 300 pairs in 60 clusters, drawn at temperature 2."""
    differences, won = drawn(300)
    rewards = np.linspace(-3, 3, 50)
    sides = (differences, won, [f"c{i % 60}" for i in range(300)])
    found = calibrate(Sides(*sides), rewards, rewards / 2 + 3)
    return differences, won, found


def test_the_temperature_is_the_one_the_labels_were_drawn_with():
    found, note = fit_temperature(*drawn(40_000))
    assert found == pytest.approx(2.0, rel=0.03) and note == ""


def test_the_temperature_equals_logistic_regression_without_intercept_or_penalty():
    differences, won = drawn(500, seed=3)
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(differences[:, None], won)
    assert fit_temperature(differences, won)[0] == pytest.approx(1 / model.coef_[0, 0], rel=1e-5)


def test_three_of_four_equal_differences_give_three_quarters():
    found, _ = fit_temperature([2.0, 2.0, 2.0, 2.0], [1, 1, 1, 0])
    assert expit(2.0 / found) == pytest.approx(0.75)


def test_pairs_all_in_order_have_a_bounded_temperature_and_it_is_said():
    found, note = fit_temperature([1.0, -1.0, 1.0, -1.0], [1, 0, 1, 0])
    assert note == SEPARABLE and expit(1.0 / found) == pytest.approx(5 / 6)  # Laplace: (4 + 1) / (4 + 2)
    found, note = fit_temperature([3.0], [1])
    assert note == SEPARABLE and expit(3.0 / found) == pytest.approx(2 / 3)


def test_rewards_no_better_than_chance_give_a_coin():
    for differences, won in (([3.0], [0]), ([1.0, 1.0], [1, 0]), ([2.0, -1.0, 1.0], [0, 1, 0])):
        found, note = fit_temperature(differences, won)
        assert note == NO_BETTER and expit(max(differences) / found) == pytest.approx(0.5, abs=1e-3)


def test_equal_rewards_have_temperature_one_and_no_pairs_are_an_error():
    assert fit_temperature([0.0, 0.0], [1, 0]) == (1.0, ALL_EQUAL)
    with pytest.raises(UserError, match="no pairs; give the dev split"):
        fit_temperature([], [])
    with pytest.raises(UserError, match="a difference is not a number"):
        fit_temperature([1.0, math.nan], [1, 0])


SIDES = st.lists(st.tuples(st.floats(-50, 50).map(lambda x: round(x, 3)), st.booleans()), min_size=1, max_size=40)


@given(SIDES, st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=60)
def test_scaling_rewards_scales_the_temperature_and_changes_no_probability(sides, factor):
    d, won = (np.array(column, dtype=float) for column in zip(*sides, strict=True))
    (once, note), (scaled, again) = fit_temperature(d, won), fit_temperature(d * factor, won)
    assert note == again
    if note != ALL_EQUAL:
        assert scaled == pytest.approx(once * factor, rel=1e-6)
        assert expit(d * factor / scaled) == pytest.approx(expit(d / once), abs=1e-6)


@given(SIDES)
@settings(deadline=None, max_examples=60)
def test_no_other_temperature_within_the_bounds_is_likelier(sides):
    d, won = (np.array(column, dtype=float) for column in zip(*sides, strict=True))
    ahead = np.where(won > 0.5, d, -d)
    found, note = fit_temperature(d, won)
    if not note:
        for other in (found * 0.98, found * 1.02):
            loss, best = (np.logaddexp(0, -ahead / t).mean() for t in (other, found))
            assert best <= loss + 1e-9


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
@settings(deadline=None)
def test_a_constant_added_to_all_rewards_changes_no_probability(a, b, constant):
    figures = calibration_figures([1.0], [1], ["c"])
    calibration = Calibration(temperature=2.0, before=figures, after=figures)
    p = probability(calibration, a, b)
    assert probability(calibration, a + constant, b + constant) == pytest.approx(p, abs=1e-9)
    assert probability(calibration, b, a) == pytest.approx(1 - p)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_figures_equal_those_of_scikit_learn(temperature):
    d, won = drawn(400, seed=5)
    found = calibration_figures(d, won, [str(i) for i in range(400)], temperature)
    p = expit(d / temperature)
    assert found.nll.value == pytest.approx(log_loss(won, p), abs=1e-6)
    assert found.brier.value == pytest.approx(brier_score_loss(won, p), abs=1e-6)
    assert found.auc.value == pytest.approx(roc_auc_score(won, p), abs=1e-6)
    assert found.accuracy.value == pytest.approx(np.mean((d > 0) == won), abs=1e-6)
    assert (found.n, found.clusters) == (400, 400)


def test_the_calibration_error_is_that_worked_out_by_hand():
    # 30 pairs, two to a bin: P is .75 in every bin. In 10 bins both are won, in 5 none: (10*.25 + 5*.75) / 15
    near = np.log(3) + np.repeat(np.arange(15) - 7, 2) * 1e-9
    won = np.repeat([1.0] * 10 + [0.0] * 5, 2)
    assert calibration_figures(near, won, ["c"] * 30).ece.value == pytest.approx(6.25 / 15, abs=1e-6)
    # equal probabilities share one bin, in which 20 of 30 are won: |.75 - 2/3|
    assert calibration_figures(np.full(30, np.log(3)), won, ["c"] * 30).ece.value == pytest.approx(1 / 12, abs=1e-6)


@pytest.mark.parametrize("n", [1, 7, 15, 16, 400])
def test_bins_hold_equal_numbers_in_rising_order(n):
    p = np.random.default_rng(n).permutation(n) / n
    bins = equal_mass_bins(p)
    sizes = np.bincount(bins)[np.unique(bins)]
    assert len(sizes) == min(n, 15) and sizes.max() - sizes.min() <= 1
    assert (np.diff(bins[np.argsort(p)]) >= 0).all()


def test_figures_do_not_depend_on_the_order_of_the_pairs():
    d, won = drawn(200)
    d = np.round(d)  # with many equal differences
    clusters = [f"c{i % 40:02}" for i in range(200)]
    order = np.random.default_rng(1).permutation(200)
    shuffled = calibration_figures(d[order], won[order], [clusters[i] for i in order])
    assert shuffled == calibration_figures(d, won, clusters)


def test_ties_count_one_half_and_one_label_has_no_auc():
    found = calibration_figures([0.0, 0.0, 3.0, 0.0], [1, 1, 1, 1], ["a", "a", "b", "b"])
    assert found.accuracy.value == pytest.approx((3 * 0.5 + 1) / 4)
    assert found.auc.value is None and found.nll.low is None


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    hits = {"accuracy": 0, "nll": 0}
    d, won = drawn(400_000, temperature=1.0, seed=8)
    nll, accuracy = np.logaddexp(0, -np.where(won > 0.5, d, -d)).mean(), ((d > 0) == won).mean()
    for k in range(60):
        part = slice(k * 200, k * 200 + 200)
        found = calibration_figures(d[part], won[part], [str(i // 2) for i in range(200)], bootstrap=400)
        hits["accuracy"] += found.accuracy.low <= accuracy <= found.accuracy.high
        hits["nll"] += found.nll.low <= nll <= found.nll.high
        assert found.ece.low <= found.ece.value <= found.ece.high
    assert all(51 <= count <= 60 for count in hits.values()), hits


def test_after_the_temperature_the_loss_and_the_calibration_error_are_lower(made):
    _, _, found = made
    assert found.temperature == pytest.approx(2.0, rel=0.3)
    assert found.after.nll.value < found.before.nll.value
    assert found.after.ece.value < found.before.ece.value
    assert found.after.accuracy == found.before.accuracy and found.after.auc == found.before.auc
    assert found.before.clusters == 60 and found.before.nll.low < found.before.nll.value < found.before.nll.high


def test_the_line_to_ratings_is_the_least_squares_one_and_clipped(made):
    line = fit_scale([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 3.0, 5.0])  # by hand: slope 6/5, mean 3 at 1.5
    assert line == pytest.approx((1.2, 1.2, math.sqrt(0.2)))
    _, _, found = made
    assert (found.scale, found.offset, found.rated) == (pytest.approx(0.5), pytest.approx(3.0), 50)
    assert [rating(found, reward) for reward in (-9.0, 1.0, 9.0)] == pytest.approx([1.0, 3.5, 5.0])


@pytest.mark.parametrize(
    ("rewards", "ratings", "words"),
    [
        ([0.0, 1.0], [4.0, 2.0], r"do not rise with the reward \(slope -2 over 2 replies\)"),
        ([0.0, 1.0], [3.0, 3.0], "do not rise"),
        ([1.0, 1.0], [2.0, 4.0], "rated replies with different rewards"),
        ([1.0], [2.0], "rated replies with different rewards"),
        ([], [], "rated replies with different rewards"),
        ([0.0, math.inf], [2.0, 4.0], "a reward is not a number"),
        ([0.0, 1.0], [2.0, math.nan], "a rating is not a number"),
    ],
)
def test_no_line_is_an_error_that_says_why(rewards, ratings, words):
    with pytest.raises(UserError, match=words):
        fit_scale(rewards, ratings)


def test_a_calibration_without_a_line_says_so_and_gives_no_rating(made):
    differences, won, _ = made
    sides = Sides(differences, won, ["c"] * 300)
    found = calibrate(sides, [0.0, 1.0], [4.0, 2.0])
    assert found.scale is None and "do not rise" in found.scale_note
    with pytest.raises(UserError, match="no rating can be read"):
        rating(found, 1.0)


def test_a_calibration_is_kept_beside_the_model(made, tmp_path):
    _, _, found = made
    assert read_calibration(tmp_path) is None
    write_calibration(tmp_path, found)
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]
    assert read_calibration(tmp_path) == found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": 0}, "temperature: Input should be greater than 0"),
        ({"scale": -1}, "scale: Input should be greater than 0"),
        ({"temprature": 2}, "temprature: Extra inputs"),
        (None, "Invalid JSON"),
    ],
)
def test_a_damaged_calibration_is_named(made, tmp_path, change, words):
    _, _, found = made
    text = found.model_dump_json()
    text = text[:50] if change is None else json.dumps({**json.loads(text), **change})
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_calibration(tmp_path)
    assert "calibration.json: " in str(caught.value) and "remove the file" in str(caught.value)


def test_sides_are_drawn_by_content_and_keep_the_meaning(pairs, speeches):
    by_speech = {speech.id: speech for speech in speeches}
    rewards = {key: i / 7 for i, key in enumerate({k: 0 for p in pairs["train"] for k in (p.chosen, p.rejected)})}
    found = draw_sides(pairs["train"], rewards, by_speech)
    assert 10 < found.won.sum() < 44  # of 54
    ahead = [rewards[pair.chosen] - rewards[pair.rejected] for pair in pairs["train"]]
    assert np.where(found.won > 0.5, found.differences, -found.differences) == pytest.approx(ahead)
    back = draw_sides(pairs["train"][::-1], rewards, by_speech)
    assert back.won.tolist() == found.won.tolist()[::-1]
    assert draw_sides(pairs["train"], rewards, by_speech, seed=1).won.tolist() != found.won.tolist()


def test_a_trained_model_is_calibrated_on_its_dev_pairs(tmp_path, pairs, speeches, responses, model_folder):
    make_reward_model(tmp_path / "model", model_folder)
    by_speech, by_id = {s.id: s for s in speeches}, {r.id: r for r in responses}
    overall = {r.id: 4.5 if "good" in r.model else 2.0 for r in responses}
    found = calibrate_model(tmp_path / "model", pairs["dev"], overall, by_speech, by_id, max_length=256, bootstrap=200)
    assert found.before.n == 18 and found.before.clusters == 2 and found.rated == 48
    assert found.before.accuracy.value == 1.0 and found.temperature_note == SEPARABLE
    assert found.scale > 0 and found.rating_error < 1
    model = RewardModel(tmp_path / "model", 256)
    good, plain = (np.mean(model.score([(s, t) for s in speeches for t in texts]))
                   for texts in (GOOD_REPLIES, PLAIN_REPLIES))  # fmt: skip
    assert rating(found, good) == pytest.approx(4.5, abs=0.6) and rating(found, plain) == pytest.approx(2.0, abs=0.6)
    with pytest.raises(UserError, match="no pairs"):
        calibrate_model(tmp_path / "model", [], overall, by_speech, by_id)
