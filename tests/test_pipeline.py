"""The pipeline: what is done is left alone, what changed is named, and nothing is ever made from two settings."""

import fcntl

import pytest
from tiny_run import (
    DONE_LINES,
    RUN_STAGES,
    copy_run,
    output_hashes,
    read_json,
    write_recipe,
)

from psychocounsel.pairs import HARD_SETS
from psychocounsel.pipeline import READS, Options, plan_stage, run_recipe
from psychocounsel.records import write_text
from psychocounsel.run import STAGES, RunFolder


@pytest.fixture
def begun(finished, tmp_path, cli):
    """A copy of the finished run up to the pairs, and `run(...)`, the run command on it."""
    folder = copy_run(finished, tmp_path, "pairs")
    recipe = write_recipe(tmp_path)
    return folder, lambda *more: cli("run", recipe, "--runs", tmp_path, *more)


def touched(folder):
    """When each file of a run was last changed."""
    files = (file for file in folder.path.rglob("*") if file.is_file() and file.name != "run.lock")
    return {str(file.relative_to(folder.path)): file.stat().st_mtime_ns for file in files}


def test_a_stage_reads_only_earlier_stages():
    for name, read in READS.items():
        assert all(STAGES.index(earlier) < STAGES.index(name) for earlier in read)


def test_the_run_says_what_every_stage_made(finished):
    lines = (finished.parents[1] / "stderr.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == list(RUN_STAGES)
    assert lines[0].startswith("speeches: read 252, kept 252, dropped none, splits (arena 84, dev 17, test 42")


def test_the_second_run_does_nothing(finished, tmp_path, cli):
    folder = copy_run(finished, tmp_path)
    before = touched(folder)
    code, out, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path)
    assert (code, err.splitlines()) == (0, DONE_LINES)
    assert "winrate.online_vs_offline" in out
    after = touched(folder)
    passing = {"recipe.json", "calls.sqlite-wal", "calls.sqlite-shm"}  # the last two go when a reader closes the store
    assert {name: when for name, when in after.items() if name not in passing} == {
        name: when for name, when in before.items() if name not in passing
    }


def test_a_lost_report_is_written_again_without_any_stage(finished, tmp_path, cli):
    folder = copy_run(finished, tmp_path)
    (folder.path / "report.html").unlink()
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path)
    assert (code, err.splitlines()) == (0, DONE_LINES)
    assert (folder.path / "report.html").read_text().startswith("<!doctype html>")


def test_a_dry_run_says_what_would_be_done_and_makes_nothing(tmp_path, cli):
    code, out, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path / "runs", "--dry-run")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [[name, "run"] for name in RUN_STAGES]
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_tells_done_from_changed_from_open(begun, finished):
    _, run = begun
    _, out, _ = run("--dry-run", "--set", "pairs.gap=0.5", "--to", "reward")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["speeches", "done"], ["responses", "done"], ["ratings", "done"],
        ["pairs", "differs"], ["supervised", "run"], ["reward", "run"],
    ]  # fmt: skip
    assert "gap: 1.0 -> 0.5" in out
    _, out, _ = run("--dry-run", "--redo", "ratings", "--to", "pairs")
    assert out.splitlines()[2:] == ["ratings     run (--redo)", "pairs       run (--redo)"]
    _, out, _ = run("--dry-run", "--set", "name=other", "--reuse", finished, "--to", "speeches")
    assert out.split() == ["speeches", "reuse", f"({finished})"]


def test_from_needs_finished_earlier_stages(begun):
    folder, run = begun
    before = output_hashes(folder)
    code, _, err = run("--from", "reward")
    assert code == 2
    assert err.splitlines()[-1] == "psychocounsel: --from reward: stage supervised is not finished; start from there"
    assert output_hashes(folder) == before


def test_to_stops_after_its_stage(begun, tmp_path):
    folder, run = begun
    folder.discard("pairs")
    code, out, err = run("--from", "pairs", "--to", "pairs")
    assert (code, out) == (0, "")
    assert err.splitlines()[-1].startswith("pairs: train ")
    assert [name for name in STAGES if folder.manifest(name)] == list(STAGES[:4])
    assert not (folder.path / "report.html").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--from", "pairs", "--to", "ratings"], "--from pairs comes after --to ratings; nothing would run"),
        (["--to", "pears"], "--to pears: not a stage, did you mean 'pairs'?"),
        (["--redo", "everything"], "--redo everything: not a stage"),
        (["--from", "x"], "The stages are speeches, responses, ratings, pairs, supervised, reward, policy, evaluate"),
        (["--redo", "speeches", "--from", "pairs"], "--redo speeches comes before --from pairs; leave --from out"),
        (["--reuse", "nowhere"], "--reuse nowhere: no such run folder"),
    ],
)
def test_stages_that_make_no_sense_are_refused_before_anything_is_lost(begun, flags, says):
    folder, run = begun
    before = touched(folder)
    code, _, err = run(*flags)
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1
    assert touched(folder) == before


def test_redo_makes_the_stage_and_all_after_it_anew_and_nothing_before(finished, tmp_path, cli):
    folder = copy_run(finished, tmp_path)
    before, hashes = touched(folder), output_hashes(folder)
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path, "--redo", "policy")
    assert code == 0
    said = [line.split(":")[0] for line in err.splitlines() if "done before" not in line and line[0] != " "]
    assert said == ["policy", "evaluate"]
    changed = {file.split("/")[0] for file, time in touched(folder).items() if before.get(file) != time}
    assert {"7-policy", "8-evaluate", "results.json", "report.html"} <= changed
    assert not {folder.stage(name).name for name in STAGES[:6]} & changed
    assert output_hashes(folder) == hashes  # made anew from the same settings: the same bytes


