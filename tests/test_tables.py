"""The README and the docs say of speed what the stored results give."""

import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def benchmarks():
    """The modules by name; benchmarks import each other as scripts of one folder do."""
    sys.path.insert(0, str(FOLDER))
    names = ("tables", "wording", "comparison")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(FOLDER))


@pytest.fixture
def results(benchmarks):
    """A made-up result of two rounds, with every part."""
    comparison = benchmarks.comparison

    def runs(speed, memory, **more):
        one = {"pairs_per_s": speed, "pairs_per_cpu_s": speed, "pairs": 10, "epochs": 3, "whole_s": 40 / speed,
               "compile_s": 10 / speed, "reference_s": 1.0, "peak_mib": memory, "resident_before_mib": 0.0,
               "load_before": 0.1, "tokens_with_padding": 300, **more}  # fmt: skip
        return [one, {**one, "pairs_per_s": 1.2 * speed}]

    ours = {"encoding_s": 0.3, "packing_s": 0.3, "tokens": 90}
    cell = comparison.cell({"ours": runs(6.0, 512.0, **ours), "ours_uncompiled": runs(4.0, 512.0, **ours),
                            "plain": runs(1.0, 2048.0), "tuned": runs(2.0, 1024.0)})  # fmt: skip
    use = {"peak_gflops": comparison.spread([100.0]), "cells": {"dpo paper": {
        "tokens_needed_per_pair": 470.0, "tokens_pair_by_pair": 780.0, "token_ratio": 1.66, "gflop_per_pair": 5.0,
        "share_of_peak": {"ours": 0.3, "ours_uncompiled": 0.2, "plain": 0.05, "tuned": 0.1}}}}  # fmt: skip
    ablation = {"all": {"full": {"instead": "everything", **comparison.ablation_row(runs(4, 9), runs(4, 9))},
                        "no-x": {"instead": "y", **comparison.ablation_row(runs(4, 9), runs(2, 18))}}}  # fmt: skip
    scaling = [{"pairs": n, "ms_per_pair": 20.0, "memory": 500.0, "encoding_and_packing": 0.01} for n in (100, 1600)]
    told = {"threads": 1, "precision": "fp32", "layers": 8, "hidden": 384, "vocabulary": 8192, "pairs": 10,
            "source": "embedded", "batch": 8}  # fmt: skip
    machine = {"processor": "A Processor", "cores": 2, "flags": ["avx2"]}
    stamp = {"date": "2026-01-31", "machine": machine, "versions": {"torch": "2.9", "trl": "1.16"}}
    goals = comparison.judged({"dpo paper": cell}) + comparison.judged_growth(scaling)
    figures = {"settings": {"speed": told, "ablation": told}, "speed": {"dpo paper": cell}, "utilisation": use,
               "ablation": ablation, "scaling": scaling, "goals": goals}  # fmt: skip
    scored = {"replies_per_s": {name: comparison.spread([9.0, 8.0]) for name in ("ours", "plain", "padded")},
              "best_batch": 4, "padded_batch": 8, "ratio": comparison.spread([1.7, 1.6]),
              "ratio_padded": comparison.spread([2.3, 2.1]), "tokens_ratio": 1.75, "largest_difference": 8.3e-07,
              "threads": 1, "prompts": 16}  # fmt: skip
    return {"train_vs_trl": {**stamp, "figures": figures},
            "scoring": {**stamp, "figures": scored, "goal": "3 times", "met": False}}  # fmt: skip


@pytest.mark.parametrize(("page", "mark"), [("README.md", "training"), ("docs/training.md", "ablation"),
    ("docs/training.md", "speed"), ("docs/training.md", "scaling"), ("docs/training.md", "scoring")])  # fmt: skip
def test_what_the_pages_say_of_speed_is_what_the_stored_results_give(benchmarks, page, mark):
    tables = benchmarks.tables
    assert mark in tables.PAGES[page]
    results = tables.stored()
    if ("scoring" if mark == "scoring" else "train_vs_trl") not in results:
        pytest.skip("not measured yet: benchmarks/results has no file for it")
    text = (tables.ROOT / page).read_text(encoding="utf-8")
    assert tables.filled(text, [mark], results) == text, "run python benchmarks/tables.py --write"


