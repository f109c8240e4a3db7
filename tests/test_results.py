"""What a finished run holds: results that add up, models that load anywhere, nothing of the machine."""

import shutil
from collections import Counter

import pytest
from tiny_run import DONE_LINES, RUN_STAGES, read_json, write_recipe

from psychocounsel.pairs import HARD_SETS
from psychocounsel.records import Pair, Rating, Response, Speech, read_records, read_rows
from psychocounsel.run import RunFolder

REQUIRED = {
    "reward.accuracy", "reward.length_baseline", "winrate.offline_vs_base", "winrate.online_vs_base",
    "winrate.online_vs_offline", "online.best_round", "online.rounds",
    "judge.pair_agreement", "pairs.train", "pairs.test", "seconds.total",
}  # fmt: skip


def test_results_are_complete_figures(finished):
    results = read_json(finished / "results.json")
    assert results["schema"] == "psychocounsel-results/1"
    assert results["name"] == "tiny"
    assert len(results["dependent"]) == 1
    metrics = results["metrics"]
    assert set(metrics) >= REQUIRED
    for key, figure in metrics.items():
        assert set(figure) == {"value", "low", "high", "n", "unit"}, key
        assert isinstance(figure["n"], int)
        assert figure["unit"]
        if figure["low"] is not None:
            assert figure["low"] <= figure["value"] <= figure["high"], key
            if figure["unit"].startswith("share"):
                assert figure["low"] >= 0 and figure["high"] <= 1, key
    for key in REQUIRED - {"online.best_round", "online.rounds", "pairs.train", "pairs.test", "seconds.total"}:
        assert metrics[key]["low"] is not None, key
    assert metrics["winrate.online_vs_base"]["n"] == 12
    assert metrics["reward.accuracy"]["n"] == metrics["pairs.test"]["value"] > 0
    assert metrics["ratings.mean_kappa"]["value"] is None  # one judge agrees with nobody


def test_results_follow_the_schema_that_comes_along(finished, request):
    from jsonschema import Draft202012Validator, ValidationError

    from psychocounsel.evaluate.results import schema

    shipped = read_json(request.config.rootpath / "docs" / "results.schema.json")
    assert shipped == schema(), "write json.dumps(schema(), indent=1) into docs/results.schema.json"
    validator = Draft202012Validator(shipped)
    results = read_json(finished / "results.json")
    validator.validate(results)
    for wrong in ({"schema": "psychocounsel-results/9"}, {"metrics": {"a": {"value": "1", "n": 1, "unit": "x"}}}):
        with pytest.raises(ValidationError):
            validator.validate(results | wrong)


def test_a_run_passes_the_gate_against_itself(finished, tmp_path, cli):
    path = tmp_path / "gate.toml"
    path.write_text(
        'allow_dependent = true\n[[rule]]\nmetric = "winrate.*"\nmargin = 0.02\n'
        '[[rule]]\nmetric = "reward.accuracy"\nmargin = 0.01\n',
        encoding="utf-8",
    )
    code, out, _ = cli("eval", "gate", path, "--candidate", finished, "--baseline", finished)
    assert code == 0 and "Gate passed" in out and "DEPENDENT" in out
    path.write_text(path.read_text(encoding="utf-8").replace("true", "false"), encoding="utf-8")
    code, out, _ = cli("eval", "gate", path, "--candidate", finished, "--baseline", finished)
    assert code == 1 and "judges are not independent" in out


def test_results_add_up_to_what_the_stages_left(finished):
    folder, metrics = RunFolder(finished), read_json(finished / "results.json")["metrics"]
    lines = len((folder.stage("pairs") / "train.jsonl").read_text().splitlines())
    assert metrics["pairs.train"]["value"] == lines == folder.manifest("pairs").counts["train"]
    seconds = sum(folder.manifest(name).seconds for name in RUN_STAGES)
    assert metrics["seconds.total"]["value"] == pytest.approx(seconds, abs=1e-3)


def test_pairs_and_what_was_left_out_add_up_to_all_candidates(finished):
    folder = RunFolder(finished)
    splits = {s.id: s.split for s in read_records(folder.stage("speeches") / "speeches.jsonl", Speech)}
    responses = read_records(folder.stage("responses") / "responses.jsonl", Response)
    rated = {rating.response_id for rating in read_records(folder.stage("ratings") / "ratings.jsonl", Rating)}
    replies = Counter(response.speech_id for response in responses if response.id in rated)
    expected = Counter()
    for speech_id, n in replies.items():
        expected[splits[speech_id]] += 1 if splits[speech_id] == "test" else n * (n - 1) // 2
    counts = folder.manifest("pairs").counts
    for split in ("train", "dev", "test"):
        left_out = sum(n for why, n in counts["left_out"].items() if why.startswith(f"{split}: "))
        assert counts[split] + left_out == expected[split]


