"""Calls on their way when something fails or the user stops: what was sent is stored, what was not is not sent."""

import asyncio
import json
import signal

import pytest

from psychocounsel.errors import UserError
from psychocounsel.models.calls import ask_all
from psychocounsel.models.chat import Request
from psychocounsel.models.scripted import Scripted
from psychocounsel.models.store import CallStore


def request(word):
    return Request(messages=({"role": "user", "content": word},))


def texts(completions):
    return [completion.text for completion in completions]


def key(word):
    return request(word).key("scripted", "scripted")


class Failing(Scripted):
    """Answers until the n-th question, which it takes as `fault` says."""

    def __init__(self, good, fault):
        super().__init__(lambda request: request.messages[0]["content"].upper())
        self.good, self.fault = good, fault

    async def send(self, request):
        if len(self.sent) == self.good:
            self.fault()
            await asyncio.sleep(0.05)
        return await super().send(request)


def refuse():
    raise UserError("scripted: 500 after 6 attempts")


@pytest.fixture
def store(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as opened:
        yield opened


@pytest.mark.parametrize(
    ("fault", "error", "answered", "failed"),
    [(refuse, UserError, 2, 1), (lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt, 3, 0)],
    ids=["a failing server", "ctrl-c"],
)
def test_what_was_answered_before_a_failure_is_kept(tmp_path, fault, error, answered, failed):
    jobs = [request(word) for word in ("a", "b", "c", "d")]
    with CallStore(tmp_path / "calls.sqlite") as store:
        with pytest.raises(error):
            ask_all([(model, job) for model in [Failing(2, fault)] for job in jobs], store)
        assert store.by_model() == [("scripted", "scripted", answered, failed)]
    with CallStore(tmp_path / "calls.sqlite") as store:
        model = Scripted(lambda r: "again")
        kept = ["A", "B", "C"][:answered]
        assert texts(ask_all([(model, job) for job in jobs], store)) == [*kept, *["again"] * (4 - answered)]
        assert len(model.sent) == 4 - answered


@pytest.mark.parametrize(
    ("fault", "error"),
    [(refuse, UserError), (lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt)],
    ids=["a failing server", "ctrl-c"],
)
def test_a_call_in_flight_when_another_fails_is_still_stored_and_no_further_one_is_sent(store, fault, error):
    class Shared(Scripted):
        concurrency = 2

        async def send(self, request):
            answer = await super().send(request)
            if request.messages[0]["content"] == "bad":
                fault()
            await asyncio.sleep(0.05)
            return answer

    model = Shared(lambda request: "to " + request.messages[0]["content"])
    with pytest.raises(error):
        ask_all([(model, request(word)) for word in ("slow", "bad", "unsent", "unsent too")], store)
    assert [sent.messages[0]["content"] for sent in model.sent] == ["slow", "bad"]
    assert store.find(key("slow")) == json.dumps({"text": "to slow"})
    bad = store.find(key("bad"))
    assert bad == (None if error is UserError else json.dumps({"text": "to bad"}))
    assert sum(done + pending for *_, done, pending in store.by_model()) == 2, "nothing unsent is noted as sent"
    assert not store.in_flight
