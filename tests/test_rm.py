"""`psychocounsel eval rm`: reward models and judges on labelled pairs, from every place that pairs lie in."""

import json

import pytest
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES
from tiny_reward import make_reward_model
from tiny_run import read_json

from psychocounsel.evals.rm import ceiling_of
from psychocounsel.evals.scorers import short_names
from psychocounsel.evaluate.human.scoring import each
from psychocounsel.evaluate.pairs.figures import asked_of, pair_figures, score_replies
from psychocounsel.evaluate.pairs.labelled import LabelledPair, LabelledPairs, Rated, hard_sets, led_by, unique
from psychocounsel.records import Turn

ROWS = [
    {"speech": speech, "chosen": f"{good} ({i})", "rejected": f"{plain} ({i})", "votes": 1.0 if i % 2 else 0.5,
     "gap": 0.4 + i, "chosen_model": "one", "rejected_model": "two" if i else "one"}
    for i, (speech, good, plain) in enumerate(zip(CLIENT_LINES[:3], GOOD_REPLIES, PLAIN_REPLIES, strict=True))
]  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def made(count=60, better="warm"):
    return [
        LabelledPair(turns=(Turn(role="client", text=f"Trouble number {i}."),), chosen=f"{better} words here {i}",
                     rejected=f"plain words {i}", cluster=f"c{i // 2}", votes=1.0)
        for i in range(count)
    ]  # fmt: skip


def figures(score, pairs, validation=(), **more):
    found = LabelledPairs("made", pairs)
    scores = score_replies(each(score), asked_of(found, validation))
    return pair_figures("model", found, scores, validation, bootstrap=200, **more)


def test_a_scorer_that_knows_the_label_and_one_that_guesses():
    knows = figures(lambda messages, replies: [float("warm" in reply) for reply in replies], made())
    assert knows.accuracy.value == 1.0 and knows.accuracy.n == 60 and knows.missing == 0
    assert knows.calibration.temperature == 1.0 and knows.calibration.note == "no temperature was fitted"
    alike = figures(lambda messages, replies: [1.0] * len(replies), made())
    assert alike.accuracy.value == 0.5  # equal scores earn one half
    assert knows.baselines["longer"].value == 1.0 and knows.baselines["question mark"].value == 0.5


def test_the_temperature_is_fitted_on_other_pairs_and_never_on_clusters_in_both():
    def sure(messages, replies):
        wrong = messages[-1]["content"].endswith(("3.", "8."))
        return [20.0 * ("warm" in reply) * (-1 if wrong else 1) for reply in replies]

    pairs = made(80)
    held = figures(sure, pairs[:40], pairs[40:]).calibration
    assert held.temperature > 1.0 and held.after.nll.value < held.before.nll.value
    assert sum(row.n for row in held.curve) == 40
    same = figures(sure, pairs[:40], pairs[:40])
    assert same.calibration.temperature == 1.0 and "share clusters" in same.notes[0]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_replies_without_a_score_are_missing_and_count_nowhere(value):
    def half(messages, replies):
        spoilt = int(messages[-1]["content"].split()[-1].strip(".")) % 2
        return [value if spoilt else float("warm" in reply) for reply in replies]

    found = figures(half, made())
    assert found.missing == 30 and found.accuracy.n == 30 and found.accuracy.value == 1.0


def test_agreement_with_one_rater_counts_divided_pairs_as_raters_among_themselves_do():
    pairs = made(40)
    rated = [Rated(pair=pair.model_copy(update={"votes": 1.0 if i % 4 else 0.5}), alike=float(i % 4 > 0))
             for i, pair in enumerate(pairs)]  # fmt: skip
    found = LabelledPairs("made", [row.pair for row in rated if row.alike], rated=rated)

    def sure(messages, replies):
        number = int(messages[-1]["content"].split()[-1].strip("."))
        return [float("warm" in reply) * (5.0 if number % 4 else 0.1) for reply in replies]

    scores = score_replies(each(sure), asked_of(found))
    measured = pair_figures("model", found, scores, bootstrap=200)
    assert measured.accuracy.value == 1.0 and measured.accuracy.n == 30
    assert measured.with_rater.value == 0.875 and measured.with_rater.n == 40  # a quarter is divided
    assert measured.agreed_auc.value == 1.0 and measured.agreed_auc.n == 40
    assert ceiling_of(found, None, 200, 0).value == 0.75


def test_pairs_are_unique_and_those_labelled_both_ways_have_no_label():
    from collections import Counter

    (one, two), counts = made(2), Counter()
    turned = one.model_copy(update={"chosen": one.rejected, "rejected": one.chosen})
    same = two.model_copy(update={"rejected": two.chosen})
    assert unique([one, turned, two, two, same], counts) == [two]
    assert counts == {
        "left out: labelled both ways round": 2, "left out: the same pair again": 1,
        "left out: both replies are the same": 1, "pairs": 1,
    }  # fmt: skip


