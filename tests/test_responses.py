"""Candidate replies: k of n models per speech by content hash, refusals and empty replies kept as such."""

import json

import pytest
from conftest import make_speech

from psychocounsel.errors import UserError
from psychocounsel.models.scripted import Scripted
from psychocounsel.models.store import CallStore
from psychocounsel.principles.prompts import COUNSELLOR
from psychocounsel.recipe import ResponsesTable
from psychocounsel.records import Speech, Turn
from psychocounsel.responses import draw, plan_responses, respond

POOL = [Scripted([f"Reply of {name}."], name=name) for name in "abcdef"]


class Finishing(Scripted):
    """Answers with a finish of its own."""

    def __init__(self, text, finish, name="finishing"):
        super().__init__([text], name=name)
        self.finish = finish

    async def send(self, request):
        await super().send(request)
        return json.dumps({"text": self.script[0], "finish": self.finish})


class Choosy(Scripted):
    """Has an answer to one speech only."""

    def __init__(self, speech, name):
        super().__init__([f"Only {name}."], name=name)
        self.speech = speech

    def can_answer(self, request):
        return request.subject["speech_id"] == self.speech.id


@pytest.fixture
def store(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as opened:
        yield opened


def drawn(speeches, pool, seed=0, **table):
    jobs = plan_responses(speeches, pool, ResponsesTable(**table), seed)
    return {(request.subject["speech_id"], model.name) for model, request in jobs}


def test_k_different_models_answer_each_speech(speeches):
    found = drawn(speeches, POOL, per_speech=4)
    assert len(found) == 4 * len(speeches)
    assert all(len({name for key, name in found if key == speech.id}) == 4 for speech in speeches)
    assert {name for _, name in found} == set("abcdef"), "over many speeches every model has its turn"


def test_the_draw_depends_on_no_order_and_on_the_seed(speeches):
    once = drawn(speeches, POOL, per_speech=2)
    assert drawn(speeches[::-1], POOL[::-1], per_speech=2) == once
    assert drawn(speeches[:1], POOL, per_speech=2) == {job for job in once if job[0] == speeches[0].id}
    assert drawn(speeches, POOL, seed=1, per_speech=2) != once


def test_a_small_pool_answers_with_what_it_has(speeches):
    assert len(drawn(speeches, POOL[:2], per_speech=4)) == 2 * len(speeches)


def test_arena_speeches_are_left_alone():
    speeches = [make_speech("One.", "arena"), make_speech("Two.", "test"), make_speech("Three.", None)]
    assert {key for key, _ in drawn(speeches, POOL)} == {speeches[1].id, speeches[2].id}


def test_a_limit_takes_the_same_speeches_whatever_comes_besides(speeches):
    few = {key for key, _ in drawn(speeches, POOL, limit=3)}
    assert len(few) == 3
    assert few == {key for key, _ in drawn(speeches[::-1], POOL, limit=3)}
    assert few <= {key for key, _ in drawn(speeches, POOL, limit=5)}


def test_only_models_that_can_answer_are_drawn(speeches):
    pool = [Choosy(speeches[0], "a"), Choosy(speeches[1], "b"), Choosy(speeches[0], "c")]
    assert drawn(speeches, pool) == {(speeches[0].id, "a"), (speeches[0].id, "c"), (speeches[1].id, "b")}


def test_the_whole_dialogue_is_sent_as_chat_with_the_counsellors_task(store):
    turns = (
        Turn(role="client", text="I can't sleep."),
        Turn(role="therapist", text="Since when?"),
        Turn(role="client", text="Since May."),
    )
    speech = Speech(turns=turns, source="test", source_id="7", split="train")
    ((_, request),) = draw(speech, POOL[:1], ResponsesTable(temperature=0.3, max_tokens=9), 0)
    assert [m["role"] for m in request.messages] == ["system", "user", "assistant", "user"]
    assert request.messages[0]["content"] == COUNSELLOR
    assert request.sampling == {"temperature": 0.3, "max_tokens": 9}
    assert request.subject == {"speech_id": speech.id, "source_id": "7"}


def test_replies_carry_model_sampling_and_their_own_words(speeches, store):
    table = ResponsesTable(per_speech=1)
    found = respond(speeches, [Scripted(["  Hello.\n"], name="a")], table, store, 0)
    assert [r.speech_id for r in found] == [s.id for s in speeches]
    assert {(r.model, r.text, r.finish) for r in found} == {("a", "Hello.", "stop")}
    assert found[0].sampling == {"temperature": table.temperature, "max_tokens": table.max_tokens}


def test_a_second_run_asks_nobody(speeches, store):
    model = Scripted(["One.", "Two."], name="a")
    first = respond(speeches, [model], ResponsesTable(), store, 0)
    asked = len(model.sent)
    assert respond(speeches, [model], ResponsesTable(), store, 0) == first
    assert len(model.sent) == asked == len(speeches)


@pytest.mark.parametrize("finish", ["refused", "filtered"])
@pytest.mark.parametrize("text", ["", "I can't help with that."])
def test_a_refusal_is_kept_and_marked(speeches, store, finish, text):
    pool = [Finishing(text, finish, "careful"), Finishing("Hello.", "stop", "open")]
    found = {r.model: (r.finish, r.text) for r in respond(speeches[:1], pool, ResponsesTable(), store, 0)}
    assert found == {"careful": (finish, text), "open": ("stop", "Hello.")}


def test_an_empty_reply_is_kept_as_such_and_a_cut_one_marked(speeches, store):
    pool = [Finishing(" \n", "stop", "empty"), Finishing("Half of", "length", "cut")]
    found = respond(speeches[:1], pool, ResponsesTable(), store, 0)
    assert {r.model: (r.finish, r.text) for r in found} == {"empty": ("stop", ""), "cut": ("length", "Half of")}


@pytest.mark.parametrize("finish", ["stop", "refused"])
def test_nothing_but_empty_replies_is_an_error(speeches, store, finish):
    with pytest.raises(
        UserError, match=rf"none of {len(speeches)} replies has any text .*{finish}.*check .*\[responses\]"
    ):
        respond(speeches, [Finishing(" ", finish)], ResponsesTable(), store, 0)


@pytest.mark.parametrize("pool", [[], ["foreign"]])
def test_a_pool_that_knows_none_of_the_speeches_is_an_error(speeches, store, pool):
    foreign = [Choosy(make_speech("Another speech altogether."), name) for name in pool]
    with pytest.raises(UserError, match="no model of the pool can answer any of the speeches"):
        respond(speeches, foreign, ResponsesTable(), store, 0)


def test_without_speeches_there_is_nothing_to_answer(store):
    with pytest.raises(UserError, match="can answer any of the speeches"):
        respond([], POOL, ResponsesTable(), store, 0)


def test_several_replies_of_a_model_are_several_requests_and_equal_replies_count_once(store):
    speech = make_speech("My brother moved out.")
    model = Scripted(["One reply.", "Another reply.", "One reply."], name="a")
    table = ResponsesTable(per_speech=1, samples=3)
    assert [request.sample for _, request in plan_responses([speech], [model], table, 0)] == [0, 1, 2]
    found = respond([speech], [model], table, store, 0)
    assert [response.text for response in found] == ["One reply.", "Another reply."]
    assert len(model.sent) == 3
    assert store.by_model() == [("a", "scripted", 3, 0)]


def test_speeches_that_nobody_can_answer_are_counted_aloud(speeches, store, capsys):
    respond(speeches, [Choosy(speeches[0], "a")], ResponsesTable(), store, 0)
    assert f"responses: {len(speeches) - 1} of {len(speeches)} speeches get no reply" in capsys.readouterr().err
    respond(speeches, POOL, ResponsesTable(limit=2), store, 0)
    assert capsys.readouterr().err == ""
