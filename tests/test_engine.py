"""The engines: the same results in the same order here and over Ray; a ledger that survives kill -9."""

import csv
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import CLIENT_LINES, make_speech
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import environment, output_hashes, run_command, wait_for, write_recipe

from psychocounsel.engine import HERE, _check_address, _key, _read_shard, _write_shard, open_engine
from psychocounsel.errors import UserError
from psychocounsel.run import RunFolder
from psychocounsel.speeches.shingles import shingles

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="ray is not installed: pip install 'psychocounsel[ray]'"
)
WORK = """
import os, time
from pathlib import Path
from psychocounsel.errors import UserError

def double(items): return [2 * item for item in items]
def short(items): return items[1:]
def fails(items): raise UserError("row 7: no text; mend the file")
def breaks(items): return [1 // (item - 13) for item in items]
def slow(items, log):
    with open(log, "a") as file:
        file.write(f"{items[0]}\\n")
    time.sleep(0.2)
    return [item + 1 for item in items]
"""
COMPARE = """
import json, sys
from pathlib import Path
from psychocounsel.engine import open_engine
from work import double, short, fails, breaks

found = {}
with open_engine("ray", Path(sys.argv[1])) as engine:
    found["doubled"] = engine.map("Double it", double, list(range(95)), shard=10)
    found["files"] = sorted(path.name for path in Path(sys.argv[1]).iterdir())
    for function in (short, fails, breaks):
        try:
            engine.map("wrong", function, list(range(20)), shard=10)
        except Exception as error:
            found[function.__name__] = [type(error).__name__, str(error), *error.__notes__]
    found["empty"] = engine.map("nothing", double, [])
print(json.dumps(found))
"""
KILLED = """
import json, sys
from functools import partial
from pathlib import Path
from psychocounsel.engine import open_engine
from work import slow

with open_engine("ray", Path(sys.argv[1])) as engine:
    print(json.dumps(engine.map("slow", partial(slow, log=sys.argv[2]), list(range(40)), shard=2)))
"""


def doubled(items):
    return [2 * item for item in items]


def fewer(items):
    return items[:-1]


def spaced(items, gap):
    return [f"{item}{gap}" for item in items]


def script(folder, code):
    """A process that runs `code` with the functions of `WORK` at hand."""
    (folder / "work.py").write_text(WORK, encoding="utf-8")
    (folder / "script.py").write_text(code, encoding="utf-8")
    return [sys.executable, str(folder / "script.py")]


@given(st.lists(st.integers()), st.integers(1, 7))
def test_results_come_in_the_order_of_the_items_whatever_the_shards(items, shard):
    assert HERE.map("double", doubled, items, shard) == [2 * item for item in items]


def test_a_function_that_loses_an_item_is_found_out():
    with pytest.raises(ValueError, match="lossy: 9 results for 10 items"):
        HERE.map("lossy", fewer, list(range(30)), shard=10)


def test_an_unknown_engine_is_named_with_the_nearest_one(tmp_path):
    with (
        pytest.raises(UserError, match="--engine rai: no such engine, did you mean 'ray'"),
        open_engine("rai", tmp_path),
    ):
        pass


def test_without_ray_the_line_says_what_to_install(tmp_path, monkeypatch, cli):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, stderr = cli("speeches", write_recipe(tmp_path), "--runs", tmp_path / "runs", "--engine", "ray")
    assert code == 2
    assert "pip install 'psychocounsel[ray]'" in stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_does_not_answer_is_said_at_once(address):
    with pytest.raises(UserError, match=f"nobody answers at RAY_ADDRESS={address}"):
        _check_address(address)


def test_a_cluster_that_answers_and_other_addresses_pass():
    with socket.create_server(("127.0.0.1", 0)) as server:
        _check_address(f"127.0.0.1:{server.getsockname()[1]}")
    _check_address("")
    _check_address("auto")


