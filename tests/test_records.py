"""Records: strict, frozen, named by their content; files of them name every bad line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from psychocounsel.errors import UserError, nearest
from psychocounsel.records import (
    Pair,
    Rating,
    Response,
    Speech,
    Turn,
    Verdict,
    content_id,
    file_hash,
    read_records,
    read_rows,
    write_records,
    write_rows,
)

CLIENT = Turn(role="client", text="My exam is on Monday.")
SPEECH = Speech(turns=(CLIENT,), source="test")
RATING = {"response_id": "r", "judge": "j", "scores": {"empathy": 3}}


def test_an_id_depends_on_the_words_and_on_nothing_else():
    assert Speech(turns=(CLIENT,), source="elsewhere", topic="exams", split="test").id == SPEECH.id
    assert Speech(turns=(Turn(role="client", text="My exam is on Tuesday."),), source="test").id != SPEECH.id
    told = Speech(turns=(CLIENT, Turn(role="therapist", text="Yes?"), CLIENT), source="test")
    assert told.id != SPEECH.id
    assert told.text == CLIENT.text
    assert len(SPEECH.id) == 16
    int(SPEECH.id, 16)


def test_ids_are_the_same_in_every_version():
    assert content_id(["a", 1, {"b": None, "a": "ü"}]) == content_id(["a", 1, {"a": "ü", "b": None}])
    assert content_id("a") == "167004e8304614a8"
    assert SPEECH.id == content_id([["client", "My exam is on Monday."]])
    first = Response(speech_id="s", model="m", text="t", sampling={"temperature": 1.0}, finish="length")
    assert first.id == Response(speech_id="s", model="m", text="t").id == content_id(["s", "m", "t"])
    one = Pair(speech_id="s", chosen="a", rejected="b", chosen_scores={}, rejected_scores={}, gap=1)
    assert one.id == content_id(["a", "b"])


@pytest.mark.parametrize(
    ("kind", "row", "where"),
    [
        (Rating, {**RATING, "scores": {"empathy": 6}}, "scores.empathy"),
        (Rating, {**RATING, "scores": {"empathy": 0}}, "scores.empathy"),
        (Rating, {**RATING, "scores": {"empathy": float("nan")}}, "scores.empathy"),
        (Rating, {**RATING, "scores": {"empathy": "high"}}, "scores.empathy"),
        (Rating, {**RATING, "raiting": 1}, "raiting"),
        (Rating, {"judge": "j", "scores": {}}, "response_id"),
        (Turn, {"role": "user", "text": "hello"}, "role"),
        (Turn, {"role": "client", "text": ""}, "text"),
        (Speech, {"turns": [], "source": "x"}, "turns"),
        (Speech, {"turns": [{"role": "client", "text": "a"}], "source": "x", "split": "valid"}, "split"),
        (Response, {"speech_id": "s", "model": "m", "text": "t", "finish": "tired"}, "finish"),
        (Verdict, {"speech_id": "s", "a": "x", "b": "y", "judge": "j", "a_first": True, "value": 1.5}, "value"),
    ],
)
def test_what_a_record_does_not_know_is_an_error(kind, row, where):
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(row)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == where


def test_a_speech_ends_with_the_client():
    with pytest.raises(ValidationError, match="ends with the client"):
        Speech(turns=(CLIENT, Turn(role="therapist", text="Yes?")), source="test")


def test_the_fault_of_a_record_does_not_repeat_a_clients_words():
    with pytest.raises(ValidationError) as caught:
        Speech(turns=(CLIENT,), source="test", said=CLIENT.text)
    assert "said" in str(caught.value)
    assert "exam" not in str(caught.value)


def test_no_basis_to_score_is_not_a_score():
    assert Rating(**{**RATING, "scores": {"empathy": None}}).scores == {"empathy": None}


def test_a_record_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        SPEECH.source = "other"


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.builds(
            Response, speech_id=st.text(), model=st.text(), text=st.text(),
            finish=st.sampled_from(["stop", "length", "refused", "filtered"]),
        ),
        max_size=4,
    )
)  # fmt: skip
def test_what_is_written_is_read_again(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("records") / "some" / "file.jsonl"
    assert write_records(path, records) == len(records)
    assert read_records(path, Response) == records
    assert [row["id"] for _, row in read_rows(path)] == [record.id for record in records]
    assert not path.with_name("file.jsonl.part").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    write_rows(path, [{"a": 1}])
    before = file_hash(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_rows(path, [{"a": 2}, {"a": float("nan")}])
    assert file_hash(path) == before
    write_rows(path, [{"a": 2}])
    assert file_hash(path) != before


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b'{"a": 1}\n{"a": ', r":2: not JSON .*each line must hold one object"),
        (b'{"a": 1}\n\n[1]\n', r":3: expected a JSON object, found list"),
        (b"\n\n17\n", r":3: expected a JSON object, found int"),
        (b'{"a": "caf\xe9"}\n', r":1: not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), r":1: not UTF-8"),
        (b'{"a": NaN}\n', r":1: not JSON \(NaN"),
        (b'{"a": -Infinity}\n', r":1: not JSON \(-Infinity"),
        (b"PK\x03\x04\x00\x00", r":1: not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, data, complaint):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"rows\.jsonl{complaint}"):
        list(read_rows(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        list(read_rows(tmp_path / "none.jsonl"))


def test_a_byte_order_mark_and_blank_lines_are_read_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert list(read_rows(path)) == [(1, {"a": 1}), (3, {"a": 2})]


def test_half_an_emoji_becomes_a_question_mark_and_a_whole_one_stays(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"a": "half \ud83d", "b": "whole \U0001f600"}) + "\n")
    assert list(read_rows(path)) == [(1, {"a": "half ?", "b": "whole \U0001f600"})]


def test_a_bad_record_is_named_by_line_and_field(tmp_path):
    path = tmp_path / "ratings.jsonl"
    path.write_text(json.dumps(RATING) + "\n" + json.dumps({**RATING, "scores": {"empathy": 9}}) + "\n")
    with pytest.raises(UserError, match=r"ratings\.jsonl:2: scores\.empathy: .*less than or equal to 5"):
        read_records(path, Rating)


def test_a_typing_slip_gets_a_proposal():
    assert nearest("speches", ["speeches", "pairs"]) == ", did you mean 'speeches'?"
    assert nearest("xyz", ["speeches", "pairs"]) == ""
