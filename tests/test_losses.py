"""Every loss against its formula worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.recipe import PolicyTable
from psychocounsel.recipe.training import LOSSES
from psychocounsel.records import content_id
from psychocounsel.training.losses import (
    apo_zero,
    bradley_terry,
    cdpo,
    centring,
    dpo,
    hinge,
    ipo,
    preferred_share,
    principle_dpo,
    principle_heads,
    resample_weights,
    robust_dpo,
    simpo,
)
from psychocounsel.training.policy_losses import POLICY_LOSSES, open_loss

NUMBER = st.floats(-20, 20, allow_nan=False)
SMOOTHING = st.floats(0, 0.45)
# a working setting of every loss that a recipe can name
TABLES = {
    "dpo": PolicyTable(),
    "ipo": PolicyTable(loss="ipo"),
    "cdpo": PolicyTable(loss="cdpo", smoothing=0.1),
    "robust": PolicyTable(loss="robust", smoothing=0.1),
    "hinge": PolicyTable(loss="hinge"),
    "apo_zero": PolicyTable(loss="apo_zero"),
    "simpo": PolicyTable(loss="simpo", length_normalised=True, beta=2.0, gamma=0.5),
    "principles": PolicyTable(loss="principles"),
}


def value(loss, rows, share=1.0):
    """A loss at (chosen, rejected, reference chosen, reference rejected), given what it reads."""
    more = {"share": torch.full_like(rows[0], share)} if loss.share else {}
    return loss.function(*rows[: 4 if loss.reference else 2], **more)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@given(NUMBER, NUMBER, st.floats(0, 4))
@settings(max_examples=50, deadline=None)
def test_bradley_terry_is_minus_log_sigmoid_of_the_difference(chosen, rejected, margin):
    a, b = torch.tensor([chosen], dtype=torch.float64), torch.tensor([rejected], dtype=torch.float64)
    assert bradley_terry(a, b).item() == pytest.approx(-math.log(sigmoid(a.item() - b.item())), rel=1e-9)
    with_margin = bradley_terry(a, b, torch.tensor([margin], dtype=torch.float64)).item()
    assert with_margin == pytest.approx(-math.log(sigmoid(chosen - rejected - margin)), rel=1e-9)


@given(NUMBER, NUMBER, NUMBER, NUMBER, st.floats(0.01, 1))
@settings(max_examples=50, deadline=None)
def test_dpo_and_ipo_follow_their_equations(chosen, rejected, ref_chosen, ref_rejected, beta):
    values = [torch.tensor([v], dtype=torch.float64) for v in (chosen, rejected, ref_chosen, ref_rejected)]
    ratio = (chosen - ref_chosen) - (rejected - ref_rejected)
    assert dpo(*values, beta).item() == pytest.approx(-math.log(sigmoid(beta * ratio)), rel=1e-9)
    assert ipo(*values, beta).item() == pytest.approx((ratio - 1 / (2 * beta)) ** 2, rel=1e-9, abs=1e-9)


def double(*values):
    return [torch.tensor([value], dtype=torch.float64) for value in values]


@given(NUMBER, NUMBER, NUMBER, NUMBER, st.floats(0.01, 1), SMOOTHING)
@settings(max_examples=50, deadline=None)
def test_the_other_policy_losses_follow_their_equations(a, b, ref_a, ref_b, beta, smoothing):
    values, e = double(a, b, ref_a, ref_b), smoothing
    d = beta * ((a - ref_a) - (b - ref_b))
    right, wrong = math.log1p(math.exp(-d)), math.log1p(math.exp(d))
    assert cdpo(*values, beta, e).item() == pytest.approx((1 - e) * right + e * wrong, rel=1e-9)
    robust = ((1 - e) * right - e * wrong) / (1 - 2 * e)
    assert robust_dpo(*values, beta, e).item() == pytest.approx(robust, rel=1e-9, abs=1e-9)
    assert hinge(*values, beta).item() == pytest.approx(max(0.0, 1 - d), rel=1e-9, abs=1e-9)
    kto = 1 - sigmoid(beta * (a - ref_a)) + sigmoid(beta * (b - ref_b))
    assert apo_zero(*values, beta).item() == pytest.approx(kto, rel=1e-9, abs=1e-9)
    assert simpo(*values[:2], beta, 4 * e).item() == pytest.approx(
        math.log1p(math.exp(-beta * (a - b) + 4 * e)), rel=1e-9
    )


def test_policy_losses_at_numbers_worked_out_on_paper():
    """Log-ratios 2 and -1, so that beta 0.5 makes d = 1.5."""
    values = double(-10, -20, -12, -19)
    assert dpo(*values, 0.5).item() == pytest.approx(0.2014133, abs=1e-7)
    assert cdpo(*values, 0.5, 0.1).item() == pytest.approx(0.9 * 0.2014133 + 0.1 * 1.7014133, abs=1e-7)
    assert robust_dpo(*values, 0.5, 0.1).item() == pytest.approx((0.9 * 0.2014133 - 0.1 * 1.7014133) / 0.8, abs=1e-7)
    assert hinge(*values, 0.5).item() == 0.0 and hinge(*values, 0.25).item() == 0.25
    assert apo_zero(*values, 0.5).item() == pytest.approx(1 - 0.7310586 + 0.3775407, abs=1e-7)
    assert simpo(*double(-1.0, -1.5), 2.0, 0.5).item() == pytest.approx(math.log1p(math.exp(-0.5)), rel=1e-9)


@given(NUMBER, NUMBER, NUMBER, NUMBER, st.floats(0.01, 1))
@settings(max_examples=50, deadline=None)
def test_without_smoothing_or_margin_the_relatives_are_dpo(a, b, ref_a, ref_b, beta):
    values = double(a, b, ref_a, ref_b)
    expected = dpo(*values, beta).item()
    assert cdpo(*values, beta, 0.0).item() == expected
    assert robust_dpo(*values, beta, 0.0).item() == expected
    assert simpo(*values[:2], beta, 0.0).item() == pytest.approx(
        dpo(*values[:2], *double(0, 0), beta).item(), rel=1e-12
    )


@given(NUMBER, NUMBER, NUMBER, NUMBER, SMOOTHING)
@settings(max_examples=50, deadline=None)
def test_robust_dpo_averaged_over_flipped_labels_is_dpo_of_the_true_ones(a, b, ref_a, ref_b, smoothing):
    as_is = robust_dpo(*double(a, b, ref_a, ref_b), 0.3, smoothing).item()
    flipped = robust_dpo(*double(b, a, ref_b, ref_a), 0.3, smoothing).item()
    true = dpo(*double(a, b, ref_a, ref_b), 0.3).item()
    assert (1 - smoothing) * as_is + smoothing * flipped == pytest.approx(true, rel=1e-7, abs=1e-7)


@given(st.floats(0.01, 0.49))
@settings(max_examples=20, deadline=None)
def test_cdpo_is_least_where_chosen_wins_with_the_share_of_right_labels(smoothing):
    best = math.log((1 - smoothing) / smoothing)
    chosen, *others = double(best, 0, 0, 0)
    chosen.requires_grad_()
    loss = cdpo(chosen, *others, 1.0, smoothing)
    assert torch.autograd.grad(loss, chosen)[0].item() == pytest.approx(0, abs=1e-9)
    assert all(cdpo(*double(best + step, 0, 0, 0), 1.0, smoothing) > loss for step in (-0.1, 0.1))


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("ipo", "cdpo")])
@given(chosen=NUMBER, rejected=NUMBER, more=st.floats(0.01, 10))
@settings(max_examples=30, deadline=None)
def test_a_likelier_chosen_reply_never_costs_more(name, chosen, rejected, more):
    """Not so for ipo and cdpo, which aim at a margin and punish what goes beyond, nor where principles disagree."""
    loss = open_loss(TABLES[name])
    before = value(loss, double(chosen, rejected, 0, 0)).item()
    assert value(loss, double(chosen + more, rejected, 0, 0)).item() <= before
    assert value(loss, double(chosen, rejected + more, 0, 0)).item() >= before


@pytest.mark.parametrize("name", TABLES)
def test_policy_losses_keep_pairs_apart_and_hide_no_broken_number(name):
    loss = open_loss(TABLES[name])
    rows = [
        torch.tensor(row) for row in ([-9.0, math.nan, 0.0], [-8.0, -7.0, 0.0], [-8.0, -7.0, 0.0], [-8.0, -7.0, 0.0])
    ]
    values = value(loss, rows, 0.75)
    assert values.shape == (3,) and values.dtype == torch.float32
    assert values.isnan().tolist() == [False, True, False]
    rows[0] = torch.tensor([-9.0, -math.inf, 0.0])
    values = value(loss, rows, 0.75)
    assert torch.isfinite(values[[0, 2]]).all()
    # an impossible chosen reply costs without bound, but for the bounded loss, whose log-ratio costs at most 1
    assert values[1].item() == (pytest.approx(1.5) if name == "apo_zero" else math.inf)


def test_the_losses_of_the_recipe_are_the_losses_that_exist():
    assert list(POLICY_LOSSES) == list(LOSSES) == list(TABLES)
    assert [name for name, loss in POLICY_LOSSES.items() if not loss.reference] == ["simpo"]
    assert [name for name, loss in POLICY_LOSSES.items() if loss.share] == ["principles"]


@given(NUMBER, NUMBER, NUMBER, NUMBER, st.lists(st.sampled_from([1.5, 0.0, -0.5, math.nan]), min_size=1, max_size=7))
@settings(max_examples=80, deadline=None)
def test_the_loss_over_principles_is_the_mean_of_one_dpo_each_with_its_own_label(a, b, ref_a, ref_b, differences):
    rows = double(a, b, ref_a, ref_b)
    share = preferred_share(torch.tensor([differences]))
    found = principle_dpo(*rows, share, 0.3).item()
    right = dpo(*rows, 0.3).item()
    wrong = dpo(*(rows[place] for place in (1, 0, 3, 2)), 0.3).item()
    own = {1.5: right, -0.5: wrong, 0.0: (right + wrong) / 2}
    known = [own[difference] for difference in differences if not math.isnan(difference)]
    expected = sum(known) / len(known) if known else right  # a pair without a score is taken at its word
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_share_of_principles_at_numbers_worked_out_on_paper():
    nan = math.nan
    rows = [[1.0, 2.0, 0.5], [-1.0, -1.0, -1.0], [0.0, 0.0, 0.0], [1.0, 0.0, -1.0], [nan, 1.0, -1.0], [nan, nan, nan]]
    assert preferred_share(torch.tensor(rows)).tolist() == [1.0, 0.0, 0.5, 0.5, 0.5, 1.0]
    assert preferred_share(torch.zeros(2, 0)).tolist() == [1.0, 1.0]


def test_each_principles_head_has_its_own_label_and_ties_and_gaps_give_nothing():
    chosen, rejected = torch.tensor([[2.0, 0.0, 9.0, 9.0]] * 2), torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 2)
    chosen.requires_grad_()
    differences = torch.tensor([[1.0, -0.5, 0.0, math.nan], [0.0, 0.0, math.nan, math.nan]])
    losses = principle_heads(chosen, rejected, differences)
    expected = (-math.log(sigmoid(2.0)) - math.log(sigmoid(1.0))) / 4
    assert losses.tolist() == pytest.approx([expected, 0.0])
    (slope,) = torch.autograd.grad(losses.sum(), chosen)
    assert slope[0].tolist() == pytest.approx([-sigmoid(-2.0) / 4, sigmoid(-1.0) / 4, 0.0, 0.0])
    assert slope[1].tolist() == [0.0] * 4  # no number that is none gets through


DRAWS = torch.tensor([int(content_id([number])[:15], 16) for number in range(20_000)])


def test_resampling_weights_are_poisson_counts_of_mean_and_variance_one():
    weights = resample_weights(DRAWS, 8)
    assert weights.shape == (20_000, 8) and weights.dtype == torch.float32
    assert weights.mean(0).tolist() == pytest.approx([1.0] * 8, abs=0.03)
    assert weights.var(0).tolist() == pytest.approx([1.0] * 8, abs=0.06)
    for count, share in ((0, math.exp(-1)), (1, math.exp(-1)), (2, math.exp(-1) / 2), (3, math.exp(-1) / 6)):
        assert (weights == count).float().mean().item() == pytest.approx(share, abs=0.01)
    together = torch.corrcoef(weights.t()) - torch.eye(8)
    assert together.abs().max().item() < 0.04  # heads draw apart from each other
    follow = torch.corrcoef(torch.stack([weights[:-1, 0], weights[1:, 0]]))[0, 1].item()
    assert abs(follow) < 0.04


def test_resampling_weights_are_a_pure_function_of_each_pair():
    whole = resample_weights(DRAWS[:500], 4)
    torch.manual_seed(99)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resample_weights(DRAWS[:500][order], 4), whole[order])
    assert torch.equal(torch.cat([resample_weights(DRAWS[:500][i : i + 7], 4) for i in range(0, 500, 7)]), whole)
    assert torch.equal(resample_weights(DRAWS[:500], 2), whole[:, :2])  # more heads change none of the others
    assert resample_weights(DRAWS[:0], 4).shape == (0, 4)
    small = torch.arange(20_000)  # numbers in a row are mixed as well as hashes
    assert resample_weights(small, 2).mean(0).tolist() == pytest.approx([1.0, 1.0], abs=0.03)


def test_losses_keep_one_value_per_pair():
    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    assert bradley_terry(chosen, rejected).tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(2)])
    assert centring(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 3.0])).tolist() == [0.0, 25.0]
    assert dpo(chosen, rejected, chosen, rejected, 0.1).tolist() == pytest.approx([math.log(2)] * 2)


def test_large_differences_stay_finite():
    far = bradley_terry(torch.tensor([-1e4]), torch.tensor([1e4]))
    assert far.item() == pytest.approx(2e4)
    assert bradley_terry(torch.tensor([1e4]), torch.tensor([-1e4])).item() == 0.0
