"""Reading what judges answer: cut off, doubled, in another language, out of range, nested, huge. Read or counted, never
guessed. The usual shapes and single bad scores are in test_ratings."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.principles import load_principles
from psychocounsel.ratings.parse import parse_comparison, parse_scores

SEVEN = load_principles()
NAMES = [principle.id for principle in SEVEN]
TWOS, FOURS = (dict.fromkeys(NAMES, score) for score in (2, 4))
REASONED = {name: {"reason": f"it says “{name}” {{twice}}", "score": 4} for name in NAMES}
ANSWERS = {
    "bare": json.dumps(FOURS),
    "reasoned": json.dumps({"stage": "action", "risk": "none", **REASONED}),
    "indented": json.dumps(REASONED, indent=2, ensure_ascii=False),
    "fenced": f"```json\n{json.dumps({'scores': REASONED})}\n```",
}


def outcome(text):
    parsed = parse_scores(text, SEVEN)
    return parsed.scores, parsed.usable, bool(parsed.problems)


NOTHING = (dict.fromkeys(NAMES), False, True)


@pytest.mark.parametrize("shape", ANSWERS)
def test_an_answer_cut_off_anywhere_is_whole_or_nothing(shape):
    text = ANSWERS[shape]
    found = [outcome(text[:end]) for end in range(len(text) + 1)]
    assert all(row in (NOTHING, (FOURS, True, False)) for row in found)
    assert found[0] == NOTHING
    assert found[-1] == (FOURS, True, False)
    assert sum(row != NOTHING for row in found) < 8, "only what follows the object may be missing"


@pytest.mark.parametrize("shape", ANSWERS)
@pytest.mark.parametrize("times", [2, 5])
def test_the_same_answer_again_is_one_answer(shape, times):
    assert outcome("\nOnce more:\n".join([ANSWERS[shape]] * times)) == (FOURS, True, False)
    assert outcome(ANSWERS[shape] + ANSWERS["bare"]) == (FOURS, True, False), "in another shape too"


@pytest.mark.parametrize("order", [(TWOS, FOURS), (FOURS, TWOS), (FOURS, FOURS, TWOS), (FOURS, {"safety": 5})])
def test_two_answers_that_differ_are_none(order):
    text = " or ".join(map(json.dumps, order))
    assert outcome(text) == NOTHING
    assert parse_scores(text, SEVEN).problems == ["several JSON objects with different scores"]


@pytest.mark.parametrize(
    "frame",
    [
        "Meine Bewertung, mit größter Sorgfalt:\n{}\nMehr ist nicht zu sagen.",
        "评分如下：{}。以上。",
        "التقييم:\n{}\nانتهى",
        "Вот моя оценка — {} — спасибо.",
    ],
    ids=["German", "Chinese", "Arabic", "Russian"],
)
def test_prose_and_reasons_may_be_in_any_language(frame):
    reasons = {name: {"reason": "温かく、具体的", "score": 4} for name in NAMES}
    for ascii_only in (True, False):
        parsed = parse_scores(frame.format(json.dumps(reasons, ensure_ascii=ascii_only)), SEVEN)
        assert (parsed.scores, parsed.problems) == (FOURS, [])
        assert set(parsed.reasons.values()) == {"温かく、具体的"}


@pytest.mark.parametrize(
    "answer",
    [
        {"empathie": 4, "relevanz": 4, "klarheit": 4, "sicherheit": 4},
        {name.upper(): 4 for name in NAMES},
        {principle.name: 4 for principle in SEVEN},
        {"rating": FOURS},
        [{"principle": name, "score": 4} for name in NAMES],
        json.dumps(FOURS),
        {"scores": [4] * 7},
        {"scores": "4 4 4 4 4 4 4"},
    ],
    ids=["translated", "capitals", "full names", "nested", "list", "text of JSON", "scores as list", "scores as text"],
)
def test_keys_that_nobody_asked_for_are_not_guessed(answer):
    assert outcome(json.dumps(answer)) == NOTHING


@pytest.mark.parametrize(
    "score",
    ["0", "6", "-4", "4.5", "NaN", "-Infinity", '"4/5"', '"4 of 5"', '"four"', '"４"', '"④"', '"4\\u200b"', '"⁴"',
     "true", "[4]", "[]", "{}", '{"value": 4}', '{"score": {"score": 4}}', '{"score": [4]}', '{"score": "4/5"}',
     '{"score": 0}', '{"score": NaN}', '{"Score": 4}', "4.0000001", "1e2", "-0"],
)  # fmt: skip
def test_a_whole_answer_of_what_is_no_score_is_no_rating(score):
    text = "{" + ", ".join(f'"{name}": {score}' for name in NAMES) + "}"
    parsed = parse_scores(text, SEVEN)
    assert parsed.scores == dict.fromkeys(NAMES)
    assert not parsed.usable
    assert len(parsed.problems) == 7
    assert all(name in problem and len(problem) < 100 for name, problem in zip(NAMES, parsed.problems, strict=True))


def test_an_answer_of_nulls_is_understood_and_still_no_rating():
    parsed = parse_scores(json.dumps(dict.fromkeys(NAMES)), SEVEN)
    assert (parsed.usable, parsed.problems) == (False, [])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([1, 5, None, 0, 6, "4/5", "3", 2.5, True]), min_size=7, max_size=7))
def test_each_principle_is_read_by_itself(values):
    given_scores = dict(zip(NAMES, values, strict=True))
    parsed = parse_scores(json.dumps(given_scores), SEVEN)
    read = {1: 1, 5: 5, "3": 3}
    assert parsed.scores == {name: None if value is True else read.get(value) for name, value in given_scores.items()}
    assert len(parsed.problems) == sum(value in (0, 6, "4/5", 2.5) or value is True for value in values)


@pytest.mark.parametrize(
    "text",
    [
        "{" * 1_000_000,
        '{"empathy":' * 100_000,
        "[{" * 100_000,
        "{}" * 300_000,
        '{"empathy": "' + "x" * 5_000_000 + '"}',
        "{" + '"a": 1, ' * 300_000 + '"b": 2}',
        '{"empathy": ' + "9" * 100_000 + "}",
        "x" * 5_000_000,
    ],
    ids=["braces", "open objects", "open lists", "empty objects", "long text", "many keys", "long number", "prose"],
)
def test_a_huge_answer_takes_no_time_and_is_no_rating(text):
    start = time.process_time()
    assert outcome(text) == NOTHING
    assert time.process_time() - start < 3


def test_a_rating_with_a_huge_reason_is_read():
    text = json.dumps({**REASONED, "empathy": {"reason": "so warm " * 100_000, "score": 4}})
    assert outcome(text) == (FOURS, True, False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"overall": "A better"}{"overall": "A better"}', 0.75),
        ('{"overall": "A better"} {"overall": "B better"}', None),
        ('{"overall": "B much bet', None),
        ('{"overall": "A ist viel besser"}', None),
        ('{"overall": null}', None),
        ('{"overall": NaN}', None),
        ('{"overall": 1}', None),
        ('{"overall": {"overall": "tie"}}', None),
        ("A better", None),
        ("[" + '{"overall": "tie"}' + "]", 0.5),
        ("{" * 100_000, None),
        ("", None),
    ],
)
def test_a_comparison_that_is_no_single_verdict_is_none(text, value):
    assert parse_comparison(text, SEVEN)[0] == value
