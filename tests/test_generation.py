"""Sampling beside plain generation: the same greedy replies, and a last line that says how they compare."""

import json
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parent.parent / "benchmarks" / "generation.py"
SMALL = ("--prompts", "2", "--rounds", "2", "--source", "embedded", "--hidden", "32", "--layers", "1", "--heads", "2",
         "--intermediate", "64", "--least", "10", "--mean", "25", "--most", "40")  # fmt: skip


def test_both_sides_give_the_same_greedy_replies_and_the_goal_decides_the_exit_code():
    done = subprocess.run([sys.executable, str(FILE), *SMALL], capture_output=True, text=True, timeout=300)
    body = json.loads(done.stdout.splitlines()[-1])
    assert set(body) == {"benchmark", "figures", "goal", "met"}
    assert done.returncode == (0 if body["met"] else 1), done.stderr
    figures = body["figures"]
    assert figures["greedy_replies_are_the_same"] is True
    assert figures["replies"] == 16 and figures["ratio"]["n"] == 2
    for lengths in figures["reply_tokens"].values():
        assert 10 <= lengths["low"] < lengths["high"] <= 40 and lengths["n"] == 32
