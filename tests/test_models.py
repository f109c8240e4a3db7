"""Who speaks: the call store that pays once, recorded models of every shape, and the strings that name models."""

import asyncio
import json
import sqlite3

import pytest

from psychocounsel.errors import UserError
from psychocounsel.models import open_models
from psychocounsel.models.calls import ask, ask_all
from psychocounsel.models.chat import Completion, Request
from psychocounsel.models.families import family_of
from psychocounsel.models.scripted import Scripted
from psychocounsel.models.store import CallStore


def request(text="Hello", **fields):
    return Request(messages=({"role": "user", "content": text},), **fields)


def texts(completions):
    return [completion.text for completion in completions]


class Watching(Scripted):
    """Looks into the store's file while a call is on its way."""

    def __init__(self, path, **fields):
        super().__init__(["seen"], **fields)
        self.path, self.rows = path, []

    async def send(self, request):
        with sqlite3.connect(self.path) as other:
            self.rows += other.execute("SELECT status, raw FROM calls").fetchall()
        other.close()
        return await super().send(request)


@pytest.fixture
def store(tmp_path):
    with CallStore(tmp_path / "run" / "calls.sqlite") as opened:
        yield opened


def test_a_pending_row_is_on_disk_before_anything_is_sent(store):
    model = Watching(store.path)
    asyncio.run(ask(model, request(), store))
    assert model.rows == [("pending", None)]
    assert store.by_model() == [("scripted", "scripted", 1, 0)]


def test_the_raw_body_is_kept_as_it_came(store):
    answer = asyncio.run(ask(Scripted(["Grüße \u2028 \x00 'x'; DROP TABLE calls"]), request(), store))
    assert store.find(answer.call_id) == json.dumps({"text": answer.text})
    assert answer.text == "Grüße \u2028 \x00 'x'; DROP TABLE calls"
    assert answer.call_id == request().key("scripted", "scripted")


def test_an_answered_call_is_never_sent_again(tmp_path):
    path, model = tmp_path / "calls.sqlite", Scripted(["one", "two"])
    with CallStore(path) as store:
        first = asyncio.run(ask(model, request(), store))
    with CallStore(path) as store:
        second = asyncio.run(ask(model, request(), store))
    assert (first.text, second.text, len(model.sent)) == ("one", "one", 1)
    assert (first.cached, second.cached) == (False, True)


def test_a_crash_between_sending_and_answer_is_asked_again(tmp_path):
    path = tmp_path / "calls.sqlite"
    with CallStore(path) as store:
        store.begin(request().key("scripted", "scripted"), Scripted([""]), request())
        store.flush()
        assert store.by_model() == [("scripted", "scripted", 0, 1)]
    with CallStore(path) as store:
        assert asyncio.run(ask(Scripted(["late"]), request(), store)).text == "late"
        assert store.by_model() == [("scripted", "scripted", 1, 0)]


def test_a_body_that_is_no_answer_is_kept_but_asked_again(store):
    class Garbled(Scripted):
        async def send(self, request):
            await super().send(request)
            return "<html>" if len(self.sent) == 1 else '{"text": "ok"}'

        def read(self, raw):
            if raw == "<html>":
                raise UserError("garbled: not an answer")
            return Completion.model_validate_json(raw)

    model = Garbled([""])
    with pytest.raises(UserError, match="not an answer"):
        asyncio.run(ask(model, request(), store))
    assert store.connection.execute("SELECT status, raw FROM calls").fetchall() == [("pending", "<html>")]
    assert asyncio.run(ask(model, request(), store)).text == "ok"


def test_a_long_prompt_is_stored_once(store):
    system = {"role": "system", "content": "rubric " * 1000}
    jobs = [(Scripted(["ok"]), Request(messages=(system, {"role": "user", "content": f"reply {i}"}))) for i in range(5)]
    ask_all(jobs, store)
    stored = [row[0] for row in store.connection.execute("SELECT text FROM texts")]
    assert stored.count(system["content"]) == 1
    assert len(stored) == 6
    assert all(len(row[0]) < 500 for row in store.connection.execute("SELECT request FROM calls"))


@pytest.mark.parametrize(
    "other",
    [
        request("Hello!"),
        request(sampling={"temperature": 1.0}),
        request(answer_schema={"type": "object"}),
        request(sample=1),
        Request(messages=({"role": "system", "content": "Hello"},)),
    ],
)
def test_everything_that_decides_the_answer_is_in_the_key(other):
    assert other.key("openai", "m") != request().key("openai", "m")


def test_the_key_depends_on_the_model_and_not_on_what_the_call_is_about():
    key = request().key("openai", "m")
    assert request(subject={"speech_id": "s"}).key("openai", "m") == key
    assert request().key("openai", "n") != key != request().key("http://host", "m")
    assert len(key) == 32


