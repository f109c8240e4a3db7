"""`eval gate`: what is worse is caught, what is equal passes as planned, and nothing passes because it is missing."""

import tomllib
from xml.etree import ElementTree

import numpy as np
import pytest
from gate_folders import LC, SHARE, WIN, by_name, figure, gate_file, items, values, write

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import clusters_of, weight_blocks
from psychocounsel.evaluate.contest.length import length_controlled as controlled
from psychocounsel.evaluate.gate.comparable import Side
from psychocounsel.evaluate.gate.noninferiority import Question, joined, length_controlled, paired, unpaired
from psychocounsel.evaluate.gate.regression import hold
from psychocounsel.evaluate.gate.rules import Rule, read_gate, select, without_parts
from psychocounsel.evaluate.gate.text import junit, markdown
from psychocounsel.evaluate.results import read_items, read_results
from psychocounsel.evaluate.statistics import Figure

NON_INFERIOR = {"metric": "winrate.*", "margin": 0.02}


def sides(*folders):
    return [Side(read_results(folder), read_items(folder)) for folder in folders]


def outcome(tmp_path, candidate, baseline, *rules, **settings):
    gate = read_gate(gate_file(tmp_path, *(rules or (NON_INFERIOR,)), **settings))
    return hold(gate, *sides(candidate, baseline), draws=400)


def only(found):
    assert len(found.checks) == 1
    return found.checks[0]


# the statistics


@pytest.fixture(scope="module")
def passed():
    """How often 400 simulated candidates pass, by how much they differ and by number of clusters; margin 2 points."""

    def share(true, count, spread=0.3):
        random = np.random.default_rng(int(1000 * abs(true)) + count)
        names = [f"s{i}" for i in range(count)]
        base = by_name(items(WIN, np.zeros(count), names=names))
        won = 0
        for run in range(400):
            rows = by_name(items(WIN, random.normal(true, spread, count), names=names))
            won += paired(rows, base, Question(0.02, draws=200, seed=run)).p <= 0.05
        return won / 400

    return share


def test_a_candidate_six_points_worse_is_caught(passed):
    assert passed(-0.06, 80) <= 0.02


@pytest.mark.parametrize("count", [60, 300])
def test_a_candidate_worse_by_just_the_margin_passes_as_often_as_the_level_says(passed, count):
    assert 0.02 <= passed(-0.02, count) <= 0.09  # t under 300 clusters, percentiles from there on; 5 % is meant


def test_an_equal_candidate_passes_as_often_as_its_speeches_allow(passed):
    from scipy.stats import norm

    power = norm.cdf(0.02 / (0.15 / np.sqrt(300)) - norm.ppf(0.95))
    assert passed(0.0, 300, spread=0.15) == pytest.approx(power, abs=0.08)


def some(kind):
    """Items of two sides whose difference is tested in the way that `kind` names."""
    random = np.random.default_rng(5)
    n = 320 if kind in ("paired, percentile", "paired, exact: few items differ") else 100
    first, second = values(2, n), values(3, n)
    if kind == "paired, BCa":
        first = second - random.lognormal(0, 2.2, n)  # no share, and far to one side
    if kind == "paired, exact: few items differ":
        second = (random.random(n) < 0.7).astype(float)
        first = second.copy()
        first[:6] = 1 - first[:6]
    return by_name(items(WIN, first)), by_name(items(WIN, second))


@pytest.mark.parametrize(
    "kind", ["paired, cluster t", "paired, percentile", "paired, BCa", "paired, exact: few items differ"]
)
def test_the_bound_and_the_p_value_say_the_same(kind):
    first, second = some(kind)
    found = paired(first, second, Question(0.02, draws=4000))
    assert found.method == kind
    assert found.bound < found.value
    assert found.low is None or found.low <= found.bound + 1e-9 or "exact" in kind
    at_bound = paired(first, second, Question(-found.bound, draws=4000))
    assert at_bound.p == pytest.approx(0.05, abs=0.002)


