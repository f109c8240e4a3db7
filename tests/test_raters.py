"""When a judge may stand in for a person: against statsmodels, scipy, and the loops written out."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import fleiss_kappa as their_fleiss

from psychocounsel.errors import UserError
from psychocounsel.evaluate.raters.procedures import alternative_test, fleiss_kappa, joint_counts, mcnemar_exact


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_is_that_of_statsmodels(seed):
    random = np.random.default_rng(seed)
    one, two = (random.random(60) < share for share in (0.8, 0.65))
    table = [[int(((one == a) & (two == b)).sum()) for b in (True, False)] for a in (True, False)]
    found = mcnemar_exact(one.astype(float), two.astype(float))
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue, abs=1e-9)
    assert (found.only_first, found.only_second) == (table[0][1], table[1][0])


def test_the_papers_two_experts_are_not_right_equally_often():
    """164 both, 20 only the first, 6 only the second: the labels suit one expert better than the other."""
    ((both, first, second, neither),) = joint_counts(200, 184, 170, 174)
    assert (both, first, second, neither) == (164, 20, 6, 10)
    one = np.repeat([1, 1, 0, 0], [both, first, second, neither])
    two = np.repeat([1, 0, 1, 0], [both, first, second, neither])
    found = mcnemar_exact(one, two)
    assert (found.only_first, found.only_second) == (20, 6) and found.p == pytest.approx(0.009355, abs=1e-6)


def test_joint_counts_are_every_table_that_fits():
    for counts in (
        (200, 184, 170, 174),
        (20, 11, 14, 9),
        (5, 5, 5, 5),
        (200, 184, 170, 175),
        (10, 9, 1, 9),
        (4, 0, 0, 4),
    ):
        items, first, second, alike = counts
        tables = [
            (both, first - both, second - both, items - first - second + both)
            for both in range(items + 1)
            if min(first - both, second - both, items - first - second + both) >= 0
            and both + items - first - second + both == alike
        ]
        assert joint_counts(*counts) == tables


def test_nothing_to_tell_two_raters_apart_is_p_of_one():
    assert mcnemar_exact([1, 0, 1], [1, 0, 1]).p == 1.0
    for wrong in (([1], [1, 0]), ([2], [1]), ([0.5], [1])):
        with pytest.raises(UserError, match=r"1 \(right\) or 0 \(wrong\)"):
            mcnemar_exact(*wrong)
    with pytest.raises(UserError, match="the first rater: 1 of 1 are not numbers"):
        mcnemar_exact([np.nan], [1])


@pytest.mark.parametrize("raters", [2, 3, 10])
def test_fleiss_is_that_of_statsmodels_and_of_the_paper(raters):
    counts = np.random.default_rng(raters).multinomial(raters, [0.5, 0.3, 0.2], size=40)
    assert fleiss_kappa(counts) == pytest.approx(their_fleiss(counts), abs=1e-9)


def test_fleiss_worked_by_hand():
    """Two raters, four items, alike on three: chance (5/8)^2 + (3/8)^2."""
    assert fleiss_kappa([[2, 0], [2, 0], [0, 2], [1, 1]]) == pytest.approx((0.75 - 34 / 64) / (1 - 34 / 64))
    assert fleiss_kappa([[3, 0], [3, 0]]) is None
    for wrong in ([[2, 0], [1, 2]], [[1, 0], [0, 1]], np.zeros((0, 2)), [3, 4]):
        with pytest.raises(UserError, match="equally many ratings, two or more"):
            fleiss_kappa(wrong)


def rated(items=100, people=4, error=0.3, judge_error=0.2, levels=3, seed=0, missing=0.15):
    random = np.random.default_rng(seed)
    truth = random.integers(1, levels + 1, items)

    def rate(share):
        return np.where(random.random(items) < share, random.integers(1, levels + 1, items), truth)

    def rows(values, gone):
        return {f"i{k}": float(v) for k, v in enumerate(values) if not gone[k]}

    people = {f"p{k}": rows(rate(error), random.random(items) < missing) for k in range(people)}
    return rows(rate(judge_error), random.random(items) < 0.05), people


def written_out(judge, people, epsilon, measure):
    """The procedure of the paper, item by item."""

    def near(value, others):
        if measure == "accuracy":
            return np.mean([value == other for other in others])
        return -np.sqrt(np.mean([(value - other) ** 2 for other in others]))

    p_values, advantages = [], []
    for name, own in people.items():
        indicators = []
        for item, value in own.items():
            others = [rated[item] for other, rated in people.items() if other != name and item in rated]
            if others and item in judge:
                ours, theirs = near(judge[item], others), near(value, others)
                indicators.append((ours >= theirs, theirs >= ours))
        judge_wins, person_wins = np.array(indicators, dtype=float).T
        advantages.append(judge_wins.mean())
        p_values.append(ttest_1samp(person_wins - judge_wins, epsilon, alternative="less").pvalue)
    wins = false_discovery_control(p_values, method="by") <= 0.05
    return wins.mean(), np.mean(advantages), p_values


@pytest.mark.parametrize("measure", ["accuracy", "rmse"])
@pytest.mark.parametrize(("judge_error", "epsilon"), [(0.1, 0.1), (0.5, 0.1), (0.9, 0.2)])
def test_the_alternative_test_is_the_procedure_of_the_paper(measure, judge_error, epsilon):
    judge, people = rated(judge_error=judge_error)
    found = alternative_test(judge, people, measure=measure, epsilon=epsilon)
    rate, advantage, p_values = written_out(judge, people, epsilon, measure)
    assert (found.winning_rate, found.advantage) == (pytest.approx(rate), pytest.approx(advantage, abs=1e-6))
    assert [row.p for row in found.raters] == pytest.approx(p_values, abs=1e-9)


def test_the_correction_holds_for_tests_that_hang_together():
    """Benjamini and Yekutieli's: on these, two people would fall to a correction for independent tests."""
    judge, people = rated(judge_error=0.3, people=8, seed=5)
    p_values = written_out(judge, people, 0.1, "accuracy")[2]
    assert (false_discovery_control(p_values, method="bh") <= 0.05).sum() == 2
    assert alternative_test(judge, people, epsilon=0.1).winning_rate == 0.0


