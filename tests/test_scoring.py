"""Scoring beside plain batches: the same scores from both, and a last line that says how they compare."""

import json
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parent.parent / "benchmarks" / "scoring.py"
SMALL = ("--prompts", "2", "--rounds", "2", "--source", "embedded", "--hidden", "32", "--layers", "2", "--heads", "2",
         "--intermediate", "64")  # fmt: skip


def test_both_sides_give_the_same_scores_and_the_goal_decides_the_exit_code():
    done = subprocess.run([sys.executable, str(FILE), *SMALL], capture_output=True, text=True, timeout=300)
    body = json.loads(done.stdout.splitlines()[-1])
    assert set(body) == {"benchmark", "figures", "goal", "met"}
    assert done.returncode == (0 if body["met"] else 1), done.stderr
    figures = body["figures"]
    assert figures["replies"] == 16
    assert figures["largest_difference"] < 1e-4
    assert 1 < figures["tokens_ratio"] < 8
    assert figures["ratio"]["n"] == 2
    speeds = figures["plain_by_batch"]
    assert speeds[str(figures["best_batch"])] == max(speeds.values())
    assert set(figures["replies_per_s"]) == {"ours", "plain", "padded"} and figures["ratio_padded"]["n"] == 2
    assert list(figures["padded_by_batch"]) == list(speeds) and figures["padded_batch"] == 8
