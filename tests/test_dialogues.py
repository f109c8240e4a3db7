"""Dialogues in many shapes become the same turns; what has no client is accounted for, what cannot be read is named."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sources import save

from psychocounsel.errors import UserError
from psychocounsel.recipe import Source, SpeechesTable
from psychocounsel.records import Speech, Turn
from psychocounsel.speeches.clean import clean
from psychocounsel.speeches.dialogues import CLIENT, THERAPIST, read_turns
from psychocounsel.speeches.sources import read_source

FIRST = "I told my sister that I cannot host the family this year, and now nobody answers my messages."
REPLY = "That silence sounds heavy. What do you imagine they are thinking?"
LAST = "That I am selfish. I wrote the same to my brother ten years ago, so perhaps I deserve it."
TURNS = (
    Turn(role="client", text=FIRST),
    Turn(role="therapist", text=REPLY),
    Turn(role="client", text=LAST),
)
CHAT = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": FIRST},
    {"role": "assistant", "content": REPLY},
    {"role": "user", "content": LAST},
    {"role": "assistant", "content": "Last words of a therapist are what others will answer anew."},
]


@pytest.mark.parametrize(
    "shape",
    [
        CHAT,
        json.dumps(CHAT),
        {"messages": CHAT},
        json.dumps({"conversations": [{"from": "human", "value": FIRST}, {"from": "gpt", "value": REPLY},
                                      {"from": "human", "value": LAST}]}),
        [{"role": "Client", "text": FIRST}, {"role": "Counselor", "text": REPLY}, {"role": "client", "text": LAST}],
        [{"speaker": "Seeker", "utterance": FIRST}, {"speaker": "supporter", "utterance": REPLY},
         {"speaker": "help-seeker", "utterance": LAST}],
        [["patient", FIRST], ["therapist", REPLY], ["patient", LAST]],
        [FIRST, REPLY, LAST],
        (FIRST, REPLY, LAST, "And what would you say to him today?"),
    ],
)  # fmt: skip
def test_every_known_shape_gives_the_same_turns(shape):
    assert read_turns(shape) == TURNS


def test_turns_of_one_speaker_in_a_row_are_joined_and_empty_ones_left_out():
    found = read_turns([
        {"role": "user", "text": "One."}, {"role": "user", "text": "  "}, {"role": "user", "text": "Two."},
        {"role": "assistant", "text": None}, {"role": "tool", "text": "a lookup"}, {"role": "user", "text": "Three."},
    ])  # fmt: skip
    assert found == (Turn(role="client", text="One.\n\nTwo.\n\nThree."),)


def test_an_empty_text_keeps_its_place_among_texts_that_alternate():
    found = read_turns(["Hello.", "", "Are you there?"])
    assert [turn.role for turn in found] == ["client"]
    assert read_turns(["", "How are you?", "Not well."])[0].role == "therapist"


@pytest.mark.parametrize("nothing", [[], "", "  ", "[]", None, [{"role": "system", "content": "Be kind."}]])
def test_an_empty_dialogue_is_a_row_without_words(nothing):
    assert read_turns(nothing) == (Turn(role="client", text="?"),)


@given(st.lists(st.tuples(st.sampled_from([*CLIENT, *THERAPIST, "system"]), st.text(max_size=20)), max_size=9))
def test_turns_always_alternate_and_end_with_the_client(pairs):
    found = read_turns([{"role": role, "content": text} for role, text in pairs])
    roles = [turn.role for turn in found]
    assert roles[-1] == "client"
    assert all(a != b for a, b in pairwise(roles))
    assert read_turns([turn.model_dump() for turn in found]) == found


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ("not json", "no JSON list of turns"),
        ("[" * 100_000, "no JSON list of turns"),
        (7, "int where a list of turns belongs"),
        ({"a": 1}, "dict where a list of turns belongs"),
        ([3], r"turn 1 is int; write \{'role'"),
        ([{"role": "user"}], "turn 1 has none of the fields text, content"),
        ([{"content": FIRST}], "turn 1 has none of the fields role, from"),
        ([{"role": "user", "content": ["parts"]}], "turn 1: 'content' is list, not text"),
        ([["user", FIRST], ["narator", FIRST]], "turn 2: unknown role 'narator'"),
        ([{"role": "clint", "text": FIRST}], "unknown role 'clint', did you mean 'client'"),
    ],
)
def test_what_cannot_be_read_is_named_without_a_word_of_the_client(shape, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        read_turns(shape)
    assert "sister" not in str(caught.value)


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "csv"])
def test_a_table_with_a_column_of_dialogues_gives_dialogues(tmp_path, ending):
    path = tmp_path / f"talks.{ending}"
    rows = [{"nr": "a", "talk": CHAT[1:]}, {"nr": "b", "talk": CHAT[1:2]}]
    if ending == "csv":
        save(path, [{**row, "talk": json.dumps(row["talk"])} for row in rows])
    elif ending == "json":
        path.write_text(json.dumps(rows))
    else:
        save(path, rows)
    first, second = read_source(Source(load=str(path), turns="talk", id="nr", license="CC0"))
    assert (first.turns, second.turns) == (TURNS, TURNS[:1])
    assert (first.source_id, first.license, first.origin[:10]) == ("a", "CC0", f"{path.name}@"[:10])


def test_a_broken_dialogue_is_named_with_file_row_and_column(tmp_path):
    path = save(tmp_path / "talks.jsonl", [{"talk": CHAT}, {"talk": [{"role": "friend", "content": FIRST}]}])
    with pytest.raises(UserError, match=r"talks\.jsonl: row 2: column 'talk': turn 1: unknown role 'friend'") as caught:
        read_source(Source(load=str(path), turns="talk"))
    assert FIRST not in str(caught.value)
    with pytest.raises(UserError, match=r"no column 'talks', did you mean 'talk'"):
        read_source(Source(load=str(path), turns="talks"))


def test_a_dialogue_in_which_no_client_speaks_stands_in_the_ledger(tmp_path):
    rows = [
        {"talk": CHAT[:4]},
        {"talk": [CHAT[2]]},
        {"talk": []},
        {"talk": [CHAT[1], CHAT[2], {**CHAT[3], "content": "..."}]},
    ]
    raw = read_source(Source(load=str(save(tmp_path / "talks.jsonl", rows)), turns="talk"))
    kept, dropped = clean(raw, SpeechesTable(min_chars=20))
    assert [speech.turns for speech in kept] == [TURNS]
    assert [(drop.source_id[-1], drop.reason) for drop in dropped] == [
        ("2", "no client turn"),
        ("3", "no words"),
        ("4", "no words"),
    ]


def test_a_short_last_turn_is_no_short_speech():
    turns = read_turns([FIRST, REPLY, "Yes, I think so."])
    rows = [Speech(turns=turns, source="a", source_id="1"), Speech(turns=turns[-1:], source="a", source_id="2")]
    kept, dropped = clean(rows, SpeechesTable(min_chars=60))
    assert [speech.source_id for speech in kept] == ["1"]
    assert [(drop.source_id, drop.reason) for drop in dropped] == [("2", "too short")]
