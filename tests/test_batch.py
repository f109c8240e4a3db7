"""Calls as batch files: written, answered elsewhere, put into the store, and then the stage asks nothing."""

import json

import pytest
from local_server import chat, error, serving
from tiny_run import read_json

from psychocounsel.errors import UserError
from psychocounsel.models import batch, open_models
from psychocounsel.models.batch import export_calls, import_calls
from psychocounsel.models.chat import Request
from psychocounsel.models.prices import Budget, Price, PriceList
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles
from psychocounsel.records import read_rows

URL = "http://127.0.0.1:9/v1"
PRINCIPLES = [principle.id for principle in load_principles()]
RECIPE = """
name = "batched"
seed = 3
[speeches]
max_chars = 1600
topics = "none"
[responses]
models = ["URL#reed", "URL#oak"]
per_speech = 2
limit = 4
[ratings]
judges = ["URL#fern", "recorded:embedded"]
answer = "schema"
"""


def question(text, **fields):
    return Request(messages=({"role": "user", "content": text},), **fields)


def planned(count, name="tiny"):
    model = open_models(f"{URL}#{name}")[0]
    return [(model, question(f"question {i} ÄÖ愛", sampling={"max_tokens": 9})) for i in range(count)]


def answered(path, line):
    """What a batch service or `vllm run-batch` writes for one request line."""
    asked = json.loads(line)
    assert set(asked) == {"custom_id", "method", "url", "body"}
    assert (asked["method"], asked["url"]) == ("POST", "/v1/chat/completions")
    if "response_format" in asked["body"]:
        text = json.dumps({name: {"reason": "seen", "score": 3} for name in PRINCIPLES})
    else:
        text = f"{asked['body']['model']} says to {asked['body']['messages'][-1]['content'][:30]}"
    response = {"status_code": 200, "request_id": "r", "body": chat(text)}
    return {"id": "b", "custom_id": asked["custom_id"], "response": response, "error": None}


def results(paths, target, change=lambda number, row: row):
    """A results file for request files, in another order."""
    lines = [(path, line) for path in paths for line in path.read_text().splitlines()]
    rows = [change(number, answered(*entry)) for number, entry in enumerate(lines)]
    target.write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))
    return target


@pytest.fixture
def store(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as opened:
        yield opened


@pytest.fixture
def recipe(tmp_path, cli):
    """A recipe whose speeches are made; no server listens where its models are."""
    path = tmp_path / "batched.toml"
    path.write_text(RECIPE.replace("URL", URL))
    code, _, err = cli("speeches", path, "--runs", tmp_path / "runs")
    assert code == 0, err
    return path


def test_a_line_is_what_the_batch_service_and_vllm_read(tmp_path, store):
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    job = (
        open_models(f"{URL}#tiny")[0],
        question("Hi", sampling={"temperature": 0.0, "max_tokens": 9}, answer_schema=schema),
    )
    (path,) = export_calls([job], store, tmp_path / "out", "ratings")
    assert path.name == "ratings-http-127.0.0.1-9-v1-tiny-001.jsonl"
    assert json.loads(path.read_text()) == {
        "custom_id": job[1].key(job[0].kind, job[0].name),
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.0, "max_tokens": 9,
            "response_format": {
                "type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}
            },
        },
    }  # fmt: skip


def test_a_line_for_openai_itself_names_the_limit_as_all_its_models_know_it(tmp_path, store, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-real")
    job = (open_models("openai:gpt-5")[0], question("Hi", sampling={"max_tokens": 9}))
    (path,) = export_calls([job], store, tmp_path / "out", "responses")
    assert path.name == "responses-openai-gpt-5-001.jsonl"
    body = json.loads(path.read_text())["body"]
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body
    assert "sk-not-real" not in path.read_text()


def test_from_files_to_finished_stages_without_one_call(tmp_path, recipe, cli):
    folder, runs = tmp_path / "out", tmp_path / "runs"
    for stage, count in (("responses", 8), ("ratings", 8)):
        code, out, err = cli("batch", "export", recipe, "--to", folder, "--stage", stage, "--runs", runs)
        assert code == 0, err
        paths = sorted(folder.glob(f"{stage}-*.jsonl"))
        assert sum(len(path.read_text().splitlines()) for path in paths) == count
        assert all(str(path) in out for path in paths)
        done = results(paths, tmp_path / f"{stage}-results.jsonl")
        code, out, err = cli("batch", "import", recipe, done, "--stage", stage, "--runs", runs)
        assert (code, out) == (0, f"{count} stored\n"), err
        code, _, err = cli(stage, recipe, "--runs", runs)  # nobody listens there: one question would end it
        assert code == 0, err
    counts = read_json(runs / "batched" / "3-ratings" / "manifest.json")["counts"]["judges"]
    assert counts[f"{URL}#fern"] == {"rated": 8}
    code, out, _ = cli("batch", "export", recipe, "--to", folder, "--stage", "ratings", "--runs", runs)
    assert (code, out) == (0, "ratings: no call of this stage waits for a batch\n")
    assert not list(folder.glob("ratings-*.jsonl")), "the requests of the earlier export are answered"
    assert list(folder.glob("responses-*.jsonl")), "those of another stage are not touched"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--stage", "pairs"], "--stage pairs: only responses and ratings can be asked in batches"),
        (["--stage", "ratings"], "stage responses is not finished; run psychocounsel responses first"),
    ],
)
def test_what_cannot_be_exported_is_explained(tmp_path, recipe, cli, changes, says):
    code, _, err = cli("batch", "export", recipe, "--to", tmp_path / "out", "--runs", tmp_path / "runs", *changes)
    assert code == 2
    assert says in err