def test_a_redo_that_cannot_go_on_throws_nothing_away(begun):
    folder, run = begun
    before = touched(folder)
    code, _, err = run("--redo", "pairs", "--set", "ratings.max_tokens=7")
    assert code == 2
    assert "3-ratings: made with other settings (max_tokens: 1200 -> 7)" in err
    assert touched(folder) == before


def test_a_changed_setting_stops_the_run_and_says_what_changed_and_what_to_do(begun):
    folder, run = begun
    before = touched(folder)
    code, _, err = run("--set", "pairs.gap=0.5", "--set", "pairs.test_gap=0.1")
    assert code == 2
    assert err.splitlines() == [
        f"psychocounsel: {folder.stage('pairs')}: made with other settings (gap: 1.0 -> 0.5; test_gap: 0.5 -> 0.1); "
        "go on with --redo pairs, or give the run another name (--set name=...)"
    ]
    assert touched(folder) == before  # the frozen recipe stays that of the finished stages
    code, _, err = run("--set", "pairs.gap=0.5", "--redo", "pairs", "--to", "pairs")
    assert code == 0
    assert folder.manifest("pairs").settings["gap"] == 0.5
    assert read_json(folder.path / "recipe.json")["pairs"]["gap"] == 0.5


def test_changed_principles_change_the_stages_that_use_them(begun):
    _, run = begun
    code, _, err = run("--set", "principles.weight.safety=3.0")
    assert code == 2
    assert "4-pairs: made with other settings (principles" in err, "a weight is no part of what a judge is asked"
    code, _, err = run("--set", "principles.drop=['staging']")
    assert code == 2
    assert "3-ratings: made with other settings (principles" in err


def test_a_stage_whose_input_was_made_anew_is_not_taken_for_done(begun):
    folder, run = begun
    folder.discard("ratings")
    code, _, _ = run("--to", "ratings", "--set", "ratings.judges=['embedded']")
    assert code == 0
    code, _, err = run("--to", "pairs", "--set", "ratings.judges=['embedded']")
    assert code == 2
    assert "4-pairs: made with other settings (stage ratings was made anew); go on with --redo pairs" in err


def test_set_changes_one_setting_and_the_name_makes_another_run(begun, finished, tmp_path):
    _, run = begun
    code, _, err = run("--set", "name=second", "--set", "responses.limit=4", "--to", "responses")
    assert code == 0
    second = RunFolder(tmp_path / "second")
    assert second.manifest("responses").counts["speeches"] == 4
    assert read_json(second.path / "recipe.json")["responses"]["limit"] == 4
    assert "done before" not in err


def test_a_lock_left_by_a_killed_process_locks_nobody_out(begun):
    folder, run = begun
    with (folder.path / "run.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run("--to", "pairs")[0] == 2
    assert (folder.path / "run.lock").exists()
    assert run("--to", "pairs")[0] == 0


def test_a_half_made_stage_of_other_settings_is_thrown_away(begun):
    folder, run = begun
    folder.discard("pairs")
    write_text(folder.stage("pairs") / "checkpoint" / "tensors.pt", "old weights")
    write_text(folder.stage("pairs") / "old.txt", "old")
    write_text(folder.stage("pairs") / "started.json", '[{"gap": 9.0}, {}]')
    assert run("--to", "pairs")[0] == 0
    made = {"train.jsonl", "dev.jsonl", "test.jsonl", "overall.json", "audit.json"}
    assert set(folder.manifest("pairs").outputs) == made | {f"test-{name}.jsonl" for name in HARD_SETS}
    assert not (folder.stage("pairs") / "old.txt").exists()


def test_a_finished_stage_holds_no_leftovers(finished):
    leftovers = ("started.json", "*.part", "checkpoint", "checkpoint.*", "best.pt")
    assert [found for pattern in leftovers for found in finished.rglob(pattern)] == []


def test_a_damaged_manifest_stops_the_run_with_a_way_out(begun):
    folder, run = begun
    (folder.stage("pairs") / "manifest.json").write_text("{")
    code, _, err = run("--to", "pairs")
    assert code == 2
    assert f"{folder.stage('pairs') / 'manifest.json'}: damaged manifest" in err
    code, _, err = run("--to", "pairs", "--redo", "pairs")
    assert code == 0
    assert folder.manifest("pairs") is not None


def test_a_plan_without_its_inputs_is_to_run(tmp_path):
    from psychocounsel.recipe import parse_recipe

    recipe = parse_recipe({"name": "new"}, "test")
    assert plan_stage(recipe, RunFolder(tmp_path), "reward").action == "run"


def test_a_run_can_be_made_from_python(tmp_path):
    from psychocounsel.recipe import parse_recipe

    recipe = parse_recipe({"name": "api", "speeches": {"topics": "none", "max_chars": 1600}}, "test")
    folder = run_recipe(recipe, tmp_path, Options(stop="speeches"))
    assert folder.path == tmp_path / "api"
    assert folder.manifest("speeches").counts["kept"] == 252
