"""Topics, risk and speaker: a model's closed choice, the student's second opinion, and figures that are true."""

import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest import CLIENT_LINES, make_speech
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from psychocounsel.models.scripted import Scripted
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_topics
from psychocounsel.principles.prompts import RISKS, SPEAKERS, topic_schema
from psychocounsel.recipe import Source, SpeechesTable
from psychocounsel.records import Speech, Turn
from psychocounsel.speeches import Aids, collect
from psychocounsel.speeches.accuracy import Case, figures
from psychocounsel.speeches.classify import Choice, classify, read_choice
from psychocounsel.speeches.sources import accepted_topics, read_embedded, read_source
from psychocounsel.speeches.student import FOLDS, _folds, guess
from psychocounsel.speeches.topics import Topics, give_topics

COUNSELCHAT = Path(os.environ.get("PSYCHOCOUNSEL_DATA", "../shared/data")) / "counselchat" / "20200325_counsel_chat.csv"
FULL = {"topic": "sleep", "secondary": ["worry_anxiety"], "risk": "none", "speaker": "self"}


def answers(**changes):
    return json.dumps({**FULL, **changes})


def topic_of(speech):
    return speech.topic


@pytest.fixture
def read(tmp_path):
    """Let a scripted model read speeches: read(speeches, script, which)."""

    def call(speeches, script, which="missing"):
        model = Scripted(script, name="reader")
        with CallStore(tmp_path / "calls.sqlite") as store:
            return classify(speeches, model, store, which), model

    return call


@pytest.mark.parametrize(
    ("answer", "choice", "faults"),
    [
        (answers(), Choice("sleep", ("worry_anxiety",), "none", "self"), []),
        (f"```json\n{answers()}\n```", Choice("sleep", ("worry_anxiety",), "none", "self"), []),
        (f'Not {{"topic": "anger"}}. {answers()}', Choice("sleep", ("worry_anxiety",), "none", "self"), []),
        ("sleep", Choice("sleep"), ["no risk", "no speaker"]),
        (answers(topic="the weather"), Choice(None, (), "none", "self"), ["topic outside the taxonomy"]),
        (answers(topic=["sleep"]), Choice(None, (), "none", "self"), ["topic outside the taxonomy"]),
        (answers(topic=None), Choice(None, (), "none", "self"), ["no topic"]),
        (answers(risk="severe"), Choice("sleep", ("worry_anxiety",), None, "self"), ["risk outside the taxonomy"]),
        (answers(speaker=3), Choice("sleep", ("worry_anxiety",), "none", None), ["speaker outside the taxonomy"]),
        (answers(secondary=["sleep", "anger", "anger", "study", "youth"]),
         Choice("sleep", ("anger", "study"), "none", "self"), []),
        (answers(secondary=["rain", 7]), Choice("sleep", (), "none", "self"), ["secondary outside the taxonomy"]),
        (answers(secondary="anger"), Choice("sleep", (), "none", "self"), []),
        ("The topic is anger, I think, or trauma.", Choice(), ["unreadable"]),
        ("I can't help with that.", Choice(), ["unreadable"]),
        ("[1]", Choice(), ["unreadable"]),
        ("", Choice(), ["unreadable"]),
        ("{" * 50_000, Choice(), ["unreadable"]),
        ('{"topic": NaN}', Choice(), ["topic outside the taxonomy", "no risk", "no speaker"]),
    ],
)  # fmt: skip
def test_an_answer_is_read_strictly_and_every_fault_has_a_name(answer, choice, faults):
    assert read_choice(answer) == (choice, faults)


@settings(max_examples=200)
@given(st.text(max_size=60) | st.recursive(st.none() | st.integers() | st.text(max_size=9), st.lists, max_leaves=4).map(
    lambda value: json.dumps({"topic": value, "secondary": value, "risk": value, "speaker": value})))  # fmt: skip
def test_no_answer_whatever_puts_a_strange_value_into_a_record(text):
    choice, _ = read_choice(text)
    assert {choice.topic, *choice.secondary} <= {None, *load_topics()}
    assert choice.risk in (None, *RISKS)
    assert choice.speaker in (None, *SPEAKERS)
    assert len(choice.secondary) <= 2


