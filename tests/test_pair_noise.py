"""P(chosen beats rejected): the noise of judges is found, and the probability means what it says."""

import math

import numpy as np
import pytest
from conftest import make_speech

from psychocounsel.errors import UserError
from psychocounsel.pairs import build_pairs
from psychocounsel.pairs.noise import PRIOR_SIGMA, PRIOR_WEIGHT, estimate_noise
from psychocounsel.pairs.scores import Judged, pool
from psychocounsel.principles import load_principles
from psychocounsel.recipe import PairsTable
from psychocounsel.records import Rating, Response

SEVEN = load_principles()
NAMES = [principle.id for principle in SEVEN]
SURE = (0.0, 0.0, 0.0, 0.0, 1.0)
TORN = (0.5, 0.0, 0.0, 0.0, 0.5)


def panel(speeches, sigma, spread=0.5, severity=(0.3, -0.1, 0.0), judges=2, seed=0):
    """(judged replies, reply: speech, reply: merit), four replies a speech, each by `judges` drawn from the panel."""
    draw = np.random.Generator(np.random.Philox(seed))
    judged, speech_of, merits = {}, {}, {}
    for i in range(speeches * 4):
        key, merit = f"r{i}", draw.normal(3, spread)
        chosen = draw.choice(len(severity), judges, replace=False)
        own = {f"j{j}": merit + severity[j] + draw.normal(0, sigma) for j in sorted(chosen)}
        judged[key] = Judged({}, sum(own.values()) / judges, own)
        speech_of[key], merits[key] = f"s{i // 4}", merit
    return judged, speech_of, merits


def test_noise_severity_and_spread_are_found_again():
    noise = estimate_noise(*panel(2000, 0.4)[:2])
    assert noise.sigma == pytest.approx(0.4, abs=0.01)
    assert noise.spread == pytest.approx(0.5, abs=0.02)
    found = np.array([noise.severity[f"j{j}"] for j in range(3)])
    assert found - found.mean() == pytest.approx(np.array([0.3, -0.1, 0.0]) - 0.2 / 3, abs=0.02)
    assert noise.residuals == 8000 * 2 - 8000 - 2


def test_the_residual_variance_is_that_of_ordinary_least_squares():
    from statsmodels.api import OLS

    judged, speech_of, _ = panel(6, 0.5)
    del judged["r0"].own["j0" if "j0" in judged["r0"].own else "j1"]  # a reply with one judge tells nothing
    noise = estimate_noise(judged, speech_of)
    rows = [(key, judge, y) for key, found in judged.items() for judge, y in found.own.items()]
    keys, judges = (sorted({row[i] for row in rows}) for i in (0, 1))
    design = [[key == k for k in keys] + [judge == j for j in judges[1:]] for key, judge, _ in rows]
    fit = OLS([y for *_, y in rows], np.array(design, dtype=float)).fit()
    assert noise.residuals == fit.df_resid
    shrunk = (fit.ssr + PRIOR_WEIGHT * PRIOR_SIGMA**2) / (fit.df_resid + PRIOR_WEIGHT)
    assert noise.sigma == pytest.approx(math.sqrt(shrunk))


def test_few_residuals_lean_on_the_prior():
    own = {"a": 3.0, "b": 3.0}
    judged = {f"r{i}": Judged({}, 3.0 + i, {judge: y + i for judge, y in own.items()}) for i in range(3)}
    noise = estimate_noise(judged, dict.fromkeys(judged, "s"))
    assert noise.residuals == 2
    assert noise.sigma == pytest.approx(PRIOR_SIGMA * math.sqrt(10 / 12)), "two zero residuals are no proof of none"


def calibration(noise, speeches, merits, probability):
    """(mean probability, share of pairs whose chosen reply has more merit, pairs) for bins of width .1 from .5."""
    bins = [[] for _ in range(5)]
    for start in range(0, speeches * 4, 4):
        keys = sorted((f"r{i}" for i in range(start, start + 4)), key=lambda key: -noise.estimates[key][0])
        for i, a in enumerate(keys):
            for b in keys[i + 1 :]:
                p = probability(a, b)
                bins[min(4, int((p - 0.5) * 10))].append((p, merits[a] > merits[b]))
    return [(*np.mean(found, axis=0), len(found)) for found in bins]


@pytest.mark.parametrize(("sigma", "judges"), [(0.2, 2), (0.4, 3), (0.7, 2)])
def test_the_probability_is_calibrated_within_three_points(sigma, judges):
    judged, speech_of, merits = panel(2500, sigma, judges=judges, seed=1)
    noise = estimate_noise(judged, speech_of)
    for said, true, pairs in calibration(noise, 2500, merits, noise.probability):
        assert pairs > 300
        assert said == pytest.approx(true, abs=0.03)


def test_without_drawing_gaps_to_zero_the_probability_would_promise_too_much():
    judged, speech_of, merits = panel(2500, 0.7, seed=1)
    noise = estimate_noise(judged, speech_of)

    def plain(a, b):
        (first, one), (second, two) = noise.estimates[a], noise.estimates[b]
        return 0.5 * math.erfc(-(first - second) / math.sqrt(one + two) / math.sqrt(2))

    worst = max(said - true for said, true, _ in calibration(noise, 2500, merits, plain))
    assert worst > 0.05


