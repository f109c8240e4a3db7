"""Agreement of judges with each other and with people: the tables, the command, the paper's own counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.proportion import proportion_confint

from psychocounsel.principles import load_principles
from psychocounsel.ratings.agreement import Intervals, agreement_table, mean_kappa, short_table
from psychocounsel.ratings.reliability import wilson
from psychocounsel.records import Rating

PRINCIPLES = load_principles()
NAMES = [principle.id for principle in PRINCIPLES]
EMPATHY = PRINCIPLES[:1]
QUICK = Intervals(bootstrap=200)
SHARED = Path(os.environ.get("PSYCHOCOUNSEL_DATA", "../shared/data"))
needs_shared = pytest.mark.skipif(
    not (SHARED / "ratings").is_dir(), reason="the shared data folder is absent (set PSYCHOCOUNSEL_DATA)"
)


def ratings(**judges):
    """One rating per judge and score; None leaves the response unrated, 'none' rates it without basis."""
    return [
        Rating(response_id=f"r{i}", judge=judge, scores={"empathy": None if score == "none" else score})
        for judge, scores in judges.items()
        for i, score in enumerate(scores)
        if score is not None
    ]


def short(found, principles, speech_of=None):
    return short_table(agreement_table(found, principles, speech_of, None, QUICK))


def agreement(**judges):
    return short(ratings(**judges), EMPATHY)["empathy"]


def panel(speeches=12, replies=4, judges=("ann", "bea"), seed=0, noise=0.7, milder=()):
    """Ratings of all principles with a shared quality and each judge's noise; which speech a reply belongs to."""
    random = np.random.default_rng(seed)
    found, speech_of = [], {}
    for speech in range(speeches):
        for reply in range(replies):
            key = f"s{speech:03}r{reply}"
            speech_of[key] = f"s{speech:03}"
            quality = random.normal(3, 1.2)
            for judge in judges:
                lift = 1.0 if judge in milder else 0.0
                values = np.clip(np.round(quality + lift + random.normal(0, noise, len(NAMES))), 1, 5)
                found.append(
                    Rating(response_id=key, judge=judge, scores=dict(zip(NAMES, map(int, values), strict=True)))
                )
    return found, speech_of


def test_perfect_agreement_is_one_and_perfect_disagreement_below_zero():
    assert agreement(a=[1, 3, 5], b=[1, 3, 5]) == {"kappa": 1.0, "alpha": 1.0, "n": 3}
    upside_down = agreement(a=[1, 2, 4, 5], b=[5, 4, 2, 1])
    assert upside_down["kappa"] == -1.0
    assert upside_down["alpha"] < 0


@pytest.mark.parametrize(
    "judges",
    [
        {},
        {"a": [1, 2, 3]},
        {"a": [1, 2, None, None], "b": [None, None, 3, 4]},
        {"a": ["none", "none"], "b": [1, 2]},
    ],
)
def test_without_doubly_rated_replies_agreement_is_undefined(judges):
    assert agreement(**judges) == {"kappa": None, "alpha": None, "n": 0}
    document = agreement_table(ratings(**judges), EMPATHY, {}, {}, QUICK)
    assert short_table(document)["empathy"]["kappa"] is None
    json.dumps(document, allow_nan=False)


def test_without_variation_agreement_is_undefined_and_not_one():
    assert agreement(a=[3, 3, 3], b=[3, 3, 3]) == {"kappa": None, "alpha": None, "n": 3}


def test_a_rating_without_basis_is_left_out():
    assert agreement(a=[1, 5, "none"], b=[1, 5, 3]) == {"kappa": 1.0, "alpha": 1.0, "n": 2}


def test_every_principle_has_its_own_row():
    both = [
        Rating(response_id=f"r{i}", judge=judge, scores={"empathy": i + 1, "clarity": clarity})
        for i in range(4)
        for judge, clarity in (("a", 1 + i), ("b", 4 - i))
    ]
    table = short(both, PRINCIPLES)
    assert set(table) == set(NAMES)
    assert (table["empathy"]["kappa"], table["clarity"]["kappa"]) == (1.0, -1.0)
    assert table["safety"] == {"kappa": None, "alpha": None, "n": 0}


