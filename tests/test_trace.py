"""Where a pair comes from, shown to people and to programs, whatever its texts try."""

import json
import shutil

import pytest
from tiny_run import use_judge_module, write_recipe

from psychocounsel.records import Pair, Rating, Response, Speech, read_records
from psychocounsel.run import RunFolder
from psychocounsel.trace import trace, visible


@pytest.fixture
def pair(dataset):
    return read_records(RunFolder(dataset).stage("pairs") / "train.jsonl", Pair)[0]


def records(run, stage, kind):
    return {record.id: record for record in read_records(RunFolder(run).stage(stage) / f"{stage}.jsonl", kind)}


def test_a_pair_is_traced_to_its_source_its_replies_every_rating_and_every_raw_answer(dataset, pair):
    found = trace(dataset, pair.id)
    assert (found["kind"], found["id"]) == ("pair", pair.id)
    speech = records(dataset, "speeches", Speech)[pair.speech_id]
    assert found["speech"]["source_id"] == speech.source_id
    assert found["speech"]["turns"] == [turn.model_dump() for turn in speech.turns]
    assert [row["id"] for row in found["responses"]] == [pair.chosen, pair.rejected]
    ratings = read_records(RunFolder(dataset).stage("ratings") / "ratings.jsonl", Rating)
    for response in found["responses"]:
        made = records(dataset, "responses", Response)[response["id"]]
        (call,) = response["calls"]
        assert (call["id"], call["model"], json.loads(call["raw"])["text"].strip()) == (
            made.call_id, made.model, made.text
        )  # fmt: skip
        assert call["request"]["messages"][-1]["text"] == speech.text
        own = {rating.judge: rating for rating in ratings if rating.response_id == made.id}
        assert {row["judge"]: row["scores"] for row in response["ratings"]} == {k: r.scores for k, r in own.items()}
        raw = {row["judge"]: row["calls"] for row in response["ratings"]}
        assert raw["embedded"] == []
        assert '\\"safety\\"' in raw["rubric-rater"][0]["raw"]
    (shown,) = found["pairs"]
    assert (shown["set"], shown["gap"]) == ("train", pair.gap)
    assert found["rule"]["rule"] == "gate"
    overall = [response["overall"] for response in found["responses"]]
    assert overall[0] - overall[1] == pytest.approx(pair.gap, abs=2e-6)


def test_the_beginning_of_an_id_is_enough(dataset, pair):
    assert trace(dataset, f" {pair.id[:10].upper()}") == trace(dataset, pair.id)


def test_a_response_comes_with_the_pairs_it_stands_in(dataset, pair):
    found = trace(dataset, pair.chosen)
    assert found["kind"] == "response"
    assert [row["id"] for row in found["responses"]] == [pair.chosen]
    assert pair.id in {row["id"] for row in found["pairs"]}
    assert all(pair.chosen in (row["chosen"], row["rejected"]) for row in found["pairs"])


def test_a_speech_comes_with_all_its_responses_and_pairs(dataset, pair):
    found = trace(dataset, pair.speech_id)
    assert found["kind"] == "speech"
    own = [r for r in records(dataset, "responses", Response).values() if r.speech_id == pair.speech_id]
    assert {row["id"] for row in found["responses"]} == {response.id for response in own}
    assert pair.id in {row["id"] for row in found["pairs"]}


def test_an_arena_speech_has_no_replies_and_is_traced_all_the_same(dataset):
    speech = next(s for s in records(dataset, "speeches", Speech).values() if s.split == "arena")
    found = trace(dataset, speech.id)
    assert (found["responses"], found["pairs"], found["speech"]["split"]) == ([], [], "arena")


def test_a_pair_in_two_sets_is_one_pair_shown_with_both(dataset):
    place = RunFolder(dataset).stage("pairs")
    in_test = {pair.id for pair in read_records(place / "test.jsonl", Pair)}
    both = [pair.id for pair in read_records(place / "test-length-matched.jsonl", Pair) if pair.id in in_test]
    if not both:
        pytest.skip("no pair of this run is in two sets")
    assert [row["set"] for row in trace(dataset, both[0])["pairs"]] == ["test", "test-length-matched"]


def test_people_get_every_part_in_the_order_of_its_making(dataset, pair, cli):
    code, out, err = cli("trace", pair.id[:8], "--run", dataset)
    assert (code, err) == (0, "")
    marks = [f"Speech {pair.speech_id}", "source: embedded", "license: Apache-2.0", f"Chosen {pair.chosen}", "model: ",
             "raw answer: ", f"Rating of chosen {pair.chosen} by", "safety: ", "prompt: ", f"Rejected {pair.rejected}",
             f"Pair {pair.id} in train", f"gap: {pair.gap:g} (", "rule: gate, a gap of 1 or more",
             "of 2 judge(s) put the chosen reply first"]  # fmt: skip
    places = [out.find(mark) for mark in marks]
    assert -1 not in places, marks[places.index(-1)]
    assert places == sorted(places)


