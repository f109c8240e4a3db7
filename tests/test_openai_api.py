"""The OpenAI-compatible client against a real server on this machine."""

import json
import socket
import time

import pytest
from fastapi import FastAPI, Request, Response
from local_server import running

from psychocounsel.errors import UserError
from psychocounsel.models import calls, open_models
from psychocounsel.models.calls import ask_all
from psychocounsel.models.chat import Request as Question
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles
from psychocounsel.principles.prompts import judge_schema
from psychocounsel.recipe import ModelsTable

KEY = "sk-not-a-real-key-0123456789"


def body(text="Hello.", finish="stop", **message):
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


class Endpoint:
    """Plays a script of (status, body, headers); the last step repeats. Keeps what it was sent, and when."""

    def __init__(self):
        self.script, self.asked, self.keys, self.times = [(200, body(), {})], [], [], []
        self.headers = {}
        self.app = FastAPI()

        @self.app.post("/v1/chat/completions")
        async def answer(request: Request):
            self.times.append(time.monotonic())
            self.keys.append(request.headers.get("authorization"))
            self.headers = dict(request.headers)
            self.asked.append(await request.json())
            status, content, headers = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            if isinstance(content, dict | list):
                content = json.dumps(content)
            return Response(content, status, headers, media_type="application/json")


@pytest.fixture(scope="module")
def server():
    endpoint = Endpoint()
    with running(endpoint.app) as root:
        endpoint.url = f"{root}/v1"
        yield endpoint


@pytest.fixture
def endpoint(server, monkeypatch):
    monkeypatch.setattr(calls, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("PSYCHOCOUNSEL_API_KEY", KEY)
    server.script, server.asked, server.keys, server.times = [(200, body(), {})], [], [], []
    return server


@pytest.fixture
def ask(endpoint, tmp_path):
    """Ask the endpoint's model some questions through a call store."""
    model = open_models(f"{endpoint.url}#tiny")[0]

    def asked(*questions, **fields):
        requests = [Question(messages=({"role": "user", "content": text},), **fields) for text in questions]
        with CallStore(tmp_path / "calls.sqlite") as store:
            return ask_all([(model, request) for request in requests], store)

    return asked


def test_an_answer_comes_with_its_tokens_and_is_asked_once(endpoint, ask):
    (first,), (second,) = ask("Hi"), ask("Hi")
    assert (first.text, first.finish, first.tokens_in, first.tokens_out) == ("Hello.", "stop", 7, 2)
    assert second.cached
    assert endpoint.keys == [f"Bearer {KEY}"]
    assert endpoint.asked == [{"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}]


def test_one_model_serves_several_rounds_of_questions(endpoint, ask):
    for number in range(3):
        assert len(ask(*(f"{number}-{i}" for i in range(10)))) == 10
    assert len(endpoint.asked) == 30


def test_sampling_and_a_strict_schema_are_sent(endpoint, ask):
    schema = judge_schema(load_principles())
    ask("Rate", answer_schema=schema, sampling={"temperature": 0.0, "max_tokens": 50})
    (sent,) = endpoint.asked
    assert (sent["temperature"], sent["max_tokens"]) == (0.0, 50)
    assert sent["response_format"] == {
        "type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}
    }  # fmt: skip


def test_a_rate_limit_is_waited_out_as_long_as_the_server_asks(endpoint, ask):
    endpoint.script = [(429, {"error": {"message": "slow down"}}, {"retry-after": "0.3"}), (200, body("At last."), {})]
    assert ask("Hi")[0].text == "At last."
    first, second = endpoint.times
    assert second - first >= 0.29


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_passing_trouble_is_tried_again(endpoint, ask, status):
    endpoint.script = [(status, "oops", {"retry-after": "soon"}), (status, "", {}), (200, body(), {})]
    assert ask("Hi")[0].text == "Hello."
    assert len(endpoint.asked) == 3


def test_a_server_that_stays_broken_ends_in_one_clear_error(endpoint, ask, tmp_path):
    endpoint.script = [(500, {"error": "down"}, {})]
    with pytest.raises(UserError, match=r"#tiny: 500 after 6 attempts; the calls answered so far are kept"):
        ask("Hi")
    assert len(endpoint.asked) == ModelsTable().attempts == 6
    endpoint.script = [(200, body("Back again."), {})]
    assert ask("Hi")[0].text == "Back again."


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_wrong_request_is_not_tried_again(endpoint, ask, status):
    error = {"message": "no such model 'tiny'", "code": "model_not_found", "type": "invalid", "param": "model"}
    endpoint.script = [(status, {"error": error}, {})]
    with pytest.raises(UserError) as caught:
        ask("Hi")
    assert str(caught.value) == (
        f"{endpoint.url}#tiny: {status} code model_not_found, type invalid, param model; "
        "the calls answered so far are kept, the same command continues"
    )
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    "content",
    [
        {"error": {"message": "cannot read: I lie awake", "code": "bad_request"}},
        {"detail": [{"loc": ["body", "messages"], "msg": "not valid", "input": "I lie awake"}]},
        {"message": "I lie awake", "object": "error"},
        "I lie awake is not valid",
    ],
)
def test_client_text_that_the_server_echoes_is_in_no_error(endpoint, ask, content):
    endpoint.script = [(422, content, {})]
    with pytest.raises(UserError, match=r"#tiny: 422 (code bad_request|UnprocessableEntityError); ") as caught:
        ask("I lie awake")
    assert "awake" not in str(caught.value)


@pytest.mark.parametrize("code", ["context_length_exceeded", "string_above_max_length"])
def test_a_text_too_long_for_the_model_is_a_result_and_does_not_stop_the_others(endpoint, ask, code):
    error = {"message": "too many tokens", "code": code, "type": "invalid_request_error", "param": "messages"}
    endpoint.script = [(400, {"error": error}, {}), (200, body(), {})]
    assert sorted((found.finish, found.text) for found in ask("Long", "Hi")) == [("length", ""), ("stop", "Hello.")]
    assert all(found.cached for found in ask("Long", "Hi"))


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation"])
def test_a_prompt_that_was_filtered_is_a_result_to_keep(endpoint, ask, code):
    error = {"message": "The prompt was filtered.", "code": code, "type": "invalid_request_error", "param": "prompt"}
    endpoint.script = [(400, {"error": error}, {})]
    (found,) = ask("Hi")
    assert (found.finish, found.text, found.cached) == ("filtered", "", False)
    assert ask("Hi")[0].cached
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        "<html><body>Please log in</body></html>",
        '{"choices": [{"message": {"content": "cut o',
        "[]",
        "null",
        {"choices": []},
        {"choices": None},
        {"choices": [{"message": None}]},
        {"choices": [{"message": "hello"}]},
        {"choices": ["hello"]},
        {"choices": [{"message": {"content": ["parts"]}}]},
        {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}},
        {"choices": [{"message": {"content": "x"}, "finish_reason": ["stop"]}]},
    ],
)
def test_a_body_that_is_no_chat_completion_is_an_error_and_asked_again_later(endpoint, ask, content):
    endpoint.script = [(200, content, {})]
    with pytest.raises(UserError, match=r"#tiny: the server's reply is not a chat completion"):
        ask("Hi")
    endpoint.script = [(200, body("Now."), {})]
    assert ask("Hi")[0].text == "Now."


