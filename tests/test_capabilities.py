"""What an endpoint honours: found out by asking real servers once, kept in the store, and used by the judge."""

import asyncio
import json
from datetime import date

import pytest
from conftest import make_speech
from decision_answers import decisions, systemone
from local_server import chat, error, serving

from psychocounsel.errors import UserError
from psychocounsel.models import calls, capabilities, open_models
from psychocounsel.models.calls import ask_all
from psychocounsel.models.capabilities import Capabilities
from psychocounsel.models.chat import Request
from psychocounsel.models.openai_api import OpenAIModel
from psychocounsel.models.prices import Budget, Price, PriceList
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.ratings.judge import Item
from psychocounsel.ratings.model_judge import ModelJudge
from psychocounsel.recipe import ModelsTable
from psychocounsel.records import Response

PRINCIPLES = load_principles()
SPEECH = make_speech("Every Sunday evening my stomach hurts because of the week ahead.")
ITEM = Item(SPEECH, Response(speech_id=SPEECH.id, model="m", text="You notice it in your body first."))
SCORES = json.dumps({principle.id: {"reason": "seen", "score": 4} for principle in PRINCIPLES})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for module in (calls, capabilities):
        monkeypatch.setattr(module, "FIRST_WAIT_S", 0.01)


def kind_of(body):
    return body.get("response_format", {}).get("type", "text")


class Endpoint:
    """Honours what it is told to honour and ignores the rest without a word, as servers do."""

    def __init__(self, *honours, refuses=()):
        self.honours, self.refuses = honours, refuses

    def __call__(self, path, body):
        if path in ("/v1/systemone", "/v1/decisions"):
            if path.rpartition("/")[2] not in self.honours:
                return 404, error("unknown_url"), {}
            return systemone(body) if path.endswith("systemone") else decisions(body)
        kind = kind_of(body)
        if kind in self.refuses:
            return 400, error("invalid_value", param="response_format"), {}
        if "You rate one" in str(body["messages"]):
            return chat(SCORES)
        if kind == "json_schema" and kind in self.honours:
            return chat('{"colour": "blue"}')
        if kind != "text" and "json_object" in self.honours:
            return chat('{"sentence": "The sea is calm."}')
        return chat("The sea is calm today.")


def probe(folder, server, budget=None, **table):
    model = open_models(f"{server.url}#tiny", table=ModelsTable(**table))[0]

    async def once(store):
        try:
            return await capabilities.capabilities(model, store)
        finally:
            await model.close()

    with CallStore(folder / "calls.sqlite", budget) as store:
        return asyncio.run(once(store)), model


def rate(folder, server):
    judge = ModelJudge(open_models(f"{server.url}#tiny")[0])

    async def twice(store):
        try:
            return await asyncio.gather(*(judge.rate(item, PRINCIPLES, store) for item in (ITEM, ITEM)))
        finally:
            await judge.model.close()

    with CallStore(folder / "calls.sqlite") as store:
        return asyncio.run(twice(store))


@pytest.mark.parametrize(
    ("endpoint", "found", "strictest"),
    [
        (Endpoint("json_schema", "json_object"), (None, True, True), "schema"),
        (Endpoint("json_object"), (None, False, True), "json"),
        (Endpoint(), (None, False, False), "text"),
        (Endpoint(refuses=("json_schema", "json_object")), (None, False, False), "text"),
        (Endpoint("json_object", refuses=("json_schema",)), (None, False, True), "json"),
        (Endpoint("systemone", "json_schema"), ("systemone", True, False), "decision"),
        (Endpoint("decisions"), ("decisions", False, False), "decision"),
    ],
)
def test_what_is_honoured_is_seen_from_the_answers_and_the_judge_asks_accordingly(tmp_path, endpoint, found, strictest):
    with serving(endpoint) as server:
        record, model = probe(tmp_path, server)
        assert (record.decision, record.strict_schema, record.json_mode) == found
        assert (record.strictest, record.probed) == (strictest, date.today())
        assert model.wire == record.decision
        probes = len(server.asked)
        assert probes <= 4
        (rating, status), _ = rate(tmp_path, server)
        assert status == "rated"
        assert rating.scores["empathy"] == (3.5 if strictest == "decision" else 4)
        (path, body, _), *more = server.asked[probes:]
        assert not more, "known from the store, and equal questions are asked once"
    form = {"text": "text", "json_object": "json", "json_schema": "schema"}[kind_of(body)]
    assert (form if path == "/v1/chat/completions" else "decision") == strictest