def test_the_short_table_reads_old_files_too():
    old = {"empathy": {"kappa": 0.5, "alpha": 0.4, "n": 9}}
    assert short_table(old) == old
    found, speech_of = panel()
    assert short(found, PRINCIPLES, speech_of) == short(found, PRINCIPLES), "which replies share a speech is no matter"


def test_two_judges_of_one_reply_each_are_pooled_into_one_table():
    """Five raters, the fifth shared: what a pair has few of, all pairs together have enough of."""
    found = ratings(a=[1, 2, None, None], b=[None, None, 4, 5], e=[1, 3, 4, 4])
    document = agreement_table(found, EMPATHY, None, None, QUICK)
    assert [row["judges"] for row in document["pairs"]] == [["a", "e"], ["b", "e"]]
    assert document["doubly_rated"] == 4
    expected = cohen_kappa_score([1, 2, 4, 5], [1, 3, 4, 4], weights="quadratic", labels=[1, 2, 3, 4, 5])
    assert document["principles"]["empathy"]["kappa"] == pytest.approx(expected, abs=1e-6)
    assert document["all"]["principles"]["empathy"]["icc"]["value"] is None, "no reply was rated by all three"


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False))
def test_neither_the_order_of_ratings_nor_that_of_judges_in_a_file_counts(random):
    found, speech_of = panel(speeches=5, judges=("ann", "bea", "human:one", "human:two"))
    document = agreement_table(found, PRINCIPLES, speech_of, None, Intervals(bootstrap=20))
    random.shuffle(found)
    again = agreement_table(found, PRINCIPLES, dict(reversed(speech_of.items())), None, Intervals(bootstrap=20))
    assert json.dumps(again) == json.dumps(document)


def test_the_names_of_two_judges_do_not_count():
    found, speech_of = panel()
    swapped = [row.model_copy(update={"judge": {"ann": "bea", "bea": "ann"}[row.judge]}) for row in found]
    one, other = (agreement_table(rows, PRINCIPLES, speech_of, None, QUICK) for rows in (found, swapped))
    for document in (one, other):
        for row in (*document["all"]["principles"].values(), document["all"]["mean"], document["all"]["overall"]):
            row.pop("difference")
    assert one["all"] == other["all"]


def test_the_first_rating_of_a_reply_by_a_judge_counts():
    found = ratings(a=[1, 3, 5], b=[1, 3, 5])
    assert short([*found, *ratings(a=[5, 5, 1])], EMPATHY)["empathy"]["kappa"] == 1.0


def test_intervals_hold_the_value_and_the_mean_over_principles_is_narrower():
    found, speech_of = panel(speeches=60)
    whole = agreement_table(found, PRINCIPLES, speech_of, None, Intervals(bootstrap=500))["all"]
    widths = []
    for row in whole["principles"].values():
        for name in ("exact", "kappa", "kappa_quadratic", "alpha", "ac1", "ac2", "icc_one_way", "icc", "icc_mean"):
            assert row[name]["low"] < row[name]["value"] < row[name]["high"], name
        widths.append(row["kappa_quadratic"]["high"] - row["kappa_quadratic"]["low"])
    mean = whole["mean"]["kappa_quadratic"]
    assert mean["value"] == pytest.approx(
        np.mean([r["kappa_quadratic"]["value"] for r in whole["principles"].values()])
    )
    assert mean["high"] - mean["low"] < min(widths)
    assert whole["overall"]["icc"]["value"] > mean["value"], "a mean of seven is steadier than one of them"
    assert "exact" not in whole["overall"], "means of seven are rarely the same to the digit"


def test_speeches_of_one_cluster_are_drawn_together():
    found, speech_of = panel(speeches=40)
    clusters = {f"s{i:03}": f"c{i // 2}" for i in range(40)}
    units = [
        agreement_table(found, PRINCIPLES, of, cluster_of, Intervals(bootstrap=20, unit=unit))["all"]["units"]
        for of, cluster_of, unit in (
            (speech_of, clusters, "speech"),
            (speech_of, None, "speech"),
            (speech_of, None, "reply"),
            (None, None, "speech"),
        )
    ]
    assert units == [20, 40, 160, 160]


def test_without_speeches_there_is_no_order_and_single_replies_are_drawn():
    found, _ = panel()
    document = agreement_table(found, PRINCIPLES, None, None, QUICK)
    assert document["all"]["order"] is None
    assert document["bootstrap"]["unit"] == "reply"