def test_dropped_speeches_add_up_by_reason(tmp_path, cli):
    long = "I have been sleeping badly since the move and I do not know whom to ask about it in this new town. "
    rows = [long + "It is week three.", long + "It is week three.", "Too short.", long * 30, ""]
    rows += ["Seit dem Umzug schlafe ich schlecht und weiß nicht, wen ich in der neuen Stadt fragen könnte. " * 2]
    (tmp_path / "own.csv").write_text(
        "text\n" + "".join(f'"{row}"\n' for row in rows if row) + '" "\n', encoding="utf-8"
    )
    text = f'name = "own"\n[speeches]\nsources = [{{ load = "{tmp_path / "own.csv"}" }}]\n'
    code, _, _ = cli("speeches", write_recipe(tmp_path, text), "--runs", tmp_path)
    assert code == 0
    folder = RunFolder(tmp_path / "own")
    counts = folder.manifest("speeches").counts
    assert counts["read"] == len(rows) == counts["kept"] + sum(counts["dropped"].values())
    assert counts["kept"] == 1
    assert len(counts["dropped"]) >= 4
    dropped = (folder.stage("speeches") / "dropped.jsonl").read_text().splitlines()
    assert len(dropped) == sum(counts["dropped"].values())


@pytest.mark.parametrize(
    "place", ["5-supervised/model", "5-supervised/embedded", "7-policy/offline/model", "7-policy/online-1/model"]
)
def test_language_models_load_anywhere(finished, place):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(finished / place)
    tokenizer = AutoTokenizer.from_pretrained(finished / place)
    assert model.config.model_type == "llama"
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 600
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "It is late."}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert model(**ids).logits.isfinite().all()


def test_the_reward_model_loads_anywhere(finished):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(finished / "6-reward" / "model")
    assert model.config.num_labels == 1
    assert model.config.pad_token_id is not None


def test_no_file_of_a_run_names_the_machine_it_was_made_on(finished):
    for file in finished.rglob("*"):
        if file.is_file() and file.suffix in (".json", ".jsonl", ".html", ".jinja"):
            assert str(finished.parents[1]) not in file.read_text(encoding="utf-8"), file


def test_a_finished_run_does_not_depend_on_its_place(finished, tmp_path, cli):
    moved = RunFolder(tmp_path / "elsewhere" / "tiny")
    shutil.copytree(finished, moved.path)
    code, _, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path / "elsewhere")
    assert (code, err.splitlines()) == (0, DONE_LINES)


def test_hard_pairs_are_measured_where_there_are_any(finished):
    place = RunFolder(finished).stage("pairs")
    metrics = read_json(finished / "results.json")["metrics"]
    scores = {row["response_id"]: row["score"] for _, row in read_rows(finished / "8-evaluate" / "reward-scores.jsonl")}
    hard = {name: read_records(place / f"test-{name}.jsonl", Pair) for name in HARD_SETS}
    assert hard["near-ties"] and hard["length-matched"], "the tiny run has some of both"
    for name, pairs in hard.items():
        figure = metrics.get(f"reward.accuracy_{name.replace('-', '_')}")
        assert (figure is None) == (not pairs)
        if figure:
            credit = [(1 + (scores[p.chosen] > scores[p.rejected]) - (scores[p.chosen] < scores[p.rejected])) / 2
                      for p in pairs]  # fmt: skip
            assert figure["value"] == pytest.approx(sum(credit) / len(credit), abs=1e-4)
            assert figure["n"] == len(pairs)
    assert metrics["reward.length_baseline_length_matched"]["n"] == len(hard["length-matched"])


def test_the_audit_counts_every_set_of_pairs(finished):
    place = RunFolder(finished).stage("pairs")
    sets = read_json(place / "audit.json")["sets"]
    assert {name: row["pairs"] for name, row in sets.items()} == {
        file.stem.removeprefix("test-"): len(file.read_text().splitlines()) for file in place.glob("*.jsonl")
    }
    assert sets["train"]["clusters"] <= sets["train"]["speeches"] <= sets["train"]["pairs"]