def test_a_server_that_answers_every_path_with_a_chat_has_no_decision_endpoint(tmp_path):
    with serving(lambda path, body: chat('{"colour": "blue"}')) as server:
        assert probe(tmp_path, server)[0].decision is None


@pytest.mark.parametrize("text", ['{"colour": "red"}', '["blue"]', "blue", '{"colour": "blue"', ""])
def test_only_the_one_object_that_the_schema_allows_proves_it(tmp_path, text):
    with serving(lambda path, body: chat(text) if "chat" in path else (404, "", {})) as server:
        assert not probe(tmp_path, server)[0].strict_schema


def test_the_record_is_made_once_and_known_after_a_restart(tmp_path):
    with serving(Endpoint("json_object")) as server:
        first, _ = probe(tmp_path, server)
        asked = len(server.asked)
        second, _ = probe(tmp_path, server)
        assert first == second
        assert len(server.asked) == asked
    again = Capabilities.model_validate(
        CallStore(tmp_path / "calls.sqlite", read_only=True).endpoint(f"{server.url}#tiny")
    )
    assert again == first


def test_many_judges_at_once_probe_one_endpoint_once(tmp_path):
    with serving(Endpoint("json_schema")) as server:
        model = open_models(f"{server.url}#tiny")[0]

        async def many(store):
            await asyncio.gather(*(capabilities.capabilities(model, store) for _ in range(20)))
            await model.close()

        with CallStore(tmp_path / "calls.sqlite") as store:
            asyncio.run(many(store))
        assert len(server.asked) == 4


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_is_an_error_and_no_finding(tmp_path, status):
    """Else a judge would be asked for plain text for ever after, because of a key that was wrong once."""
    refusing = [True]
    good = Endpoint("json_schema")

    def answer(path, body):
        return (status, error("invalid_api_key"), {}) if refusing[0] else good(path, body)

    with serving(answer) as server:
        with pytest.raises(UserError, match=f"#tiny: {status} code invalid_api_key"):
            probe(tmp_path, server)
        refusing[0] = False
        assert probe(tmp_path, server)[0].strict_schema


def test_an_account_without_money_is_an_error_and_no_finding(tmp_path):
    with serving(lambda path, body: (429, error("insufficient_quota"), {})) as server:
        with pytest.raises(UserError, match="no money left"):
            probe(tmp_path, server)
        assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 422, 501])
def test_a_gateway_may_refuse_unknown_paths_in_its_own_way(tmp_path, status):
    good = Endpoint("json_schema", "json_object")
    with serving(lambda path, body: good(path, body) if "chat" in path else (status, "<html>", {})) as server:
        assert probe(tmp_path, server)[0].strictest == "schema"
        assert server.paths().count("/v1/systemone") == 1


def test_passing_trouble_while_probing_is_waited_out(tmp_path):
    seen, good = {}, Endpoint("decisions", "json_schema", "json_object")

    def answer(path, body):
        key = (path, kind_of(body))
        seen[key] = seen.get(key, 0) + 1
        return [(503, "busy", {}), (429, error("rate_limit_exceeded"), {}), good(path, body)][min(seen[key], 3) - 1]

    with serving(answer) as server:
        record, _ = probe(tmp_path, server)
    assert (record.decision, record.strict_schema, record.json_mode) == ("decisions", True, True)