def test_leaving_one_out_finds_the_mild_judge_and_the_noisy_one():
    found, speech_of = panel(speeches=40, judges=("ann", "bea", "cy"), milder=("bea",), noise=0.4)
    noise = np.random.default_rng(1)
    found = [
        row.model_copy(update={"scores": {name: int(noise.integers(1, 6)) for name in NAMES}})
        if row.judge == "cy"
        else row
        for row in found
    ]
    others = agreement_table(found, PRINCIPLES, speech_of, None, QUICK)["leave_one_out"]
    assert others["bea"]["overall"]["difference"]["low"] > 0.4
    assert others["cy"]["mean"]["correlation"]["high"] < 0.3 < others["ann"]["mean"]["correlation"]["low"]
    assert others["ann"]["n"] == 160
    two, _ = panel()
    assert agreement_table(two, PRINCIPLES, speech_of, None, QUICK)["leave_one_out"] == {}


def test_a_judge_is_held_against_people_and_people_against_each_other():
    found, speech_of = panel(speeches=60, judges=("model", "human:one", "human:two"), noise=0.6)
    random = np.random.default_rng(5)
    found += [
        Rating(response_id=key, judge="dice", scores={name: int(random.integers(1, 6)) for name in NAMES})
        for key in speech_of
    ]
    human = agreement_table(found, PRINCIPLES, speech_of, None, QUICK)["human"]
    assert human["people"] == ["human:one", "human:two"]
    assert human["ceiling"]["mean"]["kappa_quadratic"]["value"] > 0.7
    like, dice = human["judges"]["model"], human["judges"]["dice"]
    assert (like["n"], like["ceiling"]["n"], like["ceiling"]["reaches"]) == (240, 240, True)
    assert dice["ceiling"]["reaches"] is False
    assert dice["ceiling"]["kappa_quadratic"]["difference"]["high"] < -0.5
    assert dice["ceiling"]["alike"]["difference"]["high"] < 0
    gap = like["ceiling"]["kappa_quadratic"]
    assert gap["difference"]["value"] == pytest.approx(gap["judge"]["value"] - gap["people"]["value"], abs=2e-6)


def test_the_ceiling_is_of_the_same_replies_and_none_without_two_people():
    found, speech_of = panel(speeches=20, judges=("model", "human:one", "human:two"))
    half = [row for row in found if row.judge != "model" or row.response_id < "s010"]
    human = agreement_table(half, PRINCIPLES, speech_of, None, QUICK)["human"]
    assert (human["ceiling"]["n"], human["judges"]["model"]["ceiling"]["n"]) == (80, 40)
    one = [row for row in found if row.judge != "human:two"]
    human = agreement_table(one, PRINCIPLES, speech_of, None, QUICK)["human"]
    assert human["ceiling"] is None
    assert human["judges"]["model"]["ceiling"] is None
    assert agreement_table(panel()[0], PRINCIPLES, None, None, QUICK)["human"]["judges"] == {}


# The paper's expert check: 200 pairs, two therapists; they agree with each other on 174, with the labels on
# 184 and 170.
PAIRS, EACH_OTHER, FIRST, SECOND = 200, 174, 184, 170


def joint_table():
    """(first = label, second = label) counts. Two verdicts a pair, so agreeing with each other is both or neither."""
    found = [
        (both, FIRST - both, SECOND - both, PAIRS - FIRST - SECOND + both)
        for both in range(PAIRS + 1)
        if min(FIRST - both, SECOND - both, PAIRS - FIRST - SECOND + both) >= 0
        and both + PAIRS - FIRST - SECOND + both == EACH_OTHER
    ]
    assert len(found) == 1, "the published counts leave one table"
    return found[0]


def paper():
    """The 200 verdicts as ratings: 1 for the first reply shown, 5 for the second; labels first in half of each cell."""
    rows = []
    cells = zip(((True, True), (True, False), (False, True), (False, False)), joint_table(), strict=True)
    for right, size in cells:
        for k in range(size):
            label = 1 if k % 2 else 5
            theirs = [label if agrees else 6 - label for agrees in right]
            rows.append((label, *theirs))
    return ratings(**dict(zip(("labels", "human:1", "human:2"), zip(*rows, strict=True), strict=True)))


def test_the_papers_counts_leave_one_joint_table():
    assert joint_table() == (164, 20, 6, 10)


