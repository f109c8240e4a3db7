"""The released schema: read into records and given back value for value; whatever contradicts itself is named."""

import asyncio
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psychocounsel.errors import UserError
from psychocounsel.models.chat import Request
from psychocounsel.models.recorded import open_recording
from psychocounsel.preference import COLUMNS, RATED, flat_row, read_preferences, write_preferences
from psychocounsel.principles import load_principles
from psychocounsel.recipe import Source
from psychocounsel.records import Pair, read_rows
from psychocounsel.speeches.sources import read_source

QUESTIONS = (
    "My daughter  moved out on Sunday,\nand I keep buying her bread. ",
    "At work they call me the calm one. At home I shout about spoons.",
)
REPLIES = {
    "model-a": ("Two plates, one person. What is the bread saying for you?", 5),
    "org/model-b": ("It is hard. What helps a little?", 4),
    "model-c": (" Buy less bread. ", 2),
    "model-d": ("", 1),
}


def row(number, question, chosen, rejected, better=None, worse=None, **changes):
    """A flat row; every rating of a side is the reply's own figure, the last one a point lower where it can be."""
    found = {
        "ID": f"q{number}",
        "prefID": number,
        "question": QUESTIONS[question],
        "chosen": REPLIES[chosen][0],
        "rejected": REPLIES[rejected][0],
        "chosen_model": chosen,
        "rejected_model": rejected,
    }
    for name in RATED:
        for side, model, given_score in (("chosen", chosen, better), ("rejected", rejected, worse)):
            score = given_score or REPLIES[model][1]
            found[f"{side}_{name}_rating"] = max(1, score - (name == "staging"))
    return found | changes


TRAIN = [
    row(0, 0, "model-a", "model-c"),
    row(1, 0, "model-a", "model-d"),
    row(2, 0, "org/model-b", "model-c"),
    row(3, 0, "model-a", "model-c", ID="q3"),
]
TEST = [row(0, 1, "org/model-b", "model-d", better=3)]


