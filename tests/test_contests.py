"""One contest taken apart: every figure is that of its parts, and no judge, however bad, breaks the table."""

import json
import math

import numpy as np
import pytest
from conftest import make_speech
from scipy.special import expit
from scripted_verdicts import (
    LEVELS,
    Judged,
    always_first,
    always_tie,
    biased,
    contradicts_itself,
    fair,
    refuses_a_third,
)

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import clusters_of
from psychocounsel.evaluate.contest.family import adjusted, contest_items, contest_metrics, policy_differences
from psychocounsel.evaluate.contest.length import length_controlled
from psychocounsel.evaluate.contest.tables import ContestTable, contest_table
from psychocounsel.evaluate.page import page
from psychocounsel.evaluate.results import Results, read_items, read_results, write_results
from psychocounsel.evaluate.significance import holm, sign_flip
from psychocounsel.principles import load_principles, load_topics

PRINCIPLES = load_principles()
TOPICS = list(load_topics().values())
QUICK = {"bootstrap": 200, "seed": 0}


def speeches_of(judged):
    return {
        name: make_speech(
            f"Something weighs on me, number {i}.",
            "test" if i % 3 else "arena",
            judged.clusters[name],
            topic=TOPICS[(i * 5) % len(TOPICS)].id if i % 7 else "",
        )
        for i, name in enumerate(judged.speeches)
    }


def table_of(judged, verdicts, **more):
    return contest_table(verdicts, speeches_of(judged), PRINCIPLES, **(QUICK | more))


def with_principles(verdicts, seed=0, noise=0.35):
    """The overall verdict and noise, by principle."""
    random, found = np.random.default_rng(seed), []
    for one in verdicts:
        drawn = np.clip(np.round(4 * ((one.value or 0) + random.normal(0, noise, len(PRINCIPLES)))) / 4, 0, 1)
        told = {} if one.value is None else dict(zip((p.id for p in PRINCIPLES), drawn.tolist(), strict=True))
        found.append(one.model_copy(update={"principles": told}))
    return found


def shown(tables, *notes):
    """What the page of a comparison is made of."""
    rows = [table.model_dump(mode="json") for table in tables]
    return {"contests": rows, "differences": [], "principles": [], "notes": list(notes)}


@pytest.fixture(scope="module")
def judged():
    return Judged(240, longer=0.4)


@pytest.fixture(scope="module")
def verdicts(judged):
    return with_principles(judged.by(one=fair(), two=fair(0.05), long=biased(length=0.1)))


@pytest.fixture(scope="module")
def texts(judged):
    return {name: (f"You carry this. ({i})", f"Make a plan. ({i})") for i, name in enumerate(judged.speeches)}


@pytest.fixture(scope="module")
def table(judged, verdicts, texts):
    return table_of(judged, verdicts, texts=texts)


# --- the parts --------------------------------------------------------------------------------------------------------


def test_every_figure_is_that_of_its_parts(judged, table):
    values = np.array([row.value for row in table.speeches])
    clusters = [row.cluster for row in table.speeches]
    assert table.headline.win_rate.value == pytest.approx(values.mean(), abs=1e-4)
    assert list(values) == pytest.approx([np.mean(list(row.judges.values())) for row in table.speeches], abs=1e-3)
    assert table.p == pytest.approx(sign_flip(values - 0.5, clusters_of(clusters), draws=200), abs=1e-6)
    assert sum(row.n for row in table.by_split.values()) == sum(cell.n for cell in table.topics) == 240
    arena = [row.value for row in table.speeches if judged.speeches.index(row.speech_id) % 3 == 0]
    assert table.by_split["arena"].value == pytest.approx(np.mean(arena), abs=1e-4)
    for rate in table.principles:
        assert rate.win_rate.value == pytest.approx(np.mean([r.principles[rate.id] for r in table.speeches]), abs=1e-4)
    corrected = holm({rate.id: rate.p for rate in table.principles}, [rate.id for rate in table.principles])
    theirs = [corrected[rate.id].adjusted for rate in table.principles]
    assert [rate.adjusted for rate in table.principles] == pytest.approx(theirs, abs=1e-5)
    assert [row.judge for row in table.standings] == list(table.agreement.judges) == ["long", "one", "two"]
    assert table.dependence.judges == 3 and table.dependence.win_rate == table.headline.win_rate.value