def test_the_papers_expert_check_comes_out_of_our_table():
    document = agreement_table(paper(), EMPATHY, None, None, Intervals(bootstrap=2000))
    found = {tuple(row["judges"]): row["principles"]["empathy"] for row in document["pairs"]}
    published = {("human:1", "human:2"): EACH_OTHER, ("human:1", "labels"): FIRST, ("human:2", "labels"): SECOND}
    assert set(found) == set(published)
    for key, count in published.items():
        row, share = found[key], count / PAIRS
        assert row["n"] == PAIRS
        assert row["exact"]["value"] == share
        low, high = proportion_confint(count, PAIRS, method="wilson")
        assert wilson(share, PAIRS) == pytest.approx((low, high), abs=1e-6)
        assert (row["exact"]["low"], row["exact"]["high"]) == pytest.approx((low, high), abs=0.015)
        assert row["kappa"]["value"] == pytest.approx(2 * share - 1, abs=1e-6), "balanced order: chance is one half"
        assert row["kappa_quadratic"]["value"] == row["kappa"]["value"], "two verdicts have one distance"
        expected = 1 - (1 - share) * (2 * PAIRS - 1) / PAIRS
        for name in ("alpha", "alpha_nominal", "alpha_interval"):
            assert row[name]["value"] == pytest.approx(expected, abs=1e-6), name
    assert [round(found[key]["kappa"]["value"], 2) for key in published] == [0.74, 0.84, 0.70]


def test_the_papers_labels_are_not_above_the_human_ceiling():
    """.885 against .870 on the same pairs: the difference has 0 well inside its interval, as has each expert alone."""
    human = agreement_table(paper(), EMPATHY, None, None, Intervals(bootstrap=2000))["human"]
    assert human["ceiling"]["mean"]["exact"]["value"] == 0.87
    beside = human["judges"]["labels"]["ceiling"]
    assert beside["exact"]["judge"]["value"] == 0.885
    assert beside["exact"]["difference"]["value"] == 0.015
    assert beside["exact"]["difference"]["low"] < 0 < beside["exact"]["difference"]["high"]
    assert beside["exact"]["judge"]["low"] < beside["exact"]["people"]["high"]
    assert beside["reaches"] is True
    spread = np.sqrt((26 * 0.25 + 10) / PAIRS - 0.015**2) / np.sqrt(PAIRS)
    assert beside["exact"]["difference"]["high"] == pytest.approx(0.015 + 1.96 * spread, abs=0.006)


