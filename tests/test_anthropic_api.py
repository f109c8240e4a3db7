"""Anthropic's Messages API against a real server on this machine that speaks it."""

import json

import pytest
from local_server import serving

from psychocounsel.errors import UserError
from psychocounsel.models import calls
from psychocounsel.models.anthropic_api import AnthropicModel, message_body
from psychocounsel.models.calls import ask_all
from psychocounsel.models.chat import Request
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles
from psychocounsel.principles.prompts import judge_schema
from psychocounsel.recipe import ModelsTable

KEY = "sk-ant-not-a-real-key-0123456789"
SCHEMA = judge_schema(load_principles())
ASKED = Request(
    messages=(
        {"role": "system", "content": "You reply kindly."},
        {"role": "user", "content": "I lie awake."},
        {"role": "assistant", "content": "What keeps you up?"},
        {"role": "user", "content": "Work."},
    ),
    sampling={"temperature": 0.8, "max_tokens": 50},
)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-openai")
    monkeypatch.setattr(calls, "FIRST_WAIT_S", 0.01)


def message(text="Hello.", stop="end_turn", blocks=None):
    content = [{"type": "text", "text": text}] if blocks is None else blocks
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": content,
            "stop_reason": stop, "stop_sequence": None, "usage": {"input_tokens": 11, "output_tokens": 4}}  # fmt: skip


def trouble(kind, words="no"):
    return {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_1"}


def script(*steps):
    """Answers one after the other; the last repeats."""
    left = list(steps)
    return lambda path, body: left.pop(0) if len(left) > 1 else left[0]


def ask(folder, server, *requests, **table):
    model = AnthropicModel("anthropic:claude-x", ModelsTable(**table), url=server.url)
    with CallStore(folder / "calls.sqlite") as store:
        return ask_all([(model, request) for request in requests], store)


def test_a_dialogue_is_sent_with_its_system_text_apart_and_the_key_in_its_own_header(tmp_path):
    with serving(script(message())) as server:
        (found,), (again,) = ask(tmp_path, server, ASKED), ask(tmp_path, server, ASKED)
    ((path, body, headers),) = server.asked
    assert path == "/v1/messages"
    assert body == {
        "model": "claude-x", "system": "You reply kindly.", "messages": list(ASKED.messages[1:]),
        "temperature": 0.8, "max_tokens": 50,
    }  # fmt: skip
    assert headers["x-api-key"] == KEY
    assert headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in headers
    assert "org-of-openai" not in headers.values()
    assert KEY not in json.dumps({name: value for name, value in headers.items() if name != "x-api-key"})
    assert (found.text, found.finish, found.tokens_in, found.tokens_out) == ("Hello.", "stop", 11, 4)
    assert again.cached


def test_the_length_limit_that_the_service_demands_is_always_there():
    assert message_body("m", Request(messages=({"role": "user", "content": "Hi"},)))["max_tokens"] == 1024


def test_a_schema_is_demanded_as_a_tool_that_must_be_used_and_its_input_is_the_answer(tmp_path):
    answer = {"empathy": {"reason": "warm — seen", "score": 5}}
    blocks = [
        {"type": "thinking", "thinking": "…", "signature": "x"},
        {"type": "text", "text": "I will use the tool."},
        {"type": "tool_use", "id": "toolu_1", "name": "answer", "input": answer},
    ]
    with serving(script(message(blocks=blocks, stop="tool_use"))) as server:
        (found,) = ask(tmp_path, server, ASKED.model_copy(update={"answer_schema": SCHEMA}))
    assert json.loads(found.text) == answer
    assert found.finish == "stop"
    (_, body, _) = server.asked[0]
    assert body["tool_choice"] == {"type": "tool", "name": "answer"}
    assert [tool["input_schema"] for tool in body["tools"]] == [SCHEMA]


@pytest.mark.parametrize(
    ("answer", "finish", "text"),
    [
        (message(), "stop", "Hello."),
        (message(stop="stop_sequence"), "stop", "Hello."),
        (message("Half a", "max_tokens"), "length", "Half a"),
        (message("Half a", "model_context_window_exceeded"), "length", "Half a"),
        (message(blocks=[], stop="refusal"), "refused", ""),
        (message("I cannot", "refusal"), "refused", "I cannot"),
        (message(blocks=[{"type": "text", "text": "One "}, {"type": "text", "text": "two."}]), "stop", "One two."),
        (message(blocks=[]), "stop", ""),
    ],
)
def test_stops_limits_and_refusals_are_told_apart_kept_and_not_asked_again(tmp_path, answer, finish, text):
    with serving(script(answer)) as server:
        (found,), (again,) = ask(tmp_path, server, ASKED), ask(tmp_path, server, ASKED)
    assert (found.finish, found.text) == (again.finish, again.text) == (finish, text)
    assert len(server.asked) == 1


def test_a_rate_limit_is_waited_out_as_long_as_the_service_asks(tmp_path):
    limited = (429, trouble("rate_limit_error", "quota, billing, credit"), {"retry-after": "0.3"})
    with serving(script(limited, message("At last."))) as server:
        assert ask(tmp_path, server, ASKED, attempts=1)[0].text == "At last."
    assert server.times[1] - server.times[0] >= 0.29


@pytest.mark.parametrize("step", [(529, trouble("overloaded_error"), {}), (500, trouble("api_error"), {}),
                                  (504, "<html>gateway</html>", {})])  # fmt: skip
def test_an_overloaded_service_is_asked_again_a_few_times(tmp_path, step):
    with serving(script(step, step, message())) as server:
        assert ask(tmp_path, server, ASKED)[0].text == "Hello."
        assert len(server.asked) == 3
    with serving(script(step)) as server, pytest.raises(UserError, match=f"{step[0]} after 2 attempts"):
        ask(tmp_path / "b", server, ASKED, attempts=2)


@pytest.mark.parametrize("status", [400, 402, 403])
def test_an_account_without_money_ends_the_run_at_once(tmp_path, status):
    with serving(script((status, trouble("billing_error"), {}))) as server:
        with pytest.raises(UserError, match=r"anthropic:claude-x: .* the account has no money left"):
            ask(tmp_path, server, ASKED)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
    ],
)
def test_a_wrong_request_is_one_clear_error_without_the_words_of_the_server(tmp_path, status, kind):
    with serving(script((status, trouble(kind, f"messages: I lie awake, key {KEY}"), {}))) as server:
        with pytest.raises(UserError) as caught:
            ask(tmp_path, server, ASKED)
        assert len(server.asked) == 1
    assert str(caught.value).startswith(f"anthropic:claude-x: {status} type {kind}; the calls answered so far are kept")
    assert "awake" not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    ["", "not json", "[]", "null", "{}", '{"content": null}', '{"content": ["text"]}',
     '{"content": [{"type": "text"}]}', '{"content": [{"type": "tool_use", "name": "answer"}]}',
     json.dumps(message())[:80], '{"content": [], "usage": {"input_tokens": "many"}}'],
)  # fmt: skip
def test_a_body_that_is_no_message_is_an_error_and_asked_again_later(tmp_path, body):
    with (
        serving(script((200, body, {}))) as server,
        pytest.raises(UserError, match="the server's reply is no Anthropic"),
    ):
        ask(tmp_path, server, ASKED, attempts=2)
    with serving(script(message("Now."))) as server:
        assert ask(tmp_path / "b", server, ASKED)[0].text == "Now."


def test_the_key_is_on_no_disk(tmp_path):
    with serving(script(message())) as server:
        ask(tmp_path, server, ASKED)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(KEY.encode() not in path.read_bytes() for path in files)
