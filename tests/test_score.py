"""`psychocounsel score`: any file of speeches and replies gets rewards in its order, and keeps everything else."""

import datetime
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from statistics import stdev

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES, make_speech
from tiny_reward import make_reward_model

from psychocounsel.records import read_rows
from psychocounsel.reward.calibrate import Calibration, calibration_figures, write_calibration
from psychocounsel.reward.score import RewardModel, Scored
from psychocounsel.score import files
from psychocounsel.score.ensemble import Ensemble
from psychocounsel.score.rows import read_item

ROWS = [
    {"nr": i, "speech": speech, "response": reply, "note": {"kept": [None, 1.5], "text": "ü"}}
    for i, (speech, reply) in enumerate(zip(CLIENT_LINES[:3], [*GOOD_REPLIES[:2], PLAIN_REPLIES[0]], strict=True))
]


@pytest.fixture(scope="session")
def reward_models(tmp_path_factory, model_folder):
    """Two tiny reward models without a calibration, trained from different heads. Not to be changed."""
    place = tmp_path_factory.mktemp("rewards")
    return [make_reward_model(place / f"m{seed}", model_folder, seed) for seed in range(2)]


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory, model_folder):
    """The same two models with a calibration each: rating = 3 + reward / 2, and 2 + reward / 4."""
    place = tmp_path_factory.mktemp("calibrated")
    folders = [make_reward_model(place / f"m{seed}", model_folder, seed) for seed in range(2)]
    for folder, scale, offset in zip(folders, (0.5, 0.25), (3.0, 2.0), strict=True):
        write_calibration(folder, calibration(scale=scale, offset=offset))
    return folders


def calibration(**fields):
    figures = calibration_figures([1.0, -2.0], [1, 0], ["a", "b"])
    return Calibration(**{"temperature": 1.5, "before": figures, "after": figures} | fields)


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path):
    return pq.read_table(path).to_pylist() if path.suffix == ".parquet" else [row for _, row in read_rows(path)]


@pytest.fixture
def score(tmp_path, cli):
    """`score(rows, *models)`: run the command; the scored rows and what it said on both streams."""

    def call(rows, *models, ending=".jsonl", result=".jsonl", more=("--max-length", 256)):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        source, target = write(place / f"in{ending}", rows), place / f"out{result}"
        code, out, err = cli("score", *models, "--input", source, "--output", target, *more)
        assert code == 0, err
        assert sorted(path.name for path in place.iterdir()) == sorted([source.name, target.name])
        return read(target), out, err

    return call


def expected(folder, rows):
    model = RewardModel(folder, 256)
    return [model.score([(make_speech(row["speech"]), row["response"])])[0] for row in rows]


def test_rewards_are_added_in_order_and_everything_else_is_kept(score, reward_models):
    found, out, err = score(ROWS, reward_models[0])
    assert [{key: row[key] for key in ROWS[0]} for row in found] == ROWS
    assert [list(row) for row in found] == [[*ROWS[0], "reward", "truncated"]] * 3
    assert [row["reward"] for row in found] == pytest.approx(expected(reward_models[0], ROWS), abs=1e-4)
    assert found[0]["reward"] > found[2]["reward"] and not any(row["truncated"] for row in found)
    assert "3 rows with 3 replies scored, 0 cut to fit 256 tokens" in out
    assert "no calibration.json, so there is no 'rating'" in err


def test_every_form_of_a_dialogue_gives_the_same_reward(score, reward_models):
    told = [("client", "I sleep badly."), ("therapist", "Since when?"), ("client", ROWS[0]["speech"])]
    roles = {"client": "user", "therapist": "assistant"}
    turns = [{"role": role, "text": text} for role, text in told]
    messages = [{"role": roles[role], "content": text} for role, text in told]
    reply = ROWS[0]["response"]
    rows = [{name: messages, "response": reply} for name in ("messages", "prompt", "turns")]
    rows += [{"turns": turns, "speech": None, "responses": [reply, reply, PLAIN_REPLIES[0]]}]
    rows += [{"messages": [{"role": "system", "content": "Be kind."}, *messages], "response": reply}]
    found, out, _ = score(rows, reward_models[0])
    several = found.pop(3)
    assert len({row["reward"] for row in found}) == 1
    assert several["rewards"][:2] == [found[0]["reward"]] * 2 and several["rewards"][2] != several["rewards"][0]
    assert several["truncated"] == [False] * 3 and "reward" not in several
    assert "5 rows with 7 replies" in out


