"""How many calls an endpoint gets at once, and what is waited out: the limiter alone, then against real servers."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_server import chat, error, serving

from psychocounsel.errors import UserError
from psychocounsel.models import calls, limits, open_models
from psychocounsel.models.calls import ask_all
from psychocounsel.models.chat import Request
from psychocounsel.models.limits import FIRST_LIMIT, Limiter
from psychocounsel.models.remote import retry_after_seconds
from psychocounsel.models.store import CallStore
from psychocounsel.recipe import ModelsTable


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [1000.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(calls, "FIRST_WAIT_S", 0.01)


def ask(folder, name, count, **table):
    """Ask `count` different questions, in order."""
    model = open_models(name, table=ModelsTable(**table))[0]
    jobs = [(model, Request(messages=({"role": "user", "content": f"question {i}"},))) for i in range(count)]
    with CallStore(folder / "calls.sqlite") as store:
        return ask_all(jobs, store), model


def test_it_grows_by_one_with_every_answer_until_the_first_rate_limit():
    limiter = Limiter(40)
    assert limiter.limit == FIRST_LIMIT == 16
    for _ in range(10):
        limiter.answered()
    assert limiter.limit == 26
    for _ in range(100):
        limiter.answered()
    assert limiter.limit == 40


def test_after_a_rate_limit_it_has_half_and_grows_by_one_per_width_of_answers(clock):
    limiter = Limiter(64)
    limiter.refused(0)
    assert limiter.limit == 8
    for _ in range(8):
        limiter.answered()
    assert 8.9 < limiter.limit <= 9


def test_it_halves_once_a_second_at_most_and_never_below_one(clock):
    limiter = Limiter(64)
    for _ in range(16):  # all calls on their way meet the same limit
        limiter.refused(0)
    assert (limiter.limit, limiter.cuts) == (8, 1)
    clock[0] += 0.99
    limiter.refused(0)
    assert limiter.limit == 8
    for _ in range(9):
        clock[0] += 1
        limiter.refused(0)
    assert (limiter.limit, limiter.cuts) == (1, 10)


def test_a_small_limit_of_the_recipe_is_kept_from_the_start():
    limiter = Limiter(3)
    for _ in range(20):
        limiter.answered()
    assert limiter.limit == 3


def test_a_pause_that_the_endpoint_asks_for_holds_everybody_back():
    async def everybody():
        limiter, entered = Limiter(8), []
        start = time.monotonic()

        async def call():
            async with limiter:
                entered.append(time.monotonic() - start)

        limiter.refused(0.2)
        limiter.refused(0.05)  # a shorter one does not end the longer one
        await asyncio.gather(*(call() for _ in range(20)))
        return entered

    assert min(asyncio.run(everybody())) >= 0.199


@settings(max_examples=60, deadline=None)
@given(
    most=st.integers(1, 6),
    callers=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from(["answered", "refused", "failed"])), max_size=30
    ),
    cancelled=st.sets(st.tuples(st.integers(0, 29), st.integers(0, 8)), max_size=12),
)
def test_whatever_is_cancelled_no_place_is_lost_and_none_too_many_given(most, callers, cancelled):
    async def play():
        limiter, inside = Limiter(most), [0, 0]

        async def call(before, during, end):
            for _ in range(before):
                await asyncio.sleep(0)
            async with limiter:
                inside[0] += 1
                inside[1] = max(inside)
                try:
                    for _ in range(during):
                        await asyncio.sleep(0)
                    if end == "answered":
                        limiter.answered()
                    elif end == "refused":
                        limiter.refused(0)
                finally:
                    inside[0] -= 1

        tasks = [asyncio.create_task(call(*caller)) for caller in callers]
        for turn in range(9):
            for index, when in cancelled:
                if when == turn and index < len(tasks):
                    tasks[index].cancel()
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert limiter.active == 0
        assert not [place for place in limiter.waiting if not place.done()]
        assert inside[1] <= most
        async with asyncio.timeout(1), limiter:
            assert limiter.active == 1

    asyncio.run(play())


def test_a_limiter_outlives_the_event_loop_that_waited_at_it():
    limiter = Limiter(1)

    async def call():
        async with limiter:
            await asyncio.sleep(5)

    async def stopped():
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(call())
            await asyncio.sleep(0.01)
            raise UserError("stop")

    for _ in range(3):
        with pytest.raises(ExceptionGroup):
            asyncio.run(stopped())
        assert limiter.active == 0

    async def again():
        async with asyncio.timeout(1), limiter:
            return True

    assert asyncio.run(again())


def test_models_of_one_endpoint_share_its_limiter():
    table = ModelsTable(concurrency=5)
    one, two = (open_models(f"http://127.0.0.1:9/v1#{name}", table=table)[0] for name in ("a", "b"))
    other = open_models("http://127.0.0.1:8/v1#a", table=table)[0]
    assert one.limiter is two.limiter
    assert one.limiter is not other.limiter


def test_an_endpoint_that_takes_four_at_once_gets_through_everything(tmp_path, quick):
    async def answer(path, body):
        if server.now > 4:
            return 429, error("rate_limit_exceeded"), {}
        await asyncio.sleep(0.01)
        return chat(body["messages"][0]["content"].upper())

    with serving(answer) as server:
        answers, model = ask(tmp_path, f"{server.url}#tiny", 120, concurrency=32)
    assert [answer.text for answer in answers] == [f"QUESTION {i}" for i in range(120)]
    assert model.limiter.cuts >= 1
    assert len({body["messages"][0]["content"] for _, body, _ in server.asked}) == 120


def test_no_more_calls_are_under_way_than_the_recipe_allows(tmp_path):
    async def answer(path, body):
        await asyncio.sleep(0.01)
        return chat()

    with serving(answer) as server:
        ask(tmp_path, f"{server.url}#tiny", 40, concurrency=3)
    assert server.most == 3


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached", "billing_not_active"])
@pytest.mark.parametrize("words", ["Rate limit reached, please try again in 20 ms", ""])
def test_an_empty_account_ends_the_run_at_once_whatever_the_words_say(tmp_path, code, words):
    with serving(lambda path, body: (429, error(code, words=words), {"retry-after": "1"})) as server:
        with pytest.raises(UserError, match=rf"429 the account has no money left \(code {code}\); the calls answered"):
            ask(tmp_path, f"{server.url}#tiny", 1)
        assert len(server.asked) == 1


@pytest.mark.parametrize("words", ["You exceeded your current quota, please check your billing details.", ""])
def test_a_rate_limit_is_waited_out_longer_than_failures_are_whatever_the_words_say(tmp_path, quick, words):
    left = [9]

    def answer(path, body):
        left[0] -= 1
        return (429, error("rate_limit_exceeded", words=words), {}) if left[0] else chat("At last.")

    with serving(answer) as server:
        (found,), model = ask(tmp_path, f"{server.url}#tiny", 1, attempts=2)
    assert found.text == "At last."
    assert len(server.asked) == 9
    assert model.limiter.cuts >= 1


def test_a_rate_limit_that_never_lifts_ends_in_one_clear_error(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(calls, "PATIENCE_S", 0.1)
    with serving(lambda path, body: (429, error("rate_limit_exceeded"), {})) as server:
        with pytest.raises(UserError, match=r"#tiny: 429 after 4 attempts; the calls answered so far are kept"):
            ask(tmp_path, f"{server.url}#tiny", 1)
        assert len(server.asked) == 4  # waits of 0.01, 0.02 and 0.04 s; the next would pass 0.1


def test_a_server_that_hangs_is_left_after_the_timeout_and_asked_again(tmp_path, quick):
    async def answer(path, body):
        if len(server.asked) == 1:
            await asyncio.sleep(1.0)
        return chat("Second.")

    with serving(answer) as server:
        (found,), _ = ask(tmp_path, f"{server.url}#tiny", 1, timeout=0.2)
    assert found.text == "Second."
    assert server.times[1] - server.times[0] < 0.9


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("", 0), ("2", 2), ("0.5", 0.5), ("-3", 0), ("soon", 0), ("nan", 0), ("inf", 300), ("99999", 300)],
)
def test_a_retry_after_header_is_read_with_care(header, seconds):
    assert retry_after_seconds(header) == seconds


def test_a_retry_after_date_is_a_wait_until_then():
    now = datetime.now(UTC)
    assert 28 < retry_after_seconds(format_datetime(now + timedelta(seconds=30), usegmt=True)) <= 30
    assert retry_after_seconds(format_datetime(now - timedelta(seconds=30), usegmt=True)) == 0
    assert retry_after_seconds("Mon, 99 Xyz 2026 25:61:00 GMT") == 0
