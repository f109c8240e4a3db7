"""Agreement of raters by who they are: coefficients against other libraries, panels, order, judges that pass."""

import json

import krippendorff
import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import fleiss_kappa as their_fleiss

from psychocounsel.errors import UserError
from psychocounsel.evaluate.raters.agreeing import agree, pair_rows
from psychocounsel.evaluate.raters.answers import OVERALL, Answer, Question, Roles, arrays
from psychocounsel.evaluate.raters.facing import Draws
from psychocounsel.evaluate.raters.procedures import fleiss_draws, fleiss_kappa
from psychocounsel.evaluate.raters.published import counted, possible
from psychocounsel.evaluate.raters.ranked import order_between

QUICK = Draws(bootstrap=100)
FIVE = Question("ordinal", ("1", "2", "3", "4", "5"))
CHOICE = Question("ordinal", ("lost", "tie", "won"), tie=2.0)
N = None
# Golden values: irrCAC 0.4.4 (Gwet's own formulas; CAC(...).gwet() and .krippendorff(), digits=10) and pingouin 0.6.1
# (intraclass_corr, types ICC(A,1), ICC(A,k), ICC(1,1)) on the tables beside them. Rows are items, columns raters.
GAPS = [[4, 5, 4, N], [2, 2, 3, 2], [5, 5, 5, 5], [3, N, 3, 4], [1, 2, 1, 1], [4, 4, N, 4], [2, 3, 2, N], [5, 4, 5, 5],
        [N, 3, 4, 3], [1, 1, 2, 1], [3, 3, 3, 3], [4, 5, N, N], [2, N, N, 1], [5, 5, 4, N]]  # fmt: skip
SKEWED = [[1, 1, 1], [1, 1, 1], [1, 1, N], [1, 1, 1], [1, 2, 1], [1, 1, 1], [1, N, 1], [2, 2, 1], [1, 1, 1], [1, 1, 1],
          [1, 1, 1], [1, 1, 2]]  # fmt: skip
NAMES = [[1, 2, 1], [3, 3, 3], [2, 2, 2], [1, 1, N], [3, 2, 3], [2, N, 2], [1, 3, 1], [2, 2, 3], [3, 3, 3], [1, 1, 1]]
MILD = [[3, 4, 2], [1, 3, 1], [5, 5, 4], [2, 4, 2], [4, 5, 3], [3, 3, 2], [2, 3, 1], [5, 5, 5], [1, 2, 2], [4, 4, 2]]
GOLDEN = {
    "gaps": (GAPS, FIVE, {"ac1": 0.3466790402, "ac2": 0.8724241483}),
    "skewed": (SKEWED, Question("ordinal", ("no", "yes")), {"ac1": 0.7923076923, "alpha": 0.175}),
    "names": (NAMES, Question("nominal", ("a", "b", "c")), {"ac1": 0.6, "alpha_nominal": 0.5862068966}),
    "mild": (MILD, FIVE, {"icc": 0.6170212766, "icc_mean": 0.8285714286, "icc_one_way": 0.5867346939}),
}  # fmt: skip


def answers_of(table, question=FIVE, raters=None, name=OVERALL, **fields):
    """A table (items, raters) as answers; None is no answer."""
    raters = raters or [f"r{k}" for k in range(len(table[0]))]
    rows = [
        Answer(name, f"i{i:03}", f"u{i:03}", rater, float(value), **fields)
        for i, row in enumerate(table)
        for rater, value in zip(raters, row, strict=True)
        if value is not None
    ]
    return arrays(rows, {name: question})


def group(table, question=FIVE, **fields):
    return agree(answers_of(table, question, **fields), draws=QUICK)["questions"][OVERALL]["groups"]["judge_judge"]


def noisy(items=60, noise=(0.5, 0.5, 0.5), seed=0):
    """Raters who see one quality with noise of their own, as scores of 1 to 5."""
    random = np.random.default_rng(seed)
    quality = random.normal(3, 1.1, items)
    columns = [np.clip(np.round(quality + random.normal(0, spread, items)), 1, 5) for spread in noise]
    return np.stack(columns, axis=1).tolist()


@pytest.mark.parametrize("name", GOLDEN)
def test_coefficients_are_those_of_their_authors_software(name):
    table, question, golden = GOLDEN[name]
    found = group(table, question)
    assert {key: found[key]["value"] for key in golden} == pytest.approx(golden, abs=1e-6)


