"""Rounds of a recipe: looks, the best one, planted rewards that are hacked, kills in every step, several processes."""

import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file
from tiny_run import (
    TINY_RECIPE,
    command,
    copy_run,
    environment,
    output_hashes,
    read_json,
    run_command,
    write_recipe,
)

from psychocounsel.records import read_rows
from psychocounsel.run import RunFolder

HACKS = '''
def longer(messages, replies):
    """Pays for every word."""
    return [float(len(reply.split())) for reply in replies]


def phrase(messages, replies):
    """Pays for one phrase."""
    return [float("What would you want her to know" in reply) for reply in replies]
'''
ONLINE = """[policy.online]
rounds = 4
start = "base"
speeches = 16
samples = 8
steps = 12
lr = 2e-3
max_new_tokens = 64
truncated = "keep"
gate = ""
judges = ["embedded"]
dev_speeches = 12
rewards = ["REWARD"]
"""


@pytest.fixture(scope="module")
def talking(tmp_path_factory, talker):
    """A run up to its reward model whose base model writes whole replies; its online rounds are still to be made."""
    place = tmp_path_factory.mktemp("talking")
    (place / "desk").mkdir()
    (place / "desk" / "hacks.py").write_text(HACKS, encoding="utf-8")
    (place / "desk" / "judge.py").write_text(KIND_JUDGE, encoding="utf-8")
    recipe = recipe_of(place, talker, "desk.hacks:longer")
    done = run_command("run", recipe, "--to", "reward", cwd=place, paths=(place,))
    assert done.returncode == 0, done.stderr
    return place


def recipe_of(place, talker, reward, **changes):
    """The tiny recipe on a base model that talks."""
    head, _, rest = TINY_RECIPE.partition("[policy.online]")
    evaluate = rest[rest.index("[evaluate]") :]
    text = head.replace("seed = 3", f'seed = 3\nbase = "{talker}"').replace("epochs = 0.3\nbatch = 8\nmax_length = 192",
        "epochs = 0\nbatch = 8\nmax_length = 192", 1)  # fmt: skip
    online = ONLINE.replace("REWARD", reward)
    for key, value in changes.items():
        online = (
            online.replace(f"{key} = ", f"{key} = {value} # ")
            if f"{key} = " in online
            else f"{online}{key} = {value}\n"
        )
    return write_recipe(place, f"{text}{online}{evaluate}")


def policy(place, recipe):
    done = run_command("run", recipe, "--to", "policy", "--redo", "policy", cwd=place, paths=(place,))
    assert done.returncode == 0, done.stderr[-3000:]
    return place / "runs" / "tiny" / "7-policy"


@pytest.mark.parametrize(
    ("reward", "words"),
    [("desk.hacks:longer", "words|end|repeat"), ("desk.hacks:phrase", "same five words|share|begin")],
)
def test_a_hacked_reward_raises_an_alarm_and_the_run_rolls_back(talking, talker, reward, words):
    folder = policy(talking, recipe_of(talking, talker, reward))
    online = read_json(folder / "online.json")
    rewards = [look["figures"]["reward"]["value"] for look in online["looks"]]
    assert rewards[0] == 0 and rewards[-1] > 0  # the policy does learn what is paid for
    last = online["looks"][-1]
    assert online["stopped"].startswith(f"round {last['round']}: ") and last["alarms"]
    assert any(word in online["stopped"] for word in words.split("|")), online["stopped"]
    assert online["best"] < last["round"]
    assert not any(look["alarms"] for look in online["looks"][: online["best"] + 1])
    manifest = RunFolder(talking / "runs" / "tiny").manifest("policy")
    assert manifest.counts["best_round"] == online["best"] and manifest.counts["stopped"] == online["stopped"]