def test_a_judge_better_than_people_passes_and_one_that_guesses_fails():
    good, bad = (alternative_test(*rated(judge_error=error), epsilon=0.1) for error in (0.05, 1.0))
    assert good.passes and good.winning_rate == 1.0 and good.advantage > 0.85
    assert not bad.passes and bad.winning_rate == 0.0 and bad.advantage < 0.6
    assert good.items + good.unused == 100 and good.left_out == {}


def test_near_duplicates_are_one_item_and_few_items_are_left_out_with_a_reason():
    judge, people = rated(items=80, judge_error=0.1)
    people["p9"] = {"i0": 1.0, "i1": 2.0}
    found = alternative_test(judge, people)
    assert (
        set(found.left_out) == {"p9"} and "2 items with another person and the judge, under 30" in found.left_out["p9"]
    )
    once = {item: item for item in judge} | {item: item for rows in people.values() for item in rows}
    assert alternative_test(judge, people, clusters=once).raters == found.raters
    copies = {f"{item}{k}": value for item, value in judge.items() for k in "ab"}
    twice = {name: {f"{item}{k}": value for item, value in rows.items() for k in "ab"} for name, rows in people.items()}
    same = {item: item[:-1] for rows in [copies, *twice.values()] for item in rows}
    again = alternative_test(copies, twice, clusters=same)
    assert [row.p for row in again.raters] == pytest.approx([row.p for row in found.raters])
    assert alternative_test(copies, twice).raters[0].p < again.raters[0].p  # as if they were new


def test_people_who_always_agree_with_the_judge_lose_by_epsilon():
    judge = {f"i{k}": float(k % 3) for k in range(40)}
    found = alternative_test(judge, {"a": judge, "b": judge})
    assert found.winning_rate == 1.0 and found.raters[0].p == 0.0
    assert alternative_test(judge, {"a": judge, "b": judge}, epsilon=0.0).winning_rate == 0.0


def test_too_few_people_or_items_are_one_line():
    judge, people = rated(items=20)
    with pytest.raises(UserError, match="none of 4 people has 30 items"):
        alternative_test(judge, people)
    with pytest.raises(UserError, match="none of 0 people"):
        alternative_test(judge, {})
    with pytest.raises(UserError, match="none of 1 people"):
        alternative_test(judge, {"p0": people["p0"]})
    with pytest.raises(UserError, match=r"epsilon 1\.5 must be"):
        alternative_test(judge, people, epsilon=1.5)
