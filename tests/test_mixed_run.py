"""A run with a general preference set mixed in, and the calibration of its reward model, by the real command."""

import json

from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES
from tiny_run import TINY_RECIPE, copy_run, read_json, run_command, write_recipe

from psychocounsel.records import read_rows
from psychocounsel.reward.calibrate import read_calibration
from psychocounsel.speeches.held_out import HeldOut

GENERAL = "Which fruit keeps longest in a cool cellar over the winter months?"


def write_general(path, held_out):
    """Three usable pairs over two prompts, one of a speech that is held out, one of equal replies."""
    prompts = [*CLIENT_LINES[:1], GENERAL, GENERAL, held_out, CLIENT_LINES[1]]
    rows = [
        {"prompt": prompt, "chosen": GOOD_REPLIES[place % 3], "rejected": PLAIN_REPLIES[place % 3]}
        for place, prompt in enumerate(prompts)
    ]
    rows[-1]["chosen"] = rows[-1]["rejected"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_general_set_joins_the_train_pairs_without_what_is_held_out(finished, tmp_path):
    run = copy_run(finished, tmp_path / "runs", "supervised")
    speeches = [row for _, row in read_rows(run.stage("speeches") / "speeches.jsonl")]
    held_out = next(row for row in speeches if row["split"] == "test")["turns"][-1]["text"]
    write_general(tmp_path / "general.jsonl", held_out)
    mixed = f'[[reward.mix]]\nload = "{tmp_path / "general.jsonl"}"\nlicense = "CC0-1.0"\n[policy]'
    recipe = write_recipe(tmp_path, TINY_RECIPE.replace("[policy]", mixed, 1))
    done = run_command("reward", recipe, "--runs", tmp_path / "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    counts = run.manifest("reward").counts
    before = read_json(finished / "6-reward" / "manifest.json")["counts"]
    assert counts["pairs"] == before["pairs"] + 3 and counts["dev_pairs"] == before["dev_pairs"]
    (told,) = counts["mixed"]
    assert told["pairs"] == 3 and told["license"] == "CC0-1.0" and told["left_out"]["excluded"] == 1
    assert sum(told["left_out"].values()) == 2


def test_a_reward_model_is_calibrated_on_the_dev_split(finished):
    found = read_calibration(finished / "6-reward" / "model")
    counts = read_json(finished / "6-reward" / "manifest.json")["counts"]
    assert found is not None and found.temperature > 0
    assert counts["temperature"] == round(found.temperature, 4)
    assert any(name.endswith("calibration.json") for name in read_json(finished / "6-reward/manifest.json")["outputs"])


def test_nearly_the_same_words_are_held_out_and_others_are_not():
    held_out = HeldOut(CLIENT_LINES, 0.4)
    assert all(held_out.holds(text) for text in CLIENT_LINES)
    assert held_out.holds(CLIENT_LINES[2].upper() + " Still.")
    assert not held_out.holds(GENERAL) and not held_out.holds("") and not HeldOut([], 0.4).holds(GENERAL)
    words = CLIENT_LINES[1].split()
    assert not held_out.holds(" ".join(reversed(words))), "the same words in another order are another text"