def test_programs_get_one_json_object(dataset, pair, cli):
    code, out, err = cli("trace", pair.id, "--run", dataset, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == trace(dataset, pair.id)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("abc", "'abc': not an id; write at least 6 of its hexadecimal digits"),
        ("[red]xyz", "'[red]xyz': not an id"),
        ("0" * 17, "not an id"),
        ("ffffffffffffffff", "no pair, response or speech has an id that begins with ffffffffffffffff"),
    ],
)
def test_an_id_that_leads_nowhere_is_one_line(dataset, cli, wanted, says):
    code, out, err = cli("trace", wanted, "--run", dataset)
    assert (code, out, len(err.splitlines()), says in err) == (2, "", 1, True), err


def test_an_ambiguous_id_lists_what_begins_so(dataset, tmp_path, cli):
    run = shutil.copytree(dataset, tmp_path / "run")
    path = RunFolder(run).stage("pairs") / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()[:2]]
    rows[0]["id"], rows[1]["id"] = "abcdef0000000001", "abcdef0000000002"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = cli("trace", "abcdef", "--run", run)
    assert code == 2
    assert "abcdef: 2 ids begin so: pair abcdef0000000001, pair abcdef0000000002; write more digits" in err


def test_a_folder_that_is_no_run_is_one_line(tmp_path, cli):
    code, _, err = cli("trace", "abcdef", "--run", tmp_path)
    assert (code, "not a run folder" in err, len(err.splitlines())) == (2, True, 1)


def test_what_a_damaged_run_has_left_is_shown(dataset, tmp_path, pair, cli):
    run = shutil.copytree(dataset, tmp_path / "run")
    (run / "calls.sqlite").unlink()
    (RunFolder(run).stage("ratings") / "ratings.jsonl").unlink()
    code, out, _ = cli("trace", pair.id, "--run", run)
    assert (code, "not in calls.sqlite" in out) == (0, True)
    (RunFolder(run).stage("pairs") / "train.jsonl").write_text(f'{{"id": "{pair.id}", "cut')
    code, _, err = cli("trace", pair.id, "--run", run)
    assert (code, "train.jsonl:1: not a JSON object" in err) == (2, True)


JUDGE = """
import json
from psychocounsel.models.scripted import Scripted
IDS = ("empathy", "relevance", "clarity", "safety", "exploration", "autonomy", "staging")


def answer(request):
    score = 5 if "warm" in request.messages[-1]["content"] else 2
    return json.dumps({name: {"score": score, "reason": "[/bold] \\x1b[2J [red]"} for name in IDS})


def judge():
    return Scripted(answer, name="[link=file:///etc]judge")
"""


def test_markup_and_control_codes_are_shown_and_not_obeyed(tmp_path, monkeypatch, cli):
    use_judge_module(tmp_path, monkeypatch, JUDGE)
    text = "[bold]I count[/bold] the days [/] until [link=file:///etc/passwd]Friday[/link] and then I count again. " * 2
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "[red]1", "text": text}) + "\n")
    replies = [
        {"source_id": "[red]1", "model": "[b]m", "text": f"{word} [/] \x1b[31mreply \u202e end"}
        for word in ("warm", "no")
    ]
    replies[1]["model"] = "other"
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replies))
    recipe = write_recipe(tmp_path, f"""
name = "hostile"
[speeches]
sources = [{{ load = "{tmp_path}/in.jsonl", id = "id", license = "[red]MIT" }}]
topics = "none"
content = false
dev = 0
test = 0
[speeches.privacy]
mode = "off"
[responses]
models = ["recorded:{tmp_path}/replies.jsonl"]
[ratings]
judges = ["desk.judge:judge"]
""")  # fmt: skip
    code, _, err = cli("run", recipe, "--runs", tmp_path, "--to", "pairs")
    assert code == 0, err
    pair = read_records(tmp_path / "hostile" / "4-pairs" / "train.jsonl", Pair)[0]
    code, out, err = cli("trace", pair.id, "--run", tmp_path / "hostile")
    assert (code, err) == (0, "")
    flat = " ".join(out.split())
    for words in ("[bold]I count[/bold]", "[link=file:///etc/passwd]Friday[/link]", "[red]MIT", "model: [b]m"):
        assert words in flat, words
    assert "by [link=file:///etc]judge" in flat
    assert "\x1b" not in out and "\u202e" not in out
    assert "␛[31m" in out


def test_control_characters_become_signs_and_line_breaks_stay():
    assert visible("a\x00\x1b[0m\r\n\tb\x7f\x9b\u202e") == "a␀␛[0m␍\n\tb␡\\u009b\\u202e"