def rows_of_shared():
    return [
        json.loads(line) for line in (SHARED / "ratings" / "ratings.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@needs_shared
def test_five_raters_of_real_replies_agree_as_sklearn_says(tmp_path, cli):
    code, out, err = cli(
        "agreement", SHARED / "ratings" / "ratings.jsonl", "--json", tmp_path / "a.json", "--bootstrap", 200
    )
    assert (code, err) == (0, "")
    document = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    by_reply = {}
    for row in rows_of_shared():
        by_reply.setdefault((row["question_id"], row["model"]), {})[row["rater"]] = row["scores"]
    twice = [[scores for _, scores in sorted(raters.items())] for raters in by_reply.values() if len(raters) > 1]
    expected = {
        name: cohen_kappa_score(*zip(*((a[name], b[name]) for a, b in twice), strict=True), weights="quadratic",
                                labels=[1, 2, 3, 4, 5])
        for name in NAMES
    }  # fmt: skip
    assert {name: row["kappa"] for name, row in short_table(document).items()} == pytest.approx(expected, abs=1e-6)
    assert mean_kappa(short_table(document)) == pytest.approx(0.775, abs=5e-4)
    assert (document["replies"], document["doubly_rated"], len(document["judges"])) == (256, 60, 5)
    assert document["all"]["order"]["alike"]["low"] > 0.5
    assert "rater-e" in out


@needs_shared
def test_a_rater_of_the_real_replies_can_be_called_a_person(tmp_path, cli):
    rows = rows_of_shared()
    write(tmp_path / "judges.jsonl", [row for row in rows if row["rater"] != "rater-e"])
    write(tmp_path / "people.jsonl", [row for row in rows if row["rater"] == "rater-e"])
    place = tmp_path / "judges.jsonl"
    code, _, _ = cli("agreement", place, "--human", tmp_path / "people.jsonl", "--json", tmp_path / "a.json")
    assert code == 0
    human = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["human"]
    assert human["people"] == ["human:rater-e"]
    assert {name: row["n"] for name, row in human["judges"].items()} == {
        "rater-a": 20, "rater-b": 12, "rater-c": 16, "rater-d": 12,
    }  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_rows(found):
    return [row.model_dump(mode="json") for row in found]


def test_the_command_shows_tables_within_a_hundred_columns(tmp_path, monkeypatch, cli):
    found, _ = panel(judges=("a-judge-with-a-rather-long-name:of-a-model", "bea", "human:one", "human:two"))
    monkeypatch.setenv("COLUMNS", "100")
    place = write(tmp_path / "ratings.jsonl", as_rows(found))
    run = [sys.executable, "-m", "psychocounsel.cli", "agreement", str(place), "--bootstrap", "50"]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env={**os.environ, "NO_COLOR": "1"})
    assert max(len(line) for line in done.stdout.splitlines()) <= 100
    for word in (
        "All judges",
        "Judge against judge",
        "people themselves",
        "mean of the others",
        "Use of the scale",
    ):
        assert word in done.stdout
    assert done.stdout.count("…") == done.stdout.count("a-judge-w…f-a-model") > 5, "names are cut, numbers never"
    assert all(name in done.stdout for name in NAMES)


def test_a_narrow_terminal_cuts_no_number(tmp_path, monkeypatch, cli):
    place = write(tmp_path / "ratings.jsonl", as_rows(panel(judges=("ann", "bea", "human:one", "human:two"))[0]))
    shown = []
    for columns in (60, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        run = [sys.executable, "-m", "psychocounsel.cli", "agreement", str(place), "--bootstrap", "50"]
        shown.append(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert shown[0] == shown[1]
    assert "…" not in shown[0]


def test_every_option_of_the_command_shows_an_effect(tmp_path, cli):
    found, speech_of = panel(judges=("ann", "bea"))
    rows = [
        {
            "question_id": int(speech_of[row.response_id][1:]),
            "model": row.response_id,
            "rater": row.judge,
            "scores": row.scores,
        }
        for row in found
    ]
    place = write(tmp_path / "ratings.jsonl", rows)
    people = [{**row, "rater": "one"} for row in rows if row["rater"] == "ann"]

    def document(*options):
        assert cli("agreement", place, "--json", tmp_path / "a.json", *options)[0] == 0
        return json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))

    plain = document("--bootstrap", 50)
    assert plain == document("--bootstrap", 50)
    assert plain["bootstrap"] == {"resamples": 50, "seed": 0, "unit": "speech"}
    other = document("--bootstrap", 50, "--seed", 7)
    assert other["all"]["mean"]["alpha"]["value"] == plain["all"]["mean"]["alpha"]["value"]
    assert other["all"]["mean"]["alpha"]["low"] != plain["all"]["mean"]["alpha"]["low"]
    assert document("--bootstrap", 0)["all"]["mean"]["alpha"]["low"] is None
    assert document("--bootstrap", 50, "--unit", "reply")["all"]["units"] == 48
    human = document("--bootstrap", 50, "--human", write(tmp_path / "people.jsonl", people))["human"]
    assert human["people"] == ["human:one"]
    assert human["judges"]["ann"]["mean"]["exact"]["value"] == 1


def test_repeated_ratings_are_counted_and_left_out(tmp_path, cli):
    found, _ = panel()
    rows = as_rows(found)
    place = write(tmp_path / "ratings.jsonl", [*rows, *({**row, "scores": {"empathy": 1}} for row in rows[:3])])
    code, out, _ = cli("agreement", place, "--bootstrap", 0)
    assert code == 0
    assert "3 ratings of a reply by a judge who had rated it before are left out" in out


GOOD = {"response_id": "r1", "judge": "ann", "scores": {"empathy": 4}}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (json.dumps(GOOD).encode(), "no reply is rated by two judges"),
        (json.dumps({**GOOD, "scores": {"emapthy": 4}}).encode(), "no principle 'emapthy', did you mean 'empathy'?"),
        (json.dumps({**GOOD, "scores": {"empathy": 6}}).encode(), "scores.empathy"),
        (json.dumps({**GOOD, "scores": {"empathy": True}}).encode(), "true and false are no scores"),
        (json.dumps({**GOOD, "scores": {"empathy": "high"}}).encode(), "scores.empathy"),
        (json.dumps({**GOOD, "scores": [4]}).encode(), "'scores' must hold"),
        (b'{"response_id": "r1", "judge": "ann", "scores": {"empathy": NaN}}', "NaN"),
        (json.dumps({"judge": "ann", "scores": {"empathy": 4}}).encode(), "not a rating"),
        (json.dumps({**GOOD, "judge": " "}).encode(), "not a rating"),
        (json.dumps({**GOOD, "judge": 5}).encode(), "not a rating"),
        (json.dumps(GOOD).encode()[:-9], "not JSON"),
        ("Grüße".encode("latin-1"), "not UTF-8"),
        (b"[1, 2]", "expected a JSON object"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, cli, content, told):
    place = tmp_path / "ratings.jsonl"
    place.write_bytes(content)
    code, out, err = cli("agreement", place)
    assert (code, out) == (2, "")
    assert told in err
    assert str(place) in err
    assert len(err.splitlines()) == 1


def test_people_who_rated_other_replies_are_refused(tmp_path, cli):
    place = write(tmp_path / "ratings.jsonl", as_rows(panel()[0]))
    people = write(tmp_path / "people.jsonl", [{**GOOD, "response_id": "elsewhere"}])
    code, _, err = cli("agreement", place, "--human", people)
    assert code == 2
    assert "none of the 1 replies rated by people is among the 48" in err
    code, _, err = cli("agreement", place, "--human", write(people, []))
    assert (code, "empty" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{folder}/nowhere"], "does not exist"),
        (["{folder}"], "run the stage ratings first"),
        (["{folder}/ratings.jsonl", "--json", "{folder}"], "name a file"),
        (["{folder}/ratings.jsonl", "--unit", "spech"], "did you mean 'speech'?"),
        (["{folder}/ratings.jsonl", "--human", "{folder}/nobody.jsonl"], "no such file"),
    ],
)
def test_wrong_places_and_options_are_told(tmp_path, cli, arguments, told):
    write(tmp_path / "ratings.jsonl", as_rows(panel()[0]))
    code, _, err = cli("agreement", *(word.format(folder=tmp_path) for word in arguments))
    assert code == 2
    assert told in err


