"""Probes: a judge with a known bias is found out in figures, one without it is not, and asking again costs nothing."""

import json

import numpy as np
import pytest
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES, make_speech
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from psychocounsel.models.recorded import RecordedModel
from psychocounsel.models.scripted import Scripted
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles
from psychocounsel.ratings import intervals, open_judges, probes
from psychocounsel.ratings.attacks import CONTROL, attack_families
from psychocounsel.ratings.biases import credit, position, self_preference, shift
from psychocounsel.ratings.intervals import kappa, mean, rank_correlation, share
from psychocounsel.ratings.judge import Comparison, Item
from psychocounsel.ratings.model_judge import ModelJudge
from psychocounsel.ratings.probes import PADDING, padded, plan_probes, planned_calls, probe_all, probe_judge
from psychocounsel.records import Rating, Response

SEVEN = load_principles()
NAMES = [principle.id for principle in SEVEN]
MODELS = ("openai:gpt-x", "llama-y")
WHEN = ("on Monday", "since May", "again today")


def make_items():
    """24 speeches with two replies each, the first by a model of the family 'openai'."""
    made = []
    for line in CLIENT_LINES:
        for number, when in enumerate(WHEN):
            speech = make_speech(f"{line} It began {when}.")
            for model, texts in zip(MODELS, (GOOD_REPLIES, PLAIN_REPLIES), strict=True):
                made.append(Item(speech, Response(speech_id=speech.id, model=model, text=texts[number])))
    return made


ITEMS = make_items()


@pytest.fixture
def store(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as opened:
        yield opened


@pytest.fixture(autouse=True)
def resamples(monkeypatch):
    """Fewer resamples, for speed; gives the number that is used outside of tests."""
    usual = intervals.RESAMPLES
    monkeypatch.setattr(intervals, "RESAMPLES", 200)
    return usual


class Known:
    """A judge with biases that the test chooses; everything else about it is fair and constant."""

    name, family, concurrency = "known", "openai", 4

    def __init__(self, score=lambda item: 3.0, first=lambda a, b: 0.5, drift=None):
        self.score, self.first, self.drift = score, first, drift
        self.asked = 0

    def can_rate(self, item):
        return True

    def reversed(self):
        return self if self.drift is None else Known(lambda item: self.drift(self.score(item)))

    async def rate(self, item, principles, store):
        self.asked += 1
        value = self.score(item)
        if value is None:
            return None, "refused"
        return Rating(response_id=item.response.id, judge=self.name, scores=dict.fromkeys(NAMES, value)), "rated"

    async def compare(self, speech, first, second, principles, store):
        self.asked += 1
        return Comparison(self.first(first, second), {})


def words(item):
    return len(item.response.text.split())


def probed(judge, store, items=ITEMS, count=48, **more):
    return probe_judge(judge, items, SEVEN, store, count, **more)


def test_a_judge_without_bias_shows_none(store):
    found = probed(Known(), store)
    assert found["replies"] == len(ITEMS)
    assert found["position"]["beyond_half"]["value"] == found["position"]["flipped"]["value"] == 0
    assert found["position"]["beyond_half"]["low"] < 0 < found["position"]["beyond_half"]["high"]
    assert found["verbosity"]["shift"]["overall"]["value"] == 0
    assert found["verbosity"]["padded_wins"]["value"] == 0.5
    assert found["verbosity"]["length_correlation"]["value"] is None, "nothing varies, so nothing is correlated"
    assert found["injection"]["all"]["shift"]["value"] == 0
    assert found["scale_order"] == {"not_measurable": "this judge is shown no levels"}


@pytest.mark.parametrize(("value", "beyond"), [(1.0, 0.5), (0.0, -0.5)], ids=["first", "second"])
def test_a_judge_that_looks_at_the_place_and_not_the_reply_is_found_out(store, value, beyond):
    found = probed(Known(first=lambda a, b: value), store)["position"]
    assert found["beyond_half"]["value"] == beyond
    assert found["flipped"]["value"] == 1
    assert found["beyond_half"]["n"] == 24, "each pair of replies once, in both orders"
    assert abs(found["beyond_half"]["low"]) <= 0.5


def test_a_judge_that_prefers_one_reply_in_both_orders_has_no_position_bias(store):
    found = probed(Known(first=lambda a, b: float(a > b)), store)["position"]
    assert (found["beyond_half"]["value"], found["flipped"]["value"], found["no_verdict"]) == (0, 0, 0)


def test_a_pair_without_a_verdict_in_one_order_is_counted_and_left_out(store):
    found = probed(Known(first=lambda a, b: None if a > b else 1.0), store)["position"]
    assert (found["no_verdict"], found["beyond_half"]["n"], found["beyond_half"]["value"]) == (24, 0, None)


def test_a_tie_in_one_order_and_a_win_in_the_other_is_a_flip():
    found = position([(ITEMS[0], 0.5, 1.0), (ITEMS[2], 0.75, 0.25), (ITEMS[4], 0.5, 0.5)])
    assert found["flipped"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["beyond_half"]["value"] == pytest.approx((0.75 + 0.5 + 0.5) / 3 - 0.5, abs=1e-6)


def test_a_judge_that_pays_for_words_is_found_out(store):
    judge = Known(lambda item: min(5.0, 1 + words(item) / 20), lambda a, b: float(len(a) > len(b)))
    found = probed(judge, store)["verbosity"]
    assert found["shift"]["overall"]["low"] > 0.2
    assert found["shift"]["clarity"] == found["shift"]["overall"]
    assert found["padded_wins"]["value"] == 1
    assert found["length_correlation"]["value"] == 1


def test_padding_adds_words_between_the_replys_own_and_keeps_its_first_and_last():
    item = ITEMS[0]
    longer = padded(item)
    text, found = item.response.text, longer.response.text
    assert words(longer) >= 1.5 * words(item)
    assert found.startswith(text.split(". ")[0])
    assert found.endswith(text.split(". ")[-1])
    assert longer == padded(item)
    assert longer.speech == item.speech
    for sentence in PADDING:
        found = found.replace(f" {sentence}", "")
    assert found == text


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1).filter(str.strip))
def test_any_reply_can_be_padded_and_keeps_its_own_text(text):
    speech = ITEMS[0].speech
    longer = padded(Item(speech, Response(speech_id=speech.id, model="m", text=text))).response.text
    assert len(longer.split()) > len(text.split())
    for sentence in PADDING:
        longer = longer.replace(f" {sentence}", "").replace(f"{sentence} ", "")
    assert longer == text


