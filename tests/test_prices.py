"""Prices and the budget: what a call costs, what it could cost at most, and a limit that is never passed."""

import asyncio
import sqlite3
from datetime import date

import pytest
from local_server import chat, serving

from psychocounsel.errors import UserError
from psychocounsel.models import open_models
from psychocounsel.models.calls import ask_all
from psychocounsel.models.chat import Completion, Request
from psychocounsel.models.prices import Budget, Price, PriceList, load_prices, tokens_in, tokens_out
from psychocounsel.models.scripted import Scripted
from psychocounsel.models.store import CallStore
from psychocounsel.recipe import ModelsTable

GOOD = 'as_of = 2026-01-31\n[model."tiny"]\ninput = 10.0\noutput = 100.0\n'
TINY = PriceList(as_of=date(2026, 1, 31), model={"tiny": Price(input=10, output=100)})


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-real")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-not-real")


def model(name):
    return open_models(name)[0]


def question(text="Hello", **fields):
    return Request(messages=({"role": "user", "content": text},), **fields)


def test_the_price_list_of_the_package_is_dated_and_says_where_each_price_is_from():
    prices = load_prices(ModelsTable())
    assert date(2025, 1, 1) < prices.as_of
    assert all(price.source and price.output >= price.input > 0 for price in prices.model.values())
    assert prices.path.endswith("prices.toml")


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("openai:gpt-4o", "gpt-4o"),
        ("openai:gpt-4o-2024-08-06", "gpt-4o"),
        ("openai:gpt-4o-mini", "gpt-4o-mini"),
        ("openai:gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai:gpt-4.1-latest", "gpt-4.1"),
        ("anthropic:claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("https://api.example.org/v1#gpt-5-mini", "gpt-5-mini"),
    ],
)
def test_a_name_covers_its_dated_versions(name, like):
    prices = load_prices(ModelsTable())
    assert prices.find(model(name)) == prices.model[like]


@pytest.mark.parametrize(
    "name",
    ["openai:gpt-5-pro", "openai:gpt-4o-audio-preview", "openai:gpt-4", "openai:gpt-5.9", "anthropic:claude-sonnet-4",
     "https://api.example.org/v1#openai/gpt-4o"],
)  # fmt: skip
def test_a_name_that_only_begins_alike_is_another_model_with_an_unknown_price(name):
    assert load_prices(ModelsTable()).find(model(name)) is None


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8000/v1", "http://127.0.0.1:8000/v1", "http://[::1]:8000/v1", "http://10.1.2.3/v1",
     "http://192.168.0.7:8000/v1", "http://gpu-box:8000/v1", "http://llm.internal/v1", "https://node.local/v1"],
)  # fmt: skip
def test_servers_of_ones_own_cost_nothing_per_token(url):
    assert load_prices(ModelsTable()).find(model(f"{url}#any")) == Price(input=0, output=0)


@pytest.mark.parametrize("url", ["https://api.example.org/v1", "http://8.8.8.8/v1", "https://local.example.org/v1"])
def test_the_price_at_a_public_address_is_not_guessed(url):
    assert load_prices(ModelsTable()).find(model(f"{url}#any")) is None


def test_models_in_this_process_cost_nothing():
    assert load_prices(ModelsTable()).find(Scripted(["x"])) == Price(input=0, output=0)


def test_a_price_file_of_ones_own_is_read(tmp_path):
    (tmp_path / "prices.toml").write_text(GOOD)
    prices = load_prices(ModelsTable(prices=str(tmp_path / "prices.toml")))
    assert prices.find(model("https://api.example.org/v1#tiny")).of(1_000_000, 10_000) == 11.0
    assert prices.old == ((date.today() - date(2026, 1, 31)).days > 180)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "as_of: Field required"),
        (b"as_of = 2026-01-31\n", "model: Field required"),
        (GOOD.replace("10.0", "-1").encode(), "model.tiny.input: Input should be greater than or equal to 0"),
        (GOOD.replace("10.0", "nan").encode(), "model.tiny.input: Input should be a finite number"),
        (GOOD.replace("output", "ouput").encode(), "model.tiny.output: Field required"),
        (GOOD.replace("2026-01-31", '"soon"').encode(), "as_of: Input should be a valid date"),
        (GOOD.encode()[:40], "no price file that can be read"),
        (GOOD.encode("utf-16"), "no price file that can be read"),
        (None, "no price file that can be read"),
    ],
)
def test_a_price_file_that_cannot_be_used_is_named_with_what_is_wrong(tmp_path, content, says):
    path = tmp_path / "prices.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_prices(ModelsTable(prices=str(path)))
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_tokens_are_estimated_by_bytes_so_that_other_alphabets_are_not_cheap():
    assert tokens_in(question("a" * 400)) == 108
    assert tokens_in(question("愛" * 400)) == 308
    assert tokens_in(question("x", answer_schema={"type": "object"})) > tokens_in(question("x"))
    assert tokens_out(question(sampling={"max_tokens": 70})) == 70
    assert tokens_out(question(form="decision")) == 0


def test_what_is_reserved_is_enough_for_any_answer_within_the_limit():
    budget = Budget(TINY, 100.0)
    asked = question("愛" * 100 + "word " * 100, sampling={"max_tokens": 50})
    most = asyncio.run(budget.reserve(model("https://api.example.org/v1#tiny"), asked))
    worst = Completion(text="", tokens_in=150 + 250, tokens_out=50)  # 1.5 tokens per letter, a token per two letters
    assert most >= TINY.model["tiny"].of(worst.tokens_in, worst.tokens_out)


