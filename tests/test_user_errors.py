"""What a user can get wrong: one clear line on standard error, exit code 2, and nothing finished is lost."""

import pytest
from tiny_run import JUDGED_RECIPE, copy_run, output_hashes, use_judge_module, write_recipe

from psychocounsel.run import STAGES, RunFolder


def one_line(err):
    """The one line that explains; what else was said are finished stages."""
    lines = err.splitlines()
    assert "Traceback" not in err
    assert [line for line in lines if line.startswith("psychocounsel: ")] == lines[-1:]
    assert all(line.split(":")[0] in STAGES for line in lines[:-1]), err
    return lines[-1]


RECIPES = [
    (b"name = ", "tiny.toml: not valid TOML: "),
    (b"", "'name' is missing"),
    (b'name = "t\xff"', "tiny.toml: not UTF-8"),
    (b'name = "a/b"', "'name': "),
    (b'name = "t"\n[pears]\n', "unknown key 'pears', did you mean 'pairs'?"),
    (b'name = "t"\n[pairs]\ngapp = 1.0\n', "unknown key 'pairs.gapp', did you mean 'gap'?"),
    (b'name = "t"\n[policy.online]\nround = 1\n', "unknown key 'policy.online.round', did you mean 'rounds'?"),
    (b'name = "t"\n[pairs]\ngap = "wide"\n', "'pairs.gap': "),
    (b'name = "t"\n[pairs]\ngap = nan\n', "'pairs.gap': "),
    (b'name = "t"\n[reward]\nbatch = 0\n', "'reward.batch': "),
    (b'name = "t"\n[principles]\ndrop = ["warmth"]\n', "there is no principle 'warmth'"),
    (b'name = "t"\n[speeches]\nmin_chars = 9\nmax_chars = 3\n', "speeches.min_chars is larger than"),
]


@pytest.mark.parametrize(("content", "says"), RECIPES)
@pytest.mark.parametrize("action", ["run", "check"])
def test_a_recipe_with_a_fault_is_refused_with_its_place(tmp_path, cli, content, says, action):
    path = tmp_path / "tiny.toml"
    path.write_bytes(content)
    where = ("--runs", tmp_path / "runs") if action == "run" else ()
    code, out, err = cli(action, path, *where)
    assert (code, out) == (2, "")
    assert says in one_line(err)
    assert not (tmp_path / "runs").exists()


def test_a_missing_recipe_is_named(tmp_path, cli):
    code, _, err = cli("run", tmp_path / "absent.toml")
    assert (code, "absent.toml: no such recipe" in one_line(err)) == (2, True)
    code, _, err = cli("run", tmp_path)
    assert (code, "is a folder; name a recipe file" in one_line(err)) == (2, True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("pairs", "--set pairs: write it as table.key=value"),
        ("pairs.gap", "--set pairs.gap: write it as table.key=value"),
        ("pairs.gapp=1.0", "unknown key 'pairs.gapp', did you mean 'gap'?"),
        ("name.first=1", "--set name.first=1: 'name' is not a table"),
        ("pairs.gap=[", "'pairs.gap': "),
    ],
)
def test_a_changed_setting_with_a_fault_is_refused(tmp_path, cli, change, says):
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path / "runs", "--set", change)
    assert (code, says in one_line(err)) == (2, True)
    assert not (tmp_path / "runs").exists()