def test_length_is_controlled_in_characters(judged, table):
    row = table.speeches[3]
    assert row.chars_a == 6 * round(200 + 40 * judged.longer[judged.speeches.index(row.speech_id)])
    found = length_controlled(
        [row.value for row in table.speeches], [row.cluster for row in table.speeches],
        [row.chars_a for row in table.speeches], [row.chars_b for row in table.speeches], bootstrap=200,
    )  # fmt: skip
    assert table.length.unit == "characters" and table.length.slope == found.slope
    assert table.length.controlled.value == pytest.approx(found.controlled.value, abs=1e-4)
    leans = {row.judge: row.per_length for row in table.leanings}
    assert leans["long"].low > 0 > leans["one"].value


def test_topics_are_coarse_and_unknown_ones_are_said(table):
    coarse = {topic.coarse for topic in TOPICS}
    cells = {cell.cell: cell.n for cell in table.topics}
    assert set(cells) - coarse == {"unknown"} and cells["unknown"] == 35
    for principle in PRINCIPLES:
        found = {cell.topic: cell.n for cell in table.topic_principle if cell.principle == principle.id}
        assert found == cells


def test_the_worst_speeches_come_first_with_both_replies(judged, verdicts, table, texts):
    lowest = sorted(row.value for row in table.speeches)[:20]
    assert [row.value for row in table.worst] == lowest
    assert (table.worst[0].reply_a, table.worst[0].reply_b) == texts[table.worst[0].speech_id]
    few = table_of(judged, verdicts, texts=texts, worst=3)
    assert [row.speech_id for row in few.worst] == [row.speech_id for row in table.worst[:3]]
    some = dict(list(texts.items())[:2])
    only = table_of(judged, verdicts, texts=some)
    assert {row.speech_id for row in only.worst} == set(some) and only.style.controlled.n == 2
    assert table_of(judged, verdicts).worst == () and table_of(judged, verdicts).style is None


def test_the_table_is_the_same_whatever_the_order_of_lines_and_survives_json(judged, verdicts, texts, table):
    assert table_of(judged, verdicts[::-1], texts=texts) == table
    assert ContestTable.model_validate(json.loads(json.dumps(table.model_dump(mode="json"), allow_nan=False))) == table


# --- who counts in the headline ---------------------------------------------------------------------------------------


def test_a_dependent_judge_stands_beside_the_headline_and_never_in_it(judged, verdicts, texts, table):
    more = verdicts + with_principles(judged.by(kin=biased(family=0.4)), seed=1)
    found = table_of(judged, more, texts=texts, dependent=["kin", "somebody else"])
    assert found.dependent == ("kin",) and "kin" in {row.judge for row in found.standings}
    same = ("headline", "p", "length", "style", "principles", "by_split", "topics", "topic_principle", "dependence")
    for name in same:
        assert getattr(found, name) == getattr(table, name), name
    assert next(row for row in found.leanings if row.judge == "kin").towards_a.low > 0.2
    assert all("kin" in row.judges for row in found.speeches)


def test_with_no_independent_judge_the_headline_is_theirs(judged, verdicts, texts, table):
    found = table_of(judged, verdicts, texts=texts, dependent=["one", "two", "long"])
    assert found.dependent == ("long", "one", "two") and found.headline == table.headline


def test_an_unfit_independent_judge_does_not_let_a_dependent_one_in(judged):
    found = table_of(judged, judged.by(stuck=always_first, kin=fair()), dependent=["kin"])
    assert found.headline.judges == () and found.headline.win_rate.value is None
    assert found.headline.invalid == "no judge is fit for the headline"


BAD = {"first": always_first, "tie": always_tie, "refuses": refuses_a_third, "contradicts": contradicts_itself}
FIT = {"first": False, "tie": True, "refuses": False, "contradicts": False}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_judge_alone_leaves_a_table_and_a_page(name, texts):
    judged = Judged(60)
    found = table_of(judged, with_principles(judged.by(**{name: BAD[name]})), texts=texts)
    head = found.headline
    assert (head.judges == (name,)) == FIT[name] and (head.win_rate.value is None) == (not FIT[name])
    assert bool(head.invalid) == (not FIT[name])
    html = page(Results(name="bad", command="eval winrate", judges=(name,)), shown(adjusted([found])))
    assert "new against old" in html and ("no conclusion" in html) == (not FIT[name])
    metrics = contest_metrics(found)
    assert metrics["winrate.new_vs_old"] == head.win_rate
    assert [row.value for row in found.speeches] == ([0.5] * 60 if name == "tie" else [])
    json.dumps([figure.model_dump() for figure in metrics.values()], allow_nan=False)


