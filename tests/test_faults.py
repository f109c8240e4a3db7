"""Twenty kills and a server with every fault we know: nothing recorded is asked again, and the data set is the same."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KILLS = 20
STAGES = ("1-speeches", "2-responses", "3-ratings", "4-pairs")
RECIPE = """
name = "faults"
seed = 3
[models]
concurrency = 4
timeout = 0.8
[speeches]
max_chars = 1600
[responses]
models = [{models}]
per_speech = 2
max_tokens = 100
limit = 24
[ratings]
judges = [{judges}]
[pairs]
gap = 0.25
"""


@contextmanager
def serving(port, log, faults):
    command = [sys.executable, str(HERE / "fault_server.py"), str(port), str(log), faults]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        yield int(server.stdout.readline())
        server.kill()


def command(folder, recipe):
    return [sys.executable, "-m", "psychocounsel.cli", "run", str(recipe), "--to", "pairs", "--runs", str(folder)]


def recorded(folder):
    """Keys of all answers in the call store, as the server wrote them into its replies."""
    path = folder / "faults" / "calls.sqlite"
    if not path.exists():
        return set()
    with sqlite3.connect(path) as store:
        bodies = [row[0] for row in store.execute("SELECT raw FROM calls WHERE status = 'done'")]
    store.close()
    return {json.loads(body).get("id") for body in bodies}


def asked(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def made(folder):
    """Every file of the finished stages but the manifests, which tell seconds and the machine."""
    place = folder / "faults"
    files = [path for stage in STAGES for path in sorted((place / stage).rglob("*")) if path.is_file()]
    return {str(path.relative_to(place)): path.read_bytes() for path in files if path.name != "manifest.json"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(undisturbed folder, disturbed folder, log, violations): the same recipe against a good and a faulty server."""
    root = tmp_path_factory.mktemp("faults")
    recipe, log = root / "recipe.toml", root / "asked.jsonl"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with serving(0, root / "good.jsonl", "good") as port:
        names = [f'"http://127.0.0.1:{port}/v1#{name}"' for name in ("reed", "oak", "fern", "one", "two")]
        recipe.write_text(RECIPE.format(models=", ".join(names[:3]), judges=", ".join(names[3:])))
        subprocess.run(command(root / "calm", recipe), env=env, check=True, capture_output=True)
    draw, violations, kills = random.Random(11), [], 0
    with serving(port, log, "faulty"):
        while True:
            before, start = recorded(root / "storm"), len(asked(log)) if log.exists() else 0
            with subprocess.Popen(command(root / "storm", recipe), env=env, stderr=subprocess.PIPE, text=True) as run:
                try:
                    limit = draw.uniform(0.9, 3.2) if kills < KILLS else 240
                    errors = run.communicate(timeout=limit)[1]
                except subprocess.TimeoutExpired:
                    run.send_signal(signal.SIGKILL)
                    kills += 1
                    errors = None
            time.sleep(0.05)  # questions on their way when the client died
            violations += [row["key"] for row in asked(log)[start:] if row["key"] in before]
            if errors is not None:
                assert run.returncode == 0, errors
                break
    return root / "calm", root / "storm", log, violations, kills


def test_no_recorded_call_is_ever_asked_again(runs):
    *_, log, violations, kills = runs
    assert violations == []
    assert kills == KILLS
    assert len(asked(log)) > 150


def test_every_fault_was_met(runs):
    counts = Counter(row["fault"] for row in asked(runs[2]))
    assert set(counts) == {"429", "429-after", "500", "hang", "reset", "truncated", "drip", "none"}
    assert all(count >= 3 for count in counts.values())


def test_the_data_set_is_the_same_byte_for_byte(runs):
    calm, storm = made(runs[0]), made(runs[1])
    assert list(storm) == list(calm)
    assert [name for name in calm if calm[name] != storm[name]] == []
    assert len(calm["4-pairs/train.jsonl"].splitlines()) > 5


def test_refusals_and_filters_are_counted_and_kept(runs):
    manifest = json.loads((runs[1] / "faults" / "3-ratings" / "manifest.json").read_text())
    kinds = Counter(kind for counts in manifest["counts"]["judges"].values() for kind in counts)
    assert {"rated", "repaired"} <= set(kinds)
    unrated = [json.loads(line) for line in made(runs[1])["3-ratings/unrated.jsonl"].splitlines()]
    assert sum(manifest["counts"]["refused_by_topic"].values()) == len(unrated) > 0
    replies = [json.loads(line) for line in made(runs[1])["2-responses/responses.jsonl"].splitlines()]
    assert any(reply["finish"] == "filtered" for reply in replies)
