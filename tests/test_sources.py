"""Where speeches come from: every shape is read, and every unreadable file says where and what."""

import csv
import json
import os
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psychocounsel.errors import UserError
from psychocounsel.principles import load_topics
from psychocounsel.recipe import Source
from psychocounsel.records import file_hash
from psychocounsel.speeches.sources import KNOWN_SETS, read_embedded, read_source

ONE = "I cannot tell my mother that I left the course."
TWO = "Since the move, our evenings are silent.\nI miss the old flat."


def load(where, **fields):
    return read_source(Source(load=str(where), **fields))


def texts(speeches):
    return [speech.text for speech in speeches]


def save(path, rows):
    """Write rows as the file's ending says."""
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_the_embedded_default_is_read_whole():
    assert load("embedded") == read_embedded()
    assert len(load("embedded", limit=5)) == 5


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_table_is_read_whatever_its_kind(tmp_path, ending):
    rows = [{"nr": "a7", "Post": ONE, "about": "own_parents"}, {"nr": "a8", "Post": TWO, "about": ""}]
    path = save(tmp_path / f"posts.{ending}", rows)
    found = load(path, id="nr", topic="about", license="CC0")
    assert texts(found) == [ONE, TWO]
    assert [(s.source, s.source_id, s.license) for s in found] == [(path.name, "a7", "CC0"), (path.name, "a8", "CC0")]
    assert [(s.topic, s.topic_by) for s in found] == [("own_parents", "source"), (None, "")]
    assert texts(load(path, limit=1)) == [ONE]
    assert [speech.source_id for speech in load(path)] == [f"{path.name}:1", f"{path.name}:2"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_empty_cell_is_no_text_and_no_topic(tmp_path, ending):
    rows = [{"text": None, "topic": "anger"}, {"text": ONE, "topic": None}]
    first, second = load(save(tmp_path / f"a.{ending}", rows), topic="topic")
    assert "None" not in (first.text, second.topic)
    assert second.topic is None
    assert first.topic == "anger"


def test_the_column_is_the_one_named_even_when_another_is_recognised(tmp_path):
    path = save(tmp_path / "a.csv", [{"text": "wrong", "said": ONE}])
    assert texts(load(path, text="said")) == [ONE]


def test_a_spreadsheet_with_byte_order_mark_and_line_breaks_in_cells(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbftext,x\r\n"She said ""no"".\r\nThen left.",1\r\nshort row\r\n"a",1,too,many\r\n')
    assert texts(load(path)) == ['She said "no".\r\nThen left.', "short row", "a"]


def test_a_cell_of_a_million_characters_is_read(tmp_path):
    assert len(load(save(tmp_path / "a.csv", [{"text": "x" * 1_000_000}]))[0].text) == 1_000_000


COUNSELCHAT = {"questionID": "3", "questionTitle": "Title?", "questionText": ONE, "topic": "anxiety", "answerText": "A"}


def test_counselchat_gives_each_question_once(tmp_path):
    rows = [
        COUNSELCHAT,
        {**COUNSELCHAT, "answerText": "B", "topic": "depression"},
        {**COUNSELCHAT, "questionID": "4", "questionText": "", "topic": "never heard of"},
    ]
    found = load(f"counselchat:{save(tmp_path / 'c.csv', rows)}")
    assert texts(found) == [ONE, "Title?"]
    assert [(s.source_id, s.topic) for s in found] == [("counsel-chat:3", "worry_anxiety"), ("counsel-chat:4", None)]
    assert {(s.source, s.license) for s in found} == {("counsel-chat", "MIT")}


def test_fastchat_questions_get_ids_of_their_own_kind(tmp_path):
    rows = [{"question_id": 7, "category": "x", "turns": [ONE]}, {"question_id": 8, "turns": ["first", TWO]}]
    found = load(f"fastchat:{save(tmp_path / 'question.jsonl', rows)}", license="MIT")
    assert [(s.source, s.source_id) for s in found] == [
        ("question.jsonl", "question:7"),
        ("question.jsonl", "question:8"),
    ]
    assert texts(found) == [ONE, TWO]


@pytest.mark.parametrize(
    "row",
    [{"turns": [ONE]}, {"question_id": 1}, *({"question_id": 1, "turns": turns} for turns in ([], "abc", {"a": 1}))],
)
def test_a_row_that_is_no_fastchat_question_is_named(tmp_path, row):
    path = save(tmp_path / "q.jsonl", [{"question_id": 7, "turns": [ONE]}, row])
    with pytest.raises(UserError, match=r"q\.jsonl:2: needs 'question_id' and a list 'turns'"):
        load(f"fastchat:{path}")


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("known", [False, True])
def test_a_folder_in_hub_layout_is_read_offline(tmp_path, known):
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    column = KNOWN_SETS["amod"][1] if known else "question"
    save(folder / "data" / "train-00000-of-00001.parquet", [{column: ONE}, {column: TWO}])
    save(folder / "data" / "test-00000-of-00001.parquet", [{column: "not this one"}])
    found = load(f"amod:{folder}" if known else f"hub:{folder}")
    assert texts(found) == [ONE, TWO]
    assert {speech.license for speech in found} == {"RAIL-D" if known else ""}


@pytest.mark.usefixtures("hub_cache")
def test_a_hub_set_that_cannot_be_reached_is_one_line():
    with pytest.raises(UserError, match=r"^nobody/no-such-set: cannot be loaded from the hub \(") as caught:
        load("hub:nobody/no-such-set")
    assert "\n" not in str(caught.value)


def test_known_sets_can_come_from_a_file_with_their_column_and_licence(tmp_path):
    path = save(tmp_path / "p.jsonl", [{"input": ONE, "output": "x"}])
    (speech,) = load(f"psych8k:{path}")
    assert (speech.text, speech.source, speech.license) == (ONE, "psych8k", "CC BY-NC-SA 4.0")
    with pytest.raises(UserError, match=r"'therapistqa' is not on the hub; download.*\"therapistqa:FILE\""):
        load("therapistqa")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, r"no column 'text'.*The columns are 'questin', 'nr'; name the one"),
        ({"text": "question"}, r"no column 'question', did you mean 'questin'\?"),
        ({"text": "questin", "id": "nrr"}, r"no column 'nrr', did you mean 'nr'\?"),
        ({"text": "questin", "topic": "topic"}, r"no column 'topic'"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_missing_column_is_named_with_the_nearest(tmp_path, fields, complaint, ending):
    path = save(tmp_path / f"a.{ending}", [{"questin": ONE, "nr": "1"}])
    with pytest.raises(UserError, match=complaint) as caught:
        load(path, **fields)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_an_unknown_topic_is_named_with_its_row_and_the_nearest(tmp_path, ending):
    path = save(tmp_path / f"a.{ending}", [{"text": ONE, "about": "own_parents"}, {"text": TWO, "about": "own_parent"}])
    with pytest.raises(
        UserError, match=r"'own_parent' in row 2 is no fine topic, did you mean 'own_parents'\?"
    ) as caught:
        load(path, topic="about")
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(UserError, match=r"'never heard of' in row 1 is no fine topic"):
        load(save(tmp_path / f"b.{ending}", [{"text": ONE, "about": "never heard of"}]), topic="about")


def test_a_clients_words_taken_for_a_topic_or_a_header_are_not_repeated_in_the_error(tmp_path):
    path = save(tmp_path / "a.csv", [{"text": ONE, "about": TWO}])
    with pytest.raises(UserError, match="in row 1 is no fine topic") as caught:
        load(path, topic="about")
    assert TWO[:30] not in str(caught.value)
    for load_as in (str(tmp_path / "b.csv"), f"counselchat:{tmp_path / 'b.csv'}"):
        (tmp_path / "b.csv").write_text(f'"{ONE}","{TWO}"\n"{TWO}","{ONE}"\n', encoding="utf-8")
        with pytest.raises(UserError, match="The columns are") as caught:
            load(load_as)
        assert ONE[:30] not in str(caught.value)


def test_a_column_missing_in_counselchat_is_named(tmp_path):
    path = save(tmp_path / "c.csv", [{"questionID": "1", "title": "x", "questionText": "x", "topic": "t"}])
    with pytest.raises(UserError, match=r"c\.csv: no column 'questionTitle'.*The columns are 'questionID', 'title'"):
        load(f"counselchat:{path}")


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.csv", "text\ncafé".encode("latin-1"), r"a\.csv: not a UTF-8 CSV file"),
        ("a.csv", "text\nsome words".encode("utf-16"), r"a\.csv: not a UTF-8 CSV file"),
        ("a.jsonl", b'{"text": "caf\xe9"}', r"a\.jsonl:1: not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b'["text"]', r"a\.jsonl:1: expected a JSON object"),
        ("a.parquet", b"PAR1 but not really", r"a\.parquet: not a Parquet file"),
        ("a.parquet", b"", r"a\.parquet: not a Parquet file"),
        ("a.csv", b"", r"source '.*a\.csv' holds no rows"),
        ("a.csv", b"text\n", r"source '.*a\.csv' holds no rows"),
        ("a.jsonl", b"\n \n", r"source '.*a\.jsonl' holds no rows"),
        (
            "a.xlsx",
            b"PK",
            r"a\.xlsx' is not a \.csv, \.json, \.jsonl or \.parquet file, no package\.module:function, nor one of: ",
        ),
    ],
)
def test_an_unreadable_file_is_named(tmp_path, name, data, complaint):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=complaint):
        load(tmp_path / name)