def test_answers_come_in_the_order_of_the_questions(store):
    class Slow(Scripted):
        concurrency = 4

        async def send(self, request):
            await asyncio.sleep(0.01 * (4 - int(request.messages[0]["content"])))
            return await super().send(request)

    told = []
    model = Slow(lambda r: "to " + r.messages[0]["content"])
    answers = ask_all([(model, request(str(i))) for i in range(4)], store, lambda c: told.append(c.text))
    assert texts(answers) == ["to 0", "to 1", "to 2", "to 3"]
    assert told == texts(answers)[::-1]
    assert ask_all([], store) == []


def test_a_model_gets_no_more_calls_at_once_than_it_can_take(store):
    class Counting(Scripted):
        concurrency, now, most = 3, 0, 0

        async def send(self, request):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0)
            self.now -= 1
            return await super().send(request)

    model = Counting(["ok"])
    ask_all([(model, request(str(i))) for i in range(20)], store)
    assert model.most == 3


def test_equal_questions_at_once_are_paid_for_once(store):
    class Patient(Scripted):
        concurrency = 4

        async def send(self, request):
            await asyncio.sleep(0)
            return await super().send(request)

    model = Patient(["one", "two", "three"])
    answers = ask_all([(model, request())] * 3, store)
    assert texts(answers) == ["one"] * 3
    assert len(model.sent) == 1
    assert [answer.cached for answer in answers] == [False, True, True]


@pytest.mark.parametrize("kind", ["folder", "file as folder", "not a database"])
def test_an_unusable_place_for_the_store_is_named(tmp_path, kind):
    path = {"folder": tmp_path, "file as folder": tmp_path / "f" / "calls.sqlite"}.get(kind, tmp_path / "f")
    (tmp_path / "f").write_bytes(b"this is no database " * 300)
    with pytest.raises(UserError, match="cannot be used as a call store") as caught:
        CallStore(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("fault", ["PRAGMA query_only = ON", "PRAGMA max_page_count = 6"])
def test_a_disk_that_takes_no_more_is_one_clear_line(store, fault):
    store.connection.execute(fault)
    with pytest.raises(UserError, match=r"calls\.sqlite: cannot write .*free some disk space"):
        ask_all([(Scripted(["ok"]), request(word * 50_000)) for word in "abc"], store)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("opnai:gpt-4o", r"'opnai:gpt-4o': not a known model string, did you mean 'openai'\?"),
        ("gpt-4o", "not a known model string"),
        ("", "not a known model string"),
        ("recorded:", "not a known model string"),
        ("local:", "not a known model string"),
        ("http://127.0.0.1/v1", "name the model after a #"),
        ("http://127.0.0.1/v1#", "name the model after a #"),
        ("no.such.module:thing", "cannot be imported"),
        ("json.decoder:Nothing", "cannot be imported"),
        (".relative:thing", "cannot be imported"),
        ("json.decoder:NaN", "not a callable"),
        ("recorded:embedded/nobody", "no recorded model of that name; there are .*person_centred"),
        ("recorded:none.jsonl", r"none\.jsonl: no such file"),
    ],
)
def test_a_string_that_names_no_model_is_explained(name, complaint):
    with pytest.raises(UserError, match=complaint):
        open_models(name)


def test_a_users_own_model_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "clinic").mkdir()
    code = "from psychocounsel.models.scripted import Scripted\ndef ward():\n    return Scripted(['x'], name='ward')\n"
    (tmp_path / "clinic" / "models.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert [model.name for model in open_models("clinic.models:ward")] == ["ward"]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("openai:gpt-4o", "openai"),
        ("http://127.0.0.1:8000/v1#gpt-4o", "openai"),
        ("openai:o3-mini", "openai"),
        ("local:meta-llama/Llama-3.1-8B-Instruct", "meta"),
        ("http://host/v1#Qwen/Qwen2.5-7B", "alibaba"),
        ("zephyr-7b-alpha", "mistral"),
        ("anthropic:claude-x", "anthropic"),
        ("human:r1", ""),
        ("rubric-rater", ""),
        ("embedded", ""),
        ("", ""),
    ],
)
def test_the_family_behind_a_name(name, family):
    assert family_of(name) == family


def test_a_module_without_a_package_may_hold_a_model_of_your_own():
    (model,) = open_models("winrate_models:fair")
    assert model.name == "fair"
    with pytest.raises(UserError, match="'winrate_models:nothing': cannot be imported"):
        open_models("winrate_models:nothing")
    with pytest.raises(UserError, match="not a known model string"):
        open_models("__main__:fair")
