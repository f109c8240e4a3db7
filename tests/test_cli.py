"""The command line: every flag shows an effect, and help is there at once."""

import json
import subprocess
import sys

import pytest
from tiny_run import RUN_STAGES, command, copy_run, environment, run_command, write_recipe

import psychocounsel
from psychocounsel.run import STAGES, RunFolder

COMMANDS = {
    "run": ("--set", "--runs", "--from", "--to", "--redo", "--reuse", "--dry-run"),
    **{name: ("--set", "--runs", "--redo") for name in STAGES},
    "check": ("--set",),
    "show": ("--rows",),
    "trace": ("--run", "--json"),
    "verify": ("RUN",),
    "rate": ("--judge", "--input", "--output", "--calls"),
}


def test_the_version_is_that_of_the_package(cli):
    assert cli("--version") == (0, f"psychocounsel {psychocounsel.__version__}\n", "")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_command_and_what_this_is_not(cli, flag):
    code, out, err = cli(flag)
    assert (code, err) == (0, "")
    assert "not therapy" in out
    assert set(COMMANDS) <= set(out.replace("│", " ").split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_its_flags(cli, name):
    code, out, err = cli(name, "--help")
    assert (code, err) == (0, "")
    assert "Usage: psychocounsel" in out
    for flag in COMMANDS[name]:
        assert flag in out


def test_help_loads_no_heavy_library():
    code = (
        "import sys\nsys.argv = ['psychocounsel', '--help']\nfrom psychocounsel.cli import main\nmain()\n"
        "print('heavy:', sorted({'torch', 'transformers', 'sklearn', 'scipy', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runn", "x"], "no such command 'runn'"),
        (["run"], "missing argument 'recipe'"),
        (["run", "x.toml", "--fast"], "no such option: --fast"),
        (["run", "x.toml", "--set"], "requires an argument"),
        (["show", "x", "--rows", "0"], "invalid value for '--rows'"),
        (["show", "x", "--rows", "many"], "invalid value for '--rows'"),
        (["rate"], "missing option '--judge'"),
        (["check", "a.toml", "b.toml"], "unexpected extra argument"),
    ],
)
def test_a_usage_error_is_explained_and_exits_with_2(cli, arguments, says):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert says in " ".join(err.replace("│", " ").lower().split())
    assert "Traceback" not in err


def test_no_command_at_all_shows_the_help(cli):
    code, out, err = cli()
    assert code == 2
    assert "Usage: psychocounsel" in out + err


