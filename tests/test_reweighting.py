"""Other weights, gates, gaps and rules make pairs anew from what is stored: in seconds, without a call."""

import shutil
import sqlite3
import time

import pytest
from test_reuse import JUDGE, sent
from tiny_run import JUDGED_RECIPE, output_hashes, run_command, use_judge_module, write_recipe

from psychocounsel.run import RunFolder

AGAIN = ("--from", "pairs", "--to", "pairs", "--redo", "pairs")
ROWS = [(5, 5, 4, 4, 5, 4, 5), (2, 3, 2, 4, 2, 2, 3), (4, 5, 4, 2, 4, 5, 4), (1, 2, 2, 1, 1, 2, 1),
        (3, 3, 4, 3, 3, 3, 2), (4, 3, 5, 3, 4, 4, 5), (2, 2, 3, 5, 2, 1, 1)]  # fmt: skip
VARIED = JUDGE.replace("{name: 1 + (n + i) % 5 for i, name in enumerate(IDS)}", "dict(zip(IDS, n))")
VARIED = VARIED.replace("range(5)", str(ROWS))
DECISIONS = [
    "pairs.gap=0.3",
    "pairs.rule=paper",
    "pairs.max_words=60",
    "principles.weight={safety=2.0}",
    "principles.weight={staging=0.0}",  # an ablation
    'principles.reword=[{id="safety", gate=false}]',
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the judge's module, its recipe, and a run of it that stands up to its pairs."""
    place = tmp_path_factory.mktemp("made")
    (place / "desk").mkdir()
    (place / "desk" / "judge.py").write_text(VARIED, encoding="utf-8")
    recipe = write_recipe(place, JUDGED_RECIPE.replace("limit = 3", "limit = 40"))
    done = run_command("run", recipe, "--runs", place, "--to", "pairs", cwd=place, paths=(place,))
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def judged(made, tmp_path, monkeypatch, cli):
    """`run(*more)` on a copy of it; its run folder; its recipe."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    use_judge_module(tmp_path, monkeypatch, VARIED)
    recipe = tmp_path / "tiny.toml"
    return lambda *more: cli("run", recipe, "--runs", tmp_path, *more), RunFolder(tmp_path / "tiny"), recipe


def stored_calls(folder):
    with sqlite3.connect(folder.path / "calls.sqlite") as store:
        return store.execute("SELECT COUNT(*) FROM calls").fetchone()[0]


def test_a_changed_decision_makes_pairs_anew_without_a_call(judged):
    run, folder, recipe = judged
    first, asked, calls = output_hashes(folder), sent(recipe), stored_calls(folder)
    seen = [first["pairs"]]
    for decision in DECISIONS:
        start = time.monotonic()
        code, _, err = run(*AGAIN, "--set", decision)
        assert code == 0, err
        assert time.monotonic() - start < 20, decision
        made = output_hashes(folder)
        assert made.pop("pairs") not in seen, decision
        assert made == {name: first[name] for name in ("speeches", "responses", "ratings")}, decision
        seen.append(output_hashes(folder)["pairs"])
    assert run(*AGAIN)[0] == 0
    assert output_hashes(folder) == first, "the first decision gives the first pairs, byte for byte"
    assert (sent(recipe), stored_calls(folder)) == (asked, calls)


def test_a_reworded_principle_is_another_question_and_stops_at_the_ratings(judged):
    run, folder, _ = judged
    code, _, err = run(*AGAIN, "--set", 'principles.reword=[{id="safety", definition="Does no harm."}]')
    assert code == 2
    assert f"{folder.stage('ratings')}: made with other settings (principles:" in err


def test_the_ratings_stage_writes_the_same_under_other_weights(judged):
    run, folder, recipe = judged
    before, asked = output_hashes(folder)["ratings"], sent(recipe)
    more = ("--set", "principles.weight={safety=3.0, staging=0.0}", "--to", "ratings", "--redo", "ratings")
    assert run(*more)[0] == 0
    assert output_hashes(folder)["ratings"] == before
    assert sent(recipe) == asked


def test_a_demand_that_no_rating_can_meet_says_what_to_do(judged):
    run, _, _ = judged
    code, _, err = run(*AGAIN, "--set", "pairs.probability=0.9")
    assert code == 2
    assert err.splitlines()[-1].startswith("psychocounsel: pairs.probability = 0.9: nothing says how sure")