@pytest.mark.parametrize("name", ["first", "refuses", "contradicts"])
def test_a_bad_judge_in_a_panel_moves_nothing_but_what_is_said_about_it(name, judged, verdicts, texts, table):
    found = table_of(judged, verdicts + judged.by(**{name: BAD[name]}), texts=texts)
    assert found.headline.win_rate == table.headline.win_rate and name in found.headline.excluded
    assert found.length == table.length and found.principles == table.principles and found.p == table.p


def test_a_judge_who_always_ties_pulls_to_the_middle_and_it_is_said(judged, verdicts, table):
    found = table_of(judged, verdicts + judged.by(tie=always_tie))
    half = (3 * table.headline.win_rate.value + 0.5) / 4
    assert found.headline.win_rate.value == pytest.approx(half, abs=1e-3)
    assert next(row for row in found.standings if row.judge == "tie").decided == 0.0
    assert found.dependence.undefined == 3  # of six pairs: it correlates with nobody


# --- too little, and too odd ------------------------------------------------------------------------------------------


def test_one_speech_gives_a_table_that_claims_nothing():
    judged = Judged(1)
    found = table_of(judged, with_principles(judged.by(one=fair(), two=fair())), texts={"s0000": ("Yes.", "No.")})
    assert (found.p, found.length, found.style) == (1.0, None, None)
    rate = found.headline.win_rate
    assert rate.n == 1 and rate.low < 0.5 < rate.high
    assert all(row.weight is None for row in found.principles)


def test_two_speeches_can_be_fitted_and_get_no_interval():
    judged = Judged(2)
    judged.quality[:] = 0.5, -0.25
    found = table_of(judged, judged.by(one=fair()))
    assert found.length.controlled.n == 2 and found.length.controlled.low is None
    assert found.agreement is None and found.leanings == ()  # there is nobody to compare with
    assert found.dependence.stamp == "judge-dependent: there is one judge"


def test_nothing_but_ties_is_one_half_and_no_evidence():
    judged = Judged(40)
    found = table_of(judged, with_principles(judged.by(one=always_tie, two=always_tie), noise=0))
    assert (found.headline.ties, found.headline.win_rate.value, found.p) == (40, 0.5, 1.0)
    assert found.headline.win_rate.low < 0.5 < found.headline.win_rate.high
    assert found.length.controlled.value == 0.5 and "every verdict is a tie" in found.length.notes
    assert {(row.win_rate.value, row.adjusted, row.weight) for row in found.principles} == {(0.5, 1.0, None)}


def test_a_missing_verdict_is_counted_and_never_a_tie(judged):
    whole = judged.by(one=fair(), two=fair())
    lost = [v.model_copy(update={"value": math.nan if i % 2 else None, "principles": {}})
            if v.speech_id == "s0000" else v for i, v in enumerate(whole)]  # fmt: skip
    found = table_of(judged, lost)
    assert found.headline.missing == 1 and len(found.speeches) == 239 == found.headline.win_rate.n
    assert found.headline.missing_verdicts == pytest.approx(4 / 960, abs=1e-6)
    figure = contest_metrics(found)["missing_verdicts.new_vs_old"]
    assert (figure.value, figure.n) == (pytest.approx(4 / 960, abs=1e-4), 960)
    assert "s0000" not in {item.item for item in contest_items(found)}


def test_verdicts_without_principles_have_no_rate_by_principle(judged):
    found = table_of(judged, judged.by(one=fair()))
    assert [(r.win_rate.value, r.win_rate.n, r.p, r.adjusted) for r in found.principles] == [(None, 0, None, None)] * 7
    assert found.topic_principle == () and [i.metric for i in contest_items(found)] == ["winrate.new_vs_old"] * 240