def test_hard_sets_and_leading_principles_are_those_of_the_pairs():
    pairs = [pair.model_copy(update={"gap": 0.3 if i else 2.0, "chosen_scores": {"empathy": 5.0, "safety": 4.0},
                                     "rejected_scores": {"empathy": 2.0, "safety": 3.0 if i else None}})
             for i, pair in enumerate(made(3))]  # fmt: skip
    found = hard_sets(LabelledPairs("made", pairs))
    assert len(found["near ties"]) == 2 and "one model" not in found
    assert {key: len(rows) for key, rows in led_by(pairs).items()} == {"empathy": 3}


def test_names_are_as_short_as_tells_models_apart():
    assert short_names(["runs/a/6-reward/model", "runs/b/6-reward/model"]) == ["a", "b"]
    assert short_names(["org/rm-8b.v2"]) == ["rm-8b_v2"]
    assert short_names(["http://localhost:8000/classify#org/rm-8b"]) == ["rm-8b"]
    assert short_names(["x/model", "y/x/model"]) == ["x", "y_x"]
    assert short_names([]) == []


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory, model_folder):
    return make_reward_model(tmp_path_factory.mktemp("rm") / "warm", model_folder)


def test_the_command_measures_a_model_and_a_judge_on_a_file_of_pairs(tmp_path, cli, reward_model):
    path, folder = write(tmp_path / "pairs.jsonl", [*ROWS, ROWS[0]]), tmp_path / "out"
    call = ("eval", "rm", reward_model, "--judge", "embedded", "--pairs", path, "--to", folder, "--ceiling", "0.87",
            "--bootstrap", 100, "--max-length", 256)  # fmt: skip
    code, out, err = cli(*call)
    assert code == 0, err
    results = read_json(folder / "results.json")
    metrics = results["metrics"]
    assert metrics["rm.warm.accuracy"]["n"] == metrics["rm.embedded.accuracy"]["n"] == 3
    assert metrics["rm.warm.accuracy"]["value"] == 1.0  # it was made to like these replies
    assert metrics["rm.ceiling"]["value"] == 0.87 and metrics["rm.warm.baseline.longer"]["n"] == 3
    assert {f"rm.warm.probe.{name}" for name in ("padding", "relevance", "gender")} <= set(metrics)
    assert results["about"]["what was read"]["left out: the same pair again"] == 1
    assert any("fitted on ratings of the same kind" in reason for reason in results["dependent"])
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert sum(row["metric"] == "rm.warm.accuracy" for row in items) == 3
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert ", not clearly</td>" in page  # three pairs tell little
    assert "DEPENDENT" in page and "Reliability of warm" in page and ROWS[0]["speech"] not in page
    assert "longer" in out and "87.0" in out
    again = cli(*call)
    assert again[0] == 0 and read_json(folder / "results.json")["metrics"] == metrics
    code, _, err = cli(*call, "--seed", 5)
    assert code == 2 and "holds another evaluation (settings.seed: 0 -> 5)" in err


def test_a_finished_run_gives_its_test_pairs_and_hard_sets(tmp_path, cli, finished):
    folder = tmp_path / "out"
    given = ("--pairs", finished, "--validation", finished, "--probes", "padding,typos", "--bootstrap", 100)
    model = finished / "6-reward" / "model"
    code, _, err = cli("eval", "rm", model, *given, "--to", folder, "--max-length", 192)
    assert code == 0, err
    metrics, own = (read_json(place / "results.json")["metrics"] for place in (folder, finished))
    assert metrics["rm.tiny.accuracy"]["n"] == own["reward.accuracy"]["n"]
    assert metrics["rm.tiny.accuracy"]["value"] == own["reward.accuracy"]["value"]
    assert metrics["rm.tiny.baseline.longer"]["value"] == own["reward.length_baseline"]["value"]
    for name in ("nll", "temperature", "length.longer", "length.shorter", "length_gap", "length.slope"):
        assert metrics[f"rm.tiny.{name}"]["value"] == pytest.approx(own[f"reward.{name}"]["value"], abs=1e-3), name
        assert metrics[f"rm.tiny.{name}"]["n"] == own[f"reward.{name}"]["n"], name
    assert metrics["rm.tiny.best_of"]["n"] > 0 and metrics["rm.tiny.length.only"]["n"] == own["reward.accuracy"]["n"]
    assert 0 < metrics["rm.tiny.best_of"]["n"] <= own["reward.accuracy"]["n"]  # speeches with one best reply
    assert {name for name in metrics if ".probe." in name} == {"rm.tiny.probe.padding", "rm.tiny.probe.typos"}


