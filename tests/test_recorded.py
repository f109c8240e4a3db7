"""Recorded models: replies and ratings made elsewhere, in all the shapes they come in."""

import asyncio
import json

import pytest

from psychocounsel.errors import UserError
from psychocounsel.models import open_models
from psychocounsel.models.calls import ask_all
from psychocounsel.models.chat import Request
from psychocounsel.models.store import CallStore


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def about(**subject):
    return Request(messages=(), subject=subject)


def reply(who, /, **subject):
    return who.read(asyncio.run(who.send(about(**subject)))).text


def answer(number, *turns):
    return {"question_id": number, "choices": [{"index": 0, "turns": list(turns)}]}


def test_replies_by_speech_id_become_one_model_per_name(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        {"speech_id": "s1", "model": "warm", "text": " Hello. "},
        {"speech_id": "s1", "model": "brisk", "text": "Yes."},
        {"speech_id": "s2", "model": "warm", "text": "Good day."},
    )
    brisk, warm = open_models(f"recorded:{path}")
    assert (brisk.name, warm.name) == ("brisk", "warm")
    assert reply(warm, speech_id="s1") == "Hello."
    assert warm.can_answer(about(speech_id="s2", source_id="x"))
    assert not brisk.can_answer(about(speech_id="s2"))
    with pytest.raises(UserError, match=r"brisk: no recorded reply for \('s2',\)"):
        reply(brisk, speech_id="s2")


def test_replies_by_the_id_of_the_source(tmp_path):
    path = write(tmp_path / "a.jsonl", {"source_id": 17, "model": "warm", "text": "Hello."})
    assert reply(open_models(f"recorded:{path}")[0], source_id="17") == "Hello."


def test_a_folder_of_fastchat_answers_has_a_model_per_file(tmp_path):
    write(tmp_path / "vicuna.jsonl", answer(3, "First."), answer(3, "Second run."), answer(4, "Other."))
    write(tmp_path / "zephyr.jsonl", answer(3, "Also."))
    vicuna, zephyr = open_models(f"recorded:{tmp_path}")
    assert (vicuna.name, zephyr.name) == ("vicuna", "zephyr")
    assert reply(vicuna, source_id="question:3") == "First."
    assert not vicuna.can_answer(about(source_id="3")), "plain numbers belong to other sources"
    assert not zephyr.can_answer(about(source_id="question:4"))


def test_ratings_by_response_id_and_ratings_of_fastchat_answers(tmp_path):
    scores = {"empathy": 3, "clarity": None}
    path = write(
        tmp_path / "r.jsonl",
        {"response_id": "r1", "judge": "human:r1", "reply": '{"empathy": 4}'},
        {"question_id": 3, "model": "vicuna", "rater": "rater-a", "scores": scores, "stage": "crisis", "note": "n"},
    )
    human, rater = open_models(f"recorded:{path}", "ratings")
    assert (human.name, rater.name) == ("human:r1", "rater-a")
    assert reply(human, response_id="r1") == '{"empathy": 4}'
    found = json.loads(reply(rater, source_id="question:3", model="vicuna", response_id="any"))
    assert found == {"stage": "crisis", "scores": scores, "note": "n"}
    assert not rater.can_answer(about(source_id="question:3", model="zephyr"))


