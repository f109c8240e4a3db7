"""Scorers put to human labels: figures beside trivial baselines, intervals by unit, and only the reply is scored."""

import json

import numpy as np
import pytest
from label_files import ASKING, FLAT, POSTS, WARM, write_all
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, roc_auc_score

from psychocounsel.errors import UserError
from psychocounsel.evaluate.human import resampling
from psychocounsel.evaluate.human.baselines import Words, folds, tfidf_labels, tfidf_pairs
from psychocounsel.evaluate.human.items import Item, Part, message, recent
from psychocounsel.evaluate.human.labels import human_labels, read_sets
from psychocounsel.evaluate.human.resampling import Draws, figure
from psychocounsel.evaluate.human.scoring import each, neutral_replies, principle_scorer, reward_scorer, scores_of
from psychocounsel.principles import load_principles
from psychocounsel.ratings.embedded import EmbeddedScorer
from psychocounsel.records import Turn

WORDS = each(lambda messages, replies: [float(len(reply.split())) for reply in replies])
KEY = ("set", "test", "metric")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def sets(places):
    return read_sets(places)


@pytest.fixture(scope="module")
def judged(sets):
    """All six sets by the embedded judge."""
    return human_labels(sets, principle_scorer(EmbeddedScorer(), load_principles()), bootstrap=300, seed=1)


def reply_item(client, reply, unit, **labels):
    return Item(parts=(Part(turns=message(client), reply=reply),), unit=unit, labels=labels)


def noisy(count=90, seed=3):
    """Scores with ties, labels and units of unequal size."""
    random = np.random.default_rng(seed)
    scores, labels = random.integers(0, 8, count).astype(float), random.integers(0, 2, count).astype(float)
    return scores + labels, labels, [f"u{n}" for n in random.integers(0, 20, count)]


def test_the_area_under_the_curve_is_that_of_scikit_learn_in_every_draw():
    scores, labels, units = noisy()
    draws = Draws(units, 40, seed=5)
    found = resampling.auc(scores, labels, units, draws)
    weights = draws.weights[:, draws.columns(units)].astype(float)
    wanted = [roc_auc_score(labels, scores, sample_weight=row) for row in weights]
    assert found == pytest.approx(wanted) and len(found) == 41
    assert found[0] == pytest.approx(roc_auc_score(labels, scores))


def test_within_strata_only_items_of_one_stratum_meet():
    scores = np.array([1.0, 0.0, 11.0, 10.0, 9.0])
    labels = np.array([1.0, 0.0, 0.0, 1.0, 0.0])
    draws = Draws(list("abcde"), 0, 0)
    (found,) = resampling.auc(scores, labels, list("abcde"), draws, ["x", "x", "y", "y", "y"])
    assert found == pytest.approx(2 / 3)  # 1 over 0; 10 under 11, over 9: the two strata never meet


def test_rank_correlation_and_agreement_with_levels_are_the_textbook_ones():
    scores, _, units = noisy()
    random = np.random.default_rng(4)
    levels = np.clip(np.round(scores / 4 + random.normal(0, 0.7, len(scores))), 0, 2)
    found = np.clip(np.round(scores / 4), 0, 2)
    draws = Draws(units, 0, 0)
    assert resampling.rank_correlation(scores, levels, units, draws)[0] == pytest.approx(spearmanr(scores, levels)[0])
    agreed = resampling.level_agreement(found, levels, units, draws)
    assert agreed["macro-F1"][0] == pytest.approx(f1_score(levels, found, average="macro"))
    assert agreed["quadratic kappa"][0] == pytest.approx(cohen_kappa_score(found, levels, weights="quadratic"))
    assert agreed["accuracy"][0] == pytest.approx(accuracy_score(levels, found))


def test_the_interval_by_unit_covers_where_one_by_item_would_not():
    """Every unit has a luck of its own, shared by its items, and one label; the true area is one half."""
    random = np.random.default_rng(11)
    covered = {"units": 0, "items": 0}
    runs = 120
    for run in range(runs):
        luck = np.repeat(random.normal(size=40), 6)
        scores, labels = luck + random.normal(scale=0.3, size=240), np.repeat(np.arange(40) % 2, 6).astype(float)
        for name, units in (("units", [f"{n // 6}" for n in range(240)]), ("items", [f"{n}" for n in range(240)])):
            got = figure(resampling.auc(scores, labels, units, Draws(units, 200, run)), 240, name)
            covered[name] += got.low <= 0.5 <= got.high
    assert covered["units"] / runs >= 0.86
    assert covered["items"] / runs <= 0.75