def test_the_same_prompt_and_reply_are_read_once_in_a_chunk(monkeypatch, score, reward_models):
    asked = []
    monkeypatch.setattr(RewardModel, "read", lambda self, items, label: asked.append((label, items)) or [
        [Scored(float(len(text)), {}, (), 0, False) for text in texts] for _, texts in items])  # fmt: skip
    monkeypatch.setattr(files, "CHUNK", 4)
    rows = [ROWS[0], ROWS[1], ROWS[0], {**ROWS[0], "response": "Go on."}, ROWS[0]]
    found, _, _ = score(rows, reward_models[0])
    assert [len(texts) for _, items in asked for _, texts in items] == [2, 1, 1]
    assert [label for label, _ in asked] == ["rows 1 to 4 of 5", "rows 5 to 5 of 5"]
    assert [row["reward"] for row in found] == [len(row["response"]) for row in rows]


def test_chunks_change_nothing(monkeypatch, score, reward_models):
    whole, _, _ = score(ROWS * 2, reward_models[0])
    monkeypatch.setattr(files, "CHUNK", 2)
    parts, _, _ = score(ROWS * 2, reward_models[0])
    assert [row.pop("reward") for row in parts] == pytest.approx([row.pop("reward") for row in whole], abs=1e-5)
    assert parts == whole


def test_a_calibrated_model_gives_ratings_within_the_scale(score, calibrated):
    found, _, err = score(ROWS, calibrated[0])
    for row in found:
        assert row["rating"] == pytest.approx(min(5, max(1, 3 + row["reward"] / 2)), abs=1e-5)
    assert "uncertainty" not in found[0] and err == ""
    several, _, _ = score([{"speech": "I am tired.", "responses": list(GOOD_REPLIES)}], calibrated[0])
    assert len(several[0]["ratings"]) == 3 and "rating" not in several[0]


def test_two_calibrated_models_are_averaged_on_the_scale_of_the_rating(score, calibrated):
    alone = [[row["reward"] for row in score(ROWS, folder)[0]] for folder in calibrated]
    found, _, err = score(ROWS, *calibrated)
    for row, a, b in zip(found, *alone, strict=True):
        on_line = [3 + a / 2, 2 + b / 4]
        assert row["reward"] == pytest.approx(sum(on_line) / 2, abs=1e-5)
        assert row["uncertainty"] == pytest.approx(stdev(on_line), abs=1e-5)
        assert row["rating"] == pytest.approx(min(5, max(1, row["reward"])))
    assert "raw rewards" not in err


def test_models_without_a_common_scale_are_averaged_raw_and_it_is_said(score, reward_models, calibrated):
    alone = [score(ROWS[:1], folder)[0][0]["reward"] for folder in (reward_models[1], calibrated[0])]
    found, _, err = score(ROWS[:1], reward_models[1], calibrated[0])
    assert found[0]["reward"] == pytest.approx(sum(alone) / 2, abs=1e-5)
    assert found[0]["uncertainty"] == pytest.approx(stdev(alone), abs=1e-5) and "rating" not in found[0]
    assert f"{reward_models[1]}: no calibration.json" in err and "raw rewards are averaged" in err


class Heads:
    """A scorer with principle and bootstrap heads, as `read` gives them."""

    def __init__(self, reward, names, resamples, truncated=False):
        self.scored = Scored(reward, {name: reward + i for i, name in enumerate(names)}, resamples, 9, truncated)

    def read(self, items, label="scores"):
        return [[replace(self.scored, reward=self.scored.reward) for _ in texts] for _, texts in items]


def test_heads_of_one_model_give_principles_and_uncertainty():
    item = read_item("f:1", ROWS[0])
    (row,) = Ensemble([Heads(2.0, ["empathy", "safety"], (1.0, 2.0, 3.0), True)]).score([item])
    assert row == {"reward": 2.0, "principles": {"empathy": 2.0, "safety": 3.0}, "uncertainty": 1.0, "truncated": True}