def test_a_judges_name_of_control_characters_does_not_reach_the_terminal(tmp_path, cli):
    found, _ = panel(judges=("\x1b[31mred\x07", "[bold]bea"))
    code, out, _ = cli("agreement", write(tmp_path / "ratings.jsonl", as_rows(found)), "--bootstrap", 0)
    assert code == 0
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[bold]bea" in out


def test_a_run_folder_gives_what_its_ratings_stage_wrote(tmp_path, cli):
    """Two recorded judges in a real run: the stage's agreement.json and the command's are the same."""
    from tiny_run import write_recipe

    from psychocounsel.models.recorded import embedded_file
    from psychocounsel.records import Response, read_records, read_rows

    random = np.random.default_rng(0)
    replies = read_records(embedded_file("responses.jsonl"), Response)
    rated = {row["response_id"]: row["reply"] for _, row in read_rows(embedded_file("ratings.jsonl"))}
    rows = []
    for response in replies:
        if response.id in rated:
            scores = {name: int(random.integers(1, 6)) for name in NAMES}
            rows += [
                {"response_id": response.id, "judge": "first", "reply": rated[response.id]},
                {"response_id": response.id, "judge": "second", "reply": json.dumps(scores)},
            ]
    write(tmp_path / "recorded.jsonl", rows)
    recipe = write_recipe(tmp_path)
    options = ("--set", f'ratings.judges=["recorded:{tmp_path / "recorded.jsonl"}"]', "--set", "responses.limit=12")
    for stage in ("speeches", "responses", "ratings"):
        code, _, err = cli(stage, recipe, "--runs", tmp_path, *options)
        assert code == 0, err
    run = tmp_path / "tiny"
    stage = json.loads((run / "3-ratings" / "agreement.json").read_text(encoding="utf-8"))
    assert stage["all"]["order"]["pairs"] > 10
    assert stage["bootstrap"] == {"resamples": 2000, "seed": 3, "unit": "speech"}
    for place in (run, run / "3-ratings", run / "3-ratings" / "ratings.jsonl"):
        assert cli("agreement", place, "--json", tmp_path / "a.json", "--seed", 3)[0] == 0
        assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == stage
