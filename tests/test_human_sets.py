"""Public human labels are read as published: which labels and pairs follow, and what a bad file says."""

import os
from pathlib import Path

import pytest
from label_files import (
    ASKING,
    FLAT,
    POSTS,
    WARM,
    annomi_rows,
    counselbench_rows,
    counselchat_rows,
    epitome_rows,
    mindeval_rows,
    turn,
    write_all,
    write_annomi,
    write_counselchat,
    write_csv,
    write_epitome,
    write_mindeval,
    write_siri,
)
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from psychocounsel.errors import UserError
from psychocounsel.evaluate.human import annomi, counselbench, counselchat, epitome, siri
from psychocounsel.evaluate.human.annomi import fleiss, read_annomi
from psychocounsel.evaluate.human.counselbench import read_counselbench
from psychocounsel.evaluate.human.counselchat import read_counselchat
from psychocounsel.evaluate.human.epitome import read_epitome
from psychocounsel.evaluate.human.labels import SETS
from psychocounsel.evaluate.human.mindeval import read_mindeval
from psychocounsel.evaluate.human.siri import read_siri

SHARED = Path(os.environ.get("PSYCHOCOUNSEL_DATA", "../shared/data")) / "counselchat"
CSV = SHARED / "20200325_counsel_chat.csv"
LONG = "I could not sleep at all again."


def duels(found, test):
    """(reply of the better item, of the worse one) of a test."""
    reply = {item.id: item.parts[0].reply for item in found.items}
    return [(reply[duel.better], reply[duel.worse]) for duel in found.duels if duel.test == test]


def test_epitome_joins_its_three_files_by_the_two_ids(tmp_path):
    found = read_epitome(write_epitome(tmp_path))
    assert (len(found.items), found.counts["rows"], found.unit) == (36, 108, "seeker")
    warm = next(item for item in found.items if item.parts[0].reply == f"{WARM} (0)")
    assert warm.labels == {"ER": 2, "IP": 1, "EX": 0, "ER present": 1, "IP present": 1, "EX present": 0}
    assert (warm.unit, warm.said) == ("s0", POSTS[0])
    assert len({item.stratum for item in found.items}) > 1


def test_a_pair_that_epitome_repeats_counts_once_and_tells_how_consistent_labels_are(tmp_path):
    write_epitome(tmp_path)
    rows = epitome_rows((2, 0, 0))
    again = [rows[0], rows[1] | {"level": 1}, rows[2] | {"rp_id": ""}]
    write_csv(tmp_path / epitome.FILES["ER"], epitome.COLUMNS, [*rows, *again])
    found = read_epitome(tmp_path)
    assert len(found.items) == 36
    assert found.counts["left out: pair repeated in a file"] == 2
    assert found.counts["left out: no id or no text"] == 1
    assert found.ceiling == {"ER same label twice": {"value": 0.5, "n": 2}}


def test_annomi_behaviours_follow_the_codes_and_the_context_begins_with_the_client(tmp_path):
    rows = [
        turn("a", 0, "therapist", "Good morning, how was the week for you?", question="open"),
        turn("a", 1, "client", LONG),
        turn("a", 2, "therapist", "You lay awake and waited for the morning.", reflection="complex"),
        turn("a", 3, "client", "Yes, and then I was tired all day."),
        turn("a", 4, "client", "I even missed the bus."),
        turn("a", 5, "therapist", "Screens late at night make it worse for many.", input="information"),
        turn("a", 6, "client", "Mm-hmm."),
        turn("a", 7, "therapist", "So put the phone away at nine every night.", input="advice"),
        turn("a", 8, "client", "I could try that for a week."),
        turn("a", 9, "therapist", "You should also drink less coffee from now on.", input="advice"),
        turn("a", 10, "client", "The coffee is what keeps me going."),
        turn("a", 11, "therapist", "It helps. Most should stop at noon, though.", input="advice", reflection="simple"),
    ]  # fmt: skip
    found = read_annomi(write_annomi(tmp_path / "a.csv", rows))
    by_reply = {item.parts[0].reply: item for item in found.items if "quality" not in item.labels}
    assert [sorted(item.labels) for item in by_reply.values()] == [
        ["complex", "main", "v advice", "v input"],  # a complex reflection without input
        ["main", "v input"],  # information only
        ["main", "v advice", "v input"],  # advice only
        ["complex", "main"],  # advice and reflection: neither positive nor negative
    ]
    assert [item.labels["main"] for item in by_reply.values()] == [0, 2, 2, 2]
    inform = by_reply["Screens late at night make it worse for many."]
    assert [turn.role for turn in inform.parts[0].turns] == ["client", "therapist", "client"]
    assert inform.parts[0].turns[-1].text == "Yes, and then I was tired all day. I even missed the bus."
    assert found.counts["therapist turns left out: under five words, or after such a turn"] == 1
    assert found.counts["therapist turns that fit"] == 4