def test_the_exact_test_is_that_of_the_share_of_worse_items():
    from scipy.stats import binomtest

    second = np.ones(200)
    first = second.copy()
    first[:2] = 0.0
    found = paired(by_name(items(WIN, first)), by_name(items(WIN, second)), Question(0.05))
    assert found.p == pytest.approx(binomtest(2, 200, 0.05, alternative="less").pvalue)
    assert -found.bound == pytest.approx(binomtest(2, 200, alternative="less").proportion_ci(0.95, method="exact").high)


def test_one_large_cluster_that_is_worse_is_no_rare_event():
    clusters = ["large"] * 100 + [f"c{place}" for place in range(100)]
    second = np.ones(200)
    first = np.where(np.arange(200) < 100, 0.9, 1.0)  # worse by 5 points over all
    found = paired(*(by_name(items(WIN, column, clusters)) for column in (first, second)), Question(0.049))
    assert found.value == pytest.approx(-0.05) and found.bound < found.value and found.p > 0.5


def test_lower_is_better_where_a_rule_says_so():
    first, second = some("paired, percentile")
    usual, turned = (paired(first, second, Question(0.02, draws=800, lower=lower)) for lower in (False, True))
    swapped = paired(second, first, Question(0.02, draws=800))
    assert turned.value == pytest.approx(usual.value) and turned.bound == pytest.approx(-swapped.bound)
    assert turned.p == pytest.approx(swapped.p) and turned.low == pytest.approx(-swapped.high)


def test_near_duplicates_stay_together_if_either_side_says_so():
    names = ["a", "b", "c", "d"]
    first = by_name(items(WIN, np.zeros(4), clusters=["1", "1", "2", "3"], names=names))
    second = by_name(items(WIN, np.zeros(4), clusters=["x", "y", "y", "z"], names=names))
    found = joined(first, second, names)
    assert found.count == 2 and len({found.member[i] for i in range(3)}) == 1


def lengths(seed, n, longer=0.0):
    random = np.random.default_rng(seed)
    return np.column_stack([random.normal(500 + longer, 120, n), random.normal(480, 100, n)]).round()


def test_the_length_controlled_difference_is_that_of_two_refits_of_the_same_draws():
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    n, clusters = 360, [f"c{i // 2}" for i in range(360)]
    data = [(values(seed, n), lengths(seed, n)) for seed in (2, 3)]
    first, second = (by_name(items(WIN, s, clusters, chars)) for s, chars in data)
    found = length_controlled(first, second, Question(0.02, draws=30, seed=4))
    rates = [controlled(s, clusters, chars[:, 0], chars[:, 1], bootstrap=30).controlled.value for s, chars in data]
    assert found.value == pytest.approx(rates[0] - rates[1], abs=1e-4)

    weights = np.vstack(list(weight_blocks(180, 30, 4)))[:, clusters_of(clusters).member]
    draws = []
    for row in weights:
        fitted = []
        for s, chars in data:
            d = np.tanh((chars[:, 0] - chars[:, 1]) / np.std(chars[:, 0] - chars[:, 1]))
            model = GLM(s, np.column_stack([np.ones(n), d]), family=Binomial(), freq_weights=row)
            fitted.append(1 / (1 + np.exp(-model.fit().params[0])))
        draws.append(fitted[0] - fitted[1])
    assert (found.high - found.low) / 2 == pytest.approx(1.9733 * np.std(draws), rel=1e-3)  # t of 179