def test_the_question_names_every_value_and_the_schema_allows_no_other(read):
    _, model = read([make_speech(CLIENT_LINES[2])], [answers()])
    (request,) = model.sent
    system, user = (message["content"] for message in request.messages)
    assert all(f"- {name}: " in system for name in (*load_topics(), *RISKS, *SPEAKERS))
    assert user == f"<<<CLIENT\n{CLIENT_LINES[2]}\n>>>"
    assert request.answer_schema == topic_schema(load_topics())
    properties = request.answer_schema["properties"]
    assert set(properties["risk"]["enum"]) == set(Speech.model_fields["risk"].annotation.__args__[0].__args__)
    assert set(properties["speaker"]["enum"]) == set(Speech.model_fields["speaker"].annotation.__args__[0].__args__)
    assert list(properties["topic"]["enum"]) == list(load_topics())


def test_the_model_sees_a_whole_dialogue(read):
    turns = [Turn(role="client", text="It is late."), Turn(role="therapist", text="How late?"),
             Turn(role="client", text="Four.")]  # fmt: skip
    _, model = read([Speech(turns=tuple(turns), source="test")], [answers()])
    assert "Counsellor: How late?\n\nClient: Four." in model.sent[0].messages[1]["content"]


def test_missing_reads_what_has_no_topic_and_all_reads_everything(read):
    speeches = [make_speech(CLIENT_LINES[0]), make_speech(CLIENT_LINES[1], topic="anger", topic_by="source")]
    few, _ = read(speeches, [answers()])
    both, _ = read(speeches, [answers()], "all")
    assert set(few.choices) == {speeches[0].id}
    assert set(both.choices) == {speech.id for speech in speeches}
    assert both.counts == {"asked": 2, "complete": 2}


def test_what_the_source_said_stays_and_the_model_fills_the_rest_under_its_name(read):
    bare = make_speech(CLIENT_LINES[0])
    known = make_speech(CLIENT_LINES[1], topic="anger", topic_by="source", risk="passive")
    reading, _ = read([bare, known], [answers()], "all")
    first, second = give_topics([bare, known], reading=reading).speeches
    assert (first.topic, first.topic_by, first.secondary) == ("sleep", "reader", ("worry_anxiety",))
    assert (first.risk, first.speaker) == ("none", "self")
    assert (second.topic, second.topic_by, second.secondary) == ("anger", "source", ())
    assert (second.risk, second.speaker) == ("passive", "self")


def test_an_answer_outside_the_taxonomy_leaves_the_field_empty_even_beside_a_student(read):
    speech = make_speech(CLIENT_LINES[0])
    reading, model = read([speech], [answers(topic="the weather")])
    found = give_topics([speech], read_embedded(), reading)
    assert found.speeches[0].topic is None
    assert found.speeches[0].topic_by == ""
    assert found.report["model"]["answers"] == {"asked": 1, "topic outside the taxonomy": 1}
    assert found.report["given"]["topic"] == {"nobody": 1}
    assert len(model.sent) == 1, "no answer is asked for twice"


class Declining(Scripted):
    """Refuses the first speech and has the second one filtered."""

    def read(self, raw):
        text = super().read(raw).text
        return super().read(raw).model_copy(update={"finish": text if text in ("refused", "filtered") else "stop"})


def test_refusals_are_counted_by_the_topic_that_the_student_sees(tmp_path):
    teachers = read_embedded()
    of = {
        topic: next(s for s in teachers if s.topic == topic) for topic in ("self_injury", "sleep", "money_law_housing")
    }
    bare = [s.model_copy(update={"topic": None, "topic_by": "", "source_id": topic}) for topic, s in of.items()]
    script = {"self_injury": "refused", "sleep": "filtered"}
    model = Declining(lambda request: script.get(request.subject["source_id"], answers(topic="study")), name="shy")
    with CallStore(tmp_path / "calls.sqlite") as store:
        reading = classify(bare, model, store)
    taught = [s.model_copy(update={"turns": (Turn(role="client", text=s.text + " Yes."),)}) for s in teachers]
    found = give_topics(bare, taught, reading)
    assert [speech.topic for speech in found.speeches] == [None, None, "study"]
    assert found.report["model"]["answers"] == {"asked": 3, "complete": 1, "filtered": 1, "refused": 1}
    assert found.report["model"]["refused_by_topic"] == {"self_injury": 1, "sleep": 1}
    assert len(model.sent) == 3


