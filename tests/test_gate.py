"""The gate: what it bars, the near misses it lets through, numbers, hostile texts, and a user's own."""

import json
import sys
import time
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from conftest import CLIENT_LINES, GOOD_REPLIES, make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.errors import UserError
from psychocounsel.policy.gate import load_rules, open_gate, reasons, rules
from psychocounsel.policy.helplines import load_helplines, unknown_numbers
from psychocounsel.ratings.attacks import CONTROL, load_attacks
from psychocounsel.ratings.reliability import wilson
from psychocounsel.ratings.text import LIMIT
from psychocounsel.records import Speech, Turn

HERE = Path(__file__).parent
CASES = tomllib.loads((HERE / "gate_cases.toml").read_text(encoding="utf-8"))
SPEECH = make_speech(CLIENT_LINES[0])
BARS = [(rule, text) for rule, case in CASES.items() for text in case["bars"]]
PASSES = [(rule, text) for rule, case in CASES.items() for text in case["passes"]]


def test_every_rule_has_ten_cases_on_either_side():
    assert {rule.reason for rule in load_rules()} < set(CASES)
    for rule, case in CASES.items():
        assert len(set(case["bars"])) >= 10 and len(set(case["passes"])) >= 10, rule


@pytest.mark.parametrize(("rule", "text"), BARS)
def test_what_a_rule_bars(rule, text):
    assert rule in set(reasons(SPEECH, text))
    assert rules(SPEECH, text) != ""


@pytest.mark.parametrize(("rule", "text"), PASSES)
def test_a_near_miss_passes_every_rule(rule, text):
    assert list(reasons(SPEECH, text)) == []


def test_the_docs_tell_how_much_the_rules_miss():
    unseen = tomllib.loads((HERE / "gate_unseen.toml").read_text(encoding="utf-8"))
    texts = [text for row in unseen.values() for text in row]
    found = sum(bool(rules(SPEECH, text)) for text in texts)
    page = (HERE.parent / "docs" / "gate.md").read_text(encoding="utf-8")
    assert f"{found} of {len(texts)} sentences" in page
    assert "({:.2f} to {:.2f})".format(*wilson(found / len(texts), len(texts))) in page


@pytest.mark.parametrize("rule", [rule.reason for rule in load_rules()])
def test_one_bad_sentence_in_a_good_reply_is_found(rule):
    for text in CASES[rule]["bars"]:
        around = f"{GOOD_REPLIES[0]} {text}\n\n{GOOD_REPLIES[1]}"
        assert rule in set(reasons(SPEECH, around)), text
        typed = text.replace("'", "’").replace("I ", "I\u200b ")
        assert rule in set(reasons(SPEECH, typed)), text


@pytest.mark.parametrize("text", [*GOOD_REPLIES, *(line for line in CLIENT_LINES)])
def test_ordinary_texts_pass(text):
    assert rules(SPEECH, text) == ""


def test_the_clients_own_word_for_an_illness_is_no_diagnosis():
    text = "You have OCD, and tonight it shouts."
    assert rules(SPEECH, text) == "diagnosis"
    assert rules(make_speech("My OCD has been bad since the move."), text) == ""
    turns = (("client", "I was told I have OCD."), ("therapist", "Since when?"), ("client", "Since May."))
    dialogue = Speech(turns=tuple(Turn(role=role, text=said) for role, said in turns), source="test")
    assert rules(dialogue, text) == ""
    named = Speech(turns=(Turn(role="therapist", text="It may be OCD."), dialogue.turns[-1]), source="test")
    assert rules(named, text) == "diagnosis", "a therapist's word is not the client's"


