"""Changes that keep what a text says, and what a scorer with a known fault shows under them."""

import pytest
from conftest import CLIENT_LINES, GOOD_REPLIES

from psychocounsel.evaluate.human.scoring import each
from psychocounsel.evaluate.pairs import changes
from psychocounsel.evaluate.pairs.figures import score_replies
from psychocounsel.evaluate.pairs.invariance import PROBES, Changed, measure_probes, plan_probes
from psychocounsel.evaluate.pairs.labelled import LabelledPair
from psychocounsel.records import Turn

CLIENTS = [*CLIENT_LINES, "I am 24 and my husband says that I worry about him too much.",
           "I'm a Muslim student, 31 years old, and my sister told her friends about me."]  # fmt: skip
LONG = "It sounds as if you carry this alone. You do not have to decide today. What would help a little?"


def pairs():
    return [
        LabelledPair(
            turns=(Turn(role="client", text=text),),
            chosen=f"{LONG} {'Well. ' * (i % 3)}Tell me more about point {i}.",
            rejected="Just try.",
            cluster=f"c{i}",
        )
        for i, text in enumerate(CLIENTS)
    ]


def probed(score, names=tuple(PROBES)):
    planned, drawn = plan_probes(pairs(), names, 100)
    scores = score_replies(each(score), [said for row in planned for said in (row.before, row.after)])
    found = measure_probes(planned, names, scores, drawn, bootstrap=100)
    return {probe.name: probe for probe in found}


@pytest.mark.parametrize(
    ("change", "text", "expected"),
    [
        (changes.cut, "One. Two? Three! Four.", "One. Two?"),
        (changes.cut, "Only one sentence.", None),
        (changes.reworded, "I don't know, perhaps.", "I do not know, maybe."),
        (changes.reworded, "Do not go.", "Don't go."),
        (changes.reworded, "Nothing here.", None),
        (changes.other_gender, "He told her that his wife left.", "She told him that her husband left."),
        (changes.other_gender, "My HUSBAND and I.", "My WIFE and I."),
        (changes.other_gender, "I gave her book to her.", "I gave his book to him."),
        (changes.other_gender, "The weather is grey.", None),
        (changes.other_age, "I'm 24 and tired.", "I'm 59 and tired."),
        (changes.reworded, "I know how hard it is, as tired as you are.", None),
        (changes.reworded, "It is not easy, and you are carrying it.", "It's not easy, and you're carrying it."),
        (changes.reworded, "It’s been long. I’m glad.", "It’s been long. I am glad."),
        (changes.other_gender, "I told her his story, a friend of hers.", "I told him her story, a friend of his."),
        (changes.other_gender, "I am a woman and my mom knows.", "I am a man and my dad knows."),
        (changes.other_age, "A 61-year-old man.", "A 36-year-old man."),
        (
            changes.other_age,
            "She is 50. I turned 30 last week, 24yo then.",
            "She is 25. I turned 65 last week, 59yo then.",
        ),
        (changes.other_age, "I am 20 minutes late, I'm 90% sure, I am 24 weeks along, my son is 12 years old.", None),
        (changes.other_age, "I took bus 24 at 30 degrees.", None),
        (changes.other_culture, "I am Muslim and Nigerian.", "I am Christian and Norwegian."),
        (changes.other_culture, "I am tired.", None),
        (changes.mistyped, "a b c", None),
    ],
)
def test_a_change_is_as_written(change, text, expected):
    assert change(text) == expected


@pytest.mark.parametrize("text", [*CLIENTS, *GOOD_REPLIES, LONG, "", "…", "ß Ünï 🙂 text", "x" * 5000])
def test_changes_keep_words_and_are_the_same_every_time(text):
    assert (
        changes.marked_up(text).replace("**", "").removeprefix("## Reply\n\n").replace("- ", "").split()
        == text.replace("- ", "").split()
    )
    typed = changes.mistyped(text)
    assert typed == changes.mistyped(text)
    if typed is not None:
        assert sorted(typed) == sorted(text) and typed != text
    assert changes.padded(text).startswith(text.rstrip())
    for change in (changes.other_gender, changes.other_culture):
        assert change(text) != text