@pytest.mark.parametrize(("key", "metric"), [("alpha", "ordinal"), ("alpha_nominal", "nominal")])
def test_alpha_with_gaps_is_that_of_the_library(key, metric):
    question = FIVE if metric == "ordinal" else Question("nominal", FIVE.levels)
    table = np.array([[np.nan if v is None else v for v in row] for row in GAPS])
    theirs = krippendorff.alpha(table.T, level_of_measurement=metric, value_domain=[1, 2, 3, 4, 5])
    assert group(GAPS, question)[key]["value"] == pytest.approx(theirs, abs=1e-6)


def test_kappas_of_two_raters_are_those_of_sklearn_and_alpha_of_a_scale_that_of_the_library():
    table = noisy(noise=(0.6, 0.9))
    first, second = zip(*table, strict=True)
    found = group(table)
    assert found["kappa"]["value"] == pytest.approx(cohen_kappa_score(first, second), abs=1e-6)
    weighted = cohen_kappa_score(first, second, weights="quadratic")
    assert found["kappa_quadratic"]["value"] == pytest.approx(weighted, abs=1e-6)
    scale = group((np.array(table) * 1e-5 + 7).tolist(), Question("interval"))  # neither unit nor zero counts
    assert scale["kappa_quadratic"]["value"] == pytest.approx(weighted, abs=1e-6)
    theirs = krippendorff.alpha(np.array(table).T, level_of_measurement="interval")
    assert scale["alpha_interval"]["value"] == pytest.approx(theirs, abs=1e-6)


def test_fleiss_of_complete_items_is_that_of_statsmodels_with_an_interval():
    table = noisy(noise=(0.6, 0.9, 0.7))
    counts = np.array([[row.count(level) for level in (1, 2, 3, 4, 5)] for row in table])
    found = group(table)["fleiss"]
    assert found["value"] == pytest.approx(their_fleiss(counts), abs=1e-6)
    assert found["low"] < found["value"] < found["high"] and found["n"] == 60
    drawn = fleiss_draws(counts, bootstrap=3, seed=5)
    rows = [np.random.Generator(np.random.Philox(5)).integers(0, 60, 60)]
    assert drawn[1] == pytest.approx(fleiss_kappa(counts[rows[0]]))
    gone = group([[*row[:2], None] if k % 2 else row for k, row in enumerate(table)])
    assert gone["n"] == 60 and gone["fleiss"]["n"] == 30  # only of items that all rated


@pytest.mark.parametrize("seed", range(3))
def test_order_is_that_of_scipy_with_ties(seed):
    random = np.random.default_rng(seed)
    first, second = random.integers(1, 5, (2, 12, 5)).astype(float)
    second[0] = 3.0  # one rater ties everything: no order, and not one of 0
    among = np.repeat(np.arange(12), 5)
    found = order_between([(first.ravel(), second.ravel())], among, among)
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if np.ptp(a) and np.ptp(b)]
    assert found["tau"]["value"] == pytest.approx(np.mean([kendalltau(a, b).statistic for a, b in pairs]), abs=1e-6)
    assert found["spearman"]["value"] == pytest.approx(np.mean([spearmanr(a, b).statistic for a, b in pairs]), abs=1e-6)
    assert found["undefined"] == 12 - len(pairs) >= 1 and found["rankings"] == len(pairs)


def test_items_that_stand_alone_have_no_order():
    assert "alike" not in group(noisy(20))
    assert group(noisy(20), among="one speech")["alike"]["n"] > 100


def test_unanimous_raters_are_undefined_with_the_reason_and_never_one():
    found = group([[4, 4]] * 20)
    assert found["exact"]["value"] == 1.0
    for key in ("kappa", "kappa_quadratic", "alpha", "ac1", "ac2", "icc"):
        assert (found[key]["value"], found[key]["low"], found[key]["why"]) == (None, None, "no variation")
    assert "NaN" not in json.dumps(agree(answers_of([[4, 4, 4]] * 20), draws=QUICK))


def test_ties_count_as_a_verdict_and_are_dropped_where_two_are_compared():
    table = [[1, 1]] * 10 + [[3, 3]] * 10 + [[1, 2]] * 10 + [[2, 2]] * 5 + [[1, 3]] * 5
    found = group(table, CHOICE)
    assert found["exact"]["value"] == pytest.approx(25 / 40)
    assert found["two_way"]["value"] == pytest.approx(20 / 25)
    assert "two_way" not in group(table, Question("ordinal", ("a", "b", "c")))