def test_an_automatic_form_of_answer_is_not_guessed(tmp_path, recipe, cli):
    folder, runs = tmp_path / "out", ("--runs", tmp_path / "runs")
    cli("batch", "export", recipe, "--to", folder, "--stage", "responses", *runs)
    done = results(sorted(folder.glob("*.jsonl")), tmp_path / "results.jsonl")
    cli("batch", "import", recipe, done, "--stage", "responses", *runs)
    cli("responses", recipe, *runs)
    code, _, err = cli(
        "batch", "export", recipe, "--to", folder, "--stage", "ratings", "--set", "ratings.answer=auto", *runs
    )
    assert code == 2
    assert "ratings.answer=schema" in err


def test_a_judge_that_no_batch_serves_is_named_and_the_others_are_exported(tmp_path, recipe, cli, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-not-real")
    models = f'responses.models=["{URL}#reed", "anthropic:claude-x"]'
    runs = tmp_path / "runs"
    code, out, err = cli(
        "batch", "export", recipe, "--to", tmp_path / "out", "--stage", "responses", "--runs", runs, "--set", models
    )
    assert code == 0, err
    assert "4 calls" in out
    assert "only OpenAI-compatible endpoints take them: anthropic:claude-x" in out


def test_exporting_and_importing_twice_changes_nothing(tmp_path, store):
    jobs = planned(5)
    (path,) = export_calls([*jobs, *jobs], store, tmp_path, "responses")
    first = path.read_bytes()
    assert export_calls(jobs, store, tmp_path, "responses") == {path: 5}
    assert path.read_bytes() == first
    done = results([path], tmp_path / "results.jsonl")
    assert import_calls(jobs, store, [done]) == {"stored": 5}
    rows = store.reader.execute("SELECT * FROM calls ORDER BY id").fetchall()
    assert import_calls(jobs, store, [done, done]) == {"known before": 10}
    assert store.reader.execute("SELECT * FROM calls ORDER BY id").fetchall() == rows
    assert export_calls(jobs, store, tmp_path, "responses") == {}
    assert not path.exists()
    assert done.exists()


def test_a_result_given_twice_is_stored_and_counted_once(tmp_path, store):
    store.budget = Budget(PriceList(as_of="2026-01-01", model={"tiny": Price(input=1e6, output=0)}), None)
    (path,) = export_calls(planned(3), store, tmp_path, "responses")
    done = results([path], tmp_path / "results.jsonl")
    assert import_calls(planned(3), store, [done, done]) == {"stored": 3, "known before": 3}
    assert store.spent() == store.budget.spent == 3 * 7


def test_many_calls_are_split_and_a_shorter_export_leaves_no_stale_file(tmp_path, store, monkeypatch):
    monkeypatch.setattr(batch, "MOST_LINES", 4)
    jobs = planned(10) + planned(3, "tiny-b")
    mine = tmp_path / "responses-my-own-001.jsonl"
    mine.write_text('{"custom_id": "x", "response": {}}\n')  # a results file with such a name
    lines = export_calls(jobs, store, tmp_path, "responses")
    assert sorted(lines.values()) == [2, 3, 4, 4]
    keys = [row["custom_id"] for path in lines for _, row in read_rows(path)]
    assert len(set(keys)) == 13
    first = next(path for path, count in lines.items() if count == 4)
    import_calls(jobs, store, [results([first], tmp_path / "results.jsonl")])
    again = export_calls(jobs, store, tmp_path, "responses")
    assert sum(again.values()) == 9
    assert set(tmp_path.glob("responses-*.jsonl")) == {*again, mine}
    assert not list(tmp_path.glob("*.part"))


def test_a_file_stays_below_the_size_that_the_service_takes(tmp_path, store, monkeypatch):
    monkeypatch.setattr(batch, "MOST_BYTES", 1000)
    lines = export_calls(planned(12), store, tmp_path, "responses")
    assert len(lines) > 2
    assert all(path.stat().st_size <= 1000 for path in lines)


def test_failed_lines_are_counted_and_asked_again_and_filtered_ones_are_results(tmp_path, store):
    jobs = planned(6)
    (path,) = export_calls(jobs, store, tmp_path, "responses")
    bad = {
        0: {"response": None, "error": {"code": "batch_expired", "message": "expired"}},
        1: {"response": {"status_code": 500, "body": {"error": {"message": "oops"}}}},
        2: {"response": {"status_code": 400, "body": error("content_filter")}},
        3: {"response": {"status_code": 200, "body": {"choices": []}}},
    }
    done = results([path], tmp_path / "results.jsonl", lambda number, row: row | bad.get(number, {}))
    assert import_calls(jobs, store, [done]) == {"stored": 3, "failed": 2, "unreadable": 1}
    assert sum(export_calls(jobs, store, tmp_path, "responses").values()) == 3
    finishes = [job[0].read(raw).finish for job in jobs if (raw := store.find(job[1].key(job[0].kind, job[0].name)))]
    assert sorted(finishes) == ["filtered", "stop", "stop"]


def test_results_of_other_calls_are_counted_and_left_alone(tmp_path, store):
    (path,) = export_calls(planned(4), store, tmp_path, "responses")
    done = results([path], tmp_path / "results.jsonl")
    assert import_calls(planned(2), store, [done]) == {"stored": 2, "not of this stage": 2}


def test_a_file_that_is_cut_off_is_named_and_what_was_whole_is_kept(tmp_path):
    jobs = planned(5)
    with CallStore(tmp_path / "calls.sqlite") as store:
        (path,) = export_calls(jobs, store, tmp_path, "responses")
    done = results([path], tmp_path / "results.jsonl")
    done.write_bytes(done.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"results\.jsonl:5: not JSON"), CallStore(tmp_path / "calls.sqlite") as store:
        import_calls(jobs, store, [done])
    with CallStore(tmp_path / "calls.sqlite") as store:
        assert sum(store.find(request.key(model.kind, model.name)) is not None for model, request in jobs) == 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[1]\n", "expected a JSON object"),
        (b'{"id": 1}\n', "no 'custom_id'; name a results file"),
        (b'{"custom_id": 7}\n', "no 'custom_id'; name a results file"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_no_results_file_is_named(tmp_path, store, content, says):
    path = tmp_path / "results.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        import_calls(planned(2), store, [path])


@pytest.mark.parametrize("row", [{"response": "x"}, {"response": []}, {"response": {"body": "x"}}, {}])
def test_a_row_of_an_odd_shape_is_counted_as_failed(tmp_path, store, row):
    ((model, request),) = planned(1)
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"custom_id": request.key(model.kind, model.name), **row}) + "\n")
    assert import_calls([(model, request)], store, [path]) == {"failed": 1}