def test_the_installed_module_is_the_command(tmp_path):
    done = run_command("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"psychocounsel {psychocounsel.__version__}\n")


@pytest.mark.parametrize("name", STAGES[:4])
def test_a_stage_command_makes_its_stage_alone_and_redo_makes_it_anew(finished, tmp_path, cli, name):
    folder, recipe = copy_run(finished, tmp_path, STAGES[STAGES.index(name)]), write_recipe(tmp_path)
    folder.discard(name)
    assert cli(name, recipe, "--runs", tmp_path)[0] == 0
    assert folder.manifest(name).outputs == RunFolder(finished).manifest(name).outputs
    made = (folder.stage(name) / "manifest.json").stat().st_mtime_ns
    code, _, err = cli(name, recipe, "--runs", tmp_path)
    assert (code, err.splitlines()[-1]) == (0, f"{name}: done before")
    assert (folder.stage(name) / "manifest.json").stat().st_mtime_ns == made
    code, _, err = cli(name, recipe, "--runs", tmp_path, "--redo")
    assert (code, f"{name}: done before" in err) == (0, False)
    assert (folder.stage(name) / "manifest.json").stat().st_mtime_ns > made


@pytest.mark.parametrize("name", RUN_STAGES[4:])
def test_the_training_stages_are_commands_too(finished, tmp_path, cli, name):
    copy_run(finished, tmp_path)
    code, _, err = cli(name, write_recipe(tmp_path), "--runs", tmp_path)
    assert (code, err.splitlines()[-1]) == (0, f"{name}: done before")


def test_a_stage_command_changes_settings_with_set(tmp_path, cli):
    recipe = write_recipe(tmp_path)
    code, _, err = cli("speeches", recipe, "--runs", tmp_path, "--set", "speeches.max_chars=650", "--set", "name=short")
    assert code == 0
    counts = RunFolder(tmp_path / "short").manifest("speeches").counts
    assert counts["read"] == 252 == counts["kept"] + sum(counts["dropped"].values())
    assert counts["kept"] < 252
    assert err.startswith("speeches: read 252, kept ")


def test_a_stage_command_needs_the_stages_before_it(tmp_path, cli):
    code, _, err = cli("ratings", write_recipe(tmp_path), "--runs", tmp_path)
    assert code == 2
    assert "stage speeches is not finished" in err
    assert len(err.splitlines()) == 1


def test_check_previews_calls_tokens_and_training_and_makes_nothing(tmp_path, cli):
    recipe = write_recipe(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, out, err = cli("check", recipe)
    assert (code, err) == (0, "")
    text = " ".join(out.replace("│", " ").split())
    assert "Recipe tiny" in text
    assert "252 read, 252 kept, dropped none" in text
    found = [line.split() for line in out.replace("│", " ").splitlines() if "recorded" in line]
    rows = {tuple(words[:2]): words[2:] for words in found}
    assert rows["responses", "recorded"][0] == "120"
    assert rows["responses", "recorded"][2:] == ["61,440", "0.00"]  # 30 speeches, 4 replies each, 512 tokens at most
    assert rows["ratings", "recorded"][0] == "120"
    assert "safety x1 (gate)" in text
    assert "supervised 0.3 epochs, reward 0.3, policy 0.3 and 1 online rounds" in text
    assert "embedded on splits arena, test" in text
    assert sorted(tmp_path.iterdir()) == before


def test_check_takes_changed_settings(tmp_path, cli):
    _, out, _ = cli("check", write_recipe(tmp_path), "--set", "responses.limit=5", "--set", "responses.max_tokens=10")
    (row,) = [line.split() for line in out.replace("│", " ").splitlines() if line[2:11] == "responses"]
    assert (row[2], row[4]) == ("20", "200")


def calls_by_stage(out):
    """Calls of models at an address, by stage."""
    rows = [line.split() for line in out.replace("│", " ").splitlines()]
    counted = [words for words in rows if len(words) > 5 and "#" in words[1] and words[2][0].isdigit()]
    return {words[0]: int(words[2].replace(",", "")) for words in counted}


def test_check_counts_every_text_that_a_model_reads_for_personal_data(tmp_path, cli):
    text = "My brother borrowed the van on Friday, nobody has told me where he went with it, {}, and I cannot sleep."
    rows = [text.format(end) for end in ("once more", "once again", "or with whom", "or why he would not call me")]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in [*rows, rows[0]]))
    own = f"speeches.sources=[{{load='embedded'}}, {{load='{tmp_path / 'own.jsonl'}'}}]"
    reader = "speeches.privacy.model='http://localhost:9/v1#r'"
    code, out, _ = cli("check", write_recipe(tmp_path), "--set", own, "--set", reader)
    assert (code, calls_by_stage(out)) == (0, {"privacy": 4})  # near-duplicates are dropped only afterwards
    _, out, _ = cli(
        "check", write_recipe(tmp_path), "--set", own, "--set", reader, "--set", "speeches.privacy.mode=off"
    )
    assert calls_by_stage(out) == {}


def test_check_counts_the_comparisons_of_labelled_pairs_too(tmp_path, cli):
    judge, recipe = "evaluate.judges=['http://localhost:9/v1#j']", write_recipe(tmp_path)
    many, few = (
        calls_by_stage(cli("check", recipe, "--set", judge, "--set", f"responses.limit={limit}")[1])["evaluate"]
        for limit in (30, 3)
    )
    assert many - few == 2 * (30 - 3)  # a test pair a speech at most, in both orders


def test_check_counts_what_online_rounds_ask(tmp_path, cli):
    recipe, judge = write_recipe(tmp_path), "policy.online.judges=['http://localhost:9/v1#j']"

    def calls(*changes):
        words = [word for change in (judge, *changes) for word in ("--set", change)]
        return calls_by_stage(cli("check", recipe, *words)[1]).get("online", 0)

    one = calls("policy.online.rounds=1")
    assert one > 0 and calls("policy.online.rounds=3", "policy.online.dev_samples=2") == 6 * one
    assert calls("policy.online.rounds=2", "policy.online.dev_speeches=4") == 2 * 2 * 4
    assert calls("policy.online.rounds=0") == 0
    rewarding = ("policy.online.rewards=['judge:http://localhost:9/v1#r']", "policy.online.dev_speeches=4")
    judge = "policy.online.judges=['reward']"
    assert (
        calls("policy.online.rounds=2", *rewarding) == 2 * 6 * 3 + 3 * 4
    )  # candidates, and looks with that at the start


def test_check_counts_the_comparisons_of_baselines_and_of_the_curve(tmp_path, cli):
    judge, recipe = "evaluate.judges=['http://localhost:9/v1#j']", write_recipe(tmp_path)
    plain, more = (
        calls_by_stage(cli("check", recipe, *(w for c in (judge, *changes) for w in ("--set", c)))[1])["evaluate"]
        for changes in ((), ("evaluate.baselines=['best-of-n']", "evaluate.best_of=8"))
    )
    assert more - plain == 2 * 12 * (2 + 3)  # against base and online; picks of 2, 4 and 8