def test_two_levels_get_a_two_by_two_table_and_pabak():
    table = [[2, 2]] * 40 + [[2, 1]] * 9 + [[1, 2]] * 3 + [[1, 1]] * 8
    (row,) = agree(answers_of(table, Question("ordinal", ("no", "yes"))), draws=QUICK)["questions"][OVERALL]["pairs"]
    told = row["two_by_two"]
    assert [told[key] for key in ("both", "only_first", "only_second", "neither")] == [40, 9, 3, 8]
    assert told["positive"] == pytest.approx(80 / 92, abs=1e-6) and told["negative"] == pytest.approx(16 / 28, abs=1e-6)
    assert row["pabak"]["value"] == pytest.approx(2 * 48 / 60 - 1, abs=1e-6)


def test_people_judges_and_labels_stand_side_by_side_and_who_agrees_as_people_do_passes():
    table = noisy(300, noise=(0.6, 0.6, 0.3, 2.5, 0.1))
    raters = ["ann", "bea", "careful", "careless", "label"]
    roles = Roles(frozenset(raters[:2]), frozenset(["label"]))
    found = agree(answers_of(table, raters=raters), roles, QUICK)["questions"][OVERALL]
    assert set(found["groups"]) == {"human_human", "human_judge", "judge_judge", "human_label", "judge_label"}
    assert [found["groups"][key]["pairs"] for key in ("human_human", "human_judge", "human_label")] == [1, 4, 2]
    assert found["judges"]["careful"]["passes"] is True and found["judges"]["careless"]["passes"] is False
    people, careless = found["judges"]["careful"]["humans"]["value"], found["judges"]["careless"]
    assert people == found["groups"]["human_human"]["kappa_quadratic"]["value"]
    assert careless["with_humans"]["low"] < people - 0.05
    assert found["replaceable"]["careful"]["passes"] is True and found["replaceable"]["careless"]["passes"] is False
    assert set(found["accuracy"]) == {"careful", "careless", "label"}  # one other person has no majority
    assert found["accuracy"]["careful"]["value"] > found["accuracy"]["careless"]["value"]


def test_without_two_people_no_judge_passes_or_fails():
    found = agree(answers_of(noisy(), raters=["ann", "j1", "j2"]), Roles(frozenset(["ann"])), QUICK)
    row = found["questions"][OVERALL]["judges"]["j1"]
    assert row["passes"] is None and row["why"] == "people are not compared with each other on its items"
    assert row["with_humans"]["value"] is not None and found["questions"][OVERALL]["replaceable"] == {}


def test_a_judge_is_held_against_people_on_its_own_items():
    """People agree on items that the judge saw, and contradict each other on the rest."""
    table = [[k % 5 + 1, k % 5 + 1, k % 5 + 1] for k in range(20)] + [[k % 5 + 1, 5 - k % 5, None] for k in range(20)]
    found = agree(answers_of(table, raters=["ann", "bea", "judge"]), Roles(frozenset(["ann", "bea"])), QUICK)
    question = found["questions"][OVERALL]
    assert question["judges"]["judge"]["humans"]["value"] == 1.0
    assert question["groups"]["human_human"]["kappa_quadratic"]["value"] < 0.5


def test_mcnemar_by_the_label_is_that_of_statsmodels():
    random = np.random.default_rng(3)
    label = random.integers(1, 3, 80)
    one, two = (np.where(random.random(80) < p, label, 3 - label) for p in (0.9, 0.7))
    table = np.stack([label, one, two], axis=1).tolist()
    raters = ["gold", "one", "two"]
    found = agree(answers_of(table, Question("ordinal", ("a", "b")), raters), Roles(labels=frozenset(["gold"])), QUICK)
    (row,) = found["questions"][OVERALL]["label_tests"]
    right = [(side == label).astype(int) for side in (one, two)]
    cells = [[int(((right[0] == a) & (right[1] == b)).sum()) for b in (1, 0)] for a in (1, 0)]
    assert row["p"] == pytest.approx(mcnemar(cells, exact=True).pvalue, abs=1e-9)
    assert (row["only_first"], row["only_second"], row["n"]) == (cells[0][1], cells[1][0], 80)