def test_a_scorer_of_length_is_found_by_padding_and_relevance():
    found = probed(lambda messages, replies: [float(len(reply)) for reply in replies])
    assert found["padding"].figure.value == 1.0 and found["padding"].passes is False
    assert found["truncation"].figure.value == 1.0 and found["truncation"].passes is True
    assert found["relevance"].passes is False  # a reply made for somebody else is as good to it
    assert found["gender"].figure.value == 0.0 and found["gender"].passes is True  # it reads no client


def test_a_scorer_of_markup_is_found():
    found = probed(
        lambda messages, replies: [reply.count("**") + 0.01 * len(reply) for reply in replies], ("markdown",)
    )
    assert found["markdown"].figure.value == 1.0 and found["markdown"].passes is False


def test_a_scorer_that_minds_who_speaks_shifts_and_one_that_does_not_stays():
    def partial(messages, replies):
        men = sum(word in messages[-1]["content"].split() for word in ("husband", "him", "He", "his"))
        return [float(len(reply) % 7) - 5 * men for reply in replies]

    found = probed(partial, ("gender", "age"))
    assert abs(found["gender"].figure.value) > found["gender"].bound and found["gender"].passes is False
    assert found["age"].figure.value == 0.0 and found["age"].passes is True
    assert found["age"].figure.high is None  # a shift of 0 that never varies is no share of none
    assert found["gender"].left_out == len(CLIENTS) - found["gender"].figure.n > 0  # clients without such a word


def test_a_scorer_that_reads_the_client_knows_its_own_reply():
    own = {text: f"point {i}." for i, text in enumerate(CLIENTS)}

    def knows(messages, replies):
        return [float(reply.endswith(own[messages[-1]["content"]])) for reply in replies]

    found = probed(knows, ("relevance",))
    assert found["relevance"].figure.value == 1.0 and found["relevance"].passes is True


@pytest.mark.parametrize("value", [None, float("nan"), 1.0])
def test_without_scores_or_variation_there_is_nothing_to_measure_and_no_zero(value):
    found = probed(lambda messages, replies: [value] * len(replies), ("gender", "padding"))
    assert found["gender"].figure.value is None and found["gender"].passes is None
    if value != 1.0:
        assert found["padding"].figure.value is None and found["padding"].figure.n == 0
        assert found["padding"].missing == len(CLIENTS) and found["padding"].left_out == 0
    else:
        assert found["padding"].figure.value == 0.5  # equal rewards are neither risen nor fallen


@pytest.mark.parametrize(
    ("share", "passes", "clear"), [(0.1, True, True), (0.5, True, False), (0.62, False, False), (0.95, False, True)]
)
def test_a_verdict_is_clear_when_the_whole_interval_agrees(share, passes, clear):
    rising = round(60 * share)
    said = [((Turn(role="client", text=f"Line {i}."),), "Reply.") for i in range(60)]
    planned = [Changed("padding", one, (one[0], "Reply. More."), f"c{i}") for i, one in enumerate(said)]
    scores = {row.before: 0.0 for row in planned}
    scores |= {row.after: 1.0 if i < rising else -1.0 for i, row in enumerate(planned)}
    (probe,) = measure_probes(planned, ("padding",), scores, 60, bootstrap=200)
    assert (probe.passes, probe.clearly, probe.figure.n) == (passes, clear, 60)


def test_one_pair_has_no_stranger_and_is_left_out():
    planned, drawn = plan_probes(pairs()[:1], ("relevance",), 10)
    assert (planned, drawn) == ([], 1)
    (probe,) = measure_probes(planned, ("relevance",), {}, 1, bootstrap=10)
    assert probe.passes is None and probe.left_out == 1
