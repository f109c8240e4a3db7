"""Every file of a run follows from its sources and its stored calls; what does not is named, and nothing is sent."""

import json
import shutil
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI, Request
from local_server import running
from tiny_run import write_recipe

from psychocounsel.errors import UserError
from psychocounsel.models import open_models
from psychocounsel.models.replay import SealedStore, replay, replaying
from psychocounsel.run import RunFolder
from psychocounsel.verify import first_difference, verify_run

DATA_STAGES = ["speeches", "responses", "ratings", "pairs", "publish"]


@pytest.fixture
def run(dataset, tmp_path):
    """A copy of the published run."""
    return RunFolder(shutil.copytree(dataset, tmp_path / "tiny"))


def contents(folder):
    """Every file but those SQLite keeps beside an open store."""
    files = (file for file in folder.path.rglob("*") if file.is_file() and "sqlite-" not in file.name)
    return {str(file.relative_to(folder.path)): file.read_bytes() for file in files}


def edit_line(path, number, change):
    """Change one JSON line of a file (numbers from 1)."""
    lines = path.read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[number - 1])
    change(row)
    lines[number - 1] = json.dumps(row, ensure_ascii=False)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return row


def test_an_untouched_run_is_made_again_byte_for_byte_and_left_as_it_was(run, cli):
    before = contents(run)
    code, out, _ = cli("verify", run.path)
    assert code == 0, out
    assert contents(run) == before
    rows = {cells[1]: cells[2:5] for line in out.splitlines() if len(cells := [c.strip() for c in line.split("│")]) > 4}
    assert list(rows) == DATA_STAGES
    files = {name: str(len(run.manifest(name).outputs)) for name in DATA_STAGES}
    assert rows == {name: [files[name], "as made", "same bytes"] for name in DATA_STAGES}


def test_a_trained_run_is_verified_too_without_training(finished, cli):
    code, out, _ = cli("verify", finished)
    assert code == 0, out
    assert out.count("not tried") == 4
    assert "publish" not in out


def test_a_changed_record_is_found_and_named_without_its_text(run, cli):
    path = run.stage("ratings") / "ratings.jsonl"
    row = edit_line(path, 5, lambda row: row["scores"].update(safety=1.0))
    code, out, _ = cli("verify", run.path)
    assert code == 1
    flat = " ".join(out.split())
    assert f"changed after it was made, from line 5 on: record {row['response_id']}, scores" in flat
    assert "publish │ 16 │ as made │ same bytes" in flat, "what comes after is made from the ratings made again"


def test_no_word_of_a_client_is_in_what_verify_says(run, cli):
    path = run.stage("speeches") / "speeches.jsonl"
    edit_line(path, 3, lambda row: row["turns"][0].update(text="Something that nobody should read in a terminal."))
    code, out, err = cli("verify", run.path)
    assert code == 1
    assert "turns" in out
    assert "Something that nobody" not in out + err


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: (run.stage("pairs") / "test.jsonl").unlink(), "test.jsonl: missing"),
        (
            lambda run: (run.stage("pairs") / "more.jsonl").write_text("{}\n"),
            "not one of the files that the stage made",
        ),
        (lambda run: (run.stage("publish") / "README.md").write_text("mine"), "README.md: changed after it was made"),
        (lambda run: (run.stage("pairs") / "train.jsonl").write_bytes(b""), "where the file on disk ends"),
        (
            lambda run: (run.stage("publish") / "trl" / "test-00000-of-00001.parquet").write_bytes(b"PAR1"),
            "the file on disk is no Parquet file any more",
        ),
    ],
)
def test_damage_on_the_disk_is_named_and_exits_with_1(run, cli, damage, says):
    damage(run)
    code, out, _ = cli("verify", run.path)
    assert (code, says in " ".join(out.split())) == (1, True), out


def test_a_changed_row_of_a_table_is_named_by_its_number_and_column(run):
    path = run.stage("publish") / "released" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[6]["chosen_safety_rating"] = 1 if rows[6]["chosen_safety_rating"] != 1 else 2
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    found = {checked.stage: checked for checked in verify_run(run.path)}["publish"]
    assert any("from row 7 on (chosen_safety_rating)" in problem for problem in found.on_disk)
    assert found.made_again == []