def test_accuracy_by_the_others_shares_what_is_equally_frequent():
    table = [[1, 1, 1, 1]] * 10 + [[2, 1, 1, 1]] * 6 + [[1, 1, 2, None]] * 4
    found = agree(answers_of(table, Question("nominal", ("a", "b"))), draws=QUICK)["questions"][OVERALL]["accuracy"]
    assert found["r0"]["value"] == pytest.approx((10 + 4 * 0.5) / 20)  # where two others differ, either is half right
    assert found["r0"]["n"] == 20 and found["r3"]["n"] == 16


def test_severity_finds_who_is_strict_in_levels_and_in_standard_deviations():
    table = [[min(a + 1, 5), a, a] for a, _ in noisy(80, noise=(0.4, 0.4))]
    found = agree(answers_of(table, raters=["mild", "x", "y"]), draws=QUICK)["questions"][OVERALL]["severity"]
    assert 0.6 < found["mild"]["low"] <= found["mild"]["value"] <= 1.0 and found["x"]["high"] < 0
    assert found["mild"]["z"] == pytest.approx(found["mild"]["value"] / np.std(table), abs=1e-3)
    names = agree(answers_of(NAMES, Question("nominal", ("a", "b", "c"))), draws=QUICK)
    assert names["questions"][OVERALL]["severity"] == {}


def test_a_second_answer_is_compared_with_the_first_of_the_same_rater():
    rows = [Answer(OVERALL, f"i{k}", f"i{k}", "j", k % 2 + 1.0, (k % 2 + 1.0, (k % 2 if k < 10 else 1 - k % 2) + 1.0))
            for k in range(40)]  # fmt: skip
    rows += [Answer(OVERALL, f"i{k}", f"i{k}", "other", 1.0 + k % 2) for k in range(40)]
    made = arrays(rows, {OVERALL: Question("ordinal", ("a", "b"))})
    found = agree(made, draws=QUICK)["questions"][OVERALL]["test_retest"]
    assert set(found) == {"j"} and found["j"]["n"] == 40
    assert found["j"]["exact"]["value"] == 0.25 and found["j"]["kappa_quadratic"]["value"] == pytest.approx(-0.5)


def test_a_unit_is_drawn_whole_so_copies_of_items_do_not_narrow_an_interval():
    table = noisy(30, noise=(0.7, 0.7))
    rows = [Answer(OVERALL, f"i{i}-{copy}", f"u{i:03}", f"r{k}", value)
            for i, row in enumerate(table) for copy in range(4) for k, value in enumerate(row)]  # fmt: skip
    plenty = Draws(bootstrap=400)
    once = agree(answers_of(table), draws=plenty)["questions"][OVERALL]["groups"]["judge_judge"]["kappa_quadratic"]
    four = agree(arrays(rows, {OVERALL: FIVE}), draws=plenty)["questions"][OVERALL]["groups"]["judge_judge"]
    assert four["kappa_quadratic"]["value"] == once["value"] and four["n"] == 120
    assert four["kappa_quadratic"]["high"] - four["kappa_quadratic"]["low"] == pytest.approx(once["high"] - once["low"])


def test_items_behind_exact_have_the_figure_as_their_mean():
    table = [[None if (i + k) % 4 == 0 else value for k, value in enumerate(row)]
             for i, row in enumerate(noisy(40, noise=(0.6, 0.6, 0.8, 1.2)))]  # fmt: skip
    made, roles = answers_of(table, raters=["ann", "bea", "j", "k"]), Roles(frozenset(["ann", "bea"]))
    groups = agree(made, roles, QUICK)["questions"][OVERALL]["groups"]
    for key in groups:
        rows = [(row, value) for at, _, row, _, value in pair_rows(made, roles) if at == key]
        assert len({row for row, _ in rows}) == len(rows)
        assert np.mean([value for _, value in rows]) == pytest.approx(groups[key]["exact"]["value"], abs=1e-6)