def rate(response, rows):
    return [
        Rating(response_id=response.id, judge=judge, scores=dict(zip(NAMES, scores, strict=True)), levels=levels)
        for judge, scores, levels in rows
    ]


def test_whole_number_ratings_of_seven_principles_are_calibrated_too():
    draw = np.random.Generator(np.random.Philox(5))
    speeches = [make_speech(f"Speech {i}.") for i in range(700)]
    responses, ratings, merits = [], [], {}
    for speech in speeches:
        for k in range(4):
            responses.append(Response(speech_id=speech.id, model=f"m{k}", text=f"reply {k}"))
            merit = draw.normal(3, 0.45)
            merits[responses[-1].id] = merit
            for judge, strict in (("a", 0.2), ("b", -0.2)):
                scores = np.clip(np.rint(merit + strict + draw.normal(0, 0.3) + draw.normal(0, 0.8, 7)), 1, 5)
                ratings += rate(responses[-1], [(judge, scores.tolist(), {})])
    sets = build_pairs(speeches, responses, ratings, SEVEN, PairsTable(rule="paper", gap=0.01))
    rows = [(pair.probability, merits[pair.chosen] > merits[pair.rejected]) for pair in sets.pairs["train"]]
    for low in (0.5, 0.6, 0.7, 0.8, 0.9):
        found = [row for row in rows if low <= row[0] < low + 0.1 + (low == 0.9)]
        said, true = np.mean(found, axis=0)
        assert len(found) > 300
        assert said == pytest.approx(true, abs=0.05)
    kept = build_pairs(speeches, responses, ratings, SEVEN, PairsTable(rule="paper", gap=0.01, probability=0.9))
    assert {pair.id for pair in kept.pairs["train"]} == {
        p.id for p in sets.pairs["train"] if round(p.probability, 6) >= 0.9
    }
    assert kept.left_out["train: too uncertain"] == len(rows) - len(kept.pairs["train"])


def one_speech(*replies, **table):
    """Replies as lists of (judge, score for all principles, levels)."""
    speech = make_speech("Nobody asked how the trial went.")
    responses = [Response(speech_id=speech.id, model="m", text=f"reply {i}") for i in range(len(replies))]
    ratings = [
        rating
        for response, rows in zip(responses, replies, strict=True)
        for rating in rate(response, [(judge, [score] * 7, levels) for judge, score, levels in rows])
    ]
    return build_pairs([speech], responses, ratings, SEVEN, PairsTable(**table))


def test_one_judge_without_levels_knows_no_probability():
    (pair,) = one_speech([("a", 5, {})], [("a", 1, {})]).pairs["train"]
    assert pair.probability is None
    with pytest.raises(UserError, match=r"pairs\.probability = 0\.8: .* add a judge .* set pairs\.probability = 0"):
        one_speech([("a", 5, {})], [("a", 1, {})], probability=0.8)


def test_a_judges_own_levels_say_how_sure_one_judge_is():
    def probability(levels, score=4.0):
        all_seven = dict.fromkeys(NAMES, levels)
        rows = [[("a", score, all_seven)], [("a", 3.0, all_seven)], [("a", 1.0, all_seven)]]
        return one_speech(*rows, gap=0.1).pairs["train"][0].probability

    assert probability(SURE) == 1.0
    assert 0.5 < probability(TORN) < 0.95
    assert probability(TORN, 3.2) < probability(TORN, 4.5)
    judged = pool(rate(Response(speech_id="s", model="m", text="x"), [("a", [3] * 7, dict.fromkeys(NAMES, TORN))]),
                  SEVEN, gated=True)  # fmt: skip
    assert next(iter(judged.values())).stated == {"a": pytest.approx(4 / 7)}, "variance 4 on each of seven principles"


def test_levels_of_some_principles_only_are_no_statement_on_the_whole():
    levels = {"empathy": SURE}
    assert one_speech([("a", 5, levels)], [("a", 1, levels)]).pairs["train"][0].probability is None


@pytest.mark.parametrize(
    "levels", [(0.5, 0.5), (), (0.0,) * 5, (-0.1, 0.3, 0.3, 0.3, 0.2), (math.nan,) * 5, (math.inf, 0.0, 0.0, 0.0, 0.0)]
)
def test_levels_that_are_no_probabilities_stop_the_stage_with_their_place(levels):
    with pytest.raises(UserError, match=r"levels of 'empathy' by a for reply [0-9a-f]{16} are not five probabilities"):
        one_speech([("a", 5, dict.fromkeys(NAMES, levels))], [("a", 1, {})])


def test_a_strict_judge_who_rated_only_one_of_two_replies_does_not_decide():
    both = [[("a", 4 - i / 50, {}), ("b", 3 - i / 50, {})] for i in range(20)]  # b gives one point less
    sets = one_speech([("a", 3.4, {})], [("b", 3.2, {})], *both, gap=0.0)
    merits = [merit for merit, _ in sets.noise.estimates.values()]
    assert sets.noise.severity == {"a": pytest.approx(0.5), "b": pytest.approx(-0.5)}
    pair = next(p for p in sets.pairs["train"] if p.gap == 0.2 and p.judges == 0)
    assert pair.probability < 0.2, "the chosen reply only had the milder judge"
    assert all(1 <= merit <= 5 for merit in merits)