def test_check_counts_by_the_thousand_what_is_on_the_hub(tmp_path, cli):
    text = 'name = "far"\n[speeches]\nsources = [{ load = "hub:somebody/speeches", text = "said" }]\n'
    text += "[evaluate]\nallow_dependent = true\n"
    code, out, _ = cli("check", write_recipe(tmp_path, text))
    assert code == 0
    assert "from the hub, so counted by the thousand: hub:somebody/speeches" in out


def test_check_says_when_the_base_model_cannot_be_had(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = cli("check", write_recipe(tmp_path), "--set", "base=nobody/nothing")
    assert code == 2
    assert "base 'nobody/nothing': no such folder, and HF_HUB_OFFLINE=1 forbids the hub" in err


def test_show_of_a_run_gives_stages_and_results(finished, cli):
    code, out, err = cli("show", finished)
    assert (code, err) == (0, "")
    for name in STAGES:
        assert f"│ {name}" in out
    for key in ("winrate.online_vs_base", "winrate.online_vs_offline", "reward.accuracy"):
        assert out.count(f" {key} ") == 1  # whole names, not cut
    assert "DEPENDENT: the embedded judge was fitted" in out


def test_show_of_a_run_tells_begun_from_not_begun(finished, tmp_path, cli):
    folder = copy_run(finished, tmp_path, "ratings")
    folder.stage("pairs").mkdir()
    _, out, _ = cli("show", folder.path)
    rows = {cells[1]: cells[2] for line in out.splitlines() if len(cells := [c.strip() for c in line.split("│")]) > 3}
    assert rows["ratings"] == "done"
    assert rows["pairs"] == "begun"
    assert rows["reward"] == "not begun"
    assert "Results" not in out


def test_show_of_a_stage_gives_counts_files_and_settings(finished, cli):
    code, out, _ = cli("show", finished / "4-pairs")
    manifest = RunFolder(finished).manifest("pairs")
    assert code == 0
    assert out.startswith(f"pairs: train {manifest.counts['train']}")
    assert f"train.jsonl  {manifest.outputs['train.jsonl']}" in out
    assert '"test_gap": 0.5' in out


def test_show_of_rows_gives_as_many_as_asked_for(finished, cli):
    path = finished / "1-speeches" / "speeches.jsonl"
    _, out, _ = cli("show", path)
    assert out.count("turns: ") == 3
    _, out, _ = cli("show", path, "--rows", "5")
    assert out.count("turns: ") == 5
    assert json.loads(path.read_text().splitlines()[0])["id"] in out


def test_show_of_json_gives_json(finished, cli):
    _, out, _ = cli("show", finished / "results.json")
    assert json.loads(out)["schema"] == "psychocounsel-results/1"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent", None, "does not exist; name a run folder"),
        ("odd.bin", b"\x00\x01", "neither a run folder, a stage folder, nor a .jsonl"),
        ("bad.json", b'{"a": ', "not JSON"),
        ("bad.json", b"\xff\xfe", "not JSON"),
        ("empty.jsonl", b"", "empty"),
        ("bad.jsonl", b'{"a": 1}\n{"a": NaN}\n', "bad.jsonl:2: not JSON (NaN is not a JSON value"),
        ("latin.jsonl", '{"a": "\u00e9"}'.encode("latin-1"), "latin.jsonl:1: not UTF-8"),
        ("list.jsonl", b"[1]\n", "list.jsonl:1: expected a JSON object, found list"),
    ],
)
def test_show_of_nonsense_is_one_clear_line(tmp_path, cli, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, _, err = cli("show", tmp_path / name)
    assert code == 2
    assert says in err
    assert str(tmp_path / name) in err
    assert len(err.splitlines()) == 1


def test_show_of_an_unfinished_stage_says_so(tmp_path, cli):
    (tmp_path / "4-pairs").mkdir()
    code, _, err = cli("show", tmp_path / "4-pairs")
    assert (code, "not finished" in err) == (2, True)


def test_hostile_text_is_shown_as_text(tmp_path, cli):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": "[red]x[/red]", "text": "[bold]no[/bold] [/] [link=file:///etc]y"}) + "\n")
    code, out, _ = cli("show", path)
    assert code == 0
    assert "[bold]no[/bold] [/] [link=file:///etc]y" in out
    assert "[red]x[/red]" in out


def test_output_that_cannot_be_written_is_one_line(finished):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            command("show", finished), env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 2
    assert done.stderr == "psychocounsel: the output cannot be written (No space left on device)\n"


def test_a_reader_that_stops_early_gets_no_traceback(finished):
    process = subprocess.Popen(
        command("show", finished / "1-speeches" / "speeches.jsonl", "--rows", "200"),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        process.stdout.close()
        err = process.stderr.read()
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 1