@pytest.fixture
def hub_layout(tmp_path, monkeypatch):
    """A folder as the hub has it: parquet files by split, and a card that says so."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()
    folder = tmp_path / "PsychoCounsel-Preference"
    (folder / "data").mkdir(parents=True)
    for split, rows in (("train", TRAIN), ("test", TEST)):
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    files = "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in ("train", "test"))
    card = f"---\nlicense: cc-by-nc-4.0\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def test_a_set_in_hub_layout_becomes_records(hub_layout):
    found = read_preferences(str(hub_layout))
    assert [(speech.text, speech.split, speech.source_id) for speech in found.speeches] == [
        (QUESTIONS[0], "train", "preference:q0"),
        (QUESTIONS[1], "test", "preference:q0:" + found.speeches[1].id),  # two questions under one ID stay apart
    ]
    assert {speech.license for speech in found.speeches} == {"cc-by-nc-4.0"}
    assert [len(found.responses), len(found.ratings), len(found.pairs)] == [6, 6, 5]
    assert {rating.judge for rating in found.ratings} == {"openai:gpt-4o"}
    assert found.pairs[0] == found.pairs[3]
    assert found.pairs[0].gap == 3.0
    assert found.pairs[0].chosen_scores == dict.fromkeys(RATED, 5) | {"staging": 4}


def test_the_rows_come_back_value_for_value_and_in_order(hub_layout, tmp_path):
    found = read_preferences(str(hub_layout))
    rows = found.rows()
    assert rows == {"train": TRAIN, "test": TEST}
    assert [list(one) for one in rows["train"]] == [list(one) for one in TRAIN]
    paths = write_preferences(found, tmp_path / "copy")
    assert [path.name for path in paths] == [
        "train-00000-of-00001.parquet", "test-00000-of-00001.parquet", "README.md",
    ]  # fmt: skip
    for split in ("train", "test"):
        name = f"data/{split}-00000-of-00001.parquet"
        assert (tmp_path / "copy" / name).read_bytes() == (hub_layout / name).read_bytes()
    again = read_preferences(str(tmp_path / "copy"))
    assert (again.rows(), again.pairs, again.ratings) == (rows, found.pairs, found.ratings)


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_single_file_is_one_split_by_its_name(tmp_path, ending):
    for name, split in (("train-0", "train"), ("test", "test"), ("mine", "train")):
        path = tmp_path / f"{name}.{ending}"
        save(path, TRAIN)
        found = read_preferences(str(path))
        assert found.rows() == {split: TRAIN}
        assert {speech.split for speech in found.speeches} == {split}
        assert found.speeches[0].origin.startswith(f"{path.name}@")


def save(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def test_a_question_in_both_splits_is_a_test_speech(hub_layout):
    save(hub_layout / "data" / "test-00000-of-00001.parquet", [TRAIN[0]])
    found = read_preferences(str(hub_layout))
    assert [speech.split for speech in found.speeches] == ["test"]
    assert found.rows() == {"train": TRAIN, "test": [TRAIN[0]]}


def test_further_columns_and_another_order_are_kept(tmp_path):
    rows = [{"topic": f"t{one['prefID']}", **dict(reversed(one.items()))} for one in TRAIN]
    found = read_preferences(str(save(tmp_path / "a.jsonl", rows))).rows()["train"]
    assert (found, [list(one) for one in found]) == (rows, [list(one) for one in rows])


SCORES = st.tuples(*[st.integers(1, 5)] * 7)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    replies=st.dictionaries(
        st.tuples(st.text(min_size=1, max_size=6), st.text(max_size=5), st.text(max_size=9)), SCORES, min_size=2
    ),
    data=st.data(),
)
def test_any_consistent_set_survives_the_round_trip(tmp_path, replies, data):
    rows = []
    for number in range(data.draw(st.integers(1, 8))):
        question = data.draw(st.sampled_from(sorted({key[0] for key in replies})))
        sides = {
            side: data.draw(st.sampled_from(sorted(key for key in replies if key[0] == question)))
            for side in ("chosen", "rejected")
        }
        one = {"ID": data.draw(st.text(max_size=3)), "prefID": number, "question": question}
        for side, key in sides.items():
            one |= {side: key[2], f"{side}_model": key[1]}
            one |= {f"{side}_{name}_rating": score for name, score in zip(RATED, replies[key], strict=True)}
        rows.append({column: one[column] for column in COLUMNS})
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    assert read_preferences(str(path)).rows() == {"train": rows}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"chosen_safety_rating": 6}, r"\(ID 'q1'\): 'chosen_safety_rating' is 6, a rating is a whole number from 1"),
        ({"chosen_safety_rating": 0}, "'chosen_safety_rating' is 0"),
        ({"rejected_clarity_rating": None}, "'rejected_clarity_rating' is null, a whole number"),
        ({"rejected_clarity_rating": 4.0}, "'rejected_clarity_rating' is 4.0, a whole number"),
        ({"prefID": "1"}, "'prefID' is str, a whole number"),
        ({"chosen": None}, "'chosen' is null, a text belongs there"),
        ({"ID": 5}, "'ID' is 5, a text belongs there"),
        ({"question": ""}, "'question' is empty"),
        ({"chosen_empathy_rating": 1}, r"reply of model-a has other ratings than in an earlier row \(empathy\)"),
        ({"surplus": 1}, r"has other columns than the first row \(surplus\)"),
    ],
)  # fmt: skip
def test_a_row_that_contradicts_itself_or_others_is_named(tmp_path, changes, complaint):
    path = save(tmp_path / "train.jsonl", [TRAIN[0], TRAIN[1] | changes])
    with pytest.raises(UserError, match=f"train row 2.*{complaint}") as caught:
        read_preferences(str(path))
    assert "bread" not in str(caught.value)


def test_a_rating_that_is_missing_in_parquet_is_named(tmp_path):
    path = save(tmp_path / "train.parquet", [TRAIN[0], TRAIN[1] | {"chosen_empathy_rating": None}])
    with pytest.raises(UserError, match=r"train row 2 \(ID 'q1'\): 'chosen_empathy_rating' is null"):
        read_preferences(str(path))
    save(path, [TRAIN[0] | {"chosen_empathy_rating": math.nan}])
    with pytest.raises(UserError, match=r"train row 1 \(ID 'q0'\): 'chosen_empathy_rating' is nan, a whole number"):
        read_preferences(str(path))


def test_a_missing_column_and_an_empty_file_are_named(tmp_path):
    less = [{key: value for key, value in one.items() if key != "chosen_staging_rating"} for one in TRAIN]
    with pytest.raises(UserError, match=r"row 1: no column 'chosen_staging_rating', did you mean 'chosen_\w+_rating'"):
        read_preferences(str(save(tmp_path / "a.jsonl", less)))
    with pytest.raises(UserError, match=r"b\.jsonl: holds no preference rows"):
        read_preferences(str(save(tmp_path / "b.jsonl", [])))
    with pytest.raises(UserError, match=r"c\.parquet: no such file"):
        read_preferences(str(tmp_path / "c.parquet"))


def test_the_set_is_a_source_with_its_splits(hub_layout):
    found = read_source(Source(load=f"preference:{hub_layout}"))
    assert [(speech.split, speech.source) for speech in found] == [("train", "preference"), ("test", "preference")]
    assert read_source(Source(load=f"preference:{hub_layout}", license="mine", limit=1))[0].license == "mine"


def test_the_set_is_a_recording_of_its_replies_and_ratings(hub_layout):
    models = {model.name: model for model in open_recording(f"preference:{hub_layout}", "responses")}
    assert set(models) == set(REPLIES)
    asked = Request(messages=(), subject={"source_id": "preference:q0", "speech_id": "changed by repair"})
    assert models["model-c"].can_answer(asked)
    (judge,) = open_recording(f"preference:{hub_layout}", "ratings")
    assert judge.name == "openai:gpt-4o"
    subject = {"source_id": "preference:q0", "model": "model-a"}
    assert judge.can_answer(Request(messages=(), subject=subject))
    assert not judge.can_answer(Request(messages=(), subject=subject | {"model": "model-z"}))
    scores = json.loads(judge.read(asyncio.run(judge.send(Request(messages=(), subject=subject)))).text)
    assert scores == dict.fromkeys(RATED, 5) | {"staging": 4}


RECIPE = """
name = "rebuilt"
[speeches]
sources = [{{ load = "preference:{place}" }}]
min_chars = 20
topics = "none"
dev = 0.0
test = 0.0
[responses]
models = ["recorded:preference:{place}"]
[ratings]
judges = ["recorded:preference:{place}"]
[pairs]
rule = "paper"
gap = 0.5
"""


def test_a_recipe_rebuilds_pairs_from_the_set(hub_layout, tmp_path, cli):
    save(hub_layout / "data" / "train-00000-of-00001.parquet", TRAIN)
    recipe = tmp_path / "rebuilt.toml"
    recipe.write_text(RECIPE.format(place=hub_layout), encoding="utf-8")
    code, _, err = cli("run", recipe, "--runs", tmp_path / "runs", "--to", "pairs")
    assert code == 0, err
    folder = tmp_path / "runs" / "rebuilt"
    replies = {row["id"]: row for _, row in read_rows(folder / "2-responses" / "responses.jsonl")}
    made = {
        (replies[row["chosen"]]["model"], replies[row["rejected"]]["model"])
        for _, row in read_rows(folder / "4-pairs" / "train.jsonl")
    }
    released = {
        (one["chosen_model"], one["rejected_model"]) for one in TRAIN if one["rejected"]
    }  # an empty reply is no reply
    assert released <= made


def test_a_published_row_rounds_means_and_refuses_gaps(hub_layout):
    found = read_preferences(str(hub_layout))
    pair, speech = found.pairs[0], found.speeches[0]
    chosen, rejected = (next(r for r in found.responses if r.id == key) for key in (pair.chosen, pair.rejected))
    mixed = pair.model_copy(
        update={"chosen_scores": dict.fromkeys(RATED, 3.5), "rejected_scores": dict.fromkeys(RATED, 2.4)}
    )
    made = flat_row(mixed, speech, chosen, rejected, "x", 7)
    assert tuple(made) == COLUMNS
    assert {made[f"chosen_{name}_rating"] for name in RATED} == {4}
    assert {made[f"rejected_{name}_rating"] for name in RATED} == {2}
    gap = Pair.model_validate(mixed.model_dump(exclude={"id"}) | {"rejected_scores": {"empathy": None}})
    with pytest.raises(UserError, match=r"pair [0-9a-f]{16}: the rejected reply has no score for 'empathy'"):
        flat_row(gap, speech, chosen, rejected, "x", 7)


def test_the_schema_has_the_principles_of_the_rubric():
    assert {principle.id for principle in load_principles()} == set(RATED)