def test_a_candidate_that_only_writes_more_wins_more_and_fails_at_equal_length(tmp_path):
    n = 400
    old, new = lengths(7, n), lengths(7, n)
    new[:, 0] += np.abs(np.random.default_rng(9).normal(150, 120, n)).round()

    def won(chars, quality):
        bias = 0.35 * np.tanh((chars[:, 0] - chars[:, 1]) / 150)
        return np.clip(np.round(0.5 + quality + bias + np.random.default_rng(8).normal(0, 0.1, n), 4), 0, 1)

    rows = {"new": items(WIN, won(new, -0.1), lengths=new), "old": items(WIN, won(old, 0.0), lengths=old)}
    both = [write(tmp_path / name, found, {LC: figure(found)}) for name, found in rows.items()]
    found = outcome(tmp_path, *both, NON_INFERIOR, {"metric": "winrate_lc.*", "margin": 0.02})
    raw, equal = found.checks
    assert raw.passed and raw.value > 0
    assert not equal.passed and equal.high < -0.02
    assert equal.shared == n and "the reported rates differ" in "".join(equal.notes)


def test_equal_length_that_is_a_guess_is_said(tmp_path):
    far = lengths(7, 400)
    far[:, 0] += 4000  # no reply is about as long as the other
    both = []
    for name, seed in (("new", 3), ("old", 2)):
        rows = items(WIN, values(seed), lengths=far)
        both.append(write(tmp_path / name, rows, {LC: figure(rows)}))
    check = only(outcome(tmp_path, *both, {"metric": LC, "margin": 0.5}))
    assert "extrapolated: only 0% of the candidate's pairs" in "".join(check.notes)


@pytest.mark.parametrize(
    ("known", "why"),
    [({}, "the items hold no lengths"), ({"chars_a": 90.0, "chars_b": 40.0}, "difference in length is the same")],
)
def test_length_control_that_cannot_be_had_is_a_reason(tmp_path, known, why):
    rows = [[row.model_copy(update={"known": known}) for row in items(WIN, values(seed, 60))] for seed in (2, 3)]
    both = [write(tmp_path / f"e{place}", found, {LC: figure(found)}) for place, found in enumerate(rows)]
    check = only(outcome(tmp_path, *both, {"metric": LC, "margin": 0.9}))
    assert check.passed is False and why in check.why


def test_figures_without_items_are_compared_as_if_independent(tmp_path):
    from scipy.stats import norm

    new, old = (Figure(value=v, low=v - 0.03, high=v + 0.04, n=80, unit="gain") for v in (0.20, 0.22))
    found = unpaired(new, old, Question(0.1))
    assert found.low == pytest.approx(-0.02 - np.hypot(0.03, 0.04)) and found.high == pytest.approx(0.03)
    error = 0.05 / norm.ppf(0.975)
    assert found.p == pytest.approx(norm.sf(0.08 / error)) and found.bound == pytest.approx(
        -0.02 - 1.6449 * error, abs=1e-4
    )
    both = [write(tmp_path / name, figures={"ood.judge.macro": fig}) for name, fig in (("new", new), ("old", old))]
    check = only(outcome(tmp_path, *both, {"metric": "ood.*.macro", "margin": 0.1}))
    assert check.passed and "as if independent" in check.why
    assert only(outcome(tmp_path, *both, {"metric": "ood.*.macro", "margin": 0.05, "by": "value"})).passed
    assert not only(outcome(tmp_path, *both, {"metric": "ood.*.macro", "margin": 0.01, "by": "value"})).passed


# nothing passes because it is missing


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("folders")
    made = {"old": values(2), "equal": values(3, shift=0.01), "worse": values(4, shift=-0.06)}
    figures = {"reward.accuracy": SHARE, "pairs.test": Figure(value=9, n=9, unit="pairs")}
    return {
        name: write(place / name, items(WIN, s), figures) for name, s in (made | {"ties": np.full(400, 0.5)}).items()
    }


def test_a_worse_candidate_fails_an_equal_one_passes_and_each_passes_against_itself(tmp_path, folders):
    assert only(outcome(tmp_path, folders["equal"], folders["old"])).passed
    worse = outcome(tmp_path, folders["worse"], folders["old"])
    assert not worse.passed and only(worse).p > 0.9 and "not shown to be within the margin" in only(worse).why
    for folder in folders.values():
        found = outcome(tmp_path, folder, folder, NON_INFERIOR, {"metric": "reward.accuracy", "margin": 0.01})
        assert found.passed and [check.value for check in found.checks] == [0, 0]


