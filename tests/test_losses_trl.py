"""Losses and gradients against TRL on the same batch."""

import math

import pytest
import torch
from tiny_training import add_plain_reference, groups_of, step_loss

from psychocounsel.models.weights import load_scorer
from psychocounsel.policy.offline import policy_task
from psychocounsel.recipe import PolicyTable, RewardTable
from psychocounsel.reward.train import reward_task
from psychocounsel.training.packed import PackedPolicy, PackedScorer, opened


@pytest.fixture
def batch(tokenizer, speeches, responses, pairs):
    """Our batch of six pairs over two speeches, and the same pairs as conversational rows for TRL."""
    by_speech, by_id = {s.id: s for s in speeches}, {r.id: r for r in responses}
    chosen = [*pairs["train"][:3], *pairs["train"][9:12]]
    groups = groups_of(tokenizer, chosen, speeches, responses)
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
    policy, plain, reference = llama(0), llama(0).eval(), llama(1).eval()
    add_plain_reference(reference, groups)
    task = policy_task("dpo", groups, [], PolicyTable(beta=0.1))
    loss, figures = step_loss(task, opened(PackedPolicy(policy)).eval(), groups)
    grads = gradients(policy, loss)

    config = DPOConfig(beta=0.1, max_length=None, precompute_ref_log_probs=precompute, **trl_settings)
    trainer = DPOTrainer(model=plain, ref_model=reference, args=config,
                         train_dataset=Dataset.from_list(rows), processing_class=tokenizer)  # fmt: skip
    theirs = trainer.compute_loss(trainer.model, trl_batch(trainer))
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert loss.item() != pytest.approx(math.log(2), abs=1e-4)  # policy and reference do differ
    assert_same_gradients(grads, gradients(trainer.model, theirs))
    margins = trainer._metrics["train" if trainer.model.training else "eval"]["rewards/margins"][-1]
    assert figures["margin"] / len(rows) == pytest.approx(margins, abs=1e-5)


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
    policy, plain, reference = llama(0), llama(0).eval(), llama(1).eval()
    add_plain_reference(reference, groups)
    table = PolicyTable(beta=0.1, **changes)
    loss, _ = step_loss(policy_task("policy", groups, [], table), opened(PackedPolicy(policy)).eval(), groups)
    grads = gradients(policy, loss)

    config = DPOConfig(beta=0.1, max_length=None, loss_type=[loss_type], label_smoothing=smoothing, **trl_settings)
    trainer = DPOTrainer(model=plain, ref_model=reference, args=config,
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
    policy, plain = llama(0), llama(0).eval()
    table = PolicyTable(loss="simpo", length_normalised=True, beta=2.0, gamma=gamma)
    loss, figures = step_loss(policy_task("simpo", groups, [], table), opened(PackedPolicy(policy)).eval(), groups)
    grads = gradients(policy, loss)

    config = CPOConfig(loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=gamma, max_length=None, **trl_settings)
    trainer = CPOTrainer(model=plain, args=config, train_dataset=Dataset.from_list(rows),
                         processing_class=tokenizer)  # fmt: skip
    theirs, metrics = trainer.get_batch_loss_metrics(trainer.model.eval(), trl_batch(trainer))
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert figures["margin"] / len(rows) == pytest.approx(metrics["rewards/margins"], abs=1e-5)
    assert_same_gradients(grads, gradients(trainer.model, theirs))


@pytest.mark.parametrize("centre", [0.0, 0.3])
@pytest.mark.parametrize("margin", [False, True])
def test_reward_loss_and_gradients_equal_those_of_trl(batch, tokenizer, model_folder, trl_settings, centre, margin):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    groups, rows = batch
    model, plain = (load_scorer(str(model_folder), tokenizer.pad_token_id, len(tokenizer)).eval() for _ in range(2))
    task = reward_task(groups, [], RewardTable(centre=centre, margin=margin))
    loss, _ = step_loss(task, opened(PackedScorer(model)).eval(), groups)
    grads = gradients(model, loss)

    if margin:
        rows = [{**row, "margin": 1.5} for row in rows]
    config = RewardConfig(max_length=None, center_rewards_coefficient=centre or None, **trl_settings)
    trainer = RewardTrainer(model=plain, args=config, train_dataset=Dataset.from_list(rows),
                            processing_class=tokenizer)  # fmt: skip
    theirs = trainer.compute_loss(trainer.model, trl_batch(trainer))
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert_same_gradients(grads, gradients(trainer.model, theirs))