SOURCES = [
    ("absent.csv", None, "", "absent.csv: no such file"),
    ("rows.xlsx", b"PK", "", "is not a .csv, .json, .jsonl or .parquet file, no package.module:function, nor one of"),
    ("rows.csv", b"", "", "holds no rows"),
    ("rows.csv", b"text\n", "", "holds no rows"),
    ("rows.csv", b"feeling,when\nsad,now\n", "", "no column 'text'"),
    ("rows.csv", b"feeling,when\nsad,now\n", "feelings", "no column 'feelings', did you mean 'feeling'?"),
    ("rows.csv", b"text\n\xe9t\xe9\n", "", "not a UTF-8 CSV file"),
    ("rows.jsonl", b"", "", "holds no rows"),
    ("rows.jsonl", b'{"text": "a', "", "rows.jsonl:1: not JSON"),
    ("rows.jsonl", b'{"text": NaN}\n', "", "rows.jsonl:1: not JSON"),
    ("rows.jsonl", b'{"said": "a"}\n', "", "no column 'text'"),
    ("rows.parquet", b"PAR1 but not really", "", "not a Parquet file"),
    ("counselchat:rows.csv", b"questionID,topic\n1,stress\n", "", "no column 'questionTitle'"),
    ("fastchat:rows.jsonl", b'{"question_id": 1}\n', "", "rows.jsonl:1: needs 'question_id' and a list 'turns'"),
    ("therapistqa", None, "", "'therapistqa' is not on the hub; download its file"),
    ("rows.csv", b"text\nToo short.\n", "", "none of 1 rows is left after cleaning ({"),
]


@pytest.mark.parametrize(("load", "content", "column", "says"), SOURCES)
def test_an_input_with_a_fault_is_named(tmp_path, cli, monkeypatch, load, content, column, says):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / load.split(":")[-1]).write_bytes(content)
    text = f'name = "own"\n[speeches]\nsources = [{{ load = "{load}", text = "{column}" }}]\n'
    code, _, err = cli("run", write_recipe(tmp_path, text), "--to", "responses")
    assert (code, says in one_line(err)) == (2, True), err


MODELS = [
    ("gpt-4", "model 'gpt-4': not a known model string"),
    ("opnai:gpt-4", "not a known model string, did you mean 'openai'?"),
    ("openai:gpt-4", "openai:gpt-4: OPENAI_API_KEY is not set; export it in your shell"),
    ("http://127.0.0.1:1/v1", "name the model after a #"),
    ("recorded:embedded/nobody", "recorded:embedded/nobody: no recorded model of that name; there are "),
    ("recorded:absent.jsonl", "absent.jsonl: no such file"),
    ("no.such.module:thing", "model 'no.such.module:thing': cannot be imported"),
    ("psychocounsel.cli:nothing", "model 'psychocounsel.cli:nothing': cannot be imported"),
    ("psychocounsel.run:STAGES", "not a callable that returns a ChatModel"),
]


@pytest.mark.parametrize(("name", "says"), MODELS)
@pytest.mark.parametrize("stage", ["responses.models", "ratings.judges"])
def test_a_model_that_cannot_be_used_is_named_and_what_is_finished_stays(
    finished, tmp_path, cli, monkeypatch, name, says, stage
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    table = stage.split(".")[0]
    folder = copy_run(finished, tmp_path, STAGES[STAGES.index(table) - 1])
    before = output_hashes(folder)
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path, "--set", f'{stage}=["{name}"]')
    assert (code, says in one_line(err)) == (2, True), err
    assert output_hashes(folder) == before


JUDGE = """
import json
from psychocounsel.models.scripted import Scripted
IDS = ("empathy", "relevance", "clarity", "safety", "exploration", "autonomy", "staging")


def judge():
    return Scripted({script})
"""
ANSWERS = [
    ('["I cannot rate this."]', "ratings", "no usable rating of 6 responses: {'scripted': {'unreadable': 6}}"),
    ("['{\"empathy\": 5']", "ratings", "{'unreadable': 6}"),
    ("[json.dumps(dict.fromkeys(IDS, 6))]", "ratings", "{'unreadable': 6}"),
    ("[json.dumps(dict.fromkeys(IDS, 0))]", "ratings", "{'unreadable': 6}"),
    ("[json.dumps(dict.fromkeys(IDS, 2.5))]", "ratings", "{'unreadable': 6}"),
    ("[json.dumps(dict.fromkeys(IDS))]", "ratings", "no usable rating of 6 responses"),
    ("['[' * 100000]", "ratings", "{'unreadable': 6}"),
    ('[""]', "ratings", "{'unreadable': 6}"),
    ("[json.dumps(dict.fromkeys(IDS, 3))]", "pairs", "no train pair came out"),
]