def test_rankings_become_pairs_with_the_raters_own_agreement(tmp_path, cli):
    speeches = write(
        tmp_path / "q.jsonl", [{"question_id": i, "turns": [text]} for i, text in enumerate(CLIENT_LINES[:4])]
    )
    replies = tmp_path / "replies"
    replies.mkdir()
    for name, texts in (("warm", GOOD_REPLIES), ("plain", PLAIN_REPLIES), ("short", ("Hm.", "I see.", "Well."))):
        said = [[{"index": 0, "turns": [f"{texts[i % 3]} {i}"]}] for i in range(4)]
        rows = [{"question_id": i, "model_id": name, "choices": choices} for i, choices in enumerate(said)]
        write(replies / f"{name}.jsonl", rows)
    order = ["warm", "plain", "short"]
    rows = [{"question_id": i, "rater": "a", "ranking": order} for i in range(4)]
    rows.append({"question_id": 0, "rater": "b", "ranking": ["plain", "warm", "short"]})
    ranked, folder = write(tmp_path / "rankings.jsonl", rows), tmp_path / "out"
    call = ("eval", "rm", "--judge", "embedded", "--pairs", f"rankings:{ranked}", "--responses", replies, "--speeches",
            f"fastchat:{speeches}", "--probes", "none", "--bootstrap", 50)  # fmt: skip
    code, _, err = cli(*call, "--to", folder)
    assert code == 0, err
    results = read_json(folder / "results.json")
    assert results["metrics"]["rm.embedded.accuracy"]["n"] == 11  # of 12 one is divided
    assert results["about"]["what was read"]["left out: raters are divided"] == 1
    assert results["metrics"]["rm.ceiling"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert results["about"]["choices among several replies"] == 3  # raters name different best replies once
    own, raters = (results["metrics"][f"rm.embedded.{name}"] for name in ("with_rater", "agreed_auc"))
    assert own["n"] == raters["n"] == 3  # the divided pair counts here: one of its raters is always agreed with
    assert own["value"] in (pytest.approx(0.5 / 3, abs=1e-4), 0.5, pytest.approx(2.5 / 3, abs=1e-4))
    assert 0 <= raters["value"] <= 1
    write(ranked, [*rows, {"question_id": 1, "rater": "c", "ranking": ["warm", "plan"]}])
    code, _, err = cli(*call, "--to", tmp_path / "other")
    assert code == 2 and "rankings.jsonl:6: no recorded reply of 'plan', did you mean 'plain'?" in err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds no labelled pair"),
        (b'{"speech": "Hello there.", "chosen": "a"}\n', "row 1: no text in column 'rejected'"),
        (b'{"speech": "Hello there.", "chosen": "a", "rejected": "  "}\n', "empty"),
        (b'{"speech": "Hello there.", "chosen": "a", "rejected": "a"}\n', "both replies are the same"),
        (b'{"speech": "Hello there.", "chosen": "a", "rejected": "b", "gap": -1}\n', "'gap' is no number from 0 to 4"),
        (b'{"speech": "Hello there.", "chosen": "a", "rejected": "b", "votes": NaN}\n', "not JSON"),
        (b'{"speech": "Hello the', "not JSON"),
        ('{"speech": "Grüße"}'.encode("latin-1"), "not UTF-8"),
    ],
)
def test_bad_pairs_are_one_line_and_nothing_is_left(tmp_path, cli, content, told):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    code, _, err = cli("eval", "rm", "--judge", "embedded", "--pairs", path, "--to", tmp_path / "out")
    assert code == 2 and told in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--judge", "embedded"), "--pairs: name a run folder"),
        (("--pairs", "PAIRS"), "name a reward model, or a judge with --judge"),
        (("--judge", "embedded", "--pairs", "PAIRS", "--probes", "paddin"), "no such probe, did you mean 'padding'?"),
        (("--judge", "embedded", "--pairs", "PAIRS", "--ceiling", "87"), "is a share, from 0 to 1"),
        (("--judge", "embedded", "--pairs", "rankings:x.jsonl"), "needs --responses and --speeches"),
        (("MODEL", "MODEL", "--pairs", "PAIRS"), "is named twice"),
        (("--judge", "embedde", "--pairs", "PAIRS"), "not a known model string"),
    ],
)
def test_wrong_options_are_told(tmp_path, cli, model_folder, arguments, told):
    path = write(tmp_path / "pairs.jsonl", ROWS)
    named = [{"PAIRS": path, "MODEL": model_folder}.get(word, word) for word in arguments]
    code, _, err = cli("eval", "rm", *named, "--to", tmp_path / "out")
    assert code == 2 and told in err
    assert not (tmp_path / "out").exists()  # the mended command may take the same folder