def test_a_forged_manifest_is_found(run, cli):
    edit_manifest(run, "pairs", lambda body: body["outputs"].update({"train.jsonl": "0" * 32}))
    code, out, _ = cli("verify", run.path)
    flat = " ".join(out.split())
    assert code == 1
    assert "made again, it differs: the file on disk is as made again, only its manifest is not" in flat
    assert "publish: was made from another pairs than is there now" in flat


def test_counts_that_are_not_those_of_the_records_are_found(run):
    edit_manifest(run, "pairs", lambda body: body["counts"].update(train=10_000))
    found = {checked.stage: checked.problems for checked in verify_run(run.path)}
    assert any("made again, the counts differ" in problem for problem in found["pairs"])


def edit_manifest(run, stage, change):
    path = run.stage(stage) / "manifest.json"
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def test_a_recipe_that_is_not_the_one_of_the_stages_is_found(run):
    path = run.path / "recipe.json"
    recipe = json.loads(path.read_text())
    recipe["pairs"]["gap"] = 2.0
    path.write_text(json.dumps(recipe))
    found = {checked.stage: checked.problems for checked in verify_run(run.path)}["pairs"]
    assert any("recipe.json does not say what the stage was made with (gap: 1.0 -> 2.0)" in row for row in found)


def test_other_versions_are_named_as_a_reason_where_something_differs(run):
    edit_manifest(run, "pairs", lambda body: body["versions"].update(numpy="0.0.1"))
    assert not any(checked.problems for checked in verify_run(run.path)), (
        "another version with the same bytes is no fault"
    )
    edit_manifest(run, "pairs", lambda body: body["outputs"].update({"train.jsonl": "0" * 32}))
    found = {checked.stage: checked.problems for checked in verify_run(run.path)}["pairs"]
    assert any("was made with other versions (numpy" in row for row in found)