def test_annomi_takes_the_majority_of_annotators_and_leaves_out_ties(tmp_path):
    rows = [turn("a", 0, "client", LONG)]
    for annotator, codes in (("1", {"question": "open"}), ("2", {"question": "open"}), ("3", {"input": "advice"})):
        rows.append(turn("a", 1, "therapist", "What keeps you awake at night?", annotator=annotator, **codes))
    rows.append(turn("a", 2, "client", LONG))
    for annotator, codes in (("1", {"question": "open"}), ("2", {"question": "closed"})):
        rows.append(turn("a", 3, "therapist", "And did it help you at all?", annotator=annotator, **codes))
    rows.append(rows[-1])
    found = read_annomi(write_annomi(tmp_path / "a.csv", rows))
    item, tied = [item for item in found.items if "quality" not in item.labels]
    assert item.labels == {"v input": 1.0, "v advice": 1.0, "open": 1.0, "main": 1.0}
    assert tied.labels == {"main": 1.0}  # both say that it is a question, not which kind
    assert found.counts["therapist turns left out: annotators are tied"] == 1
    assert found.counts["left out: coded twice by one annotator"] == 1
    assert found.ceiling["Fleiss' kappa, main behaviour"] == {"value": -0.5, "n": 1, "raters": 3}


def test_an_annomi_session_is_all_therapist_turns_and_knows_the_shares_of_behaviours(tmp_path):
    found = read_annomi(write_annomi(tmp_path / "a.csv"))
    sessions = [item for item in found.items if "quality" in item.labels]
    assert [len(item.parts) for item in sessions] == [3] * 12
    assert sum(item.labels["quality"] for item in sessions) == 8
    poor = next(item for item in sessions if item.unit == "0")
    assert poor.known == pytest.approx(
        {"less input (by the annotators)": 1 / 3, "reflection (by the annotators)": 1 / 3}
    )
    assert poor.stratum == "smoking"


def test_fleiss_kappa_is_that_of_statsmodels():
    rows = [list("aabb"), list("aaab"), list("cccc"), list("abca"), list("bbbb")]
    assert fleiss(rows) == pytest.approx(fleiss_kappa(aggregate_raters(rows)[0]))
    assert fleiss([["a", "a"]] * 3) is None  # nothing varies: undefined, not 1


def test_siri_pairs_put_the_experts_choice_first_and_what_is_not_scored_is_counted(tmp_path):
    path = write_siri(tmp_path / "s.csv")
    rows = [
        {"scenario": "14", "client": POSTS[0], "reply": WARM, "expert_mean": 1},
        {"scenario": "20", "client": POSTS[1], "reply": WARM, "expert_mean": 1.5},
        {"scenario": "20", "client": POSTS[1], "reply": FLAT, "expert_mean": 1.5},
        {"scenario": "20", "client": POSTS[1], "reply": FLAT, "expert_mean": 1.5},
        {"scenario": "21", "client": "", "reply": FLAT, "expert_mean": 0},
    ]
    found = read_siri(write_csv(tmp_path / "more.csv", siri.COLUMNS, rows))
    assert found.counts == {
        "rows": 5,
        "left out: scenario 14 is not scored": 1,
        "left out: repeated": 1,
        "left out: no scenario or no text": 1,
        "pairs left out: equal expert means": 1,
    }
    assert set(duels(read_siri(path), "expert-preferred")) == {(f"{WARM} {ASKING}", FLAT)}


def test_counselchat_pairs_are_those_of_one_question_by_upvotes_and_views(tmp_path):
    found = read_counselchat(write_counselchat(tmp_path / "c.csv"))
    named = {test: sum(duel.test == test for duel in found.duels) for test in counselchat.TESTS}
    assert named == {
        "upvotes": 36,
        "upvotes, like views": 11 + 1,  # 900 : 500 in eleven questions, 500 : 520 in one
        "upvotes against views": 3,
        "upvotes, like lengths": 0,
    }
    assert not any(test.counts for test in found.tests) and "diagnostic only" in found.note


def test_counselbench_pairs_are_a_point_apart_and_unsure_clinicians_do_not_vote(tmp_path):
    path = write_all(tmp_path)["counselbench"]
    found = read_counselbench(path)
    assert len(found.items) == 36 and len(found.duels) == 12  # 4.4 over 3.0; 3.8 is less than a point from either
    assert set(duels(found, "overall")) == {(f"{WARM} {ASKING}", "Ask for more tablets.")}
    labels = {item.parts[0].reply: item.labels["no medical advice"] for item in found.items}
    assert labels == {f"{WARM} {ASKING}": 1.0, "Ask for more tablets.": 0.0, ASKING: 1.0}
    assert found.counts["medical advice: not sure"] == 36
    assert found.items[0].said == f"A title\n\n{POSTS[0]}"


