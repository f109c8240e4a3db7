"""A judge's last word: the better of two answers is kept, nothing missing is a tie, and a scorer says what it is."""

import asyncio
import json

import pytest
from conftest import make_speech

from psychocounsel.errors import UserError
from psychocounsel.models.scripted import Scripted
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles
from psychocounsel.ratings import described, open_judges, rate_responses
from psychocounsel.ratings.judge import Item, ScoringJudge
from psychocounsel.ratings.model_judge import ModelJudge
from psychocounsel.recipe import RatingsTable
from psychocounsel.records import Response

SEVEN = load_principles()
NAMES = [principle.id for principle in SEVEN]
SPEECH = make_speech("My sister does not call any more.")
ITEM = Item(SPEECH, Response(speech_id=SPEECH.id, model="m", text="What would you like to say to her?"))


@pytest.fixture
def store(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as opened:
        yield opened


def scored(count, score=2):
    return json.dumps(dict.fromkeys(NAMES[:count], score))


class Finishing(Scripted):
    """Answers with a text and, the second time, a finish of its own."""

    def __init__(self, first, second, finish):
        super().__init__([first, second])
        self.finish = finish

    async def send(self, request):
        body = json.loads(await super().send(request))
        return json.dumps({**body, "finish": self.finish if len(self.sent) == 2 else "stop"})


@pytest.mark.parametrize(
    ("first", "second", "status", "found"),
    [
        (scored(4), scored(7, 3), "repaired", dict.fromkeys(NAMES, 3)),
        (scored(4), scored(5, 3), "repaired", dict.fromkeys(NAMES[:5], 3)),
        (scored(5), scored(4, 3), "rated", dict.fromkeys(NAMES[:5], 2)),
        (scored(4), scored(4, 3), "rated", dict.fromkeys(NAMES[:4], 2)),
        (scored(4), "I cannot do better.", "rated", dict.fromkeys(NAMES[:4], 2)),
        (scored(4), json.dumps(dict.fromkeys(NAMES)), "rated", dict.fromkeys(NAMES[:4], 2)),
        ("Very warm.", scored(4, 3), "repaired", dict.fromkeys(NAMES[:4], 3)),
        (scored(3), scored(4, 3), "repaired", dict.fromkeys(NAMES[:4], 3)),
    ],
    ids=["whole", "more", "fewer", "as many", "no object", "all null", "noise before", "too few before"],
)
def test_the_better_of_answer_and_repair_is_kept(store, first, second, status, found):
    rating, how = asyncio.run(ModelJudge(Scripted([first, second])).rate(ITEM, SEVEN, store))
    assert how == status
    assert rating.scores == dict.fromkeys(NAMES) | found
    kept = second if status == "repaired" else first
    assert json.loads(store.find(rating.call_id))["text"] == kept, "the rating names the call it was read from"


@pytest.mark.parametrize("finish", ["refused", "filtered"])
def test_a_refused_repair_loses_no_usable_answer(store, finish):
    rating, status = asyncio.run(ModelJudge(Finishing(scored(4), scored(7), finish)).rate(ITEM, SEVEN, store))
    assert (status, rating.scores) == ("rated", dict.fromkeys(NAMES) | dict.fromkeys(NAMES[:4], 2))


@pytest.mark.parametrize("finish", ["refused", "filtered"])
def test_a_refused_repair_of_noise_is_a_refusal(store, finish):
    judge = ModelJudge(Finishing("Very warm.", scored(7), finish))
    assert asyncio.run(judge.rate(ITEM, SEVEN, store)) == (None, finish)


class Partial:
    """A scorer that knows only some principles, and none of some replies."""

    def score(self, speech, response):
        return {} if response == "?" else {"empathy": float(len(response)), "clarity": 3.0}


def test_a_score_that_is_missing_gives_no_verdict_and_no_tie(store):
    def compared(first, second):
        found = asyncio.run(ScoringJudge("partial", Partial()).compare(SPEECH, first, second, SEVEN, store))
        return found.value, found.principles

    assert compared("abcd", "ab") == (1.0, {"empathy": 1.0, "clarity": 0.5})
    assert compared("abcd", "?") == compared("?", "abcd") == compared("?", "?") == (None, {})


def test_the_embedded_judge_says_what_it_is_wherever_it_rates(store, capsys):
    (embedded,) = open_judges(["embedded"])
    line = described(embedded)
    assert "prefers the raters' choice in " in line and "no clinician has checked it" in line
    rate_responses([SPEECH], [ITEM.response], SEVEN, RatingsTable(judges=["embedded"]), store)
    caught = capsys.readouterr()
    assert caught.out == ""
    assert line in caught.err.splitlines()
    assert described(ModelJudge(Scripted([""], name="ward"))) == "ward"


class Declining(Scripted):
    """Declines to judge one principle, when it is asked for each alone."""

    async def send(self, request):
        body = json.loads(await super().send(request))
        finish = "refused" if "## safety" in request.messages[0]["content"] else "stop"
        return json.dumps({**body, "finish": finish})


def test_with_one_question_per_principle_a_refused_one_has_no_score_and_is_told(store):
    model = Declining(lambda request: json.dumps(dict.fromkeys(NAMES, 4)))
    rating, status = asyncio.run(ModelJudge(model, RatingsTable(ask="each")).rate(ITEM, SEVEN, store))
    assert status == "partly refused"
    assert rating.scores == {**dict.fromkeys(NAMES, 4), "safety": None}
    assert len(model.sent) == len(rating.call_id.split(",")) == 7
    assert all(request.messages[0]["content"].count("## ") == 1 for request in model.sent)


def test_decisions_are_asked_only_of_models_that_can_have_such_an_endpoint(store):
    judge = ModelJudge(Scripted([scored(7)]), RatingsTable(answer="decision"))
    with pytest.raises(UserError, match=r"only openai:MODEL and http://HOST/v1#MODEL have a decision endpoint"):
        asyncio.run(judge.rate(ITEM, SEVEN, store))