def test_an_ensemble_keeps_the_principles_all_models_have_and_compares_models_not_heads():
    models = [Heads(2.0, ["empathy", "safety"], (1.0, 9.0)), Heads(4.0, ["empathy"], ())]
    (row,) = Ensemble(models).score([read_item("f:1", ROWS[0])])
    assert row["principles"] == {"empathy": 3.0} and row["uncertainty"] == pytest.approx(stdev([2, 4]), abs=1e-6)


def test_parquet_in_and_out_keeps_types_and_rows(score, calibrated):
    when = datetime.datetime(2024, 5, 1, 12, 30)
    table = pa.table(
        {
            "speech": pa.array([row["speech"] for row in ROWS], pa.large_string()),
            "response": pa.array([row["response"] for row in ROWS]).dictionary_encode(),
            "when": pa.array([when, None, when], pa.timestamp("us")),
            "small": pa.array([1, 2, None], pa.int8()),
            "raw": pa.array([b"\xff", None, b""]),
        }
    )
    found, _, _ = score(table, calibrated[0], ending=".parquet", result=".parquet")
    plain, _, _ = score(ROWS, calibrated[0])
    assert [row["reward"] for row in found] == pytest.approx([row["reward"] for row in plain])
    assert [{key: row[key] for key in table.column_names} for row in found] == table.to_pylist()
    assert list(found[0])[5:] == ["reward", "rating", "truncated"]


def test_json_lines_become_parquet_whatever_stands_in_the_first_rows(monkeypatch, score, reward_models):
    monkeypatch.setattr(files, "CHUNK", 1)
    rows = [
        {**ROWS[0], "x": None},
        {**ROWS[1], "x": 1, "new": "a"},
        {**ROWS[2], "x": 2.5, "note": {"kept": [], "y": 1}},
    ]
    found, _, _ = score(rows, reward_models[0], result=".parquet")
    assert [row["x"] for row in found] == [None, 1.0, 2.5] and [row["new"] for row in found] == [None, "a", None]
    assert found[2]["note"] == {"kept": [], "text": None, "y": 1}
    assert found[0]["note"] == {"kept": [None, 1.5], "text": "ü", "y": None}
    back, _, _ = score([{"speech": "a", "responses": ["b", "c"]}], reward_models[0], ending=".parquet")
    assert len(back[0]["rewards"]) == 2


def test_a_column_of_the_name_of_a_new_one_is_replaced_and_it_is_said(score, calibrated):
    for ending in (".jsonl", ".parquet"):
        found, _, err = score(
            [{**ROWS[0], "rating": "by hand", "reward": 9}], calibrated[0], ending=ending, result=ending
        )
        assert isinstance(found[0]["rating"], float) and "replaced in the output: rating, reward" in err


def test_the_output_may_be_the_input(tmp_path, cli, reward_models):
    for ending in (".jsonl", ".parquet"):
        path = write(tmp_path / f"rows{ending}", ROWS)
        assert cli("score", reward_models[0], "--input", path, "--output", path)[0] == 0
        once = read(path)
        assert cli("score", reward_models[0], "--input", path, "--output", path)[0] == 0
        assert read(path) == once and len(once) == 3


def test_hostile_texts_and_huge_rows_are_scored_like_any_other(score, reward_models):
    texts = ["\x00\x01", "?" * 500, "日本語のテキスト。" * 40, "half \ud83d", "word " * 200_000, "<|end|><|pad|>"]
    found, out, _ = score([{"speech": CLIENT_LINES[0], "response": text} for text in texts], reward_models[0])
    assert all(math.isfinite(row["reward"]) for row in found)
    assert found[4]["truncated"] and not found[0]["truncated"]
    assert f"{sum(row['truncated'] for row in found)} cut to fit 256" in out


def test_max_length_has_an_effect(score, reward_models):
    rows = [{"speech": CLIENT_LINES[0], "response": GOOD_REPLIES[0] * 3}]
    long, _, _ = score(rows, reward_models[0])
    short, _, _ = score(rows, reward_models[0], more=("--max-length", 32))
    assert (long[0]["truncated"], short[0]["truncated"]) == (False, True)
    assert long[0]["reward"] != short[0]["reward"]