@pytest.mark.parametrize("where", ["{}/none.csv", "{}/none.jsonl", "counselchat:{}/none.csv", "fastchat:{}/none.jsonl"])
def test_a_missing_file_is_named(tmp_path, where):
    with pytest.raises(UserError, match=r"none\.(csv|jsonl): no such file"):
        load(where.format(tmp_path))


USER_MODULE = """
from psychocounsel.records import Speech, Turn
ONE = {one!r}
TWO = {two!r}
def mixed():
    yield ONE
    yield {{"said": TWO, "nr": 7}}
    yield Speech(turns=(Turn(role="client", text=ONE),), source="mine", source_id="s", license="own")
def endless():
    number = 0
    while True:
        number += 1
        yield f"{{ONE}} {{number}}"
def wrong():
    return [3]
def failing():
    yield ONE
    raise KeyError(TWO)
nothing = 5
def empty():
    return ()
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "clinic_notes.py").write_text(USER_MODULE.format(one=ONE, two=TWO), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "clinic_notes", raising=False)


@pytest.mark.usefixtures("user_module")
def test_a_function_gives_texts_rows_or_speeches():
    found = load("clinic_notes:mixed", text="said", id="nr", license="CC0")
    assert texts(found) == [ONE, TWO, ONE]
    assert [(s.source, s.source_id, s.license) for s in found] == [
        ("clinic_notes:mixed", "clinic_notes:mixed:1", "CC0"),
        ("clinic_notes:mixed", "7", "CC0"),
        ("mine", "s", "own"),
    ]
    assert {s.origin for s in found} == {"clinic_notes:mixed"}
    assert len(load("clinic_notes:endless", limit=3)) == 3


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("wrong", "gave int as item 1; give texts, dicts"),
        ("failing", r"failed with KeyError in clinic_notes\.py:\d+$"),
        ("nothing", "is no function"),
        ("empty", "holds no rows"),
        ("absent", "cannot be imported"),
    ],
)
def test_a_function_that_fails_is_named_without_a_text(name, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        load(f"clinic_notes:{name}")
    assert TWO not in str(caught.value)


def test_a_mistyped_kind_of_source_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"'conselchat:questions' cannot be imported .*did you mean 'counselchat'\?"):
        load("conselchat:questions")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_row_says_which_version_of_which_file_it_came_from(tmp_path, ending):
    path = save(tmp_path / f"a.{ending}", [{"text": ONE}, {"text": TWO}])
    origins = {speech.origin for speech in load(path)}
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / path.name
    copy.write_bytes(path.read_bytes())
    assert {speech.origin for speech in load(copy)} == origins
    assert origins == {f"{path.name}@{file_hash(path)[:12]}"}
    save(path, [{"text": TWO}])
    assert {speech.origin for speech in load(path)}.isdisjoint(origins)


def test_a_json_file_is_a_list_of_objects_or_json_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": ONE}, {"text": None}, {"text": TWO}]))
    assert texts(load(path)) == [ONE, "?", TWO]
    path.write_text(json.dumps({"text": ONE}) + "\n" + json.dumps({"text": TWO}))
    assert texts(load(path)) == [ONE, TWO]
    for broken, complaint in (("[1]", "entry 1 is no JSON object but int"), ("[{", "not UTF-8 JSON")):
        path.write_text(broken)
        with pytest.raises(UserError, match=complaint):
            load(path)


def test_a_missing_number_is_no_text(tmp_path):
    path = save(tmp_path / "a.parquet", [{"text": float("nan")}, {"text": 4.5}])
    assert texts(load(path)) == ["?", "4.5"]


@pytest.mark.usefixtures("hub_cache")
def test_a_local_set_brings_the_licence_of_its_card(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    save(folder / "train.jsonl", [{"question": ONE}])
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A set\n", encoding="utf-8")
    (speech,) = load(f"hub:{folder}")
    assert speech.license == "cc-by-4.0"
    assert re.fullmatch(r"set@[0-9a-f]{12}", speech.origin)
    assert load(f"hub:{folder}", license="mine")[0].license == "mine"


def test_every_known_set_states_a_licence_or_that_none_is_known():
    assert set(KNOWN_SETS) == {
        *("counsel-chat", "mentalagora", "therapistqa", "psych8k", "amod", "mentalchat16k", "phi-2-mental-health")
    }
    assert all(known.license for known in KNOWN_SETS.values())


def test_half_an_emoji_does_not_stop_a_source(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "cut \\ud83d"}\n')
    assert texts(load(path)) == ["cut ?"]


SHARED = Path(os.environ.get("PSYCHOCOUNSEL_DATA", "../shared/data"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is absent (set PSYCHOCOUNSEL_DATA)")
def test_the_real_counselchat_and_fastchat_files_are_read():
    chat = load(f"counselchat:{SHARED}/counselchat/20200325_counsel_chat.csv")
    assert 800 <= len({speech.source_id for speech in chat}) == len(chat) <= 900
    assert all(speech.topic in load_topics() for speech in chat)
    assert len(load(f"fastchat:{SHARED}/mentalchat16k/question.jsonl")) == 150