def test_one_item_or_all_ties_pass_against_themselves_and_prove_nothing_else(tmp_path, folders):
    one, other = (write(tmp_path / f"one{v}", items(WIN, [v])) for v in (0.5, 0.75))
    assert outcome(tmp_path, one, one).passed
    assert not outcome(tmp_path, other, one).passed
    assert outcome(tmp_path, folders["ties"], folders["ties"]).passed
    shifted = write(tmp_path / "shifted", items(WIN, np.full(400, 0.51)))
    check = only(outcome(tmp_path, shifted, folders["ties"]))
    assert check.passed is False and "every item differs by the same amount" in check.why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rows": []}, "the candidate does not have winrate.online_vs_base"),
        ({"names": [f"t{i}" for i in range(400)]}, "share 0 of 400 items, under 95%"),
        ({"names": [f"s{i:04}" for i in range(30, 430)]}, "share 370 of 400 items"),
        ({"figures": {WIN: Figure(value=None, n=0, unit="share of speeches")}}, "undefined in the candidate (n = 0)"),
        ({"figures": {WIN: Figure(value=0.9, n=400, unit="share of speeches")}}, "results.json says 0.9 and the items"),
        ({"unit": "share of pairs"}, "is measured in 'share of pairs' here"),
        ({"figures": {"missing_verdicts.online_vs_base": Figure(value=0.031, n=1, unit="share")}}, "3.1% of verdicts"),
        ({"figures": {"missing_speeches.online_vs_base": Figure(value=0.05, n=1, unit="share")}}, "5.0% of speeches"),
        ({"figures": {WIN: Figure(value=float("nan"), n=400, unit="share of speeches")}}, "is not a number"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_fails_and_says_why(tmp_path, folders, change, why):
    rows = change.get("rows", items(WIN, values(3, shift=0.01), names=change.get("names")))
    figures = dict(change.get("figures", {}))
    if "unit" in change:
        figures[WIN] = figure(rows, change["unit"])
    if nan := WIN in figures and figures[WIN].value != figures[WIN].value:
        figures.pop(WIN)
    candidate = write(tmp_path / "new", rows, figures)
    if nan:  # what json would not write
        text = (candidate / "results.json").read_text(encoding="utf-8")
        value = f'"value": {figure(rows).value}'
        assert value in text
        (candidate / "results.json").write_text(text.replace(value, '"value": NaN', 1), encoding="utf-8")
    found = outcome(tmp_path, candidate, folders["old"])
    assert not found.passed and only(found).passed is False and why in only(found).why


def test_few_items_less_are_left_out_and_counted(tmp_path, folders):
    some = write(tmp_path / "some", items(WIN, values(3, shift=0.02)[:390]))
    check = only(outcome(tmp_path, some, folders["old"]))
    assert (
        check.passed and check.shared == 390 and check.notes == ("10 items that only one evaluation has are left out",)
    )
    assert not outcome(tmp_path, some, folders["old"], common=0.99).passed


def test_a_figure_without_interval_and_items_fails(tmp_path, folders):
    check = only(outcome(tmp_path, folders["equal"], folders["old"], {"metric": "pairs.test", "margin": 1}))
    assert check.passed is False and "no interval" in check.why


def test_an_optional_metric_that_is_not_there_is_skipped_and_a_gate_of_nothing_else_fails(tmp_path, folders):
    optional = {"metric": "rm.*.accuracy", "margin": 0.01, "optional": True}
    found = outcome(tmp_path, folders["equal"], folders["old"], optional)
    assert only(found).passed is None and not found.passed
    assert outcome(tmp_path, folders["equal"], folders["old"], NON_INFERIOR, optional).passed
    named = only(
        outcome(tmp_path, folders["equal"], folders["old"], {"metric": "winrat.online_vs_base", "margin": 0.01})
    )
    assert named.passed is False and "did you mean 'winrate.online_vs_base'?" in named.why


def test_a_dependent_evaluation_fails_unless_the_gate_lets_it(tmp_path, folders):
    rows = items(WIN, values(3, shift=0.01))
    stamped = write(tmp_path / "stamped", rows, dependent=("judge one labelled the pairs",))
    for pair in ((stamped, folders["old"]), (folders["old"], stamped)):
        found = outcome(tmp_path, *pair, {"metric": "winrate.*", "margin": 0.5})
        assert not found.passed and only(found).passed
        assert outcome(tmp_path, *pair, {"metric": "winrate.*", "margin": 0.5}, allow_dependent=True).passed


def test_other_judges_are_told(tmp_path):
    rows = items(WIN, values(3))
    one, two = (write(tmp_path / name, rows, judges=(f"judge {name}",)) for name in ("one", "two"))
    path = gate_file(tmp_path, NON_INFERIOR)
    texts = [markdown(hold(read_gate(path), *sides(one, other)), ["a", "b"]) for other in (two, one)]
    assert ["a difference may be one of judges" in text for text in texts] == [True, False]


def test_soft_rules_share_the_level_and_hard_ones_do_not(tmp_path):
    names = [f"winrate.a{i}_vs_base" for i in range(3)]
    base = np.full(100, 0.5)
    noise = np.random.default_rng(3).normal(0, 0.1, 100)
    noise -= noise.mean()
    both = [
        write(tmp_path / side, [row for name in names for row in items(name, base + change)])
        for side, change in (("old", 0 * noise), ("new", noise))
    ]
    rule = {"metric": "winrate.*", "margin": 0.02}  # each has p of about .03
    soft = outcome(tmp_path, *both, rule)
    assert all(check.p < 0.05 < check.adjusted for check in soft.checks) and not soft.passed
    assert "holds alone, but not as one of 3 tests" in soft.checks[0].why
    assert outcome(tmp_path, *both, rule, correction="none").passed
    hard = outcome(tmp_path, *both, rule | {"hard": True})
    assert hard.passed and hard.tests == 0
    with_missing = outcome(tmp_path, *both, rule | {"metric": names[0]}, {"metric": "rm.x.accuracy", "margin": 0.1})
    assert with_missing.tests == 2 and with_missing.checks[0].adjusted == pytest.approx(2 * with_missing.checks[0].p)


@pytest.mark.parametrize(
    ("rule", "passes"),
    [
        ({"kind": "at-most", "bound": 0.3}, True),
        ({"kind": "at-most", "bound": 0.24}, False),  # the upper end of its interval is .25
        ({"kind": "at-most", "bound": 0.24, "by": "value"}, True),
        ({"kind": "at-least", "bound": 0.16}, False),
        ({"kind": "at-least", "bound": 0.15}, True),
        ({"kind": "at-least", "bound": 0.16, "by": "value"}, True),
        ({"kind": "within", "bound": 0.2}, False),
        ({"kind": "within", "bound": 0.2, "by": "value"}, True),
        ({"kind": "within", "bound": 0.25}, True),
    ],
)
def test_an_absolute_rule_holds_the_candidate_to_a_bound(tmp_path, folders, rule, passes):
    figures = {"rm.tiny.length_gap": Figure(value=0.2, low=0.15, high=0.25, n=50, unit="gap")}
    candidate = write(tmp_path / "new", figures=figures)
    check = only(outcome(tmp_path, candidate, folders["old"], rule | {"metric": "rm.*.length_gap"}))
    assert check.passed is passes and check.p is None


def test_a_gap_is_within_a_bound_on_either_side(tmp_path, folders):
    figures = {"rm.tiny.length_gap": Figure(value=-0.2, low=-0.25, high=-0.15, n=50, unit="gap")}
    candidate = write(tmp_path / "new", figures=figures)
    rule = {"metric": "rm.*.length_gap", "kind": "within", "by": "value"}
    assert not only(outcome(tmp_path, candidate, folders["old"], rule | {"bound": 0.05})).passed
    assert only(outcome(tmp_path, candidate, folders["old"], rule | {"bound": 0.2})).passed


# names


def test_parts_of_a_metric_need_a_rule_of_their_own():
    measured = {WIN, f"{WIN}.empathy", f"{WIN}.judge.one", "winrate.offline_vs_base"}
    chosen, parts = without_parts(select(Rule(metric="winrate.*", margin=0.1), measured, measured))
    assert list(chosen) == ["winrate.offline_vs_base", WIN] and parts == {f"{WIN}.empathy", f"{WIN}.judge.one"}
    chosen, parts = without_parts(select(Rule(metric="winrate.*.empathy", margin=0.1), measured, measured))
    assert list(chosen) == [f"{WIN}.empathy"] and not parts


def test_only_parts_that_no_rule_names_are_counted_as_left_out(tmp_path):
    rows = items(WIN, values(2)) + items(f"{WIN}.empathy", values(3)) + items(f"{WIN}.clarity", values(4))
    folder = write(tmp_path / "one", rows)
    assert outcome(tmp_path, folder, folder, NON_INFERIOR).parts == 2
    assert outcome(tmp_path, folder, folder, NON_INFERIOR, {"metric": "winrate.*.empathy", "margin": 0.1}).parts == 1


def test_a_metric_that_is_no_longer_measured_is_seen():
    found = select(Rule(metric="winrate.*", margin=0.1), {"winrate.a_vs_b"}, {"winrate.a_vs_b", "winrate.c_vs_b"})
    assert list(found) == ["winrate.a_vs_b", "winrate.c_vs_b"]


def test_another_name_in_the_baseline_is_filled_in_from_the_pattern(tmp_path, folders):
    rule = Rule(metric="rm.v2.5.*", against="rm.v1.*", margin=0.1)
    found = select(rule, {"rm.v2.5.accuracy"}, {"rm.v1.accuracy", "rm.v1.ece", "rm.v2.5.accuracy"})
    assert found == {"rm.v2.5.accuracy": "rm.v1.accuracy", "rm.v2.5.ece": "rm.v1.ece"}
    new = write(tmp_path / "new", items("winrate.fresh_vs_base", values(3, shift=0.01)))
    check = only(
        outcome(tmp_path, new, folders["old"], {"metric": "winrate.fresh_vs_base", "against": WIN, "margin": 0.02})
    )
    assert check.passed and check.notes == (f"the baseline's is {WIN}",)


# files


def test_the_example_that_comes_along_is_read_and_its_metrics_are_told_in_the_docs(request):
    root = request.config.rootpath
    gate = read_gate(root / "recipes" / "gates" / "release.toml")
    assert [rule.metric for rule in gate.rule][:2] == ["winrate.*", "winrate_lc.*"]
    assert "recipes/gates/release.toml" in (root / "docs" / "eval-gate.md").read_text(encoding="utf-8")


def test_every_key_of_a_gate_file_stands_in_the_docs_with_its_default(request):
    from psychocounsel.evaluate.gate.rules import Gate

    page = (request.config.rootpath / "docs" / "eval-gate.md").read_text(encoding="utf-8")
    rows = dict(line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| `"))
    for table in (Gate, Rule):
        for name, field in table.model_fields.items():
            told = rows[f"| `{name}`"]
            if told not in ("required", "none"):
                assert tomllib.loads(f"value = {told.strip('`')}")["value"] == field.default, name
            else:
                assert field.default is None or field.is_required(), name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "'rule' is missing"),
        (b"[[rule]\n", "not valid TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"alpha = " + b"9" * 5000, "not valid TOML"),
        (b"rule = []", "'rule': List should have at least 1 item"),
        (b"rule = 3", "'rule': Input should be a valid list"),
        (b'[[rules]]\nmetric = "a"', "unknown key 'rules', did you mean 'rule'?"),
        (b'[[rule]]\nmetrik = "a"\nmargin = 0.1', "unknown key 'rule.0.metrik', did you mean 'metric'?"),
        (b'[[rule]]\nmetric = "a"', "needs a margin, for example margin = 0.02"),
        (b'[[rule]]\nmetric = ""\nmargin = 0.1', "'rule.0.metric': String should have at least 1 character"),
        (b'[[rule]]\nmetric = "a"\nmargin = nan', "finite number"),
        (b'[[rule]]\nmetric = "a"\nmargin = inf', "finite number"),
        (b'[[rule]]\nmetric = "a"\nmargin = -0.1', "greater than or equal to 0"),
        (b'[[rule]]\nmetric = "a"\nmargin = "0.1"', "valid number"),
        (b'[[rule]]\nmetric = "a"\nkind = "at-most"', "kind 'at-most' needs a bound"),
        (b'[[rule]]\nmetric = "a"\nkind = "better"\nmargin = 0.1', "'rule.0.kind'"),
        (b'[[rule]]\nmetric = "a"\nkind = "at-most"\nbound = 1\nmargin = 0.1', "margin has no meaning"),
        (b'[[rule]]\nmetric = "a"\nkind = "within"\nbound = -1', "needs a bound of 0 or more"),
        (b'[[rule]]\nmetric = "a"\nkind = "at-most"\nbound = 1\nagainst = "b"', "against has no meaning"),
        (b'[[rule]]\nmetric = "a"\nkind = "at-most"\nbound = 1\nbetter = "lower"', "better has no meaning"),
        (b'[[rule]]\nmetric = "a"\nmargin = 0.1\nby = "high"', "by = 'high' has no meaning"),
        (b'[[rule]]\nmetric = "a.*"\nmargin = 0.1\nagainst = "*.*"', "against has 2 '*' and metric 1"),
        (b'[[rule]]\nmetric = "*****"\nmargin = 0.1', "more than 4 '*'"),
        (b'[[rule]]\nmetric = "a"\nmargin = 0.1\n[[rule]]\nmetric = "a"\nmargin = 0.2', "what rule 1 says"),
        (b'alpha = 0.0\n[[rule]]\nmetric = "a"\nmargin = 0.1', "'alpha'"),
        (b'common = 0.0\n[[rule]]\nmetric = "a"\nmargin = 0.1', "'common'"),
    ],
)
def test_a_gate_file_that_is_wrong_is_one_line(tmp_path, text, words):
    path = tmp_path / "gate.toml"
    path.write_bytes(text)
    with pytest.raises(UserError) as caught:
        read_gate(path)
    assert words in str(caught.value) and "gate.toml" in str(caught.value)
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)