def refused(tmp_path, cli, data, models, ending=".jsonl", result=".jsonl"):
    """The one line with which the command ends; nothing is left behind."""
    source = tmp_path / f"in{ending}"
    if isinstance(data, bytes):
        source.write_bytes(data)
    else:
        write(source, data)
    code, out, err = cli("score", *models, "--input", source, "--output", tmp_path / f"out{result}")
    assert (code, out) == (2, "")
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    lines = [line for line in err.splitlines() if line.startswith("psychocounsel: ")]
    assert lines == err.splitlines()[-1:]
    return lines[0]


BAD_ROWS = [
    ({"speech": "a", "respons": "b"}, r"no column 'response' or 'responses', did you mean 'respons'?"),
    ({"response": "b"}, "no column 'speech' or 'turns' or 'messages' or 'prompt'"),
    ({"speech": None, "response": "b"}, "no column 'speech'"),
    ({"speech": ["a"], "response": "b"}, "'speech' is list, not text; a dialogue goes into 'turns'"),
    ({"speech": "a", "turns": [{"role": "client", "text": "a"}], "response": "b"}, "'speech' and 'turns' are both"),
    ({"speech": "a", "response": "b", "responses": ["b"]}, "'response' and 'responses' are both filled"),
    ({"speech": " ", "response": "b"}, "the speech is empty"),
    ({"speech": "a", "response": " \n"}, "the reply is empty, and nobody can score it"),
    ({"speech": "a", "response": ["b"]}, "the reply is list, not text; several replies go into 'responses'"),
    ({"speech": "a", "responses": "b"}, "'responses' is str, not a list; one reply goes into 'response'"),
    ({"speech": "a", "responses": []}, "'responses' is empty"),
    ({"speech": "a", "responses": ["b", None]}, "reply 2 is null, not text"),
    ({"speech": "a", "responses": ["b", ""]}, "reply 2 is empty"),
    ({"prompt": "a secret", "response": "b"}, "'prompt': a text that is no JSON list of turns; one client message"),
    ({"turns": [{"role": "robot", "text": "a"}], "response": "b"}, "'turns': turn 1: unknown role 'robot'"),
    ({"turns": [{"role": "client"}], "response": "b"}, "'turns': turn 1 has none of the fields text, content"),
    ({"turns": [], "response": "b"}, "'turns' does not end with the client's words"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "response": "c"},
     "'messages' does not end with the client's words; the reply goes into 'response'"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "words"), BAD_ROWS)
def test_a_row_that_cannot_be_scored_is_named_before_a_model_is_opened(tmp_path, cli, row, words):
    line = refused(tmp_path, cli, [ROWS[0], row], ["no-such-model"])
    assert f"in.jsonl:2: {words}" in line and "secret" not in line


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "in.jsonl: empty; expected rows with 'speech' (or a dialogue) and 'response'"),
        (b"\n\n", "in.jsonl: empty"),
        (b'{"speech": "a", "resp', "in.jsonl:1: not JSON"),
        (b'{"speech": "a", "response": "b", "x": NaN}', "in.jsonl:1: not JSON (NaN"),
        (b'{"speech": "caf\xe9", "response": "b"}', "in.jsonl:1: not UTF-8"),
        (b"[1]\n", "in.jsonl:1: expected a JSON object"),
    ],
)
def test_an_unreadable_input_is_named(tmp_path, cli, data, words):
    assert words in refused(tmp_path, cli, data, ["no-such-model"])


def test_unreadable_parquet_is_named(tmp_path, cli):
    whole = write(tmp_path / "in.parquet", ROWS).read_bytes()
    for data in (b"", b"PAR1", whole[:-20], whole[:100]):
        assert "in.parquet: not a Parquet file, or a damaged one" in refused(tmp_path, cli, data, ["m"], ".parquet")
    broken = pa.table({"speech": pa.array([b"caf\xe9"]).view(pa.string()), "response": ["b"]})
    assert "a text is not UTF-8" in refused(tmp_path, cli, broken, ["m"], ".parquet")
    empty = pa.table({"speech": pa.array([], pa.string()), "response": pa.array([], pa.string())})
    assert "in.parquet: empty" in refused(tmp_path, cli, empty, ["m"], ".parquet")
    assert "in.parquet:2: the reply is empty" in refused(
        tmp_path, cli, [ROWS[0], {**ROWS[1], "response": ""}], ["m"], ".parquet"
    )


