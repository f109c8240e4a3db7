"""Intervals that cover: the unit is the cluster of speeches, and small samples get honest widths."""

import math

import numpy as np
import pytest
from conftest import make_speech
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from psychocounsel.evaluate.pairs.accuracy import length_scores, pair_accuracy
from psychocounsel.evaluate.statistics import Figure, cluster_mean, count
from psychocounsel.records import Pair, Response


def clustered_sample(random, clusters=60):
    """0/1 values whose chance differs from cluster to cluster; the true mean is one half."""
    sizes = random.integers(1, 7, clusters)
    chances = random.beta(0.5, 0.5, clusters)
    values = [float(random.random() < p) for p, size in zip(chances, sizes, strict=True) for _ in range(size)]
    return values, [f"c{i}" for i, size in enumerate(sizes) for _ in range(size)]


def test_the_cluster_interval_covers_and_one_over_rows_would_not():
    random = np.random.default_rng(7)
    covered = {"clusters": 0, "rows": 0}
    runs = 400
    for run in range(runs):
        values, clusters = clustered_sample(random)
        for name, units in (("clusters", clusters), ("rows", [str(i) for i in range(len(values))])):
            figure = cluster_mean(values, units, "share", bootstrap=400, seed=run)
            covered[name] += figure.low <= 0.5 <= figure.high
    assert 0.90 <= covered["clusters"] / runs <= 0.98
    assert covered["rows"] / runs < 0.85


@pytest.mark.parametrize("values", [[1.0], [0.0], [1.0] * 4, [0.0] * 9, [1.0, 0.0], [0.5] * 3, [1.0] * 50, [0.0] * 200])
def test_few_or_equal_values_get_a_wilson_interval(values):
    figure = cluster_mean(values, [str(i) for i in range(len(values))], "share")
    low, high = proportion_confint(sum(values), len(values), method="wilson")
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=1e-4)
    assert figure.value == sum(values) / len(values) and figure.n == len(values)
    assert figure.high - figure.low > 0  # even when nothing varies


@pytest.mark.parametrize("clusters", [1, 2, 5, 9])
def test_many_values_of_few_clusters_are_not_a_large_sample(clusters):
    """A hundred judgements of one speech say as much as one speech can."""
    values = [0.0, 1.0, 1.0, 1.0] * 25
    figure = cluster_mean(values, [str(i % clusters) for i in range(100)], "share")
    low, high = proportion_confint(0.75 * clusters, clusters, method="wilson")
    assert (figure.value, figure.n) == (0.75, 100)
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=1e-4)


def test_nothing_measured_is_undefined_and_not_zero():
    assert cluster_mean([], [], "share") == Figure(value=None, low=None, high=None, n=0, unit="share")


def test_the_interval_is_that_of_a_cluster_bootstrap_written_out():
    values, clusters = clustered_sample(np.random.default_rng(3), 30)
    figure = cluster_mean(values, clusters, "share", bootstrap=4000, seed=1)
    random = np.random.default_rng(9)
    by_cluster = {name: [v for v, c in zip(values, clusters, strict=True) if c == name] for name in set(clusters)}
    names = sorted(by_cluster)
    means = []
    for _ in range(4000):
        drawn = [v for i in random.integers(0, len(names), len(names)) for v in by_cluster[names[i]]]
        means.append(sum(drawn) / len(drawn))
    assert figure.value == pytest.approx(sum(values) / len(values), abs=1e-4)
    assert (figure.low, figure.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.02)


SAMPLES = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(0, 25)), min_size=1, max_size=80)


@given(SAMPLES, st.randoms(), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_intervals_are_ordered_bounded_mirrored_and_blind_to_order(rows, shuffler, seed):
    def measured(rows, flip=False):
        values = [1 - v if flip else v for v, _ in rows]
        return cluster_mean(values, [f"c{c}" for _, c in rows], "share", bootstrap=300, seed=seed)

    figure, mirrored = measured(rows), measured(rows, flip=True)
    assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - figure.high, 1 - figure.low), abs=2e-4)
    mixed = list(rows)
    shuffler.shuffle(mixed)
    assert measured(mixed) == figure


def test_values_beyond_shares_get_no_wilson_interval():
    figure = cluster_mean([3.0, 4.0], ["a", "b"], "words")
    assert (figure.value, figure.low, figure.high) == (3.5, None, None)


def test_a_count_has_no_interval():
    assert count(12.34567, "seconds") == Figure(value=12.3457, low=None, high=None, n=1, unit="seconds")


# --- accuracy of scores on labelled pairs ----------------------------------------------------------------------------

TEXTS = ("One two three four.", "One two.", "One two three.")


@pytest.fixture
def labelled():
    speeches = [make_speech(f"Trouble number {i}.", "test", cluster=f"c{i // 2}") for i in range(20)]
    responses = {}
    pairs = []
    for speech in speeches:
        made = [Response(speech_id=speech.id, model=f"m{i}", text=text) for i, text in enumerate(TEXTS)]
        responses |= {r.id: r for r in made}
        pairs.append(
            Pair(
                speech_id=speech.id, chosen=made[0].id, rejected=made[1].id, chosen_scores={}, rejected_scores={}, gap=1
            )
        )
    return pairs, {s.id: s for s in speeches}, responses


@pytest.mark.parametrize(("wins", "ties", "expected"), [(20, 0, 1.0), (0, 0, 0.0), (0, 20, 0.5), (10, 4, 0.6)])
def test_equal_scores_earn_half_a_pair(labelled, wins, ties, expected):
    pairs, speeches, _ = labelled
    scores = {}
    for number, pair in enumerate(pairs):
        scores[pair.rejected] = 1.0
        scores[pair.chosen] = 2.0 if number < wins else 1.0 if number < wins + ties else 0.0
    figure = pair_accuracy(pairs, scores, speeches, bootstrap=200, seed=0)
    assert figure.value == expected and figure.n == 20 and figure.low <= expected <= figure.high
    if expected in (0.0, 1.0, 0.5):  # ten clusters of speeches, not twenty pairs, are what was seen
        low, high = proportion_confint(expected * 10, 10, method="wilson")
        assert (figure.low, figure.high) == pytest.approx((low, high), abs=1e-4)


def test_pairs_without_a_score_are_missing_and_not_lost(labelled):
    pairs, speeches, _ = labelled
    scores = {pair.chosen: 2.0 for pair in pairs} | {pair.rejected: 1.0 for pair in pairs[:15]}
    figure = pair_accuracy(pairs, scores, speeches, bootstrap=200, seed=0)
    assert (figure.value, figure.n) == (1.0, 15)
    assert pair_accuracy([], {}, {}, bootstrap=10, seed=0).value is None


def test_the_length_baseline_counts_words(labelled):
    pairs, speeches, responses = labelled
    scores = length_scores(responses)
    assert sorted(set(scores.values())) == [2.0, 3.0, 4.0]
    assert pair_accuracy(pairs, scores, speeches, bootstrap=200, seed=0).value == 1.0


def test_infinite_scores_still_order_pairs(labelled):
    pairs, speeches, _ = labelled
    scores = {p.chosen: math.inf for p in pairs} | {p.rejected: -math.inf for p in pairs}
    assert pair_accuracy(pairs, scores, speeches, bootstrap=50, seed=0).value == 1.0
