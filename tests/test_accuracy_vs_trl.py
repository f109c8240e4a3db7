"""Our training and TRL's on the same batches, step by step; and the arithmetic of the accuracy benchmark."""

import importlib
import json
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES, TINY

from psychocounsel.models.weights import load_scorer, load_tokenizer
from psychocounsel.ratings.rated import Rated
from psychocounsel.recipe import PolicyTable, RewardTable
from psychocounsel.supervised import build_llama
from psychocounsel.training.checkpoints import save_model
from psychocounsel.training.examples import Example

FOLDER = Path(__file__).parent.parent / "benchmarks"
SETTINGS = {"lr": 5e-3, "epochs": 2, "batch": 6, "precision": "fp32", "max_length": 256}
TABLES = {"reward": RewardTable(**SETTINGS, weight_decay=0.05), "dpo": PolicyTable(**SETTINGS)}
STEPS, NEAR = 24, 1e-4
pytestmark = [
    # TRL 1.16 reads this property under its old name
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def benchmark():
    """The modules by name; benchmarks import each other as scripts of one folder do."""
    sys.path.insert(0, str(FOLDER))
    yield SimpleNamespace(**{n: importlib.import_module(f"accuracy_{n}") for n in ("data", "sides", "vs_trl")})
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def examples():
    """Eight prompts with six replies each; nine pairs of every prompt, so that steps split prompts."""
    pairs = list(product(range(3), range(3, 6)))
    return [
        Example(f"{place}", [{"role": "user", "content": line}], [*GOOD_REPLIES, *PLAIN_REPLIES], pairs, [1.0] * 9)
        for place, line in enumerate(CLIENT_LINES)
    ]


@pytest.fixture
def starts(tokenizer, tmp_path):
    """A language model and a reward model, as both sides load them."""
    lm, rm = tmp_path / "lm", tmp_path / "rm"
    save_model(lm, build_llama(tokenizer, TINY, 3), tokenizer)
    words = load_tokenizer(str(lm))
    save_model(rm, load_scorer(str(lm), words.pad_token_id, len(words), 4), words)
    return {"dpo": lm, "reward": rm}


def largest(one, two):
    return max(abs(a - b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("task", ["reward", "dpo"])
def test_trl_with_our_batches_has_our_loss_in_every_step_and_ends_with_our_model(
    benchmark, examples, starts, tmp_path, task
):
    sides, table, start = benchmark.sides, TABLES[task], starts[task]
    model = sides.ours(start, examples, table, 5, tmp_path / "ours")
    lines = (tmp_path / "ours" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    same, same_losses = sides.theirs(start, examples, table, 5, tmp_path / "same", our_order=True)
    _, other_losses = sides.theirs(start, examples, table, 5, tmp_path / "other")
    assert len(losses) == len(same_losses) == len(other_losses) == STEPS
    assert losses[-1] < 0.7 * losses[0]  # they did learn
    assert largest(losses, same_losses) < NEAR
    assert largest(losses, other_losses) > 100 * NEAR  # another order is another training
    read = sides.log_probabilities if task == "dpo" else sides.reward_scores
    found, expected, before = (sides.margins(read(place, examples), examples) for place in (model, same, start))
    flat = benchmark.vs_trl.flat
    assert largest(flat(found), flat(expected)) < 0.01
    assert largest(flat(found), flat(before)) > 0.1


def rated(post, scores):
    return [Rated("", post, f"m{i}", f"post {post}", f"reply {i}", (s,) * 7) for i, s in enumerate(scores)]


def test_pairs_need_the_gap_and_the_better_reply_is_chosen(benchmark):
    made = benchmark.data.example("a", rated("a", [2.0, 2.4, 3.0]))
    assert made.pairs == [(2, 0), (2, 1)]
    assert made.gaps == pytest.approx([1.0, 0.6])


def test_a_split_holds_out_whole_posts_and_trains_on_full_batches(benchmark):
    rows = [row for post in "abcdefghi" for row in rated(post, [1.0, 2.0, 3.0])]
    found, other = (benchmark.data.split(rows, seed, 4) for seed in (0, 1))
    held = {one.id for one in found.held_out}
    assert len(held) == 3
    assert held.isdisjoint(one.id for one in found.train)
    assert held != {one.id for one in other.held_out}
    assert sum(len(one.pairs) for one in found.train) == 16  # of 18
    assert all(len(one.pairs) == len(one.gaps) > 0 for one in found.train)
    assert {speech.text for speech in found.speeches}.isdisjoint(f"post {post}" for post in held)
    assert {response.text for response in found.responses} == {"reply 0", "reply 1", "reply 2"}


def run_of(ours, trl, step=0.0):
    margins = {"ours": [ours], "trl": [trl], "trl_our_order": [ours], "longer": [[1.0] * len(ours)]}
    losses = {"ours": [0.7, 0.6], "trl": [0.7, 0.5], "trl_our_order": [0.7, 0.6 + step]}
    return {"margins": margins, "losses": losses, "facts": {}, "posts": ["a"], "seconds": 1.0}


def test_accuracy_counts_a_tie_half_and_the_loss_is_that_of_bradley_and_terry(benchmark):
    assert benchmark.vs_trl.accuracy([[1.0, -1.0], [0.0]]) == 0.5
    assert benchmark.vs_trl.loss([[0.0]]) == pytest.approx(0.693147, abs=1e-5)
    assert benchmark.vs_trl.loss([[-1000.0, 1000.0]]) == 500.0


def test_the_interval_over_seeds_is_students(benchmark):
    found = benchmark.vs_trl.over_seeds([0.0, 0.1, -0.1, 0.02, -0.02])
    assert (found["mean"], found["mean_size"]) == (0.0, 0.048)
    assert found["high"] == pytest.approx(2.776445 * 0.072111 / 5**0.5, abs=1e-4)
    assert found["low"] == -found["high"]


@pytest.mark.parametrize(
    ("runs", "met"),
    [
        ([([1.0, 1.0], [1.0, 1.0], 0.0)] * 3, True),
        ([([1.0, 1.0], [1.0, -1.0], 0.0), ([1.0, -1.0], [1.0, 1.0], 0.0)], False),  # interval fine, too far apart
        ([([1.0, 1.0], [1.0, -1.0], 0.0)] * 3, False),
        ([([1.0, 1.0], [1.0, 1.0], 0.0002)] * 3, False),  # another loss on the same batches
    ],
)
def test_the_goal_wants_equal_accuracy_and_equal_steps(benchmark, runs, met):
    assert benchmark.vs_trl.summed([run_of(*run) for run in runs])[1] is met


def test_finished_seeds_are_read_back_without_the_line_that_a_kill_cut(benchmark, tmp_path):
    file = tmp_path / "kept.jsonl"
    file.write_text('{"key": "a", "run": {"seconds": 1}}\n{"key": "b", "ru', encoding="utf-8")
    assert benchmark.vs_trl.kept_runs(file) == {"a": {"seconds": 1}}


def test_the_stored_result_holds_five_seeds_of_both_sets_and_tasks():
    stored = json.loads((FOLDER / "results" / "accuracy_vs_trl.json").read_text(encoding="utf-8"))
    assert set(stored) == {"date", "machine", "benchmark", "figures", "goal", "met"}
    assert set(stored["figures"]) == {f"{name}.{task}" for name in ("mentalchat", "embedded") for task in TABLES}
    assert all(figures["ours_less_trl"]["seeds"] == 5 for figures in stored["figures"].values())