def test_without_a_model_the_student_gives_topics_and_nothing_else():
    teachers = read_embedded()
    given_topic = make_speech(CLIENT_LINES[0], topic="anger", topic_by="source")
    gone = {"topic": None, "topic_by": "", "risk": None, "speaker": None}
    bare = [s.model_copy(update={**gone, "turns": (Turn(role="client", text=s.text + " So."),)}) for s in teachers[:40]]
    found = give_topics([given_topic, *bare], teachers)
    assert found.speeches[0] == given_topic
    assert {speech.topic_by for speech in found.speeches[1:]} == {"tfidf"}
    right = sum(a.topic == b.topic for a, b in zip(found.speeches[1:], teachers, strict=False))
    assert right >= 38, "it was taught these very speeches"
    assert {(speech.risk, speech.speaker) for speech in found.speeches} == {(None, None)}
    assert found.report["given"]["topic"] == {"source": 1, "tfidf": 40}


@pytest.mark.parametrize("topics", [[], ["anger"]])
def test_without_two_topics_to_learn_from_nothing_is_guessed(speeches, topics):
    teachers = [make_speech("Taught.", topic=topic) for topic in topics]
    assert give_topics(speeches, teachers).speeches == speeches


def test_texts_of_nothing_but_stop_words_teach_nothing():
    teachers = [make_speech("I am.", topic="anger"), make_speech("You are.", topic="sleep")]
    assert guess("topic", [make_speech("Who is?")], teachers, topic_of) == {}


def labelled(count):
    """Speeches of three topics; every third one stands in a cluster with the one before it."""
    words = {"sleep": "night awake bed tired", "anger": "shout door temper loud", "study": "exam campus book marks"}
    names = list(words)
    return [
        make_speech(f"{words[names[i % 3]]} number{i}", None, f"c{i - (i % 3 == 2)}", topic=names[i % 3])
        for i in range(count)
    ]


def test_no_fold_shares_a_cluster_with_another_and_every_label_is_in_every_fold():
    speeches = labelled(60)
    folds = _folds(speeches, topic_of)
    assert sorted(s.id for fold in folds for s in fold) == sorted(s.id for s in speeches)
    where = defaultdict(set)
    for number, fold in enumerate(folds):
        assert len({speech.topic for speech in fold}) == 3
        for speech in fold:
            where[speech.cluster].add(number)
    assert {len(numbers) for numbers in where.values()} == {1}
    assert _folds(speeches[::-1], topic_of) == folds
    assert len(folds) == FOLDS


def test_a_guess_comes_from_a_student_that_was_not_shown_the_speech():
    speeches = labelled(60)
    odd = make_speech("zebra quokka zebra quokka", None, "odd", topic="anger")
    found = guess("topic", [*speeches, odd], [odd], topic_of)
    assert next(iter(found[speeches[0].id])) == speeches[0].topic
    assert found[odd.id].get("anger", 0) < 0.6, "only the speech itself could have taught its words"
    assert all(list(answer.values()) == sorted(answer.values(), reverse=True) for answer in found.values())
    assert guess("topic", [odd, *speeches[::-1]], [], topic_of) == found


def test_disagreements_are_listed_with_the_most_confident_first_and_no_text(read):
    speeches = [s.model_copy(update={"topic_by": "source"}) for s in labelled(60)]
    wrong = speeches[0].model_copy(update={"topic": "study"})
    hazy = make_speech("exam night", None, "hazy", topic="anger", topic_by="source")
    found = give_topics([wrong, *speeches[1:], hazy])
    rows = [row for row in found.review if row["field"] == "topic"]
    assert [row["id"] for row in rows] == [wrong.id, hazy.id]
    assert rows[0] == {**rows[0], "given": "study", "given_by": "source", "model": None, "student": "sleep"}
    assert rows[0]["probability"] > 0.8 > rows[0]["given_probability"]
    assert wrong.text not in json.dumps(found.review)
    assert found.report["review"]["topic"] == 2


def test_a_model_that_contradicts_the_source_is_listed_and_an_accepted_second_topic_is_not(read):
    speeches = [
        make_speech(CLIENT_LINES[i], None, topic="anger", topic_by="source", secondary=extra, source_id=str(i))
        for i, extra in enumerate([(), ("sleep",), ()])
    ]
    reading, _ = read(speeches, [answers()], "all")
    found = give_topics(speeches, (), reading, {"2": ("anger", "sleep")})
    assert [(row["id"], row["model"], row["student"]) for row in found.review] == [(speeches[0].id, "sleep", None)]


