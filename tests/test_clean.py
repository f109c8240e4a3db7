"""Cleaning: text is repaired, rules look at one row at a time, and whatever is dropped stands in the ledger."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.recipe import Source, SpeechesTable
from psychocounsel.records import Speech, Turn
from psychocounsel.speeches.clean import clean, examine, repair
from psychocounsel.speeches.content import content_fault
from psychocounsel.speeches.sources import read_embedded, read_source

LETTER = (
    "My father sold the boat last week without telling any of us. I learned to sail on it, and so did my "
    "daughter. When I asked him why, he said that it was only wood and money, and he went to mow the lawn."
)


def rows(*texts):
    return [
        Speech(turns=(Turn(role="client", text=text),), source="test", source_id=str(i)) for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("She didnâ€™t say \u00e2\u20ac\u0153no\u00e2\u20ac\u009d.", "She didn’t say “no”."),
        ("cafÃ© at noon", "café at noon"),
        ("naÃ¯ve &amp;amp; tired", "naïve & tired"),
        ("&#8203;zero&shy;width", "zerowidth"),
        ("one\u2028two", "one\ntwo"),
        ("wait!!! what???", "wait!!! what???"),
        ("a &lt;b&gt; c", "a <b> c"),
        ("Ich mag Käse, señor. «Oui»", "Ich mag Käse, señor. «Oui»"),
        ("&\u200bamp; after", "& after"),
    ],
)
def test_garbled_and_hidden_characters_are_mended(broken, mended):
    assert repair(broken) == mended


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="&am;p#x20lt <>\u200b\u00ad\u00e2\u20ac\u2122\u00c3\u00a9\n\r\t e\u0301", max_size=40))
def test_repairing_twice_is_repairing_once_even_for_hostile_text(text):
    assert repair(repair(text)) == repair(text)


def test_a_row_that_needs_no_repair_is_the_same_object():
    (row,) = rows(LETTER)
    ((kept, reason, _),) = examine([row], SpeechesTable())
    assert (kept is row, reason) == (True, "")


ADVERT = (
    "We are licensed counsellors with an open door for anxious and tired people. We are accepting new clients, "
    "mornings and evenings. Book your first session on our page before Friday."
)
RECRUITMENT = (
    "Volunteers needed! We are conducting a short study on sleep in young parents. The survey takes about ten minutes "
    "and the ethics committee has seen it. I would be glad about every answer."
)
REPLY = (
    "I'm so sorry you had to go through this. You are not to blame for what he said, and your anger makes sense. "
    "Would you tell your teacher what happened on Monday?"
)
PROMPT = "You are a helpful counsellor. Answer the question of the client below in a warm tone and in less than a page."
TWEET = (
    "Looking forward to the new season of the bake-off tonight, the first cake looked like a very sad hat on the photo."
)
WORDS = "anxiety lavender magnesium melatonin chamomile valerian tryptophan passionflower ashwagandha lemon balm hops"


@pytest.mark.parametrize(
    ("text", "reason", "rule"),
    [
        ("https://example.org/a www.example.org/b #tired @friend and more", "boilerplate", "links and tags"),
        (
            "I am text for a page that has none yet. Lorem ipsum and so on, until somebody writes it.",
            "boilerplate",
            "placeholder text",
        ),
        ("I am a bot, and this action was performed automatically. Read the rules.", "boilerplate", "site notice"),
        ("Weekly check-in thread. Tell us how your days were and what you plan.", "boilerplate", "site notice"),
        ("Please rate the following statements. I sleep well. I eat well.", "boilerplate", "survey form"),
        (ADVERT, "not a client", "advertisement"),
        (RECRUITMENT, "not a client", "research recruitment"),
        (REPLY, "not a client", "reply to a poster"),
        (PROMPT, "not a client", "instruction to a model"),
        (TWEET, "fragment", "about nobody"),
        (WORDS, "fragment", "list of words"),
        ("and then nobody in the house was", "fragment", "part of a sentence"),
    ],
)
def test_what_no_client_wrote_is_dropped_with_the_rule_that_says_so(text, reason, rule):
    assert content_fault(text) == (reason, rule)
    _, (drop,) = clean(rows(text), SpeechesTable(min_chars=20))
    assert (drop.reason, drop.detail, drop.id) == (reason, rule, rows(repair(text))[0].id)
    assert clean(rows(text), SpeechesTable(min_chars=20, content=False))[0] == rows(text)


@pytest.mark.parametrize(
    "text",
    [
        LETTER,
        "I am a licensed counsellor and I help people with grief. Since my own mother died I sit in the car and cry.",
        "No therapist in my town is accepting new clients, and the free consultation I had was a disappointment.",
        "I am conducting a study for my thesis and cannot open the file any more. My hands shake when I see it.",
        "I'm sorry you have to read this, but my husband said that I should write to you before I give up on us.",
        "After he came home from the clinic he was angry, then kind for a week, and now he does not get up at all.",
        "Is it normal to wake up at four every day and to hear the same argument again, word for word?",
        "how do people stop worrying about every little thing at the office",
        "Please write back soon. I do not know whom else to ask.",
        "Thank you for sharing your story on the radio. I left my husband last week because of it and now I am afraid.",
        "pills suicide nothing helps overdose hospital discharge nobody",
        "the rope is still in the garage",
        "when you lie down and your thoughts run and you feel the pain in the chest all over again",
    ],
)
def test_clients_in_odd_words_stay(text):
    assert content_fault(text) == ("", "")


def test_the_english_rules_leave_other_languages_alone():
    german = "Gestern war es wieder dunkel, und der Bus kam nicht. Heute auch nicht, und morgen wird es genauso sein."
    assert content_fault(german, english=False) == ("", "")
    assert len(clean(rows(german), SpeechesTable(language="de", min_chars=20))[0]) == 1
    assert len(clean(rows(german), SpeechesTable(language="", min_chars=20))[0]) == 1


@given(st.text(max_size=300))
def test_no_text_is_too_odd_for_the_rules(text):
    reason, rule = content_fault(text)
    assert (reason == "") == (rule == "")


def test_hostile_lengths_are_read_in_linear_time():
    start = time.perf_counter()
    for piece in ("a ", "conducting a ", "@", "www.", "i am a bot ", "on a scale of 1 to 2 "):
        content_fault(piece * 5_000)  # a quadratic rule would take minutes
    assert time.perf_counter() - start < 20


def test_the_ledger_is_in_the_order_of_the_rows_and_names_every_id():
    texts = ("Hi.", LETTER, TWEET, LETTER.upper(), "?")
    raw = rows(*texts)
    kept, dropped = clean(raw, SpeechesTable(min_chars=20))
    assert [(drop.source_id, drop.reason) for drop in dropped] == [
        ("0", "too short"),
        ("2", "fragment"),
        ("3", "exact duplicate"),
        ("4", "no words"),
    ]
    assert [drop.id for drop in dropped] == [raw[i].id for i in (0, 2, 3, 4)]
    assert dropped[2].detail == f"of {kept[0].id}"


class Backwards:
    """An engine that works on shards in the opposite order, as a cluster may."""

    name = "backwards"

    def map(self, step, function, items, shard=2):
        parts = [list(items[start : start + 2]) for start in range(0, len(items), 2)]
        done = {place: function(part) for place, part in reversed(list(enumerate(parts)))}
        return [result for place in range(len(parts)) for result in done[place]]


def test_the_engine_does_not_show_in_the_outcome():
    raw = rows(LETTER, TWEET, LETTER, LETTER + " Why?", "short", LETTER.replace("boat", "house"))
    assert clean(raw, SpeechesTable(), Backwards()) == clean(raw, SpeechesTable())


def test_the_embedded_speeches_all_stay():
    speeches = read_embedded()
    assert clean(speeches, SpeechesTable(max_chars=1600)) == (speeches, [])


SHARED = Path(os.environ.get("PSYCHOCOUNSEL_DATA", "../shared/data"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is absent (set PSYCHOCOUNSEL_DATA)")
def test_the_content_rules_spare_real_questions_and_find_what_no_client_wrote():
    chat = read_source(Source(load=f"counselchat:{SHARED}/counselchat/20200325_counsel_chat.csv"))
    kept, dropped = clean(chat, SpeechesTable())
    assert len(kept) + len(dropped) == len(chat)
    reasons = Counter(drop.reason for drop in dropped)
    assert not {"fragment", "boilerplate", "not a client"} & set(reasons), "all of these are questions of clients"
    posts = [row for row in read_source(Source(load=f"{SHARED}/mentalchat16k/EvalQ_Cleaned_New.csv"))]
    found = Counter(rule for post in posts if 100 <= len(post.text) <= 1000 for _, rule in [content_fault(post.text)])
    assert 100 < found["about nobody"] < 0.1 * found[""]