def test_values_that_the_output_cannot_hold_are_named_at_once(tmp_path, cli):
    for value in (b"x", math.nan, datetime.date(2024, 1, 1)):
        rows = [{**ROWS[0], "odd": value}]
        line = refused(tmp_path, cli, rows, ["m"], ".parquet")
        assert "in.parquet:1: column 'odd' holds what JSON cannot; write .parquet" in line
    (tmp_path / "in.parquet").unlink()
    for values in ([1, "a"], [{"a": 1}, [1]], [2**70, 1]):
        rows = [{**row, "odd": value} for row, value in zip(ROWS, values, strict=False)]
        line = refused(tmp_path, cli, rows, ["m"], result=".parquet")
        assert "column 'odd' holds values of different kinds; write .jsonl" in line
    both = [ROWS[0], {"speech": "a", "responses": ["b"]}]
    assert "some rows have 'response' and some 'responses'" in refused(tmp_path, cli, both, ["m"], result=".parquet")


def test_paths_and_models_that_cannot_be_used_are_named(tmp_path, cli, reward_models):
    source = write(tmp_path / "in.jsonl", ROWS)
    (tmp_path / "folder.jsonl").mkdir()

    def line(model, given, target):
        code, _, err = cli("score", *model, "--input", given, "--output", target)
        assert code == 2 and sorted(p.name for p in tmp_path.iterdir()) == ["folder.jsonl", "in.jsonl"]
        return err.splitlines()[-1]

    good = [reward_models[0]]
    assert "is a folder; name a file" in line(good, source, tmp_path / "folder.jsonl")
    assert "name a .jsonl or .parquet file" in line(good, source, tmp_path / "out.csv")
    assert "name a .jsonl or .parquet file" in line(good, tmp_path / "in.json", tmp_path / "out.jsonl")
    assert "none.jsonl: no such file" in line(good, tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    assert "no such folder, and no hub id" in line([tmp_path / "nothing"], source, tmp_path / "out.jsonl")
    assert "is named twice" in line(good * 2, source, tmp_path / "out.jsonl")


def test_a_model_that_fails_in_the_middle_leaves_the_old_output_alone(tmp_path, cli, monkeypatch, reward_models):
    monkeypatch.setattr(files, "CHUNK", 1)
    for ending in (".jsonl", ".parquet"):
        source, target = write(tmp_path / f"in{ending}", ROWS), tmp_path / f"out{ending}"
        target.write_text("old")
        calls = []

        def read(self, items, label="scores", calls=calls):
            calls.append(label)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return [[Scored(1.0, {}, (), 0, False) for _ in texts] for _, texts in items]

        with monkeypatch.context() as patch:
            patch.setattr(RewardModel, "read", read)
            assert cli("score", reward_models[0], "--input", source, "--output", target)[0] == 130
        assert target.read_text() == "old" and len(calls) == 2
        assert not list(tmp_path.glob("*.part"))


KILLED = """
import os, signal, sys
from psychocounsel import cli
from psychocounsel.reward import score
from psychocounsel.score import files
files.CHUNK = 1
def read(self, items, label="scores", old=score.RewardModel.read):
    if label.startswith("rows 3"):
        os.kill(os.getpid(), signal.SIGKILL)
    return old(self, items)
score.RewardModel.read = read
cli.main()
"""


def test_killed_in_the_middle_there_is_no_output_and_the_same_command_makes_it(tmp_path, cli, reward_models):
    source, target = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    words = ["score", str(reward_models[0]), "--input", str(source), "--output", str(target)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", KILLED, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not target.exists()
    assert cli(*words)[0] == 0
    assert len(read(target)) == 3 and not list(tmp_path.glob("*.part"))