ITEM = '{"metric": "m", "item": "s1", "cluster": "c", "value": 0.5, "known": {}}\n'


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("results.json", None, "holds no results.json"),
        ("results.json", b"", "damaged, or of another version"),
        ("results.json", b'{"schema": "psychocounsel-results/1", "name": "x"', "damaged, or of another version"),
        ("results.json", b'{"schema": "psychocounsel-results/9", "name": "x"}', "(schema: Input should be"),
        ("results.json", b"\xff\xfe{}", "not UTF-8"),
        ("items.jsonl", ITEM[:40].encode(), "items.jsonl:1: not JSON"),
        ("items.jsonl", ITEM.replace("0.5", "NaN").encode(), "NaN is not a JSON value"),
        ("items.jsonl", ITEM.replace("0.5", "1e999").encode(), "value: Input should be a finite number"),
        ("items.jsonl", ITEM.replace("{}", '{"chars_a": 1e999}').encode(), "known.chars_a: Input should be a finite"),
        ("items.jsonl", (ITEM * 2).encode(), "m has the item s1 twice"),
        ("items.jsonl", ITEM.replace('"cluster": "c", ', "").encode(), "items.jsonl:1: cluster: Field required"),
        ("items.jsonl", b"\xff\n", "not UTF-8"),
    ],
)
def test_a_damaged_folder_is_one_line_and_exit_code_2(tmp_path, folders, cli, name, text, words):
    folder = write(tmp_path / "new", items(WIN, values(3)))
    (folder / name).unlink() if text is None else (folder / name).write_bytes(text)
    code, _, err = cli(
        "eval", "gate", gate_file(tmp_path, NON_INFERIOR), "--candidate", folder, "--baseline", folders["old"]
    )
    assert code == 2 and words in err and err.count("\n") == 1