def test_a_huge_reply_is_padded_by_half(store):
    huge = Item(ITEMS[0].speech, Response(speech_id=ITEMS[0].speech.id, model="m", text="So it goes. " * 20_000))
    assert 1.5 <= words(padded(huge)) / words(huge) < 1.51


def test_a_judge_that_drifts_with_the_order_of_the_levels_is_found_out(store):
    judge = Known(lambda item: 2.0 if "?" in item.response.text else 4.0, drift=lambda score: score - 1)
    found = probed(judge, store)["scale_order"]
    assert found["shift"]["overall"]["value"] == -1
    assert found["kappa"]["empathy"]["value"] == pytest.approx(2 / 3, abs=1e-6)  # x in {2, 4}, y = x - 1
    assert found["unrated"] == 0


def ratings_of(judge, value):
    return [
        Rating(response_id=item.response.id, judge=judge, scores=dict.fromkeys(NAMES, value(item))) for item in ITEMS
    ]


def of_openai(item):
    return item.response.model == MODELS[0]


def test_a_judge_that_likes_its_own_family_more_than_the_panel_does_is_found_out(store):
    own = ratings_of("known", lambda item: 4.0 if of_openai(item) else 2.5)
    panel = ratings_of("other", lambda item: 3.5 if of_openai(item) else 3.0)
    found = probed(Known(), store, ratings=[*own, *panel])["self_preference"]
    assert found["family"] == "openai"
    assert (found["raw"]["value"], found["beyond_panel"]["value"]) == (1.5, 1.0)
    assert found["raw"]["n"] == 24, "one difference per speech"
    assert probed(Known(), store, ratings=own)["self_preference"]["beyond_panel"] is None


def test_the_interval_of_self_preference_covers_the_truth(store):
    random = np.random.Generator(np.random.Philox(7))
    noise = {item.response.id: random.normal(0, 0.3) for item in ITEMS}
    own = ratings_of("known", lambda item: 3.0 + 0.4 * of_openai(item) + noise[item.response.id])
    found = self_preference("known", "openai", ITEMS, own, SEVEN)["raw"]
    assert found["low"] < 0.4 < found["high"]
    assert 0.1 < found["high"] - found["low"] < 0.6


