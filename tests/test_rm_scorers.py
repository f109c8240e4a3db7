"""Who `eval rm` measures and on what: models apart from each other, servers, faulty models; pairs nobody trained on."""

import csv
import json
import shutil

import pytest
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES
from local_server import serving
from safetensors.torch import load_file, save_file
from test_rm import made, write
from tiny_reward import make_reward_model
from tiny_run import read_json

from psychocounsel.errors import UserError
from psychocounsel.evals.pairs import read_pairs
from psychocounsel.evals.rm import apart_from, evaluate_rm, limited, stamps_of, unseen
from psychocounsel.evals.scorers import Named
from psychocounsel.evaluate.pairs.labelled import LabelledPairs
from psychocounsel.models import calls
from psychocounsel.preference import COLUMNS, RATED
from psychocounsel.records import Turn

QUICK = {"probes": "none", "bootstrap": 50, "max_length": 256}


@pytest.fixture(scope="module")
def warm(tmp_path_factory, model_folder):
    return make_reward_model(tmp_path_factory.mktemp("scorers") / "warm", model_folder)


def changed(folder, to, change):
    """A copy of a reward model whose head is changed."""
    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    weights["score.weight"] = change(weights["score.weight"])
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.fixture
def pairs(tmp_path):
    rows = zip(CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES, strict=False)
    return write(tmp_path / "pairs.jsonl", [{"speech": s, "chosen": g, "rejected": p} for s, g, p in rows])


def measured(folder):
    return {name: row["value"] for name, row in read_json(folder / "results.json")["metrics"].items()}


def test_two_models_have_each_their_own_figures_and_one_without_numbers_has_none(tmp_path, warm, pairs):
    cold = changed(warm, tmp_path / "cold", lambda head: -head)
    broken = changed(warm, tmp_path / "broken", lambda head: head * float("nan"))
    models = [str(warm), str(cold), str(broken)]
    evaluate_rm(models, (), str(pairs), tmp_path / "out", **{**QUICK, "max_length": 24})
    found = measured(tmp_path / "out")
    assert (found["rm.warm.accuracy"], found["rm.cold.accuracy"]) == (1.0, 0.0)
    assert found["rm.broken.accuracy"] is None and found["rm.broken.missing"] == 3
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "6 without a number" in page and "were cut to the longest length" in page


def test_a_served_model_has_the_figures_of_its_folder_and_is_asked_once(tmp_path, warm, pairs, monkeypatch):
    from test_reward_servers import Backend

    monkeypatch.setattr(calls, "FIRST_WAIT_S", 0.01)
    monkeypatch.delenv("PSYCHOCOUNSEL_API_KEY", raising=False)
    evaluate_rm([str(warm)], (), str(pairs), tmp_path / "here", **QUICK)
    with serving(Backend(str(warm))) as server:
        place = [f"{server.root}/classify#{warm}"]
        evaluate_rm(place, (), str(pairs), tmp_path / "there", **QUICK)
        rows = server.answer.rows
        evaluate_rm(place, (), str(pairs), tmp_path / "there", **QUICK)
        assert server.answer.rows == rows + 2  # the example that tells whether the server is fit, and no pair again
    here, there = measured(tmp_path / "here"), measured(tmp_path / "there")
    assert here.keys() == there.keys()
    assert here == {name: pytest.approx(value, abs=1e-3) for name, value in there.items()}


def test_what_a_scorer_was_trained_on_is_left_out_and_counted(finished):
    speeches = [json.loads(line) for line in (finished / "1-speeches" / "speeches.jsonl").read_text().splitlines()]
    trained = next(one for one in speeches if one["split"] == "train")["turns"]
    other = (Turn(role="client", text="Since we moved house our cat hides, and my brother laughs about it."),)
    known, new = (
        pair.model_copy(update={"turns": tuple(turns)})
        for pair, turns in zip(made(2), ([Turn.model_validate(turn) for turn in trained], other), strict=True)
    )
    model = str(finished / "6-reward" / "model")
    found = unseen(LabelledPairs("made", [known, new]), "elsewhere", [model], [])
    assert found.pairs == [new] and found.counts["left out: nearly a training speech"] == 1
    assert unseen(LabelledPairs("made", [known]), str(finished), [model], []).pairs == [known]  # its own test pairs
    with pytest.raises(UserError, match="elsewhere: a scorer was trained on the speech of every pair"):
        unseen(LabelledPairs("made", [known]), "elsewhere", [], [str(finished)])


