"""The training loop: plans its steps exactly, names faults, keeps the best look at dev."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import PAD, make_groups, make_model, make_task, rows, table

from psychocounsel.errors import UserError
from psychocounsel.supervised import supervised_task
from psychocounsel.training.batches import collate
from psychocounsel.training.loop import Task, evaluate, learning_rate, plan_steps, precision, train, use_threads


def test_a_step_too_far_is_said_when_dev_is_looked_at(tmp_path):
    with pytest.raises(UserError, match=r"supervised: after step 1 the dev loss is (nan|inf); lower the learning rate"):
        train(make_model(), make_task(), table(lr=1e30, warmup=0.0, evaluate_steps=1), 3, tmp_path, PAD)
    assert not (tmp_path / "best.pt").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_its_prompts(tmp_path, value):
    task = make_task()
    bad = Task(**{**task.__dict__, "compute": lambda m, b: (task.compute(m, b)[0] * value, {})})
    with pytest.raises(UserError, match=r"supervised: the loss became (nan|inf) on prompts \['prompt-0-") as caught:
        train(make_model(), bad, table(), 3, tmp_path, PAD)
    assert "learning rate" in str(caught.value)


def test_a_gradient_that_is_no_number_stops_before_it_reaches_the_weights(tmp_path):
    task, model = make_task(dev=[]), make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def compute(model, batch):
        loss, figures = task.compute(model, batch)
        return loss + (loss * 0).sqrt(), figures  # a fine loss whose gradient is not a number

    with pytest.raises(UserError, match=r"supervised: .*gradient.* on prompts \['prompt-0-"):
        train(model, Task(**{**task.__dict__, "compute": compute}), table(epochs=0.25), 3, tmp_path, PAD)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_best_look_at_dev_is_what_is_kept(tmp_path):
    groups = make_groups(8)
    task = supervised_task("supervised", groups, make_groups(4, seed=1))  # random targets: dev must get worse
    model = make_model()
    state = train(model, task, table(epochs=20.0, evaluate_steps=1, lr=3e-2, schedule="constant"), 0, tmp_path, PAD)
    looks = {row["step"]: row["dev_loss"] for row in rows(tmp_path) if "dev_loss" in row}
    assert len(looks) == state["step"] == 40
    assert state["best"] == min(looks.values()) < looks[40] - 0.1
    assert state["best_step"] == min(looks, key=looks.get) < 40
    assert evaluate(model, task, table(), PAD)["loss"] == pytest.approx(state["best"], abs=1e-6)


def test_without_dev_the_last_weights_are_kept(tmp_path):
    state = train(make_model(), make_task(dev=[]), table(), 3, tmp_path, PAD)
    assert state == {"step": 12, "best": None, "best_step": 0}
    assert not (tmp_path / "best.pt").exists()


def test_training_learns_and_reports_every_step(tmp_path):
    folder = tmp_path
    train(make_model(), make_task(), table(), 3, folder, PAD)
    found = [row for row in rows(folder) if "loss" in row]
    assert [row["step"] for row in found] == list(range(1, 13))
    assert set(found[0]) == {"step", "lr", "loss", "grad_norm"}
    assert found[0]["loss"] == pytest.approx(math.log(64), abs=0.2)  # fresh weights guess evenly
    assert found[-1]["loss"] < found[0]["loss"] - 0.3
    assert [row["step"] for row in rows(folder) if "dev_loss" in row] == [3, 6, 9, 12]
    assert [row["lr"] for row in found] == [learning_rate(n, 12, table()) for n in range(1, 13)]


def test_a_step_without_clipping_is_a_plain_adamw_step(tmp_path):
    model, plain = make_model(), make_model()
    settings_ = table(epochs=1.0, batch=16, warmup=0.0, schedule="constant", clip=1e9, weight_decay=0.1)
    task = make_task(dev=[])
    train(model, task, settings_, 0, tmp_path, PAD)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95))
    batch = collate(task.train, PAD)
    (task.compute(plain, batch)[0] / batch.tokens).backward()
    optimizer.step()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0, msg=name)


@pytest.mark.parametrize(("epochs", "expected"), [(0.25, 1), (0.3, 2), (0.5, 2), (1.0, 4), (1.5, 6), (2.25, 9)])
def test_partial_epochs_make_their_share_of_steps(epochs, expected):
    made = list(plan_steps(make_task(), table(epochs=epochs), 3))
    assert len(made) == expected
    first = [g.id for step in made[:4] for g in step]
    assert len(set(first)) == len(first)


def test_most_steps_bounds_the_plan_and_epochs_differ():
    made = list(plan_steps(make_task(max_steps=7), table(epochs=9.0), 3))
    assert len(made) == 7
    whole = list(plan_steps(make_task(), table(epochs=2.0), 3))
    one, two = ([g.id for step in whole[part] for g in step] for part in (slice(0, 4), slice(4, 8)))
    assert sorted(one) == sorted(two) and one != two


@pytest.mark.parametrize("changes", [{"train": []}, {"max_steps": 0}])
def test_nothing_to_train_on_is_said(tmp_path, changes):
    with pytest.raises(UserError, match=r"supervised: nothing to train on \(0 steps from \d+ prompts\)"):
        train(make_model(), make_task(**changes), table(), 0, tmp_path, PAD)


@given(st.integers(1, 300), st.floats(0, 0.9), st.sampled_from(["cosine", "linear", "constant"]))
@settings(max_examples=50, deadline=None)
def test_the_learning_rate_rises_then_falls_and_never_leaves_its_bounds(total, warmup, schedule):
    settings_ = table(warmup=warmup, schedule=schedule)
    rates = [learning_rate(step, total, settings_) for step in range(1, total + 1)]
    warm = math.ceil(total * warmup)
    assert all(0 <= rate <= settings_.lr * (1 + 1e-12) for rate in rates)
    assert rates[:warm] == sorted(rates[:warm]) and rates[warm:] == sorted(rates[warm:], reverse=True)
    if warm:
        assert rates[warm - 1] == pytest.approx(settings_.lr)
    if schedule == "constant":
        assert set(rates[warm:]) <= {settings_.lr}
    elif total > warm:
        assert rates[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("step", "schedule", "share"),
    [(5, "cosine", 0.5), (10, "cosine", 1.0), (55, "cosine", 0.5), (55, "linear", 0.5), (32, "linear", 68 / 90),
     (32, "cosine", 0.5 * (1 + math.cos(math.pi * 22 / 90))), (99, "constant", 1.0)],
)  # fmt: skip
def test_the_learning_rate_at_known_steps(step, schedule, share):
    assert learning_rate(step, 100, table(lr=2.0, warmup=0.1, schedule=schedule)) == pytest.approx(2.0 * share)


def test_trainings_of_different_precision_can_follow_each_other(tmp_path):
    losses = {}
    for name in ("fp32", "bf16", "fp32"):
        train(make_model(), make_task(), table(epochs=0.5, precision=name), 3, tmp_path / f"{name}-{len(losses)}", PAD)
        losses[f"{name}-{len(losses)}"] = rows(tmp_path / f"{name}-{len(losses)}")[0]["loss"]
    assert losses["fp32-0"] == losses["fp32-2"]
    assert losses["fp32-0"] != losses["bf16-1"] == pytest.approx(losses["fp32-0"], rel=0.02)


def test_precision_is_what_was_asked_for():
    assert precision(table(precision="fp32")) == "no" and precision(table(precision="bf16")) == "bf16"


def test_threads_are_set_only_when_asked(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    use_threads(0)
    assert torch.get_num_threads() == before
    use_threads(2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