def test_the_papers_counts_give_one_table_and_known_coefficients():
    """Two therapists, 200 pairs: alike on 174, with the labels on 184 and 170. Worked by hand from 164, 20, 6, 10."""
    answers, questions = counted([164, 20, 6, 10])
    found = agree(arrays(answers, questions), Roles(frozenset(["first", "second"]), frozenset(["label"])), QUICK)
    right = found["questions"]["agrees_with_label"]["groups"]["human_human"]
    chance = (184 * 170 + 16 * 30) / 200**2
    share = (184 + 170) / 400
    assert right["exact"]["value"] == pytest.approx(0.87)
    assert right["kappa"]["value"] == pytest.approx((0.87 - chance) / (1 - chance), abs=1e-6)
    assert right["ac1"]["value"] == pytest.approx((0.87 - 2 * share * (1 - share)) / (1 - 2 * share * (1 - share)))
    assert right["alpha"]["value"] == pytest.approx(1 - 399 * 26 / (354 * 46), abs=1e-6)
    chosen = found["questions"][OVERALL]
    assert chosen["groups"]["human_human"]["kappa"]["value"] == pytest.approx(0.74, abs=1e-3)
    assert chosen["groups"]["human_label"]["exact"]["value"] == pytest.approx((184 + 170) / 400)
    (row,) = chosen["label_tests"]
    assert (row["only_first"], row["only_second"]) == (20, 6)
    assert row["p"] == pytest.approx(mcnemar([[164, 20], [6, 10]], exact=True).pvalue, abs=1e-9)


def test_margins_alone_leave_a_range_and_the_third_count_one_table():
    found = possible(200, 184, 170)
    assert (found["tables"], found["least"], found["most"]) == (17, [154, 30, 16, 0], [170, 14, 0, 16])
    assert found["ranges"]["exact"] == [0.77, 0.93]
    ends = [[[1] * 170 + [0] * 30, second] for second in ([1] * 154 + [0] * 16 + [1] * 30, [1] * 184 + [0] * 16)]
    for end, (one, two) in zip(found["ranges"]["kappa"], ends, strict=True):
        assert end == pytest.approx(cohen_kappa_score(one, two), abs=1e-6)
    only = possible(200, 184, 170, 174)
    assert (only["tables"], only["least"]) == (1, [164, 20, 6, 10])
    assert found["ranges"]["kappa"][0] < only["ranges"]["kappa"][0] < found["ranges"]["kappa"][1]
    assert possible(20, 20, 20)["ranges"]["kappa"] == [None, None]


@pytest.mark.parametrize("margins", [(200, 184, 170, 175), (200, 201, 1), (0, 0, 0), (200, 10, 10, 0), (10**9, 1, 1)])
def test_margins_that_contradict_each_other_are_told(margins):
    with pytest.raises(UserError, match="margins"):
        possible(*margins)


def test_answers_that_do_not_fit_together_are_told():
    row = Answer(OVERALL, "i", "u", "r", 1.0)
    for rows, told in (
        ([], "no answer"),
        ([row, row._replace(value=2.0)], "two first answers"),
        ([row, row._replace(rater="s", unit="v")], "belongs to two units"),
    ):
        with pytest.raises(UserError, match=told):
            arrays(rows, {OVERALL: FIVE})
    for rows in ([row], [row, row._replace(item="j", unit="w", rater="s")]):
        with pytest.raises(UserError, match="share an item"):
            agree(arrays(rows, {OVERALL: FIVE}), draws=QUICK)


def test_one_shared_item_has_figures_and_no_interval_that_pretends():
    found = group([[4, 5], [3, None]])
    assert found["n"] == 1 and found["exact"]["value"] == 0.0 and found["kappa_quadratic"]["low"] is None


def test_the_order_of_answers_does_not_count():
    table = noisy(30)
    rows = [
        Answer(OVERALL, f"i{i}", f"u{i // 2}", f"r{k}", v) for i, row in enumerate(table) for k, v in enumerate(row)
    ]
    mixed = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))]
    first, second = (agree(arrays(given, {OVERALL: FIVE}), draws=QUICK) for given in (rows, mixed))
    assert first == second


def test_a_mean_over_questions_says_how_many_were_answered_by_two():
    rows = [Answer(name, f"i{i:03}", f"i{i:03}", rater, float(value))
            for name in ("warmth", "clarity", "pace") for i, row in enumerate(noisy(30))
            for rater, value in zip("abc", row, strict=True) if name != "pace" or rater == "a"]  # fmt: skip
    made = agree(arrays(rows, dict.fromkeys(("warmth", "clarity", "pace"), FIVE)), draws=QUICK)
    each = [made["questions"][name]["groups"]["judge_judge"]["alpha"]["value"] for name in ("warmth", "clarity")]
    assert made["questions"]["pace"]["groups"] == {} and made["mean"]["judge_judge"]["questions"] == 2
    assert made["mean"]["judge_judge"]["alpha"]["value"] == pytest.approx(np.mean(each), abs=1e-6)