def test_a_risk_that_nobody_read_is_raised_for_review_and_never_filled():
    teachers = [
        make_speech(f"{words} {i}", None, f"{words}{i}", risk=risk)
        for words, risk in (("bridge goodbye letter", "active"), ("garden soup bus", "none"))
        for i in range(12)
    ]
    speeches = [make_speech("bridge goodbye letter again"), make_speech("garden soup bus again")]
    found = give_topics(speeches, teachers)
    assert [speech.risk for speech in found.speeches] == [None, None]
    assert [(row["id"], row["field"], row["given"], row["student"]) for row in found.review] == [
        (speeches[0].id, "risk", None, "active")
    ]


CASES = st.lists(
    st.builds(
        lambda cluster, truth, also, said: Case(cluster, (truth, *also), tuple(dict.fromkeys(said))),
        st.sampled_from("xyz"), st.sampled_from("abc"), st.lists(st.sampled_from("abcd"), max_size=2),
        st.lists(st.sampled_from("abcd"), min_size=1, max_size=4)),
    min_size=1, max_size=30)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(CASES)
def test_the_figures_are_those_of_scikit_learn(cases):
    truth, said = [case.accepted[0] for case in cases], [case.answers[0] for case in cases]
    found = figures(cases, {"a": "one", "b": "one", "c": "two", "d": "two"})
    assert found["n"] == len(cases)
    assert found["accuracy"]["value"] == pytest.approx(accuracy_score(truth, said), abs=1e-4)
    macro = f1_score(truth, said, labels=sorted(set(truth)), average="macro", zero_division=0)
    assert found["macro_f1"]["value"] == pytest.approx(macro, abs=1e-4)
    assert found["baseline_largest"]["value"] == pytest.approx(max(Counter(truth).values()) / len(truth), abs=1e-4)
    order = ["accuracy", "accuracy_accepted"]
    assert found[order[0]]["value"] <= found[order[1]]["value"]
    assert found["accuracy"]["value"] <= min(found["accuracy_top3"]["value"], found["accuracy_coarse"]["value"])
    for figure in (value for value in found.values() if isinstance(value, dict) and "low" in value):
        assert 0 <= figure["low"] <= figure["high"] <= 1
    assert sum(row["n"] for row in found["topics"].values()) == len(cases)


def test_intervals_are_by_cluster_and_cover_at_about_their_rate():
    random = np.random.default_rng(3)
    covered, widths = 0, []
    for _ in range(60):
        rates = random.beta(3, 2, size=80)  # clusters of four that stand or fall together
        cases = [Case(str(i), ("a",), ("a" if random.random() < rate else "b",)) for i, rate in enumerate(rates)
                 for _ in range(4)]  # fmt: skip
        found = figures(cases)["accuracy"]
        covered += found["low"] <= 0.6 <= found["high"]
        widths.append(found["high"] - found["low"])
    assert 51 <= covered <= 60
    alone = figures([Case(str(i), ("a",), ("a" if i % 5 < 3 else "b",)) for i in range(320)])["accuracy"]
    assert np.mean(widths) > alone["high"] - alone["low"], "four in one cluster tell less than four apart"
    assert figures([]) == {"n": 0}


def test_the_stage_without_topics_asks_nobody():
    found = collect([make_speech(line * 2, None) for line in CLIENT_LINES[:3]], SpeechesTable(min_chars=20), 0)
    assert [speech.topic for speech in found.speeches] == [None] * 3
    assert found.topics == Topics(found.topics.speeches)


@pytest.mark.skipif(not COUNSELCHAT.is_file(), reason=f"{COUNSELCHAT} is not there; set PSYCHOCOUNSEL_DATA")
def test_counselchat_gives_a_real_accuracy_well_above_its_largest_topic():
    source = Source(load=f"counselchat:{COUNSELCHAT}")
    accepted = accepted_topics(source)
    raw = read_source(source)
    assert len(raw) == len(accepted) == 815
    assert sum(bool(speech.secondary) for speech in raw) == 18, "questions that sit in two topics"
    # 11 questions stand under counselling; two of them have more answers under depression
    assert Counter(speech.topic for speech in raw)["about_counselling"] == 9
    assert {topic for keys in accepted.values() for topic in keys} <= set(load_topics())
    aids = Aids(give_topics=lambda kept: give_topics(kept, read_embedded(), accepted=accepted))
    found = collect(raw, SpeechesTable(), 7, aids)
    figure = found.topics.report["accuracy"]["counsel-chat"]["student"]
    assert figure["n"] > 600
    assert figure["accuracy"]["low"] > figure["baseline_largest"]["high"]
    assert 0.28 < figure["accuracy"]["value"] <= figure["accuracy_accepted"]["value"] < figure["accuracy_top3"]["value"]
    assert figure["accuracy_coarse"]["value"] > 0.45