@pytest.mark.parametrize(
    ("family", "ratings", "reason"),
    [
        ("", [], "the judge's model family is not known"),
        ("google", [], "no reply comes from a model of the family 'google'"),
        ("openai", [], "no speech has rated replies both of the judge's family and of others"),
    ],
)
def test_self_preference_that_cannot_be_measured_says_why(family, ratings, reason):
    assert self_preference("known", family, ITEMS, ratings, SEVEN) == {"not_measurable": reason}


def test_a_recorded_judge_is_not_asked(store):
    model = RecordedModel("human:r1", ("response_id",), {(ITEMS[0].response.id,): json.dumps({"empathy": 4})})
    assert probed(ModelJudge(model), store) == {"replies": 0, "not_measurable": "recorded: cannot be asked"}
    assert store.by_model() == []


@pytest.mark.parametrize(("items", "count"), [([], 5), (ITEMS, 0)])
def test_nothing_to_ask_about_is_said(store, items, count):
    assert probed(Known(), store, items, count) == {"replies": 0, "not_measurable": "there is no reply to ask about"}


def test_empty_replies_and_duplicates_are_not_drawn():
    empty = Item(ITEMS[0].speech, Response(speech_id=ITEMS[0].speech.id, model="m", text=" \n", finish="refused"))
    plan = plan_probes([empty, *ITEMS, *ITEMS], SEVEN, 1000)
    assert sorted(item.response.id for item in plan.items) == sorted(item.response.id for item in ITEMS)


def test_a_judge_that_answers_nothing_leaves_figures_empty_and_counts_it(store):
    found = probed(Known(lambda item: None, lambda a, b: None), store, count=12)
    assert set(found["statuses"]) == {"refused"}
    assert found["verbosity"]["unrated"] == 12
    assert found["verbosity"]["shift"]["overall"] == {"value": None, "low": None, "high": None, "n": 0}
    assert found["injection"]["all"]["lost"] == 0, "an attack loses only a rating that was there"
    json.dumps(found, allow_nan=False)


def test_the_figures_do_not_depend_on_the_order_of_the_replies(store):
    judge = Known(lambda item: min(5.0, 1 + words(item) / 17), lambda a, b: float(len(a) > len(b)), lambda s: s / 2 + 1)
    ratings = ratings_of("known", lambda item: 1 + words(item) % 4)
    shuffled = [ITEMS[i] for i in np.random.Generator(np.random.Philox(1)).permutation(len(ITEMS))]
    bodies = [
        json.dumps(probe_all([judge], items, given_ratings, SEVEN, store, 11, 3))
        for items, given_ratings in ((ITEMS, ratings), (shuffled, ratings[::-1]))
    ]
    assert bodies[0] == bodies[1]
    assert json.loads(bodies[0])["judges"]["known"]["replies"] == 11