@pytest.mark.parametrize(
    ("name", "says"),
    [("absent", "not a run folder"), ("empty", "no stage is finished"), ("broken", "not JSON")],
)
def test_what_is_no_run_is_one_line(tmp_path, cli, name, says):
    if name != "absent":
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").write_text('{"name": "x"}' if name == "empty" else "{")
    code, out, err = cli("verify", tmp_path / name)
    assert (code, out, len(err.splitlines()), says in err) == (2, "", 1, True), err


TEXTS = [
    f"I am {age}. {line} I do not know how to go on with it, and I would like to know what others do in my place."
    for age in (31, 44, 58)
    for line in ("My sister has stopped calling me since the funeral.", "At work nobody says what they think of me.")
]
SOURCED = """
name = "sourced"
[speeches]
sources = [{{ load = "{place}/in.jsonl", license = "MIT" }}]
topics = "none"
dev = 0
test = 0
near_duplicate = 1.0
cluster = 1.0
[responses]
models = ["{url}/v1#one", "{url}/v1#two"]
[ratings]
judges = ["{url}/v1#judge"]
answer = "json"
"""
IDS = ("empathy", "relevance", "clarity", "safety", "exploration", "autonomy", "staging")


class Endpoint:
    """Answers as a counsellor or as a judge, by the model's name; keeps what it was asked."""

    def __init__(self):
        self.asked = []
        self.app = FastAPI()

        @self.app.post("/v1/chat/completions")
        async def answer(request: Request):
            body = await request.json()
            self.asked.append(body["model"])
            text = f"Thank you for writing, says model {body['model']}."
            if body["model"] == "judge":
                score = 5 if "model one" in body["messages"][-1]["content"] else 3
                text = json.dumps({name: {"reason": "as it is", "score": score} for name in IDS})
            message = {"role": "assistant", "content": text}
            return {"choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": {}}


@pytest.fixture
def sourced(tmp_path, cli, monkeypatch):
    """A run whose models and judge were asked over HTTP; the server is gone and no key is set any more."""
    endpoint = Endpoint()
    with running(endpoint.app) as url:
        (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        recipe = write_recipe(tmp_path, SOURCED.format(place=tmp_path, url=url))
        monkeypatch.setenv("PSYCHOCOUNSEL_API_KEY", "sk-not-a-real-key")
        code, _, err = cli("run", recipe, "--runs", tmp_path, "--to", "pairs")
    monkeypatch.delenv("PSYCHOCOUNSEL_API_KEY")
    assert code == 0, err
    assert len(endpoint.asked) >= 3 * len(TEXTS)
    return RunFolder(tmp_path / "sourced")


def test_remote_models_need_neither_server_nor_key_when_their_answers_are_stored(sourced, cli):
    code, out, err = cli("verify", sourced.path)
    assert (code, out.count("same bytes")) == (0, 4), out + err


def test_a_missing_call_is_named_and_nothing_is_asked_or_written(sourced, cli):
    with sqlite3.connect(sourced.path / "calls.sqlite") as store:
        ((lost,),) = store.execute("SELECT id FROM calls WHERE model LIKE '%judge' LIMIT 1").fetchall()
        store.execute("DELETE FROM calls WHERE id = ?", (lost,))
    store.close()
    code, out, _ = cli("verify", sourced.path)
    flat = " ".join(out.split())
    assert code == 1
    assert f"ratings: cannot be made again: {sourced.path / 'calls.sqlite'}: no answer of" in flat
    assert f"#judge to call {lost} (" in flat
    assert "pairs │ 8 │ as made │ same bytes" in flat, "made from the ratings on disk"
    with sqlite3.connect(sourced.path / "calls.sqlite") as store:
        assert store.execute("SELECT count(*) FROM calls WHERE status = 'pending'").fetchone() == (0,)
    store.close()


def test_an_edited_answer_in_the_store_is_found(sourced, cli):
    with sqlite3.connect(sourced.path / "calls.sqlite") as store:
        store.execute("UPDATE calls SET raw = replace(raw, 'Thank you', 'No thanks') WHERE model LIKE '%one'")
    store.close()
    code, out, _ = cli("verify", sourced.path)
    flat = " ".join(out.split())
    assert code == 1
    assert "responses.jsonl: made again, it differs: from line " in flat
    assert "text" in flat and "No thanks" not in flat


def test_a_source_that_changed_is_named(sourced, tmp_path, cli):
    path = tmp_path / "in.jsonl"
    edit_line(path, 2, lambda row: row.update(text=row["text"].replace("I am", "I was")))
    code, out, _ = cli("verify", sourced.path)
    flat = " ".join(out.split())
    assert code == 1
    assert "speeches: the sources are not what they were: in.jsonl@" in flat
    assert flat.count("same bytes") == 3, "the other stages follow from the speeches on disk"


def test_a_source_that_is_gone_is_named(sourced, tmp_path, cli):
    (tmp_path / "in.jsonl").unlink()
    code, out, _ = cli("verify", sourced.path)
    flat = " ".join(out.split())
    assert code == 1
    assert "speeches: cannot be made again: " in flat and "in.jsonl: no such file" in flat
    assert flat.count("same bytes") == 3


def test_without_its_call_store_a_run_cannot_be_verified(sourced, cli):
    (sourced.path / "calls.sqlite").unlink()
    code, _, err = cli("verify", sourced.path)
    assert (code, "cannot be used as a call store" in err) == (2, True)
    assert not (sourced.path / "calls.sqlite").exists()


def test_models_open_without_a_key_only_in_a_replay(monkeypatch):
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    for name in ("openai:gpt-4o", "anthropic:claude-x"):
        with replay():
            assert replaying()
            assert open_models(name)[0].name == name
        with pytest.raises(UserError, match="_API_KEY is not set"):
            open_models(name)
    assert not replaying()


def test_a_sealed_store_gives_what_it_has_and_refuses_the_rest(sourced):
    with SealedStore(sourced.path / "calls.sqlite") as store:
        assert len(store.by_model()) == 3
        with pytest.raises(UserError, match="nothing is known of the endpoint x, and nothing is sent to find out"):
            store.endpoint("x")


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        ('{"id": "a", "n": 1}\n{"id": "b", "n": 2, "m": 0}\n', '{"id": "a", "n": 1}\n{"id": "b", "n": 3}\n',
         "from line 2 on: record b, m, n"),
        ("{}\n", "{}\n{}\n", "from line 2 on, where the file on disk ends"),
        ("{}\n{}\n", "{}\n", "from line 2 on, where the file now ends"),
        ('{"n": 1}', '{"n":1}', "from line 1 on: record ?, its form"),
        ("a\nb", "a\nc", "from line 2 on"),
        ("[1]", "[2]", "from line 1 on"),
        ("same", "same", "the file on disk is as made again, only its manifest is not"),
    ],
)  # fmt: skip
def test_the_first_difference_is_told_by_record_and_field(tmp_path, then, now, says):
    (tmp_path / "then.jsonl").write_text(then)
    (tmp_path / "now.jsonl").write_text(now)
    assert first_difference(tmp_path / "then.jsonl", tmp_path / "now.jsonl") == says
