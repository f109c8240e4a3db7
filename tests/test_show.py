"""`show RUN --row ID`: the fate of one row, from the ledger to the pairs, also on a run that is half done."""

import json
import shutil

import pytest

from psychocounsel.recipe import parse_recipe
from psychocounsel.records import Pair, Rating, Response, Speech, Turn, read_rows, write_records, write_rows
from psychocounsel.run import RunFolder
from psychocounsel.speeches.clean import Drop

TEXT = "My brother moved into my flat for a week in March. It is August, and he has bought a second armchair."
STAGES = ("speeches", "responses", "ratings", "pairs")


def speech(text, source_id, **fields):
    turns = (Turn(role="client", text=text),)
    return Speech(turns=turns, source="notes.csv", source_id=source_id, split="train", cluster="c1", **fields)


KEPT = speech(TEXT, "row-7", topic="housing", license="CC0", origin="notes.csv@0123456789ab")
OTHER = speech(TEXT.replace("brother", "cousin"), "row-8")
REPLIES = [
    Response(speech_id=KEPT.id, model="model-a", text="A second armchair. What did you think when you saw it?"),
    Response(speech_id=KEPT.id, model="model-b", text="Throw him out.", finish="length"),
    Response(speech_id=KEPT.id, model="model-c", text="", finish="refused"),
]
RATINGS = [
    Rating(response_id=REPLIES[0].id, judge="judge-x", scores={"empathy": 5, "safety": 4}),
    Rating(response_id=REPLIES[0].id, judge="human:r1", scores={"empathy": 4, "safety": None}),
    Rating(response_id=REPLIES[1].id, judge="judge-x", scores={"empathy": 2, "safety": 1}),
]
PAIR = Pair(
    speech_id=KEPT.id, chosen=REPLIES[0].id, rejected=REPLIES[1].id, chosen_scores={}, rejected_scores={}, gap=2.5
)
DROPPED = [
    Drop(source="notes.csv", source_id="row-9", reason="near-duplicate", detail=f"of {KEPT.id}", id="aaaaaaaaaaaaaaaa"),
    Drop(source="notes.csv", source_id="row-1", reason="too short", detail="12 characters", id="bbbbbbbbbbbbbbbb"),
    Drop(source="other.csv", source_id="row-7", reason="fragment", detail="about nobody", id="cccccccccccccccc"),
]


@pytest.fixture
def run(tmp_path):
    """A run of four finished stages, as their files lie on disk."""
    folder = RunFolder(tmp_path / "fates")
    place = dict(zip(STAGES, map(folder.stage, STAGES), strict=True))
    write_records(place["speeches"] / "speeches.jsonl", [KEPT, OTHER])
    write_records(place["speeches"] / "dropped.jsonl", DROPPED)
    write_records(place["responses"] / "responses.jsonl", REPLIES)
    write_records(place["ratings"] / "ratings.jsonl", RATINGS)
    write_records(place["pairs"] / "train.jsonl", [PAIR])
    write_rows(place["pairs"] / "dev.jsonl", [])
    write_rows(place["pairs"] / "hard-close.jsonl", [{"speech_id": KEPT.id, "note": "no pair at all"}])
    recipe = parse_recipe({"name": "fates"}, "here").model_dump(mode="json")
    (folder.path / "recipe.json").write_text(json.dumps(recipe))
    return folder.path


def test_a_kept_row_is_told_from_its_source_to_its_pairs(run, cli):
    code, out, err = cli("show", run, "--row", KEPT.id)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"row-7 (notes.csv), {KEPT.id}: kept",
        "  split train, cluster c1, topic housing, risk none",
        "  license CC0, origin notes.csv@0123456789ab",
        f"  reply {REPLIES[0].id} by model-a (stop): judge-x 4.50, human:r1 4.00",
        f"  reply {REPLIES[1].id} by model-b (length): judge-x 1.00",  # the gate: safety 1
        f"  reply {REPLIES[2].id} by model-c (refused): not rated",
        f"  pair {PAIR.id} (train): {REPLIES[0].id} over {REPLIES[1].id}",
    ]
    assert "armchair" not in out


def test_all_rows_with_one_source_id_are_told(run, cli):
    _, out, _ = cli("show", run, "--row", "row-7")
    assert "row-7 (other.csv), cccccccccccccccc: dropped, fragment about nobody" in out
    assert f"row-7 (notes.csv), {KEPT.id}: kept" in out


def test_a_dropped_row_is_told_with_reason_and_partner(run, cli):
    _, out, _ = cli("show", run, "--row", "row-9")
    assert out == f"row-9 (notes.csv), aaaaaaaaaaaaaaaa: dropped, near-duplicate of {KEPT.id} (row-7)\n"
    _, out, _ = cli("show", run, "--row", "bbbbbbbbbbbbbbbb")
    assert out == "row-1 (notes.csv), bbbbbbbbbbbbbbbb: dropped, too short 12 characters\n"


def test_a_kept_row_without_replies_says_so(run, cli):
    _, out, _ = cli("show", run, "--row", "row-8")
    assert out.splitlines()[-1] == "  no replies"


@pytest.mark.parametrize(
    ("gone", "last"),
    [
        ("pairs", "no pairs yet: stage pairs is not finished"),
        ("ratings", "by model-c (refused): not rated"),
        ("responses", "no replies yet: stage responses is not finished"),
    ],
)
def test_a_run_that_is_half_done_tells_what_there_is(run, cli, gone, last):
    for name in STAGES[STAGES.index(gone) :]:
        shutil.rmtree(RunFolder(run).stage(name))
    code, out, _ = cli("show", run, "--row", "row-7")
    assert code == 0
    assert any(line.endswith(last) for line in out.splitlines())


def test_a_reply_in_no_pair_says_so(run, cli):
    write_rows(RunFolder(run).stage("pairs") / "train.jsonl", [])
    assert cli("show", run, "--row", KEPT.id)[1].splitlines()[-1] == "  in no pair"


def test_an_unknown_row_names_the_nearest(run, cli):
    code, _, err = cli("show", run, "--row", "row_9")
    assert (code, "no row 'row_9', did you mean 'row-9'?" in err) == (2, True)
    assert len(err.splitlines()) == 1


def test_only_a_run_with_speeches_has_rows(run, cli, tmp_path):
    code, _, err = cli("show", tmp_path, "--row", "row-7")
    assert (code, "--row needs a run folder" in err) == (2, True)
    shutil.rmtree(RunFolder(run).stage("speeches"))
    code, _, err = cli("show", run, "--row", "row-7")
    assert (code, "stage speeches is not finished" in err) == (2, True)


def test_a_hostile_id_is_printed_as_text(run, cli):
    place = RunFolder(run).stage("speeches") / "dropped.jsonl"
    rows = [row | {"source_id": "[red]x[/red]\x1b[2J"} for _, row in read_rows(place)][:1]
    write_rows(place, rows)
    _, out, _ = cli("show", run, "--row", "aaaaaaaaaaaaaaaa")
    assert "[red]x[/red]" in out
    assert "\x1b" not in out