@pytest.mark.parametrize(
    ("bad", "purpose", "complaint"),
    [
        ({"speech_id": "s", "text": "no model"}, "responses", r":2: not a recorded reply .*'model'"),
        ({"model": "m", "text": "no id"}, "responses", r":2: not a recorded reply .*'source_id'"),
        ({"model": "m", "speech_id": "s"}, "responses", r":2: not a recorded reply .*'text'"),
        (
            {"model": "m", "speech_id": "s", "text": None},
            "responses",
            r":2: not a recorded reply .*found NoneType where a text belongs",
        ),
        (
            {"model": 5, "speech_id": "s", "text": "t"},
            "responses",
            r":2: not a recorded reply .*found int where a text belongs",
        ),
        ({"question_id": 1, "choices": []}, "responses", r":2: not a recorded reply"),
        ({"question_id": 1, "choices": [{"turns": []}]}, "responses", r":2: not a recorded reply"),
        ({"question_id": 1, "choices": None}, "responses", r":2: not a recorded reply"),
        ({"judge": "j", "reply": "r"}, "ratings", r":2: not a recorded rating .*'response_id'"),
        ({"judge": "j", "response_id": "r", "reply": {"empathy": 1}}, "ratings", r":2: not a recorded rating"),
        ({"judge": "j", "response_id": ["r"], "reply": "x"}, "ratings", r":2: not a recorded rating"),
        ({"question_id": 1, "model": "m", "rater": "a"}, "ratings", r":2: not a recorded rating .*'scores'"),
        ('{"model": "m", "speech_id"', "responses", r":2: not JSON"),
        ("[]", "responses", r":2: expected a JSON object"),
    ],
)
def test_a_line_of_another_shape_is_named(tmp_path, bad, purpose, complaint):
    good = (
        {"speech_id": "s", "model": "m", "text": "t"}
        if purpose == "responses"
        else {"response_id": "r", "judge": "j", "reply": "{}"}
    )
    path = write(tmp_path / "a.jsonl", good, bad)
    with pytest.raises(UserError, match=rf"a\.jsonl{complaint}"):
        open_models(f"recorded:{path}", purpose)


def test_empty_files_and_folders_are_named(tmp_path):
    path = write(tmp_path / "some" / "a.jsonl")
    with pytest.raises(UserError, match=r"a\.jsonl: empty"):
        open_models(f"recorded:{path}")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none: no \*\.jsonl recordings"):
        open_models(f"recorded:{tmp_path / 'none'}")


def test_a_folder_whose_name_begins_like_the_embedded_one_is_a_folder(tmp_path, monkeypatch):
    write(tmp_path / "embedded-runs" / "a.jsonl", {"speech_id": "s", "model": "m", "text": "t"})
    monkeypatch.chdir(tmp_path)
    assert [model.name for model in open_models("recorded:embedded-runs/a.jsonl")] == ["m"]


def test_the_embedded_recording_opens_whole_or_by_one_name():
    everyone = [model.name for model in open_models("recorded:embedded")]
    assert len(everyone) >= 8
    assert [model.name for model in open_models(f"recorded:embedded/{everyone[0]}")] == everyone[:1]
    (rater,) = open_models("recorded:embedded", "ratings")
    assert len(rater.replies) == sum(len(model.replies) for model in open_models("recorded:embedded"))


def test_an_edited_recording_is_asked_anew_and_an_unchanged_one_is_not(tmp_path):
    question = Request(messages=({"role": "user", "content": "Hi"},), subject={"speech_id": "s"})

    def asked(*rows):
        (model,) = open_models(f"recorded:{write(tmp_path / 'a.jsonl', *rows)}")
        with CallStore(tmp_path / "calls.sqlite") as store:
            (found,) = ask_all([(model, question)], store)
        return found.text, found.cached

    first, other = ({"speech_id": key, "model": "m", "text": "Before."} for key in ("s", "t"))
    assert asked(first, other) == ("Before.", False)
    assert asked(other, first) == ("Before.", True), "the order of the lines is no content"
    assert asked({**first, "text": "After."}, other) == ("After.", False)


def test_a_name_after_the_recording_chooses_one_of_its_models(tmp_path):
    write(tmp_path / "vicuna.jsonl", answer(3, "First."))
    write(tmp_path / "zephyr.jsonl", answer(3, "Also."))
    (zephyr,) = open_models(f"recorded:{tmp_path}#zephyr")
    assert reply(zephyr, source_id="question:3") == "Also."
    with pytest.raises(UserError, match="no recorded model of that name; there are vicuna, zephyr"):
        open_models(f"recorded:{tmp_path}#warm")
    assert [model.name for model in open_models("recorded:embedded#steady")] == ["steady"]


def test_a_mark_in_a_recordings_own_name_is_part_of_it(tmp_path):
    path = write(tmp_path / "run#2.jsonl", {"source_id": "1", "model": "warm", "text": "Hello."})
    assert [model.name for model in open_models(f"recorded:{path}")] == ["warm"]
    assert [model.name for model in open_models(f"recorded:{path}#warm")] == ["warm"]