def test_rounds_are_chosen_by_the_judge_and_only_two_models_are_kept_when_asked(talking, talker):
    recipe = recipe_of(talking, talker, "judge:desk.judge:judge", rounds=3, steps=2, lr=1e-4, keep='"best"')
    folder = policy(talking, recipe)
    online = read_json(folder / "online.json")
    values = [look["figures"]["judge"]["value"] for look in online["looks"]]
    assert values[0] == 0.5 and len(values) == 4 and online["stopped"] == ""
    assert values[online["best"]] == max(values)
    kept = {path.parent.name for path in folder.glob("online-*/model")}
    assert kept == {f"online-{number}" for number in {online["best"], 3} - {0}}
    for look in online["looks"][1:]:
        assert {"reward", "judge", "kl", "words", "distinct_2"} <= look["figures"].keys()
        assert look["tokens"].keys() == {"sample", "score", "train"}
        times = next(iter(read_rows(folder / f"online-{look['round']}" / "seconds.json")))[1]
        assert times.keys() == {"sample", "score", "train", "look"} and min(times.values()) > 0
        assert look["counts"]["candidates"] == 16 * 8


# what is there while candidates are sampled, scored, paired, trained on and looked at
MOMENTS = ("candidates.jsonl.0.part", "candidates.jsonl", "scores.jsonl", "train.arrow", "model")


def test_a_round_killed_in_every_step_ends_as_an_undisturbed_one(finished, tmp_path):
    recipe, folder = write_recipe(tmp_path), copy_run(finished, tmp_path, "reward")
    place, killed = folder.stage("policy"), []
    for moment in MOMENTS:
        path = place / "online-1.part" / moment
        if (place / "online-1").exists():
            break
        process = subprocess.Popen(command("run", recipe, "--runs", tmp_path, "--to", "policy"), cwd=tmp_path,
                                   env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        with process:
            while process.poll() is None and not (path.exists() or (place / "online-1").exists()):
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        killed.append(moment)
    assert len(killed) >= 4 and folder.manifest("policy") is None
    last = run_command("run", recipe, "--runs", tmp_path, "--to", "policy", cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    expected = output_hashes(RunFolder(finished))["policy"]
    assert folder.manifest("policy").outputs == expected
    assert {"online-1/pairs.jsonl", "online-1/model/model.safetensors", "online.json"} <= expected.keys()


def test_two_processes_make_the_pairs_and_losses_of_one(finished, tmp_path):
    copied, recipe = copy_run(finished, tmp_path / "runs", "reward"), write_recipe(tmp_path)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "psychocounsel.cli", "policy", str(recipe), "--runs", str(tmp_path / "runs")],
        env=environment() | {"ACCELERATE_USE_CPU": "true"}, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    alone, shared = finished / "7-policy", copied.stage("policy")
    assert (shared / "online-1" / "pairs.jsonl").read_bytes() == (alone / "online-1" / "pairs.jsonl").read_bytes()
    for name in ("offline", "online-1"):
        one, two = ([row for _, row in read_rows(place / name / "metrics.jsonl")] for place in (alone, shared))
        assert len(one) == len(two) > 0
        for before, after in zip(one, two, strict=True):
            assert after == pytest.approx(before, abs=1e-4)
    weights = [load_file(place / "online-1" / "model" / "model.safetensors") for place in (alone, shared)]
    for name, value in weights[0].items():
        assert (weights[1][name] - value).abs().max() < 1e-4
    looks = [read_json(place / "online.json")["looks"][1]["figures"] for place in (alone, shared)]
    assert looks[0].keys() == looks[1].keys()


KIND_JUDGE = '''
"""Rates every reply by its questions, in the words of a model."""
import json

from psychocounsel.models.chat import Completion
from psychocounsel.principles import load_principles

NAMES = [principle.id for principle in load_principles()]


class Desk:
    name, kind, concurrency = "desk.judge:judge", "desk", 4

    def can_answer(self, request):
        return True

    async def send(self, request):
        text = request.messages[-1]["content"]
        score = 2 + 2 * ("?" in text.rpartition("<<<")[2])
        scores = {name: {"reason": "questions", "score": score} for name in NAMES}
        return json.dumps({"stage": "action", "risk": "none", **scores})

    def read(self, raw):
        return Completion(text=raw)


def judge():
    return Desk()
'''