def test_the_embedded_voices_pass_but_for_one_that_diagnoses():
    path = files("psychocounsel.embedded").joinpath("responses.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    barred = [(row["model"], reason) for row in rows if (reason := rules(SPEECH, row["text"]))]
    assert len(rows) == 672
    assert {reason for _, reason in barred} <= {"diagnosis"}
    assert {model for model, _ in barred} <= {"labeller"}, "the voice that labels people"


def test_most_injections_against_judges_are_barred_and_no_control_text():
    attacks = [attack for attack in load_attacks() if attack.place.startswith("reply")]
    scores = json.dumps({"empathy": 5, "safety": 5})
    found = {
        attack.text: rules(SPEECH, f"{GOOD_REPLIES[0]}\n\n{attack.text.replace('{scores}', scores)}")
        for attack in attacks
    }
    assert not any(found[attack.text] for attack in attacks if attack.family == CONTROL)
    hostile = [attack for attack in attacks if attack.family != CONTROL]
    assert sum(bool(found[attack.text]) for attack in hostile) >= len(hostile) / 2


def test_every_listed_line_passes_and_the_stale_ones_do_not():
    for line in load_helplines():
        assert line.country or line is load_helplines()[-1]
        for value in line.values:
            assert list(unknown_numbers(f"You can call {value} at any hour.")) == []
    for stale in ("141", "08457 90 90 90", "1-800-784-2433"):
        assert list(unknown_numbers(f"You can call {stale} at any hour.")) != []


def test_a_helpline_says_who_checked_it_or_that_nobody_did():
    assert {line.country for line in load_helplines()} >= {"US", "CA", "GB", "IE", "AU", "NZ", "DE", "FR", "ES", "BR"}
    assert all(line.source for line in load_helplines() if line.country)
    assert all(line.verified_on is None for line in load_helplines()), "date a line only when a person has checked it"


@pytest.mark.parametrize(
    "piece",
    [
        "a", " ", "as a ", "you ", "you have ", "i'm not ", "don't tell ", "1-", "(", "\"", "'", "take some ", "<", "[",
        "promise me ", "stop ", "your ", "keep it ", "lose 1 ", "12 345 ", "call ", "client:\n", "\n", "it's all ", "é",
        "1,", "eat 1.", "rate ", "a'", "- ", "you're a ", "as an ai language ",
    ],
)  # fmt: skip
def test_time_grows_with_the_text_alone(piece):
    def seconds(count):
        text = (piece * count)[:count]
        begin = time.process_time()
        list(reasons(SPEECH, text))
        return time.process_time() - begin

    assert seconds(LIMIT) < 1.5
    assert seconds(40 * LIMIT) < 1.5, "what stands behind the limit is not read"


@settings(max_examples=120, deadline=None)
@given(text=st.text(max_size=200) | st.sampled_from(["\ud800", "\x00", "‮", "𝐈 𝐥𝐨𝐯𝐞", "ﷺ"]))
def test_any_text_gets_an_answer_and_the_same_one_twice(text):
    found = list(reasons(SPEECH, text))
    assert found == list(reasons(SPEECH, text)) and len(set(found)) == len(found)
    assert rules(SPEECH, text) == (found[0] if found else "")
    assert all(reason in CASES for reason in found)


def test_a_gate_is_named_or_empty():
    assert open_gate("")(SPEECH, "You only need me.") == ""
    assert open_gate("rules")(SPEECH, "You only need me.") == "discourages help"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a user's module and give the name of an object in it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(body, name="own"):
        (tmp_path / "users_gate.py").write_text(body, encoding="utf-8")
        sys.modules.pop("users_gate", None)
        return f"users_gate:{name}"

    yield write
    sys.modules.pop("users_gate", None)


def test_a_users_function_is_a_gate(module):
    gate = open_gate(module("def own(speech, text):\n    return 'shouts' if text.isupper() else ''"))
    assert gate(SPEECH, "HOLD ON") == "shouts"
    assert gate(SPEECH, "Hold on.") == ""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("own = 3", "not a function of \\(speech, text\\)"),
        ("def own(text):\n    return ''", "failed with TypeError"),
        ("def own(speech, text):\n    raise KeyError(text)", "failed with KeyError in users_gate.py:2"),
        ("def own(speech, text):\n    return None", "returned NoneType; return ''"),
        ("def own(speech, text):\n    return True", "returned bool"),
        ("def own(speech, text):\n    return text * 3", "a reason of 180 characters"),
        ("def own(speech, text):\n    return 'two\\nlines'", "one line"),
        ("raise RuntimeError('no licence')", "cannot be imported"),
        ("other = 1", "cannot be imported"),
    ],
)
def test_a_users_function_that_cannot_be_used_is_told_at_once_without_any_text(module, body, message):
    with pytest.raises(UserError, match=message) as caught:
        open_gate(module(body))
    assert "quiet" not in str(caught.value), "not a word of the texts"
    assert str(caught.value).startswith("online.gate 'users_gate:own'")


def test_a_failure_in_the_middle_of_a_round_tells_no_text_either(module):
    gate = open_gate(module("def own(speech, text):\n    return '' if 'quiet' in text else text / 2"))
    with pytest.raises(UserError, match=r"failed with TypeError in users_gate\.py:2") as caught:
        gate(SPEECH, "A reply nobody should read in a log.")
    assert "nobody" not in str(caught.value)


@pytest.mark.parametrize("name", ["rule", "safety", "module:", ":own", "no_such_module_here:own"])
def test_an_unknown_gate_is_told_with_what_there_is(name):
    with pytest.raises(UserError, match=r"online\.gate"):
        open_gate(name)