def test_the_pages_have_a_place_for_every_table(benchmarks):
    tables = benchmarks.tables
    assert {mark for marks in tables.PAGES.values() for mark in marks} == set(tables.MADE)
    for page, marks in tables.PAGES.items():
        text = (tables.ROOT / page).read_text(encoding="utf-8")
        once = tables.filled(text, marks, {})
        assert tables.filled(once, marks, {}) == once
        with pytest.raises(ValueError, match="0 places"):
            tables.filled("", marks, {})


def test_the_readme_has_speeds_memory_and_ratios_with_their_range(benchmarks, results):
    text = benchmarks.tables.training(results)
    assert "| DPO, 1 to 3 pairs a prompt | 6.60, 0.500 GiB | 1.10, 2.00 GiB; **6.00 × (6.00 to 6.00)** |" in text
    assert text.splitlines()[2].endswith("| – |"), "no figure for a side that was not measured"
    assert "2026-01-31 on A Processor (2 cores, without AMX), 1 thread, fp32" in text
    assert "the embedded texts" in text


def test_the_docs_name_the_goals_that_are_not_met_and_what_tokens_give(benchmarks, results):
    text = benchmarks.tables.speed(results)
    assert "| DPO, 1 to 3 pairs a prompt: speed | TRL as it comes | at least 5.00 | 6.00 | met |" in text
    assert "| DPO, 1 to 3 pairs a prompt: memory | TRL tuned by search | at most 0.333 | 0.500 | not met |" in text
    assert (
        "| reward model, all 6 pairs of 4 replies: speed | TRL as it comes | at least 7.00 | not measured | not met |"
        in text
    )
    assert "memory, most pairs over fewest" in text
    assert "is 2.25 of 2.80 wanted" not in text
    assert "| 780 | 470 | 1.66 × |" in text
    assert "100 billion operations a second" in text


def test_the_docs_say_what_an_ingredient_gives_how_it_grows_and_what_scoring_does(benchmarks, results):
    tables = benchmarks.tables
    assert "| `no-x` | y | 2.20 (2.00 to 2.40) | 2.00 × (2.00 to 2.00) |" in tables.ablation(results)
    assert "| 1,600 | 20.0 ms | 500 MiB | 1.0 % |" in tables.scaling(results)
    text = tables.scoring(results)
    assert "1.65 × (1.60 to 1.70) to sorted batches and 2.20 × (2.10 to 2.30) to batches as they come" in text
    assert "| plain, as they come, 8 in a batch |" in text
    assert "not met" in text


def test_a_part_that_was_not_measured_leaves_its_place_empty(benchmarks):
    assert [make({}) for make in benchmarks.tables.MADE.values()] == [""] * 5
    assert benchmarks.tables.speed({"train_vs_trl": {"figures": {"scaling": []}}}) == ""


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.03124, "0.0312"), (1.5, "1.50"), (13.44, "13.4"),
    (99.97, "100"), (780.4, "780"), (1234.5, "1,234")])  # fmt: skip
def test_numbers_have_three_digits_that_count(benchmarks, value, text):
    assert benchmarks.wording.number(value) == text


def test_the_profile_in_the_docs_is_the_stored_one():
    stored = json.loads((FOLDER / "results" / "training_profile.json").read_text(encoding="utf-8"))["figures"]["shares"]
    page = " ".join((FOLDER.parent / "docs" / "training.md").read_text(encoding="utf-8").split())
    told = re.search(r"paper-shaped pairs\): (\d+) % .*?, (\d+) % .*?, (\d+) % softmax, (\d+) %", page)
    assert told and [int(share) for share in told.groups()] == [round(100 * share) for share in stored.values()]
    assert f"would be {1 / next(iter(stored.values())):.1f} times as fast" in page
