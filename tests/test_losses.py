"""Every loss against its formula worked out by hand, and against TRL on the same batch."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.recipe import PolicyTable, RewardTable
from psychocounsel.reward.train import pair_groups, reward_task
from psychocounsel.training.batches import Encoder, collate
from psychocounsel.training.losses import (
    bradley_terry,
    centring,
    dpo,
    ipo,
    sequence_log_probabilities,
    token_losses,
    token_nll,
)

NUMBER = st.floats(-20, 20, allow_nan=False)


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

    from psychocounsel.policy.offline import add_reference, policy_task

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
