"""What can be known beforehand is said beforehand: nothing is run, spent or deleted for a recipe that cannot end."""

import json

import pytest
from tiny_run import DONE_LINES, JUDGED_RECIPE, copy_run, output_hashes, use_judge_module, write_recipe

from psychocounsel.pipeline import stages
from psychocounsel.records import write_text
from psychocounsel.run import STAGES, RunFolder

FAULTS = [
    ('evaluate.judges=["embeded"]', "model 'embeded': not a known model string"),
    ('evaluate.judges=["openai:gpt-4"]', "openai:gpt-4: OPENAI_API_KEY is not set"),
    ('ratings.judges=["recorded:absent.jsonl"]', "absent.jsonl: no such file"),
    ('responses.models=["no.such.module:thing"]', "'no.such.module:thing': cannot be imported"),
    ('speeches.topics="opnai:gpt-4"', "not a known model string, did you mean 'openai'?"),
    ("evaluate.allow_dependent=false", "evaluate: whoever labels may not grade: "),
]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def files(folder):
    return {str(file): file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("change", "says"), FAULTS)
@pytest.mark.parametrize("action", ["run", "check"])
def test_a_model_that_cannot_be_opened_stops_everything_at_once(tmp_path, cli, action, change, says):
    where = ("--runs", tmp_path / "runs") if action == "run" else ()
    code, out, err = cli(action, write_recipe(tmp_path), *where, "--set", change)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("psychocounsel: ") and says in err
    made = RunFolder(tmp_path / "runs" / "tiny")
    assert [name for name in STAGES if made.stage(name).exists()] == []
    assert not (made.path / "calls.sqlite").exists()


@pytest.mark.parametrize(("change", "says"), FAULTS)
def test_redo_deletes_nothing_when_it_could_not_end(finished, tmp_path, cli, change, says):
    folder = copy_run(finished, tmp_path)
    before = files(folder)
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path, "--redo", "speeches", "--set", change)
    assert (code, len(err.splitlines()), says in err) == (2, 1, True), err
    assert files(folder) == before


def test_a_typo_in_the_last_stage_is_found_before_the_first_one_that_is_left(finished, tmp_path, cli):
    folder = copy_run(finished, tmp_path, "pairs")
    before = files(folder)
    change = ("--set", 'evaluate.judges=["embeded"]')
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path, *change)
    assert (code, len(err.splitlines())) == (2, 1)
    assert files(folder) == before
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path, "--to", "pairs", *change)
    assert (code, err.splitlines()) == (0, DONE_LINES[:4]), "a stage that is not asked for is not looked at"


RATER = """
from psychocounsel.models.scripted import Scripted


def judge():
    return Scripted([""], name="openai:gpt-4o")
"""


GOOD_RATER = """
import json
from psychocounsel.models.scripted import Scripted

IDS = ("empathy", "relevance", "clarity", "safety", "exploration", "autonomy", "staging")


def judge():
    return Scripted([json.dumps(dict.fromkeys(IDS, score)) for score in (2, 4)])
"""


def test_the_independence_rule_knows_the_raters_behind_a_string(tmp_path, cli, monkeypatch):
    use_judge_module(tmp_path, monkeypatch, RATER)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-real-key")
    recipe = write_recipe(tmp_path, JUDGED_RECIPE.replace("allow_dependent = true", ""))
    change = ("--set", 'evaluate.judges=["openai:gpt-5"]')
    code, _, err = cli("check", recipe, *change)
    assert code == 2
    assert "whoever labels may not grade: openai:gpt-5 and labeller openai:gpt-4o are of one family (openai)" in err