# the command


def test_the_command_answers_by_its_exit_code_and_writes_what_was_asked_for(tmp_path, folders, cli):
    path = gate_file(tmp_path, NON_INFERIOR, {"metric": "ood.*.macro", "margin": 0.1, "optional": True})
    settings = ("--baseline", folders["old"], "--bootstrap", 400)
    code, out, _ = cli("eval", "gate", path, "--candidate", folders["equal"], *settings)
    assert code == 0 and "Gate passed: 1 held, 1 skipped" in out
    where = ("--junit", tmp_path / "out" / "gate.xml", "--markdown", tmp_path / "gate.md")
    code, out, _ = cli("eval", "gate", path, "--candidate", folders["worse"], *settings, *where)
    assert code == 1 and "Gate not passed: 1 broken, 1 skipped" in out and "FAIL" in out
    table = (tmp_path / "gate.md").read_text(encoding="utf-8")
    assert table.startswith("### Gate not passed") and "| FAIL |" in table
    check_junit(ElementTree.parse(tmp_path / "out" / "gate.xml").getroot(), tests=3, failures=1, skipped=1)
    code, _, err = cli("eval", "gate", path, "--candidate", folders["equal"], *settings, "--junit", tmp_path)
    assert code == 2 and "is a folder; name a file" in err