def test_a_shard_is_known_by_function_settings_and_content():
    speech, other = make_speech(CLIENT_LINES[0]), make_speech(CLIENT_LINES[1])
    keys = [
        _key(doubled, [1, 2]), _key(doubled, [1, 3]), _key(doubled, ["1", 2]), _key(doubled, [[1], 2]),
        _key(fewer, [1, 2]), _key(functools.partial(spaced, gap=" "), [1, 2]),
        _key(functools.partial(spaced, gap="."), [1, 2]), _key(doubled, [speech]), _key(doubled, [other]),
        _key(doubled, []), _key(doubled, [None]), _key(doubled, [b"1"]),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert _key(doubled, [make_speech(CLIENT_LINES[0])]) == keys[7]
    assert _key(doubled, [{"b": 1, "a": {"x", "y"}}]) == _key(doubled, [{"a": {"y", "x"}, "b": 1}])


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:-3],
        lambda data: data[:5],
        lambda data: b"",
        lambda data: data + b"x",
        lambda data: data.replace(b"kept", b"lost"),
    ],
)
def test_a_damaged_shard_counts_as_unfinished(tmp_path, harm):
    path = tmp_path / "ledger" / "step-1"
    _write_shard(path, ["kept", "kept"])
    assert path.parent.stat().st_mode & 0o077 == 0, "texts as they came are for their owner alone"
    assert _read_shard(path, 2) == ["kept", "kept"]
    assert _read_shard(path, 3) is None
    path.write_bytes(harm(path.read_bytes()))
    assert _read_shard(path, 2) is None


@needs_ray
def test_ray_gives_the_same_results_and_the_same_failures_quietly(tmp_path):
    done = subprocess.run([*script(tmp_path, COMPARE), str(tmp_path / "ledger")], capture_output=True, text=True,
                          env=environment(tmp_path), timeout=300)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["doubled"] == [2 * item for item in range(95)]
    assert len(found["files"]) == 10
    assert all(name.startswith("double-it-") and not name.endswith(".part") for name in found["files"])
    assert found["short"][:2] == ["ValueError", "wrong: 9 results for 10 items; an engine needs one for each"]
    assert found["fails"][:2] == ["UserError", "row 7: no text; mend the file"]
    assert found["breaks"][0] == "ZeroDivisionError"
    assert "work.py" in found["breaks"][2]
    assert found["empty"] == []


@needs_ray
def test_after_kill_9_no_finished_shard_is_made_again(tmp_path):
    ledger, log = tmp_path / "ledger", tmp_path / "log.txt"
    command = [*script(tmp_path, KILLED), str(ledger), str(log)]
    with subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: len(finished(ledger)) >= 3, process, "three shards")
        os.kill(process.pid, signal.SIGKILL)
    kept = finished(ledger)
    assert 3 <= len(kept) < 20
    damaged = sorted(kept)[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    times = {path: path.stat().st_mtime_ns for path in kept if path != damaged}
    log.write_text("", encoding="utf-8")
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path), timeout=300, check=True)
    assert json.loads(done.stdout) == list(range(1, 41))
    made = set(log.read_text(encoding="utf-8").split())  # a worker that outlived its driver may tell its shard too
    assert len(made) == 20 - len(times)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(finished(ledger)) == 20


def finished(ledger: Path) -> list[Path]:
    return [path for path in ledger.glob("*") if path.suffix != ".part"]


@needs_ray
def test_the_whole_speeches_stage_has_the_same_hashes_here_and_over_ray(tmp_path):
    lines = [" ".join(CLIENT_LINES[i : i + 3]) for i in range(6)]
    texts = [*lines, lines[0] + " And so on.", lines[1].upper(), lines[2].replace("house", "flat"), "Too short.", ""]
    assert len(shingles(lines[0])) > 20
    with (tmp_path / "own.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    recipe = write_recipe(
        tmp_path, 'name = "x"\n[speeches]\nmax_chars = 1600\nsources = [{ load = "own.csv" }, { load = "embedded" }]\n'
    )
    for engine in ("here", "ray"):
        done = run_command("speeches", recipe, "--set", f"name={engine}", "--engine", engine, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stderr.splitlines() if not line.startswith(("speeches: ", "  "))] == []
    here, ray = (RunFolder(tmp_path / "runs" / engine) for engine in ("here", "ray"))
    assert output_hashes(here)["speeches"] == output_hashes(ray)["speeches"]
    assert here.manifest("speeches").counts == ray.manifest("speeches").counts
    assert here.manifest("speeches").counts["dropped"]["near-duplicate"] >= 1
    assert list(ray.path.rglob("*.part")) == [], "the ledger held texts as they came"