def test_an_endpoint_that_stays_away_is_an_error_with_a_way_out(tmp_path):
    with (
        serving(lambda path, body: (500, "oops", {})) as server,
        pytest.raises(UserError, match=r"500 while it was probed .*name a form of answer: ratings\.answer"),
    ):
        probe(tmp_path, server, attempts=2)
    with CallStore(tmp_path / "calls.sqlite", read_only=True) as store:
        assert store.endpoint(f"{server.url}#tiny") is None


class Reasoning:
    """Refuses what OpenAI's reasoning models refuse, in their words, and honours schemas."""

    def __call__(self, path, body):
        if "chat" not in path:
            return 404, error("unknown_url"), {}
        for name in ("max_tokens", "temperature"):
            if name in body:
                code = "unsupported_parameter" if name == "max_tokens" else "unsupported_value"
                return 400, error(code, "invalid_request_error", name), {}
        return Endpoint("json_schema", "json_object")(path, body)


def test_a_model_that_renames_the_limit_is_still_seen_to_honour_schemas(tmp_path):
    with serving(Reasoning()) as server:
        record, model = probe(tmp_path, server, attempts=1)
    assert record.strict_schema
    assert record.json_mode
    assert model.limit_name == "max_completion_tokens"


def test_a_model_that_takes_no_temperature_is_asked_without_one_and_says_so_once(tmp_path, capsys):
    with serving(Reasoning()) as server:
        model = open_models(f"{server.url}#tiny", table=ModelsTable(attempts=1))[0]
        sampling = {"temperature": 0.0, "max_tokens": 9}
        jobs = [(model, Request(messages=({"role": "user", "content": str(i)},), sampling=sampling)) for i in range(20)]
        with CallStore(tmp_path / "calls.sqlite") as store:
            assert len(ask_all(jobs, store)) == 20
    assert {key for _, body, _ in server.asked[-1:] for key in body} == {"model", "messages", "max_completion_tokens"}
    assert capsys.readouterr().err == f"{server.url}#tiny: takes no temperature and is asked without one\n"


def test_openai_itself_is_asked_with_the_name_that_all_its_models_know(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-real")
    model = OpenAIModel.from_name("openai:gpt-4o")
    assert model.fitted({"model": "gpt-4o", "max_tokens": 5}) == {"model": "gpt-4o", "max_completion_tokens": 5}


def test_another_400_is_not_taken_for_advice(tmp_path):
    with serving(lambda path, body: (400, error("invalid_value", param="temperature"), {})) as server:
        model = open_models(f"{server.url}#tiny")[0]
        asked = Request(messages=({"role": "user", "content": "Hi"},), sampling={"temperature": 9.0})
        with CallStore(tmp_path / "calls.sqlite") as store, pytest.raises(UserError, match="400 code invalid_value"):
            ask_all([(model, asked)], store)
        assert len(server.asked) == 1


def test_probes_count_in_the_budget_and_need_a_price_when_there_is_a_limit(tmp_path):
    prices = PriceList(as_of=date(2026, 1, 1), model={"tiny": Price(input=10, output=100)})
    with serving(Endpoint("json_schema")) as server:
        budget = Budget(prices, 1.0)
        probe(tmp_path / "a", server, budget)
        assert budget.spent == pytest.approx(2 * prices.model["tiny"].of(7, 2))
        assert budget.holders == 0
        asked = len(server.asked)
        with pytest.raises(UserError, match=r"models\.budget"):
            probe(tmp_path / "b", server, Budget(prices, 0.001))
        assert server.paths()[asked:] == [], "nothing is sent that the budget cannot judge"


def test_client_text_is_in_no_probe(tmp_path):
    with serving(Endpoint("json_schema")) as server:
        rate(tmp_path, server)
    assert dialogue_text(SPEECH.turns) not in json.dumps([body for _, body, _ in server.asked[:4]])
    assert dialogue_text(SPEECH.turns) in json.dumps(server.asked[4][1])