def test_validation_pairs_near_to_the_pairs_and_pairs_over_the_limit_are_left_out():
    pairs = [pair.model_copy(update={"turns": (Turn(role="client", text=f"{line} {tail}"),)})
             for pair, line in zip(made(3), CLIENT_LINES, strict=False) for tail in ("", "Really.")][:6]  # fmt: skip
    one, rest = LabelledPairs("one", pairs[:1]), LabelledPairs("rest", pairs[1:], sets={"hard": pairs[1:]})
    held = apart_from(rest, one)
    assert held.pairs == pairs[2:] and held.counts["left out: nearly a speech of the pairs"] == 1
    few = limited(rest, 2, seed=0)
    assert len(few.pairs) == 2 and few.counts["left out: over the limit"] == 3
    assert {pair.turns for pair in few.sets["hard"]} == {pair.turns for pair in few.pairs}
    assert limited(rest, 2, seed=0).pairs == limited(LabelledPairs("back", pairs[:0:-1]), 2, seed=0).pairs


@pytest.mark.parametrize(
    ("labellers", "stamped"),
    [(["openai:gpt-4o"], True), (["human:rater-a", "anthropic:claude-sonnet-4-0"], False), ([], False)],
)
def test_a_judge_of_the_family_that_labelled_is_stamped(labellers, stamped):
    class Judge:
        name, family = "openai:gpt-4.1", "openai"

    scorers = [Named("judge", Judge.name, lambda asked: [], False, "", Judge())]
    found = stamps_of(scorers, labellers, None)
    assert found == ([f"{Judge.name} and labeller openai:gpt-4o are of one family (openai)"] if stamped else [])


def released(number, model, score, worse):
    row = {"ID": f"q{number}", "prefID": number, "question": CLIENT_LINES[number],
           "chosen": f"I hear you, part {score}.", "rejected": f"Well, part {worse}.", "chosen_model": model,
           "rejected_model": f"under {model}"}  # fmt: skip
    row |= {f"chosen_{name}_rating": score for name in RATED}
    row |= {f"rejected_{name}_rating": worse for name in RATED}
    return {column: row[column] for column in COLUMNS}


def test_a_preference_set_gives_pairs_choices_and_the_split_it_has(tmp_path):
    rows = [released(k, f"m{score}", score, worse) for k in range(3) for score, worse in ((5, 2), (4, 3))]
    found = read_pairs(str(write(tmp_path / "test.jsonl", rows)))
    assert len(found.pairs) == 6 and len(found.choices) == 3 and found.labellers == ()
    assert all(choice.replies[choice.best] == "I hear you, part 5." for choice in found.choices)
    assert all(len(choice.replies) == 4 for choice in found.choices)
    assert {pair.gap for pair in found.pairs} == {1.0, 3.0} and {pair.cluster for pair in found.pairs} != {""}
    plain = read_pairs(str(write(tmp_path / "own.jsonl", rows)))
    assert plain.counts["there is no split test: of split train"] == 6
    same = read_pairs(str(write(tmp_path / "test-same.jsonl", [released(0, "m", 4, 2), released(0, "n", 4, 2)])))
    assert len(same.choices) == 1  # both models said the same words: one reply, and it is the best
    equal = [released(0, "m", 4, 2), released(0, "n", 4, 1) | {"chosen": "Another good one."}]
    tied = read_pairs(str(write(tmp_path / "test-tied.jsonl", equal)))
    assert tied.choices == [] and tied.counts["speeches without one best reply"] == 1


def test_a_table_of_any_kind_is_read_with_its_groups_and_numbers(tmp_path):
    path = tmp_path / "pairs.csv"
    hostile = "<script>alert(1)</script> {{ 7 * 7 }} \u202e Ünï"
    rows = [
        {
            "speech": line,
            "chosen": f"{hostile} {k}",
            "rejected": "x" * 200_000,
            "group": f"g{k % 2}",
            "gap": "1.5",
            "votes": "",
        }
        for k, line in enumerate(CLIENT_LINES)
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    found = read_pairs(str(path))
    assert {pair.cluster for pair in found.pairs} == {"g0", "g1"}
    assert {(pair.gap, pair.votes) for pair in found.pairs} == {(1.5, None)}
    evaluate_rm((), ["embedded"], str(path), path.parent / "out", **QUICK)
    page = (path.parent / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and hostile not in page
    path.write_text("speech,chosen,rejected,gap\nHello there.,one,two,nan\n", encoding="utf-8")
    with pytest.raises(UserError, match="row 1: 'gap' is no number from 0 to 4"):
        read_pairs(str(path))