def test_without_a_limit_an_unknown_price_is_counted_as_unknown():
    budget, unknown = Budget(TINY, None), model("https://api.example.org/v1#other")
    assert asyncio.run(budget.reserve(unknown, question())) == 0
    budget.release(0)
    assert budget.settle(unknown, Completion(text="", tokens_in=1200, tokens_out=34)) is None
    assert budget.told() == "1,234 tokens, price unknown"


def test_with_a_limit_an_unknown_price_stops_before_anything_is_sent(tmp_path):
    budget = Budget(load_prices(ModelsTable()), 5.0)
    with pytest.raises(UserError, match=r'no price is known, so the budget cannot be kept; add \[model\."NAME"\]'):
        asyncio.run(budget.reserve(model("https://api.example.org/v1#other"), question()))


def test_a_call_waits_while_those_on_their_way_may_leave_enough():
    budget, tiny = Budget(TINY, 0.02), model("https://api.example.org/v1#tiny")
    asked = question(sampling={"max_tokens": 100})  # a bit more than one cent

    async def play():
        first = await budget.reserve(tiny, asked)
        second = asyncio.create_task(budget.reserve(tiny, asked))
        third = asyncio.create_task(budget.reserve(tiny, asked))
        await asyncio.sleep(0.01)
        waiting = second.done(), third.done()
        third.cancel()
        budget.settle(tiny, Completion(text="", tokens_out=10))
        budget.release(first)
        return first, waiting, await asyncio.wait_for(second, 1)

    first, waiting, second = asyncio.run(play())
    assert 0.01 < first == second < 0.011
    assert waiting == (False, False)
    assert budget.reserved == pytest.approx(second)


def test_progress_tells_tokens_money_and_the_limit():
    budget = Budget(TINY, 3.0, spent=1.5)
    assert budget.told() == "$1.50 of $3"
    budget.settle(model("https://api.example.org/v1#tiny"), Completion(text="", tokens_in=50_000, tokens_out=5_000))
    assert budget.told() == "55,000 tokens, $2.50 of $3"
    assert Budget(TINY, 3.0).told() == ""


def costs(path):
    with sqlite3.connect(path) as store:
        return [row[0] for row in store.execute("SELECT cost FROM calls WHERE status = 'done'")]


def test_the_budget_is_never_passed_and_the_run_goes_on_when_it_is_raised(tmp_path):
    """Fifty calls at once, each up to 0.0102 dollars and in truth 0.0031: ten cents are used up, and never passed."""
    used, path = [], tmp_path / "calls.sqlite"

    async def answer(url, body):
        await asyncio.sleep(0.02)
        used.append(TINY.model["tiny"].of(10, 30))
        return chat(body["messages"][0]["content"], tokens=(10, 30))

    with serving(answer) as server:
        tiny = open_models(f"{server.url}#tiny", table=ModelsTable(concurrency=50))[0]
        jobs = [(tiny, question(f"q{i}", sampling={"max_tokens": 100})) for i in range(60)]
        limit = 0.1
        with CallStore(path, Budget(TINY, limit)) as store:
            with pytest.raises(UserError, match=r"models\.budget: 0\.0\d+ of 0\.1 US dollars are spent, and the next"):
                ask_all(jobs, store)
            assert store.spent() == pytest.approx(sum(used)) == pytest.approx(store.budget.spent)
        first = len(server.asked)
        assert limit - 0.0145 < sum(used) <= limit  # what one more call could cost, and one that settled meanwhile
        with CallStore(path) as store:
            store.budget = Budget(TINY, limit, store.spent())
            with pytest.raises(UserError, match=r"models\.budget"):
                ask_all(jobs, store)  # costs of the earlier session count
        assert sum(used) <= limit
        with CallStore(path) as store:
            store.budget = Budget(TINY, 1.0, store.spent())
            answers = ask_all(jobs, store)
        assert len(server.asked) == 60, "answered ones are not asked again"
    assert [answer.text for answer in answers] == [f"q{i}" for i in range(60)]
    assert sum(answer.cached for answer in answers) >= first
    assert sum(costs(path)) == pytest.approx(sum(used))
    assert store.budget.reserved == store.budget.holders == 0


def test_cached_answers_are_free_even_when_the_budget_is_used_up(tmp_path):
    with serving(lambda path, body: chat(tokens=(10, 30))) as server:
        tiny = model(f"{server.url}#tiny")
        asked = question(sampling={"max_tokens": 100})
        with CallStore(tmp_path / "calls.sqlite", Budget(TINY, 1.0)) as store:
            ask_all([(tiny, asked)], store)
        with CallStore(tmp_path / "calls.sqlite", Budget(TINY, 0.001, spent=0.001)) as store:
            (found,) = ask_all([(tiny, asked)], store)
    assert found.cached
    assert len(server.asked) == 1


def test_what_a_failed_call_reserved_is_free_again(tmp_path):
    with serving(lambda path, body: (404, "{}", {})) as server, CallStore(tmp_path / "c", Budget(TINY, 1.0)) as store:
        with pytest.raises(UserError, match="404"):
            ask_all([(model(f"{server.url}#tiny"), question(str(i))) for i in range(5)], store)
        assert store.budget.reserved == store.budget.holders == store.spent() == 0