def check_junit(root, **counts):
    """The shape that build servers read: the attributes of the common junit.xsd, and counts that add up."""
    assert root.tag == "testsuites" and [suite.tag for suite in root] == ["testsuite"]
    cases = list(root[0])
    assert {case.tag for case in cases} == {"testcase"}
    found = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
    }
    assert found == counts
    for node in (root, root[0]):
        assert {key: int(node.get(key)) for key in ("tests", "failures", "errors", "skipped")} == {
            **counts,
            "errors": 0,
        }
    for case in cases:
        assert case.get("name") and case.get("classname") and float(case.get("time")) >= 0
        for inner in case:
            assert inner.tag in ("failure", "skipped") and inner.get("message")
            assert inner.tag == "skipped" or inner.get("type")


def test_names_of_strangers_stay_text(tmp_path, folders, cli):
    name = "winrate.<b>&\"x'|`[a](javascript:1)\x1b[31m\x00\n@team_vs_base"
    new = write(tmp_path / "new", items(name, values(3)))
    rule = {"metric": "winrate.*", "margin": 0.02}
    found = outcome(tmp_path, new, folders["old"], rule)
    names = ["</testsuites><!--\x0b", "| old |"]
    root = ElementTree.fromstring(junit(found, names))
    check_junit(root, tests=3, failures=2, skipped=0)
    assert root[0].get("name").startswith("</testsuites><!--?")
    table = markdown(found, names).splitlines()
    row = next(line for line in table if "javascript" in line)
    assert "<b>" not in row and "&lt;b&gt;" in row and "\\|\\`\\[a\\](javascript" in row and "@team" not in row
    assert row.replace("\\|", "").count("|") == 12 and "\x1b" not in row
    code, out, _ = cli("eval", "gate", gate_file(tmp_path, rule), "--candidate", new, "--baseline", folders["old"])
    assert code == 1 and "\x1b[31m" not in out and "\x00" not in out