def test_another_seed_draws_other_replies():
    drawn = [{item.response.id for item in plan_probes(ITEMS, SEVEN, 12, seed).items} for seed in (0, 1)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("family", attack_families())
def test_a_chosen_family_alone_is_planted(family):
    plan = plan_probes(ITEMS, SEVEN, 6, families=[family])
    assert {attack.family for _, attack, _, _ in plan.attacks} == {family}


def test_controls_are_never_planted_as_attacks():
    assert CONTROL not in {attack.family for _, attack, _, _ in plan_probes(ITEMS, SEVEN, 48).attacks}


@pytest.mark.parametrize("count", [1, 7, 48])
def test_no_more_calls_are_made_than_planned(store, count):
    judge = Known(drift=lambda score: score)
    backwards = judge.reversed()
    judge.reversed = lambda: backwards
    probed(judge, store, count=count)
    already = min(count, len(ITEMS))  # rated before in a run, so in the store
    assert 0 < judge.asked + backwards.asked - already <= planned_calls(count)
    assert planned_calls(count, 7) > planned_calls(count)


def test_a_second_run_asks_nothing_and_gives_the_same_figures(store):
    def answer(request):
        system, user = (message["content"] for message in request.messages)
        if "REPLY B" in user:
            return json.dumps({"overall": "A better" if len(user) % 3 else "tie"})
        return json.dumps(dict.fromkeys(NAMES, 1 + (len(user) + len(system.partition("5 =")[0])) % 5))

    runs = []
    for _ in range(2):
        model = Scripted(answer, name="openai:probe-me")
        runs.append((probed(ModelJudge(model), store, count=3), len(model.sent)))
    assert runs[0][0] == runs[1][0]
    assert runs[0][1] > 3
    assert runs[1][1] == 0
    assert runs[0][0]["scale_order"]["shift"]["overall"]["n"] == 3, "the levels were shown the other way round"


def test_the_embedded_judge_can_be_probed_and_is_moved_by_no_place(store):
    found = probed(open_judges(["embedded"])[0], store, count=10)
    assert found["replies"] == 10
    assert (found["position"]["beyond_half"]["value"], found["position"]["flipped"]["value"]) == (0, 0)
    assert found["injection"]["all"]["shift"]["n"] == 10 * probes.ATTACKS_PER_ITEM
    assert found["self_preference"] == {"not_measurable": "no reply comes from a model of the family 'embedded'"}


def test_a_shift_counts_only_what_both_ratings_score():
    before = Rating(response_id="r", judge="j", scores={**dict.fromkeys(NAMES, 2), "safety": None})
    after = Rating(response_id="r", judge="j", scores={**dict.fromkeys(NAMES, 3), "staging": None})
    found = shift(before, after, SEVEN)
    assert found == {**{n: 1 for n in NAMES if n not in ("safety", "staging")}, "overall": 1.0}
    assert shift(before, None, SEVEN) == shift(None, after, SEVEN) == {}
    nothing = Rating(response_id="r", judge="j", scores={})
    assert shift(before, nothing, SEVEN) == {}


@pytest.mark.parametrize(("value", "won"), [(1.0, 1.0), (0.75, 1.0), (0.5, 0.5), (0.25, 0.0), (0.0, 0.0)])
def test_a_verdict_of_any_strength_is_one_win(value, won):
    assert credit(value) == won


def test_few_clusters_or_no_variation_give_no_invented_interval():
    names = [str(i) for i in range(30)]
    assert mean([1.0, 2.0], ["a", "b"]) == {"value": 1.5, "low": None, "high": None, "n": 2}
    assert mean([2.0] * 30, names) == {"value": 2.0, "low": None, "high": None, "n": 30}
    nothing = share([0.0] * 30, names)
    assert (nothing["value"], nothing["low"]) == (0, 0)
    assert nothing["high"] == pytest.approx(0.11351, abs=1e-5), "Wilson for 0 of 30"
    assert kappa([(3, 3)] * 30, names)["value"] is None
    assert rank_correlation([1, 2], [2, 2], ["a", "b"])["value"] is None


def test_repeated_values_of_one_cluster_do_not_narrow_the_interval(monkeypatch, resamples):
    monkeypatch.setattr(intervals, "RESAMPLES", resamples)
    random = np.random.Generator(np.random.Philox(3))
    values, names = random.normal(size=40).tolist(), [str(i) for i in range(40)]
    once, five = mean(values, names), mean(values * 5, names * 5)
    assert once["low"] == pytest.approx(five["low"], abs=1e-6)
    assert once["high"] == pytest.approx(five["high"], abs=1e-6)
    width = 2 * 1.96 * np.std(values) / 40**0.5
    assert once["high"] - once["low"] == pytest.approx(width, rel=0.1)


def test_the_rank_correlation_is_that_of_scipy():
    random = np.random.Generator(np.random.Philox(5))
    first = random.integers(1, 6, 60).astype(float)
    second = first + random.normal(size=60)
    found = rank_correlation(first, second, [str(i) for i in range(60)])
    assert found["value"] == pytest.approx(spearmanr(first, second).statistic, abs=1e-6)
    assert found["low"] < found["value"] < found["high"]


RECIPE = """
name = "probed"
[speeches]
sources = [{load = "embedded", limit = 60}]
topics = "none"
[responses]
limit = 8
[ratings]
judges = ["recorded:embedded", "embedded"]
"""


def test_the_ratings_stage_writes_probes_where_the_recipe_asks_for_them(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "probed.toml").write_text(RECIPE, encoding="utf-8")
    assert cli("run", "probed.toml", "--to", "ratings")[0] == 0
    place = tmp_path / "runs" / "probed" / "3-ratings"
    assert not (place / "probes.json").exists(), "nobody asked"
    assert cli("run", "probed.toml", "--to", "ratings", "--redo", "ratings", "--set", "ratings.probes=5")[0] == 0
    body = json.loads((place / "probes.json").read_text(encoding="utf-8"))
    assert (body["count"], list(body["judges"])) == (5, ["rubric-rater", "embedded"])
    assert body["judges"]["rubric-rater"] == {"replies": 0, "not_measurable": "recorded: cannot be asked"}
    assert body["judges"]["embedded"]["replies"] == 5
    assert set(body["judges"]["embedded"]) == {
        "replies", "statuses", "position", "verbosity", "scale_order", "self_preference", "injection",
    }  # fmt: skip