@pytest.mark.parametrize(
    ("answer", "finish", "text"),
    [
        (body("", "content_filter"), "filtered", ""),
        (body(None, "content_filter"), "filtered", ""),
        (body(None, refusal="I can't help with that."), "refused", "I can't help with that."),
        (body("Half a", "length"), "length", "Half a"),
        (body(None), "stop", ""),
        (body("odd", "eos"), "stop", "odd"),
        ({"choices": [{"message": {"content": "bare"}}]}, "stop", "bare"),
        (body("cut \ud83d", "length"), "length", "cut ?"),
    ],
)
def test_stops_limits_filters_and_refusals_are_told_apart_and_kept(endpoint, ask, answer, finish, text):
    endpoint.script = [(200, answer, {})]
    (found,) = ask("Hi")
    assert (found.finish, found.text) == (finish, text)
    assert ask("Hi")[0].cached
    assert len(endpoint.asked) == 1, "a refusal is a result, never retried blindly"


def test_no_server_is_one_clear_error(endpoint, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = open_models(f"http://127.0.0.1:{port}/v1#tiny")[0]
    question = Question(messages=({"role": "user", "content": "Hi"},))
    with (
        CallStore(tmp_path / "calls.sqlite") as store,
        pytest.raises(UserError, match=rf"127\.0\.0\.1:{port}/v1#tiny: no connection after 6 attempts"),
    ):
        ask_all([(model, question)], store)


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_key_openai_is_not_asked_at_all(monkeypatch, value):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(UserError, match=r"openai:gpt-4o: OPENAI_API_KEY is not set; export it"):
        open_models("openai:gpt-4o")


def test_the_key_for_openai_goes_to_no_other_server(endpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-openai-only")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-openai")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-openai")
    monkeypatch.delenv("PSYCHOCOUNSEL_API_KEY")
    model = open_models(f"{endpoint.url}#tiny")[0]
    with CallStore(tmp_path / "calls.sqlite") as store:
        ask_all([(model, Question(messages=({"role": "user", "content": "Hi"},)))], store)
    assert endpoint.keys == ["Bearer none"]
    assert not [value for value in endpoint.headers.values() if "openai" in value and "of" in value]


def test_the_key_is_in_no_file_and_in_no_error(endpoint, ask, tmp_path):
    endpoint.script = [(200, body(), {}), (401, {"error": {"message": f"bad key {KEY}"}}, {})]
    ask("Hi")
    with pytest.raises(UserError) as caught:
        ask("Ho")
    assert KEY not in str(caught.value)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(KEY.encode() not in path.read_bytes() for path in files)