def test_what_does_not_belong_together_is_one_line(judged, verdicts):
    with pytest.raises(UserError, match="there are no verdicts"):
        table_of(judged, [])
    with pytest.raises(UserError, match=r"the verdict of one on speech s0000 \(a first, sample 0\) is there twice"):
        table_of(judged, [*verdicts, verdicts[0]])
    with pytest.raises(UserError, match="judged speeches are not among those given, first s0000"):
        contest_table(verdicts, {}, PRINCIPLES)


HOSTILE = "</script><script>alert(1)</script>\u2028 \x00 {{ 7 * 7 }} {% raw %} \u202e" + "🌙" * 3000


def test_hostile_replies_stay_text():
    judged = Judged(30)
    found = table_of(judged, judged.by(one=fair(), two=fair()), texts=dict.fromkeys(judged.speeches, (HOSTILE, "")))
    again = ContestTable.model_validate_json(found.model_dump_json())
    assert again.worst[0].reply_a == HOSTILE and again == found
    html = page(Results(name=HOSTILE, command="eval winrate"), shown([found], HOSTILE))
    assert "<script>alert" not in html and "{{ 7 * 7 }}" in html


# --- what hangs on length, style, difficulty and principles -----------------------------------------------------------


def test_a_judge_who_likes_bullets_is_put_right_by_style_and_not_by_length():
    judged = Judged(600, better=0.0, spread=0.3, seed=3)
    listed = judged.random.random(600) < 0.7
    replies = [
        ("- rest\n- eat\n- call her" if some else "What would you tell her first?", "And then?") for some in listed
    ]

    def likes(quality, longer, first, random):
        return quality + 0.25 * listed + random.normal(0, 0.03, 600)

    found = table_of(judged, judged.by(one=likes), texts=dict(zip(judged.speeches, replies, strict=True)))
    assert found.headline.win_rate.value > 0.6 and found.length.controlled.value > 0.6
    plain = [row.value for row, some in zip(found.speeches, listed, strict=True) if not some]
    assert found.style.controlled.value == pytest.approx(np.mean(plain), abs=0.02)
    assert found.style.style["bullets"] > 0.2 and found.length.controlled.value > np.mean(plain) + 0.1
    assert any(note.startswith("bold: used alike") for note in found.style.notes)


def test_difficulty_is_taken_from_three_other_policies_and_not_from_two(judged, verdicts, table, texts):
    values = {row.speech_id: row.value for row in table.speeches}
    others = {
        f"p{k}": {key: min(max(value + shift, 0), 1) for key, value in values.items()}
        for k, shift in enumerate((-0.1, 0.05, 0.1))
    }
    two = {name: others[name] for name in ("p0", "p1")}
    assert table_of(judged, verdicts, others=two).length == table.length
    known = table_of(judged, verdicts, others=others).length
    assert known.controlled.high - known.controlled.low < table.length.controlled.high - table.length.controlled.low
    del others["p2"]["s0000"]
    assert table_of(judged, verdicts, others=others).length.controlled.n == 240


def weighted(weights, clusters=300, seed=0):
    """Verdicts whose overall one follows from those on principles: a level with the mean sigma(sum beta (s - .5))."""
    judged, random = Judged(2 * clusters), np.random.default_rng(seed)
    found = []
    for i in range(2 * clusters):
        said = random.choice(LEVELS, len(PRINCIPLES))
        wanted = 4 * float(expit((said - 0.5) @ weights))
        value = (math.floor(wanted) + (random.random() < wanted % 1)) / 4
        told = dict(zip((p.id for p in PRINCIPLES), said.tolist(), strict=True))
        found += [
            judged.verdict(i, "one", first, value).model_copy(update={"principles": told}) for first in (True, False)
        ]
    return judged, found


def test_the_weights_of_principles_are_those_the_overall_verdict_was_made_with():
    truth = np.array([2.0, 0.0, 1.0, 0.5, 0.0, -0.5, 1.5])
    rows = table_of(*weighted(truth)).principles
    inside = [row.weight.low <= beta <= row.weight.high for row, beta in zip(rows, truth, strict=True)]
    assert sum(inside) >= 6 and max(row.weight.high - row.weight.low for row in rows) < 0.7
    assert np.corrcoef([row.weight.value for row in rows], truth)[0, 1] > 0.98


