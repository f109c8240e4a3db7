"""Decision endpoints: both wire forms against real servers that speak them, and answers that are no decisions."""

import asyncio
import json

import pytest
from conftest import make_speech
from decision_answers import decisions, leaning, systemone
from hypothesis import given
from hypothesis import strategies as st
from local_server import error, serving
from openai.types import Decision
from openai.types.decision_create_params import DecisionCreateParams
from pydantic import TypeAdapter

from psychocounsel.errors import UserError
from psychocounsel.models import open_models
from psychocounsel.models.calls import ask_all
from psychocounsel.models.chat import Request
from psychocounsel.models.decisions import decision_body, read_decision
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles
from psychocounsel.ratings.judge import Item
from psychocounsel.ratings.model_judge import ModelJudge
from psychocounsel.recipe import RatingsTable
from psychocounsel.records import Response

LEVELS = ["none", "a little", "some", "much", "all"]
ASKED = Request(
    messages=({"role": "system", "content": "Rules."}, {"role": "user", "content": "I eat lunch alone."}),
    form="decision",
    questions={name: {"instructions": f"How {name}?", "levels": LEVELS} for name in ("warm", "clear")},
)
PRINCIPLES = load_principles()
SPEECH = make_speech("I moved here in spring and I still eat lunch alone.")
ITEM = Item(SPEECH, Response(speech_id=SPEECH.id, model="m", text="That sounds lonely."))


def endpoint(wire, **changes):
    """A server that knows one decision path and no other."""
    play = systemone if wire == "systemone" else decisions

    def answer(path, body):
        return play(body, **changes) if path == f"/v1/{wire}" else (404, error("unknown_url"), {})

    return answer


def ask(folder, server, *requests):
    model = open_models(f"{server.url}#tiny")[0]
    with CallStore(folder / "calls.sqlite") as store:
        return ask_all([(model, request) for request in requests], store)


def rate(folder, server, *, reverse=False, **table):
    judge = ModelJudge(open_models(f"{server.url}#tiny")[0], RatingsTable(answer="decision", **table), reverse=reverse)

    async def one(store):
        try:
            return await judge.rate(ITEM, PRINCIPLES, store)
        finally:
            await judge.model.close()

    with CallStore(folder / "calls.sqlite") as store:
        return asyncio.run(one(store))


def test_the_body_for_openai_decisions_is_what_its_sdk_sends():
    body = decision_body("decisions", "m", ASKED)
    assert TypeAdapter(DecisionCreateParams).validate_python(body)["model"] == "m"
    assert [message["role"] for message in body["input"]] == ["system", "user"]
    assert body["questions"][0] == {
        "type": "score", "name": "warm", "instructions": "How warm?", "levels": [{"label": level} for level in LEVELS]
    }  # fmt: skip
    assert set(body) <= set(DecisionCreateParams.__annotations__)


def test_the_server_of_these_tests_answers_as_the_sdk_reads_it():
    answer = decisions(decision_body("decisions", "m", ASKED), without=["clear"])
    parsed = TypeAdapter(Decision).validate_python(answer)
    assert [found.type for found in parsed.answers] == ["score", "refusal"]


def test_the_body_for_system_one_holds_a_state_and_a_map_of_questions():
    assert decision_body("systemone", "m", ASKED) == {
        "model": "m",
        "state": "Rules.\n\nI eat lunch alone.",
        "questions": {
            name: {"type": "score", "instructions": f"How {name}?", "criteria": LEVELS} for name in ("warm", "clear")
        },
    }


@pytest.mark.parametrize("wire", ["systemone", "decisions"])
def test_the_wire_form_that_an_endpoint_speaks_is_found_and_kept(tmp_path, wire):
    with serving(endpoint(wire)) as server:
        first, second = ask(tmp_path, server, ASKED, ASKED.model_copy(update={"sample": 1}))
        again = ask(tmp_path, server, ASKED)[0]
    assert first.levels == second.levels == {name: (0.1, 0.1, 0.1, 0.6, 0.1) for name in ("warm", "clear")}
    assert (first.tokens_in, first.tokens_out, first.finish) == (40, 0, "stop")
    assert again.cached
    assert server.paths().count(f"/v1/{wire}") == 2


def test_an_endpoint_without_decisions_says_so_in_one_line(tmp_path):
    with serving(endpoint("neither")) as server, pytest.raises(UserError, match=r"#tiny: 404 code unknown_url"):
        ask(tmp_path, server, ASKED)
    assert server.paths() == ["/v1/systemone", "/v1/decisions"]


def test_probabilities_may_come_as_a_list_too(tmp_path):
    with serving(endpoint("systemone", as_list=True)) as server:
        assert ask(tmp_path, server, ASKED)[0].levels["warm"] == (0.1, 0.1, 0.1, 0.6, 0.1)