def test_an_empty_results_file_changes_nothing(tmp_path, store):
    (tmp_path / "results.jsonl").write_text("")
    assert import_calls(planned(2), store, [tmp_path / "results.jsonl"]) == {}


def test_decisions_are_not_written_as_chats(tmp_path, store):
    job = (open_models(f"{URL}#tiny")[0], question("Hi", form="decision", questions={"q": {}}))
    with pytest.raises(UserError, match="decisions cannot be asked in a batch file"):
        export_calls([job], store, tmp_path, "ratings")


def test_what_a_batch_answered_is_what_a_call_would_have_stored(tmp_path):
    """The same body, by a live call and by a file: equal rows, so a run cannot tell which way it came."""
    with serving(lambda path, body: chat("Same.")) as server:
        from psychocounsel.models.calls import ask_all

        model = open_models(f"{server.url}#tiny")[0]
        job = (model, question("Hi"))
        with CallStore(tmp_path / "live.sqlite") as store:
            live = ask_all([job], store)
    with CallStore(tmp_path / "batch.sqlite") as store:
        (path,) = export_calls([job], store, tmp_path, "responses")
        row = answered(path, path.read_text()) | {"response": {"status_code": 200, "body": chat("Same.")}}
        (tmp_path / "results.jsonl").write_text(json.dumps(row))
        import_calls([job], store, [tmp_path / "results.jsonl"])
        assert model.read(store.find(job[1].key(model.kind, model.name))).text == live[0].text == "Same."
