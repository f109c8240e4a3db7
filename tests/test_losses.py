"""Every loss against its formula worked out by hand, and against TRL on the same batch."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.errors import UserError
from psychocounsel.pipeline.preflight import preflight
from psychocounsel.policy.offline import add_reference, policy_task, train_policy
from psychocounsel.recipe import PolicyTable, RewardTable, parse_recipe
from psychocounsel.recipe.training import LOSSES
from psychocounsel.reward.train import mean_gap, pair_groups, reward_task
from psychocounsel.training.batches import Encoder, collate
from psychocounsel.training.losses import (
    apo_zero,
    bradley_terry,
    cdpo,
    centring,
    dpo,
    hinge,
    ipo,
    robust_dpo,
    sequence_log_probabilities,
    simpo,
    token_losses,
    token_nll,
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
}


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
    """Not so for ipo and cdpo, which aim at a margin and punish what goes beyond."""
    loss = open_loss(TABLES[name])
    count = 4 if loss.reference else 2
    before = loss.function(*double(chosen, rejected, 0, 0)[:count]).item()
    assert loss.function(*double(chosen + more, rejected, 0, 0)[:count]).item() <= before
    assert loss.function(*double(chosen, rejected + more, 0, 0)[:count]).item() >= before


@pytest.mark.parametrize("name", TABLES)
def test_policy_losses_keep_pairs_apart_and_hide_no_broken_number(name):
    loss = open_loss(TABLES[name])
    rows = [
        torch.tensor(row) for row in ([-9.0, math.nan, 0.0], [-8.0, -7.0, 0.0], [-8.0, -7.0, 0.0], [-8.0, -7.0, 0.0])
    ]
    values = loss.function(*rows[: 4 if loss.reference else 2])
    assert values.shape == (3,) and values.dtype == torch.float32
    assert values.isnan().tolist() == [False, True, False]
    rows[0] = torch.tensor([-9.0, -math.inf, 0.0])
    values = loss.function(*rows[: 4 if loss.reference else 2])
    assert torch.isfinite(values[[0, 2]]).all()
    # an impossible chosen reply costs without bound, but for the bounded loss, whose log-ratio costs at most 1
    assert values[1].item() == (pytest.approx(1.5) if name == "apo_zero" else math.inf)


def test_the_losses_of_the_recipe_are_the_losses_that_exist():
    assert list(POLICY_LOSSES) == list(LOSSES) == list(TABLES)
    assert not POLICY_LOSSES["simpo"].reference


# a user's own losses, found by name in this very module


def squared_margin(chosen, rejected, reference_chosen, reference_rejected, beta):
    return (1 - beta * ((chosen - reference_chosen) - (rejected - reference_rejected))) ** 2


def averaged(*values):
    return dpo(*values).mean()


def not_a_number(*values):
    return dpo(*values) * math.nan


def detached(*values):
    return dpo(*values).detach()


def over_the_batch(chosen, rejected, reference_chosen, reference_rejected, beta):
    return dpo(chosen - chosen.mean().detach(), rejected, reference_chosen, reference_rejected, beta)


def rejected_only(chosen, rejected, reference_chosen, reference_rejected, beta):
    return beta * (rejected - reference_rejected)


def steep(chosen, *others):
    return torch.sqrt(chosen - chosen.detach()) + dpo(chosen, *others)


def numbers(*values):
    return [0.0, 0.0, 0.0]


def of_two(chosen, rejected):
    return chosen - rejected


def test_a_loss_of_the_users_own_is_used_as_written():
    loss = open_loss(PolicyTable(loss=f"{__name__}:squared_margin", beta=0.5))
    assert loss.reference
    assert loss.function(*double(-10, -20, -12, -19)).item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("no_such_module:loss", "cannot be imported .*ModuleNotFoundError"),
        (f"{__name__}:no_such_loss", "cannot be imported .*AttributeError"),
        (f"{__name__}:NUMBER", "not a function"),
        (f"{__name__}:of_two", "failed on three pairs of numbers"),
        (f"{__name__}:averaged", r"returned \(\) for three pairs; one value per pair"),
        (f"{__name__}:numbers", "returned list for three pairs"),
        (f"{__name__}:not_a_number", "must be finite"),
        (f"{__name__}:detached", "do not depend on the policy"),
        (f"{__name__}:rejected_only", "gradient of chosen or rejected is missing"),
        (f"{__name__}:steep", "missing or not finite"),
        (f"{__name__}:over_the_batch", "depends on the other pairs"),
    ],
)
def test_a_loss_of_the_users_own_that_cannot_work_is_refused_before_training(tmp_path, name, complaint):
    with pytest.raises(UserError, match=f"policy.loss '{name}': .*{complaint}"):
        train_policy("offline", "never opened", ([object()], []), PolicyTable(loss=name), 0, tmp_path)


def test_a_users_loss_is_tried_before_the_first_stage_of_a_run():
    recipe = parse_recipe({"name": "x", "policy": {"loss": f"{__name__}:averaged"}}, "my.toml")
    preflight(recipe, ["pairs", "reward"])  # no policy, no trial
    with pytest.raises(UserError, match="one value per pair"):
        preflight(recipe, ["policy"])


@pytest.mark.parametrize("name", [*TABLES, "own"])
def test_training_with_each_loss_lowers_it_on_dev(tmp_path, tokenizer, speeches, responses, pairs, model_folder, name):
    by_speech, by_id = {s.id: s for s in speeches}, {r.id: r for r in responses}
    groups = tuple(pair_groups(Encoder(tokenizer, 256), pairs[split], by_speech, by_id) for split in ("train", "dev"))
    table = TABLES.get(name, PolicyTable(loss=f"{__name__}:squared_margin")).model_copy(
        update={"lr": 1e-3, "epochs": 2, "batch": 18, "max_length": 256, "precision": "fp32", "evaluate_steps": 1}
    )
    made = train_policy("offline", str(model_folder), groups, table, 0, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    looks = [row["dev_loss"] for row in rows if "dev_loss" in row]
    assert len(looks) == made["steps"] == 6 and looks[-1] < looks[0]
    assert [row["dev_margin"] for row in rows if "dev_margin" in row][-1] > 0
    without_reference = [group.reference == [] for split in groups for group in split]
    assert all(without_reference) if name == "simpo" else not any(without_reference)


def test_gap_weights_have_mean_one_over_the_train_pairs(tokenizer, speeches, responses, pairs, model_folder):
    from psychocounsel.models.weights import load_scorer

    by_speech, by_id = {s.id: s for s in speeches}, {r.id: r for r in responses}
    chosen = pairs["train"][:12]
    rated = [pair.model_copy(update={"gap": 0.5 + place / 4}) for place, pair in enumerate(chosen)]
    groups = pair_groups(Encoder(tokenizer, 256), rated, by_speech, by_id)
    batch = collate(groups, tokenizer.pad_token_id)
    model = load_scorer(str(model_folder), tokenizer.pad_token_id, len(tokenizer)).eval()
    model.score.weight.data *= 30  # scores that differ, or every loss is near log 2 and weights show little
    weighted = RewardTable(weight_by_gap=True, centre=0.2)
    with torch.no_grad():
        found, _ = reward_task(groups, [], weighted).compute(model, batch)
        scores = model(input_ids=batch.ids, attention_mask=batch.mask).logits[:, 0]
        parts = [reward_task(groups, [], weighted).compute(model, collate([g], tokenizer.pad_token_id)) for g in groups]
    a, b = scores[batch.chosen], scores[batch.rejected]
    weights = batch.gaps / batch.gaps.mean()
    assert mean_gap(groups) == pytest.approx(0.5 + 11 / 8) and weights.mean().item() == pytest.approx(1)
    expected = (-weights * torch.nn.functional.logsigmoid(a - b) + 0.2 * (a + b) ** 2).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert sum(part.item() for part, _ in parts) == pytest.approx(found.item(), rel=1e-5)  # however it is cut
    plain, _ = reward_task(groups, [], RewardTable(centre=0.2)).compute(model, batch)
    assert plain.item() != pytest.approx(found.item(), rel=1e-3)


@pytest.mark.parametrize("gap", [0.0, -1.0, math.nan, math.inf])
def test_gaps_that_cannot_weigh_are_refused(tokenizer, speeches, responses, pairs, gap):
    by_speech, by_id = {s.id: s for s in speeches}, {r.id: r for r in responses}
    groups = pair_groups(Encoder(tokenizer, 256), pairs["train"][:3], by_speech, by_id)
    for group in groups:
        group.gaps = [gap] * len(group.gaps)
    with pytest.raises(UserError, match=r"reward\.weight_by_gap: the mean gap"):
        reward_task(groups, [], RewardTable(weight_by_gap=True))
    reward_task(groups, [], RewardTable())


def test_losses_keep_one_value_per_pair():
    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    assert bradley_terry(chosen, rejected).tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(2)])
    assert centring(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 3.0])).tolist() == [0.0, 25.0]
    assert dpo(chosen, rejected, chosen, rejected, 0.1).tolist() == pytest.approx([math.log(2)] * 2)


def test_large_differences_stay_finite():
    far = bradley_terry(torch.tensor([-1e4]), torch.tensor([1e4]))
    assert far.item() == pytest.approx(2e4)
    assert bradley_terry(torch.tensor([1e4]), torch.tensor([-1e4])).item() == 0.0


def test_token_nll_is_minus_log_softmax_and_float32_even_from_bfloat16():
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]])
    targets = torch.tensor([[2, 1]])
    expected = [-2 + math.log(1 + math.e + math.e**2), math.log(math.e**3 + 2)]
    assert token_nll(logits, targets)[0].tolist() == pytest.approx(expected)
    assert token_nll(logits.bfloat16(), targets).dtype == torch.float32


def test_reply_log_probabilities_are_those_of_a_plain_forward(llama):
    model = llama().eval()
    ids = torch.randint(6, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    lengths, starts = (9, 7, 8), (3, 5, 2)
    mask, reply = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.bool)
    for row, (end, start) in enumerate(zip(lengths, starts, strict=True)):
        mask[row, :end] = 1
        reply[row, start:end] = True
    with torch.no_grad():
        found = sequence_log_probabilities(model, ids, mask, reply)
        for row, (end, start) in enumerate(zip(lengths, starts, strict=True)):
            table = model(ids[row : row + 1, :end]).logits.log_softmax(-1)[0]
            by_hand = sum(table[i - 1, ids[row, i]].item() for i in range(start, end))
            assert found[row].item() == pytest.approx(by_hand, abs=1e-4)
        kept = token_losses(model, ids, mask, reply)
    assert kept.shape == (3, 9 - min(starts))
    assert (kept[~reply[:, min(starts) :]] == 0).all()


# --- the same batch through TRL -------------------------------------------------------------------------------------


@pytest.fixture
def batch(tokenizer, speeches, responses, pairs):
    """Our batch of six pairs over two speeches, and the same pairs as conversational rows for TRL."""
    by_speech, by_id = {s.id: s for s in speeches}, {r.id: r for r in responses}
    chosen = [*pairs["train"][:3], *pairs["train"][9:12]]
    groups = pair_groups(Encoder(tokenizer, 256), chosen, by_speech, by_id)
    rows = [
        {
            "prompt": [{"role": "user", "content": by_speech[pair.speech_id].text}],
            "chosen": [{"role": "assistant", "content": by_id[pair.chosen].text}],
            "rejected": [{"role": "assistant", "content": by_id[pair.rejected].text}],
        }
        for pair in chosen
    ]
    return groups, rows


def trl_batch(trainer):
    rows = [trainer.train_dataset[i] for i in range(len(trainer.train_dataset))]
    return trainer.data_collator(rows)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours, theirs):
    assert set(ours) == set(theirs)
    assert max(grad.abs().max().item() for grad in ours.values()) > 1e-3  # not a comparison of zeros
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.fixture
def trl_settings(tmp_path):
    return {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "bf16": False,
            "activation_checkpointing": False, "per_device_train_batch_size": 6, "disable_tqdm": True}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # TRL 1.16 reads it
@pytest.mark.parametrize("precompute", [False, True], ids=["live reference", "precomputed reference"])
def test_dpo_loss_and_gradients_equal_those_of_trl(batch, tokenizer, llama, trl_settings, precompute):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    groups, rows = batch
    policy, reference = llama(0).eval(), llama(1).eval()
    add_reference(reference, groups, tokenizer.pad_token_id, 4)
    task = policy_task("dpo", groups, [], PolicyTable(beta=0.1))
    ours = collate(groups, tokenizer.pad_token_id)
    total, figures = task.compute(policy, ours)
    loss = total / task.unit(ours)
    grads = gradients(policy, loss)

    config = DPOConfig(beta=0.1, max_length=None, precompute_ref_log_probs=precompute, **trl_settings)
    trainer = DPOTrainer(model=copy.deepcopy(policy), ref_model=reference, args=config,
                         train_dataset=Dataset.from_list(rows), processing_class=tokenizer)  # fmt: skip
    theirs = trainer.compute_loss(trainer.model, trl_batch(trainer))
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert loss.item() != pytest.approx(math.log(2), abs=1e-4)  # policy and reference do differ
    assert_same_gradients(grads, gradients(trainer.model, theirs))
    margins = trainer._metrics["train" if trainer.model.training else "eval"]["rewards/margins"][-1]
    assert figures["margin"] / len(ours.chosen) == pytest.approx(margins, abs=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("changes", "loss_type", "smoothing"),
    [
        ({"loss": "ipo", "length_normalised": True}, "ipo", 0.0),  # TRL's IPO always takes means over tokens
        ({"length_normalised": True}, "sigmoid_norm", 0.0),
        ({"loss": "cdpo", "smoothing": 0.2}, "aot", 0.2),  # which sorts a batch, so it gets one pair at a time
        ({"loss": "robust", "smoothing": 0.2}, "robust", 0.2),
        ({"loss": "hinge"}, "hinge", 0.0),
        ({"loss": "apo_zero"}, "apo_zero", 0.0),
    ],
    ids=["ipo", "length-normalised dpo", "cdpo", "robust", "hinge", "apo_zero"],
)
def test_policy_losses_and_gradients_equal_those_of_trl(
    batch, tokenizer, llama, trl_settings, changes, loss_type, smoothing
):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    groups, rows = batch
    policy, reference = llama(0).eval(), llama(1).eval()
    add_reference(reference, groups, tokenizer.pad_token_id, 4)
    table = PolicyTable(beta=0.1, **changes)
    task, ours = policy_task("policy", groups, [], table), collate(groups, tokenizer.pad_token_id)
    total, _ = task.compute(policy, ours)
    loss = total / task.unit(ours)
    grads = gradients(policy, loss)

    config = DPOConfig(beta=0.1, max_length=None, loss_type=[loss_type], label_smoothing=smoothing, **trl_settings)
    trainer = DPOTrainer(model=copy.deepcopy(policy), ref_model=reference, args=config,
                         train_dataset=Dataset.from_list(rows), processing_class=tokenizer)  # fmt: skip
    every = [trainer.train_dataset[i] for i in range(len(rows))]
    parts = [[row] for row in every] if loss_type == "aot" else [every]
    theirs = sum(trainer.compute_loss(trainer.model, trainer.data_collator(part)) for part in parts) / len(parts)
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5, rel=1e-6)
    assert_same_gradients(grads, gradients(trainer.model, theirs))


@pytest.mark.parametrize("gamma", [0.0, 1.2])
def test_simpo_loss_and_gradients_equal_those_of_trl(batch, tokenizer, llama, trl_settings, gamma, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    groups, rows = batch
    policy = llama(0).eval()
    table = PolicyTable(loss="simpo", length_normalised=True, beta=2.0, gamma=gamma)
    task, ours = policy_task("simpo", groups, [], table), collate(groups, tokenizer.pad_token_id)
    total, figures = task.compute(policy, ours)
    loss = total / task.unit(ours)
    grads = gradients(policy, loss)

    config = CPOConfig(loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=gamma, max_length=None, **trl_settings)
    trainer = CPOTrainer(model=copy.deepcopy(policy), args=config, train_dataset=Dataset.from_list(rows),
                         processing_class=tokenizer)  # fmt: skip
    theirs, metrics = trainer.get_batch_loss_metrics(trainer.model.eval(), trl_batch(trainer))
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert figures["margin"] / len(ours.chosen) == pytest.approx(metrics["rewards/margins"], abs=1e-5)
    assert_same_gradients(grads, gradients(trainer.model, theirs))


@pytest.mark.parametrize("centre", [0.0, 0.3])
@pytest.mark.parametrize("margin", [False, True])
def test_reward_loss_and_gradients_equal_those_of_trl(batch, tokenizer, model_folder, trl_settings, centre, margin):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from psychocounsel.models.weights import load_scorer

    groups, rows = batch
    model = load_scorer(str(model_folder), tokenizer.pad_token_id, len(tokenizer)).eval()
    task = reward_task(groups, [], RewardTable(centre=centre, margin=margin))
    ours = collate(groups, tokenizer.pad_token_id)
    total, _ = task.compute(model, ours)
    loss = total / task.unit(ours)
    grads = gradients(model, loss)

    if margin:
        rows = [{**row, "margin": 1.5} for row in rows]
    config = RewardConfig(max_length=None, center_rewards_coefficient=centre or None, **trl_settings)
    trainer = RewardTrainer(model=copy.deepcopy(model), args=config, train_dataset=Dataset.from_list(rows),
                            processing_class=tokenizer)  # fmt: skip
    theirs = trainer.compute_loss(trainer.model, trl_batch(trainer))
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert_same_gradients(grads, gradients(trainer.model, theirs))