def test_a_question_that_was_declined_is_left_out_and_all_declined_is_a_refusal(tmp_path):
    with serving(endpoint("decisions", without=["clear"])) as server:
        (found,) = ask(tmp_path / "some", server, ASKED)
    assert (list(found.levels), found.finish) == (["warm"], "stop")
    with serving(endpoint("systemone", without=["warm", "clear"])) as server:
        (found,) = ask(tmp_path / "all", server, ASKED)
    assert (found.levels, found.finish) == ({}, "refused")


@pytest.mark.parametrize(
    "table",
    [
        [], {}, None, "often", 1, [1.1, -0.1], [0.2, 0.2], [0.6, 0.6], ["x"], [None], [[0.5], [0.5]],
        {"none": 0.5, "all": 0.5}, {"0": 0.5, "1": "much"}, [{"value": 0}], [{"probability": 1.0}],
        [{"value": None, "probability": 1.0}],
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_distribution_is_no_answer(table):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        read_decision(json.dumps({"answers": {"warm": {"type": "score", "probabilities": table}}}))


@pytest.mark.parametrize(
    "body",
    ['{"answers": 3}', '{"answers": [3]}', '{"answers": {"warm": null}}', '{"answers": [{"type": "score"}]}', "[]",
     '{"answers": [{"name": null, "probabilities": [1.0]}]}', '{"answers": {"warm": {"probabilities": [NaN, 1.0]}}}'],
)  # fmt: skip
def test_a_body_of_another_shape_is_no_answer(body):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        read_decision(body)


def test_a_distribution_that_does_not_add_up_is_asked_again_and_then_told(tmp_path, monkeypatch):
    from psychocounsel.models import calls

    monkeypatch.setattr(calls, "FIRST_WAIT_S", 0.001)
    wrong = {"answers": {"warm": {"type": "score", "probabilities": [0.9, 0.9]}}}
    with serving(lambda path, body: wrong) as server, pytest.raises(UserError, match="the server's reply is not"):
        ask(tmp_path, server, ASKED)
    assert len(server.asked) == 6


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9).filter(lambda shares: sum(shares) > 0.01))
def test_any_rounded_distribution_is_read_in_every_form_alike(shares):
    rounded = [round(share / sum(shares), 3) for share in shares]
    forms = (
        rounded,
        {str(number): share for number, share in enumerate(rounded)},
        [{"value": number, "label": "x", "probability": share} for number, share in enumerate(rounded)][::-1],
    )
    read = [read_decision(json.dumps({"answers": {"q": {"probabilities": form}}})).levels["q"] for form in forms]
    assert read[0] == read[1] == read[2]
    assert sum(read[0]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("wire", ["systemone", "decisions"])
def test_a_decision_gives_expected_scores_and_keeps_the_distributions(tmp_path, wire):
    with serving(endpoint(wire, level=4)) as server:
        rating, status = rate(tmp_path, server)
    expected = sum(level * share for level, share in enumerate(leaning(5, 4), 1))
    assert status == "rated"
    assert rating.scores == {principle.id: pytest.approx(expected) for principle in PRINCIPLES}
    assert rating.levels == {principle.id: (0.1, 0.1, 0.1, 0.1, 0.6) for principle in PRINCIPLES}
    bodies = [body for path, body, _ in server.asked if path == f"/v1/{wire}"]
    assert [len(body["questions"]) for body in bodies] == [len(PRINCIPLES)], "all principles in one decision"


def test_with_reversed_levels_the_scores_mean_the_same(tmp_path):
    """The server leans to what is shown last: that is level 5, or level 1 when the levels are reversed."""
    with serving(endpoint("systemone", level=4)) as server:
        straight, _ = rate(tmp_path, server)
        turned, _ = rate(tmp_path, server, reverse=True)
    first, second = (body["questions"]["empathy"]["criteria"] for path, body, _ in server.asked)
    assert first == second[::-1]
    assert straight.levels["empathy"] == turned.levels["empathy"][::-1]
    assert straight.scores["empathy"] + turned.scores["empathy"] == pytest.approx(6)
    assert straight.call_id != turned.call_id


def test_principles_that_were_declined_have_no_score(tmp_path):
    with serving(endpoint("decisions", without=["safety"])) as server:
        rating, status = rate(tmp_path, server)
    assert status == "partly refused"
    assert rating.scores["safety"] is None
    assert sum(score is not None for score in rating.scores.values()) == len(PRINCIPLES) - 1


def test_a_decision_declined_in_full_is_a_refusal_and_not_a_low_score(tmp_path):
    with serving(endpoint("decisions", without=[principle.id for principle in PRINCIPLES])) as server:
        assert rate(tmp_path, server) == (None, "refused")