def test_under_ten_units_there_is_no_interval():
    units = [f"u{n % 9}" for n in range(90)]
    scores, labels, _ = noisy()
    got = figure(resampling.auc(scores, labels, units, Draws(units, 500, 0)), 90, "unit")
    assert got.value is not None and (got.low, got.high) == (None, None)


def test_neutral_replies_take_away_what_the_message_alone_is_worth():
    """A scorer that likes some messages: uncorrected it cannot order replies across them, corrected it can."""
    worth = {post: 10.0 * number for number, post in enumerate(POSTS)}
    asked = []

    def score(prompts):
        asked.extend(prompts)
        return [
            [worth[messages[-1]["content"]] + (reply == WARM) for reply in replies] for messages, replies in prompts
        ]

    items = [reply_item(post, reply, post) for post in POSTS for reply in (WARM, FLAT)]
    raw, clean = scores_of(items, score, corrected=True)
    assert raw == [10.0 * number + warm for number in range(6) for warm in (1, 0)]
    assert clean == [1.0, 0.0] * 6
    assert [len(replies) for _, replies in asked] == [18] * 6  # a message is asked once, for all its replies


def test_the_neutral_replies_are_sixteen_and_ask_nothing():
    texts = neutral_replies()
    assert len(set(texts)) == 16 and not any("?" in text for text in texts)


def test_a_reply_without_a_score_is_missing_and_never_a_zero():
    shy = each(lambda messages, replies: [None if reply == FLAT else 1.0 for reply in replies])
    long = Item(parts=tuple(Part(turns=message(POSTS[0]), reply=reply) for reply in (WARM, FLAT)), unit="u")
    raw, _ = scores_of([reply_item(POSTS[0], WARM, "u"), reply_item(POSTS[0], FLAT, "u"), long], shy, corrected=False)
    assert raw == [1.0, None, None]


@pytest.mark.parametrize(
    ("scorer", "complaint"),
    [
        (lambda asked: [[0.0] for _ in asked], "one score for each reply"),
        (lambda asked: [], "one score for each reply"),
        (each(lambda messages, replies: [float("nan")] * len(replies)), "scores that are not numbers"),
    ],
)
def test_a_scorer_that_answers_otherwise_is_told(sets, scorer, complaint):
    with pytest.raises(UserError, match=complaint):
        human_labels({"epitome": sets["epitome"]}, scorer, bootstrap=10)


def test_a_scorer_that_is_a_trivial_baseline_gains_nothing(sets):
    found = human_labels(sets, WORDS, bootstrap=100)
    for row in found["rows"]:
        if row["in_macro"]:
            assert row["score"]["value"] <= row["baselines"][row["best_baseline"]]["value"]
            assert row["gain"]["value"] <= 0
    pairs = [row for row in found["rows"] if row["n"] and row["metric"] == "accuracy" and row["set"] != "epitome"]
    assert len(pairs) == 6 and [row["score"] for row in pairs] == [row["baselines"]["longer"] for row in pairs]
    assert found["macro"]["value"] <= 0


def test_macro_is_the_mean_gain_of_the_tests_that_count(judged):
    gains = [row["gain"]["value"] for row in judged["rows"] if row["in_macro"]]
    assert judged["macro"]["n"] == len(gains) == 10
    assert judged["macro"]["value"] == pytest.approx(np.mean(gains), abs=2e-4)
    assert judged["macro"]["low"] < judged["macro"]["value"] < judged["macro"]["high"]
    assert not any(row["in_macro"] for row in judged["rows"] if row["set"] == "counselchat")


def test_words_are_learnt_from_other_units_only():
    """Each unit has a word and a label of its own: whoever saw the unit in training knows all, nobody else anything."""
    random = np.random.default_rng(2)
    units = [f"u{number // 5}" for number in range(300)]
    labels = np.repeat(random.integers(0, 2, 60), 5).astype(float)
    words = Words([f"word{unit} and more" for unit in units])
    fold = folds(units, 0)
    assert all(len({fold[n] for n in range(300) if units[n] == unit}) == 1 for unit in set(units))
    found = tfidf_labels(words, np.arange(300), labels, fold)
    assert roc_auc_score(labels, found) < 0.7
    better = np.arange(0, 300, 2)
    gaps = tfidf_pairs(words, np.column_stack([better, better + 1]), fold[::2])
    assert np.mean(gaps > 0) < 0.7


def test_words_that_do_tell_are_found():
    labels = np.tile([1.0, 0.0], 100)
    words = Words([f"please tell me {n % 7}" if n % 2 == 0 else f"just do it {n % 5}" for n in range(200)])
    found = tfidf_labels(words, np.arange(200), labels, folds([str(n) for n in range(200)], 0))
    assert roc_auc_score(labels, found) == 1.0
    assert tfidf_labels(Words(["", "  "]), np.arange(2), np.array([0.0, 1.0]), np.array([0, 1])) is None