@pytest.mark.parametrize(("script", "stage", "says"), ANSWERS)
def test_a_judge_without_use_stops_the_run_and_costs_no_finished_stage(tmp_path, cli, monkeypatch, script, stage, says):
    use_judge_module(tmp_path, monkeypatch, JUDGE.replace("{script}", script))
    text = JUDGED_RECIPE.replace("[speeches]", '[speeches]\ntopics = "none"', 1)
    recipe, folder = write_recipe(tmp_path, text), RunFolder(tmp_path / "tiny")
    code, _, err = cli("run", recipe, "--runs", tmp_path)
    assert code == 2
    line = one_line(err)
    assert line.startswith(f"psychocounsel: {stage}: ")
    assert says in line
    finished = list(STAGES[: STAGES.index(stage)])
    assert list(output_hashes(folder)) == finished
    redo = ("--redo", "ratings") if stage == "pairs" else ()
    change = ("--set", 'ratings.judges=["embedded"]')
    code, _, err = cli("run", recipe, "--runs", tmp_path, "--to", "ratings", *change, *redo)
    assert code == 0
    assert err.splitlines()[:2] == ["speeches: done before", "responses: done before"]


def test_tied_replies_are_named_as_such(tmp_path, cli, monkeypatch):
    use_judge_module(tmp_path, monkeypatch, JUDGE.replace("{script}", "[json.dumps(dict.fromkeys(IDS, 3))]"))
    _, _, err = cli("run", write_recipe(tmp_path, JUDGED_RECIPE), "--runs", tmp_path, "--to", "pairs")
    assert ": tie': " in one_line(err)
    assert "are all replies tied? Lower pairs.gap, votes or probability, or add judges or responses" in err


def test_whoever_labels_may_not_grade_unless_the_recipe_says_so(finished, tmp_path, cli):
    folder = copy_run(finished, tmp_path, "policy")
    before = output_hashes(folder)
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path, "--set", "evaluate.allow_dependent=false")
    assert (code, "whoever labels may not grade" in one_line(err)) == (2, True)
    assert output_hashes(folder) == before


def test_no_speech_to_evaluate_on_is_named(finished, tmp_path, cli, monkeypatch):
    folder = copy_run(finished, tmp_path, "policy")
    before = output_hashes(folder)
    monkeypatch.setattr("psychocounsel.evaluate.policies.held_out", lambda *_: [])
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path, "--set", 'evaluate.speeches=["test"]')
    assert (code, "evaluate: no speech is in the splits ['test']" in one_line(err)) == (2, True)
    assert output_hashes(folder) == before


def test_a_split_that_is_not_held_out_cannot_be_evaluated_on(finished, tmp_path, cli):
    folder = copy_run(finished, tmp_path, "policy")
    before = output_hashes(folder)
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path, "--set", 'evaluate.speeches=["train"]')
    line = "'evaluate.speeches.0': Input should be 'arena' or 'test' (found 'train')"
    assert (code, line in one_line(err)) == (2, True)
    assert output_hashes(folder) == before


def test_a_base_model_that_is_not_there_is_named(finished, tmp_path, cli):
    copy_run(finished, tmp_path, "pairs")
    (tmp_path / "empty").mkdir()
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path, "--set", f"base={tmp_path / 'empty'}")
    assert (code, f"{tmp_path / 'empty'}: no usable model there" in one_line(err)) == (2, True)


def test_a_damaged_call_store_is_named(finished, tmp_path, cli):
    folder = copy_run(finished, tmp_path, "responses")
    (folder.path / "calls.sqlite").write_bytes(b"not a database at all" * 500)
    before = output_hashes(folder)
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path)
    assert (code, "calls.sqlite: cannot be used as a call store" in one_line(err)) == (2, True)
    assert output_hashes(folder) == before


def test_a_runs_folder_that_is_a_file_is_named(tmp_path, cli):
    (tmp_path / "runs").write_text("")
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path / "runs")
    assert (code, f"{tmp_path / 'runs' / 'tiny'}: Not a directory" in one_line(err)) == (2, True)