def test_counselbench_is_read_from_a_folder_in_hub_layout_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_csv(tmp_path / "set" / "test.csv", counselbench.COLUMNS, counselbench_rows())
    found = read_counselbench(str(tmp_path / "set"))
    assert len(found.items) == 36 and found.origin.startswith("set@")


def test_mindeval_scores_are_made_alike_within_raters_before_they_are_averaged(tmp_path):
    rows = mindeval_rows()
    chat = rows[0]["interaction"]
    rows += [
        {"profile": "p0", "system": "asking", "rater": "same", "interaction": chat, "scores": {"alliance": 3}},
        {"profile": "p1", "system": "asking", "rater": "same", "interaction": chat, "scores": {"alliance": 3}},
        rows[0],
    ]
    found = read_mindeval(write_mindeval(tmp_path / "m.jsonl", rows))
    assert {round(item.labels["score"], 6) for item in found.items} == {1.0, -1.0}
    assert (len(found.items), len(found.duels), [len(item.parts) for item in found.items]) == (24, 12, [2] * 24)
    assert found.counts["ratings left out: the rater scores all alike"] == 2
    assert found.counts["left out: rated twice by one rater"] == 1
    assert found.ceiling == {"a rater against the others": {"value": 1.0, "n": 24}}


ROWS = {
    "annomi": (annomi.COLUMNS, annomi_rows, "utterance_text", {"reflection_exists": "maybe"}),
    "siri-2": (siri.COLUMNS, lambda: [dict(zip(siri.COLUMNS, ("1", POSTS[0], WARM, "2"), strict=True))],
               "expert_mean", {"expert_mean": "7"}),
    "counselchat": (counselchat.COLUMNS, counselchat_rows, "upvotes", {"views": "many"}),
    "counselbench": (counselbench.COLUMNS, counselbench_rows, "overall_score", {"overall_score": "6"}),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_file_that_is_not_as_published_says_where_and_what(tmp_path, name):
    columns, rows, column, fault = ROWS[name]
    path = tmp_path / "set.csv"
    for broken, complaint in (
        (lambda: write_csv(path, [c for c in columns if c != column],
                           [{k: v for k, v in row.items() if k != column} for row in rows()]), f"no column '{column}'"),
        (lambda: write_csv(path, columns, []), "holds no rows; this must be"),
        (lambda: write_csv(path, columns, [rows()[0] | fault]), f"row 1: column '{next(iter(fault))}' holds no"),
        (lambda: path.write_bytes(b"questionID\n\xe9\n"), "not a UTF-8 CSV file"),
        (path.unlink, "no such file"),
    ):  # fmt: skip
        broken()
        with pytest.raises(UserError) as caught:
            SETS[name](path)
        text = str(caught.value)
        assert complaint in text and "set.csv" in text and "\n" not in text
        assert not any(post in text for post in (*POSTS, LONG))


def test_a_bad_epitome_folder_or_level_is_told(tmp_path):
    with pytest.raises(UserError, match="no such folder; EPITOME is the folder with emotional-reactions-reddit"):
        read_epitome(tmp_path / "absent")
    write_epitome(tmp_path)
    write_csv(tmp_path / epitome.FILES["IP"], epitome.COLUMNS, [epitome_rows((3, 0, 0))[0]])
    with pytest.raises(
        UserError, match=r"interpretations-reddit.csv: row 1: column 'level' holds no number from 0 to 2"
    ):
        read_epitome(tmp_path)
    (tmp_path / epitome.FILES["IP"]).unlink()
    with pytest.raises(UserError, match=r"interpretations-reddit.csv: no such file"):
        read_epitome(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"scores": {}}, "'scores' is no object of criteria and numbers"),
        ({"scores": {"alliance": "good"}}, "'scores' is no object of criteria and numbers"),
        ({"interaction": "hello"}, "'interaction' is no list of chat messages"),
        ({"interaction": [{"role": "assistant", "content": "Hello."}]}, "holds no assistant message after one"),
    ],
)  # fmt: skip
def test_a_bad_mindeval_line_is_told_by_its_number(tmp_path, change, complaint):
    rows = mindeval_rows()[:3]
    with pytest.raises(UserError, match=complaint) as caught:
        read_mindeval(write_mindeval(tmp_path / "m.jsonl", [*rows, mindeval_rows()[3] | change]))
    assert "row 4" in str(caught.value)


@pytest.mark.skipif(not CSV.is_file(), reason="the shared counsel-chat file is absent (set PSYCHOCOUNSEL_DATA)")
def test_the_published_counselchat_file_gives_the_known_numbers_of_pairs():
    found = read_counselchat(CSV)
    pairs = {
        test: (len([d for d in found.duels if d.test == test]), len({d.unit for d in found.duels if d.test == test}))
        for test in counselchat.TESTS
    }
    assert list(pairs.values()) == [(2523, 201), (512, 136), (167, 64), (98, 43)]
    assert found.note.endswith("36% of the answers")