def test_items_that_are_nearly_training_speeches_are_left_out_and_counted(places):
    nearly = POSTS[0].replace("went badly", "went very badly")
    found = human_labels(read_sets({"counselchat": places["counselchat"]}, [nearly], 0.4), WORDS, bootstrap=10)
    counts = found["sets"]["counselchat"]["counts"]
    assert counts["items left out: nearly a training speech"] == 6  # the question stands in the file twice
    assert counts["pairs left out: nearly a training speech"] == 8
    assert (found["rows"][0]["n"], found["rows"][0]["units"]) == (30, 10)
    whole = human_labels(read_sets({"counselchat": places["counselchat"]}, POSTS), WORDS, bootstrap=10)
    assert whole["rows"] == []  # nothing is left to measure, and that is no zero


def test_the_embedded_judge_on_all_sets_finds_what_was_planted(judged):
    rows = {tuple(row[key] for key in KEY): row for row in judged["rows"]}
    assert len(rows) == len(judged["rows"]) == 3 + 3 + 9 + 6 + 1 + 1 + 2 + 4 + 2 + 1
    assert rows["siri-2", "expert-preferred", "accuracy"]["score"]["value"] == 1.0
    assert rows["mindeval", "preferred system", "accuracy"]["score"]["value"] == 1.0
    assert rows["epitome", "EX present", "AUC"]["baselines"]["question mark"]["value"] == 1.0
    session = rows["annomi", "session quality", "AUC"]
    assert [session[key] for key in ("n", "unit", "units")] == [12, "transcript", 12]
    assert session["license"] == "none stated"
    assert session["shown"]["less input (by the annotators)"]["value"] == 1.0
    assert rows["counselchat", "upvotes", "accuracy"]["shown"]["views"]["value"] < 1.0
    for row in judged["rows"]:
        assert row["without_score"] == 0 and set(row["baselines"]) <= {"longer", "shorter", "question mark", "TF-IDF"}
        if row["test"] == "upvotes, like lengths":  # there are no such pairs, and that is no figure
            assert (row["n"], row["score"]) == (0, None)
        elif row["score"]["low"] is not None:
            assert row["score"]["low"] <= row["score"]["value"] <= row["score"]["high"]


def test_results_are_json_the_same_in_any_company_and_hold_no_text(sets, judged, tmp_path):
    scorer = principle_scorer(EmbeddedScorer(), load_principles())
    again = human_labels({name: sets[name] for name in ("siri-2", "annomi")}, scorer, bootstrap=300, seed=1)
    told = json.dumps(judged, allow_nan=False)
    assert len(again["rows"]) == 10 and all(row in judged["rows"] for row in again["rows"])
    assert again["sets"]["annomi"] == judged["sets"]["annomi"]
    for text in (*POSTS, WARM, ASKING, FLAT, "ExampleCounsellor", str(tmp_path.parent)):
        assert text not in told


def test_a_reward_model_is_a_scorer(sets, model_folder, tmp_path):
    from tiny_reward import make_reward_model

    from psychocounsel.reward.score import RewardModel

    scorer = reward_scorer(RewardModel(make_reward_model(tmp_path / "reward", model_folder), max_length=256))
    found = human_labels({"siri-2": sets["siri-2"], "epitome": sets["epitome"]}, scorer, bootstrap=50)
    assert all(row["score"]["value"] is not None for row in found["rows"] if "like lengths" not in row["test"])
    messages = [{"role": "user", "content": POSTS[0]}]
    ((one, two),) = scorer([(messages, [WARM, FLAT])])
    ((alone,),) = scorer([(messages, [FLAT])])
    assert two == pytest.approx(alone, abs=1e-4) and one != two


def test_an_unknown_set_is_told_with_the_nearest_name(tmp_path):
    with pytest.raises(UserError, match=r"unknown set 'epitomy', did you mean 'epitome'\?; known are epitome, annomi"):
        read_sets({"epitomy": tmp_path})


def test_a_dialogue_is_cut_to_its_last_turns_from_a_client_on():
    roles = ("therapist", "client", "therapist", "therapist", "client", "therapist", "client")
    turns = [Turn(role=role, text=str(number)) for number, role in enumerate(roles)]
    assert [turn.text for turn in recent(turns)] == ["4", "5", "6"]
    assert [turn.text for turn in recent(turns[:5])] == ["1", "2 3", "4"]
    assert recent(turns[:1]) == ()