def test_models_of_stages_that_are_taken_over_are_not_needed(tmp_path, cli, monkeypatch):
    use_judge_module(tmp_path, monkeypatch, GOOD_RATER)
    recipe = write_recipe(tmp_path, JUDGED_RECIPE)
    assert cli("run", recipe, "--runs", tmp_path, "--to", "ratings")[0] == 0
    use_judge_module(tmp_path, monkeypatch, "judge = None")
    other = ("run", recipe, "--runs", tmp_path, "--set", "name=b", "--reuse", tmp_path / "tiny", "--to", "ratings")
    code, _, err = cli(*other)
    assert (code, err.splitlines()) == (0, [f"{n}: taken over from {tmp_path / 'tiny'}" for n in STAGES[:3]])
    for change in ("ratings.max_tokens=7", "responses.limit=2"):  # these ratings would have to be made
        code, _, err = cli(*other, "--set", "name=c", "--set", change)
        assert (code, err) == (2, "psychocounsel: model 'desk.judge:judge': not a callable that returns a ChatModel\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("policy.online.gate=rulez", "online.gate 'rulez': write 'rules', package.module:object"),
        ('policy.online.rewards=["jugde:embedded"]', "'jugde:embedded' names no source of rewards"),
        ("policy.online.pessimism=1.0", "reward.bootstrap to 2 or more"),
        ('policy.online.judges=["nobody"]', "model 'nobody'"),
        ("policy.online.engine.name=http", "policy.online.engine.name = 'http' needs policy.online.engine.urls"),
        ('policy.online.engine.urls=["http://127.0.0.1:9/v1"]', "is read by policy.online.engine.name = 'http' only"),
        ('policy.online.rewards=["judge:embedded"]', "embedded rewards the replies and would also judge the rounds"),
        ('policy.online.rewards=["reward", "reward"]', "names one twice"),
        ('policy.online.judges=["reward", "embedded"]', "stands alone"),
        ('evaluate.baselines=["best-of-n"]', "'best-of-n' needs evaluate.best_of"),
        ('policy.online.rewards=["judge:http://me:secret@127.0.0.1/v1#m"]', "a model is named by a URL with a user"),
    ],
)
def test_what_online_rounds_name_is_tried_before_anything_runs(finished, tmp_path, cli, change, words):
    folder, recipe = copy_run(finished, tmp_path, "pairs"), write_recipe(tmp_path)
    code, _, err = cli("run", recipe, "--runs", tmp_path, "--to", "policy", "--set", change)
    assert code == 2 and words in err and "Traceback" not in err
    assert folder.manifest("supervised") is None and not folder.stage("supervised").exists()


def test_a_recordings_file_name_is_no_family(tmp_path, cli, monkeypatch):
    """People's ratings of Llama's replies may lie in a file of that name, and a Llama may then grade others."""
    rows = [{"response_id": "r", "judge": "human:r1", "reply": json.dumps({"empathy": 4})}]
    (tmp_path / "llama.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    text = JUDGED_RECIPE.replace("desk.judge:judge", "recorded:llama.jsonl").replace("allow_dependent = true", "")
    change = ("--set", 'evaluate.judges=["http://127.0.0.1:9/v1#llama-3-8b"]')
    code, _, err = cli("check", write_recipe(tmp_path, text), *change)
    assert (code, err) == (0, "")


def test_ctrl_c_under_redo_says_to_leave_redo_out(finished, tmp_path, cli, monkeypatch):
    folder, recipe = copy_run(finished, tmp_path, "pairs"), write_recipe(tmp_path)
    before = output_hashes(folder)

    def stopped(*_):
        raise KeyboardInterrupt

    arguments = ("run", recipe, "--runs", tmp_path, "--to", "pairs")
    monkeypatch.setitem(stages.STAGE_FUNCTIONS, "pairs", stopped)
    code, _, err = cli(*arguments, "--redo", "ratings")
    assert code == 130
    assert err.splitlines()[-1] == (
        f"psychocounsel: stopped; everything finished is in {folder.path}, the same command without --redo continues"
    )
    assert [name for name in STAGES if folder.manifest(name)] == list(STAGES[:3])
    monkeypatch.undo()
    code, _, err = cli(*arguments)
    assert (code, err.splitlines()[:3]) == (0, DONE_LINES[:3])
    assert output_hashes(folder) == before


def test_a_stage_folder_without_a_note_of_its_settings_is_thrown_away(finished, tmp_path, cli):
    """Nobody knows what it was made with: a kill between the removal's first and last file leaves such a folder."""
    folder = copy_run(finished, tmp_path, "pairs")
    before = output_hashes(folder)
    (folder.stage("pairs") / "manifest.json").unlink()
    write_text(folder.stage("pairs") / "old.txt", "old")
    write_text(folder.stage("pairs") / "train.jsonl", "")
    assert cli("run", write_recipe(tmp_path), "--runs", tmp_path, "--to", "pairs")[0] == 0
    assert not (folder.stage("pairs") / "old.txt").exists()
    assert output_hashes(folder) == before


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "/data/rows.csv"), "/data/rows.csv: Permission denied"),
        (OSError(5, "Input/output error"), "a file: Input/output error"),
        (OSError("the device is gone"), "a file: the device is gone"),
    ],
)
def test_any_error_of_the_system_is_one_line_with_the_file(tmp_path, cli, monkeypatch, error, says):
    def broken(*_):
        raise error

    monkeypatch.setattr("psychocounsel.show.show_path", broken)
    assert cli("show", tmp_path) == (2, "", f"psychocounsel: {says}\n")