@pytest.mark.parametrize("how", ["few", "alike", "decided", "constant"])
def test_weights_that_cannot_be_told_are_not_told(how):
    judged, found = weighted(np.ones(7), clusters=30 if how == "few" else 150)
    ids = [p.id for p in PRINCIPLES]
    if how == "alike":  # two principles say the same of every speech
        found = [v.model_copy(update={"principles": {**v.principles, ids[1]: v.principles[ids[0]]}}) for v in found]
    if how == "decided":  # one principle leaves no doubt
        found = [v.model_copy(update={"value": float(v.principles[ids[0]] > 0.4)}) for v in found]
    if how == "constant":
        found = [v.model_copy(update={"principles": {**v.principles, ids[0]: 0.5}}) for v in found]
    rows = table_of(judged, found).principles
    assert [row.weight is None for row in rows] == [True] + [how != "constant"] * 6


# --- the contests of an evaluation together ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three():
    """Three candidates of growing worth against one baseline, and one against another baseline."""
    found = []
    for place, better in enumerate((0.0, 0.05, 0.2)):
        judged = Judged(120, better=better)
        rows = [v.model_copy(update={"a": f"policy-{place}"}) for v in judged.by(one=fair(), two=fair())]
        found.append(table_of(judged, rows))
    return [*found, found[0].model_copy(update={"b": "older"})]


def test_p_values_are_corrected_for_all_contests(three):
    found = adjusted(three)
    theirs = holm({str(i): t.p for i, t in enumerate(three)}, ["0", "1", "2", "3"])
    assert [t.adjusted for t in found] == [pytest.approx(theirs[str(i)].adjusted, abs=1e-6) for i in range(4)]
    assert found[2].p < found[2].adjusted < 0.05 and adjusted([]) == []
    unfit = three[0].model_copy(update={"p": None})
    assert [t.adjusted for t in adjusted([unfit, three[2]])] == [None, three[2].p]


def test_candidates_are_compared_where_they_met_the_same_baseline(three):
    found = policy_differences(three, bootstrap=200)
    assert [(row.a, row.b) for row in found] == [
        ("policy-0", "policy-1"),
        ("policy-0", "policy-2"),
        ("policy-1", "policy-2"),
    ]
    assert found[1].difference.high < 0 and found[1].adjusted < 0.05 and found[1].difference.n == 120
    gap = three[0].headline.win_rate.value - three[2].headline.win_rate.value
    assert found[1].difference.value == pytest.approx(gap, abs=2e-4)
    assert found[0].adjusted >= found[0].p


def test_only_common_speeches_are_compared_and_none_in_common_is_left_out(three):
    one, two = three[0], three[2]
    some = two.model_copy(update={"speeches": two.speeches[:50]})
    (row,) = policy_differences([one, some], bootstrap=200)
    first = {speech.speech_id: speech.value for speech in one.speeches}
    assert row.difference.n == 50
    assert row.difference.value == pytest.approx(
        np.mean([first[s.speech_id] - s.value for s in some.speeches]), abs=1e-4
    )
    other = two.model_copy(update={"speeches": two.speeches[50:]})
    assert policy_differences([some, other]) == [] == policy_differences([one]) == policy_differences([])


def test_metrics_have_stable_names_and_items_stand_behind_them(table, tmp_path):
    named = table.model_copy(update={"a": "best-of-n", "b": "old"})
    metrics = contest_metrics(named)
    assert metrics["winrate.best_of_n_vs_old"] == table.headline.win_rate
    assert metrics["winrate_lc.best_of_n_vs_old"] == table.length.controlled
    assert metrics["winrate_style.best_of_n_vs_old"] == table.style.controlled
    assert metrics["effective_judges.best_of_n_vs_old"].value == pytest.approx(table.dependence.effective)
    assert metrics["winrate.best_of_n_vs_old.judge.long"].n == 240
    items = list(contest_items(named))
    write_results(tmp_path, Results(name="x", command="eval winrate", metrics=metrics), items)
    assert read_results(tmp_path).metrics == metrics
    for metric, rows in read_items(tmp_path).items():
        assert np.mean([row.value for row in rows.values()]) == pytest.approx(metrics[metric].value, abs=1e-4)
    overall = [item for item in items if item.metric == "winrate.best_of_n_vs_old"]
    assert overall[3].known == {"chars_a": table.speeches[3].chars_a, "chars_b": table.speeches[3].chars_b}
    assert len(items) == 240 * 8
