"""The training loop: plans its steps exactly, names faults, keeps the best look at dev."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import make_groups, make_model, make_task, plain_logp, prepared, rows, run, step_loss, table

from psychocounsel.errors import UserError
from psychocounsel.supervised import supervised_task
from psychocounsel.training.batches import items
from psychocounsel.training.loop import Task, count_steps, evaluate, learning_rate, plan_steps, train
from psychocounsel.training.packed import PackedPolicy, opened
from psychocounsel.training.processes import precision, use_threads


def test_a_step_too_far_is_said_when_dev_is_looked_at(tmp_path):
    with pytest.raises(UserError, match=r"supervised: after step 1 the dev loss is (nan|inf); lower the learning rate"):
        run(make_model(), make_task(), table(lr=1e30, warmup=0.0, evaluate_steps=1), 3, tmp_path)
    assert not (tmp_path / "best").exists()


def with_compute(task, compute):
    return Task(**{**task.__dict__, "compute": compute})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_its_prompts(tmp_path, value):
    task = make_task()
    bad = with_compute(task, lambda model, pack: (task.compute(model, pack)[0] * value, {}))
    with pytest.raises(UserError, match=r"supervised: the loss became (nan|inf) on prompts \['prompt-0-") as caught:
        run(make_model(), bad, table(), 3, tmp_path)
    assert "learning rate" in str(caught.value) and str(tmp_path / "stopped.jsonl") in str(caught.value)
    saved = [json.loads(line) for line in (tmp_path / "stopped.jsonl").read_text().splitlines()]
    step = next(plan_steps(bad, table(), 3))
    assert [(row["id"], row["prompt"], row["replies"]) for row in saved] == [
        (group.id, group.prompt, group.replies) for group in (task.train[share.place] for share in step)
    ]
    assert not (tmp_path / "checkpoint").exists() and rows(tmp_path) == []


def test_a_gradient_that_is_no_number_stops_before_it_reaches_the_weights(tmp_path):
    task, model = make_task(dev=[]), make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def compute(model, pack):
        loss, figures = task.compute(model, pack)
        return loss + (loss * 0).sqrt(), figures  # a fine loss whose gradient is not a number

    with pytest.raises(UserError, match=r"supervised: .*gradient.* on prompts \['prompt-0-"):
        run(model, with_compute(task, compute), table(epochs=0.25), 3, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (tmp_path / "stopped.jsonl").stat().st_size > 0


def test_weights_that_are_no_numbers_are_named_instead_of_the_batch(tmp_path):
    model = make_model()
    ready = prepared(model)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 3] = math.nan
        model.model.norm.weight[0] = math.inf
    words = r"weights are not numbers \(model\.model\.layers\.0\.mlp\.up_proj\.weight and 1 more\); take another base"
    with pytest.raises(UserError, match=words):
        train(ready, make_task(), 3, tmp_path)


OUT = [
    torch.OutOfMemoryError("out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT, ids=["graphics card", "python", "processor"])
def test_memory_that_ran_out_becomes_advice_and_the_same_command_continues(tmp_path, error):
    task, seen = make_task(), []

    def compute(model, pack):
        seen.append(torch.is_grad_enabled())
        if sum(seen) > 3:
            raise error
        return task.compute(model, pack)

    settings_ = table(checkpoint_steps=1)
    with pytest.raises(UserError, match="supervised: memory ran out; lower token_budget") as caught:
        run(make_model(), with_compute(task, compute), settings_, 3, tmp_path)
    assert "(now 64)" in str(caught.value) and "gradient_checkpointing = true" in str(caught.value)
    assert (tmp_path / "checkpoint").exists() and caught.value.__cause__ is error
    remedy = table(checkpoint_steps=1, token_budget=20, gradient_checkpointing=True)
    assert run(make_model(), task, remedy, 3, tmp_path)["step"] == 12


def test_other_errors_of_a_loss_are_not_taken_for_memory(tmp_path):
    def compute(model, pack):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(make_model(), with_compute(make_task(), compute), table(), 3, tmp_path)


def test_the_best_look_at_dev_is_what_is_kept(tmp_path):
    groups = make_groups(8)
    task = supervised_task("supervised", groups, make_groups(4, seed=1))  # random targets: dev must get worse
    model = make_model()
    state = run(model, task, table(epochs=20.0, evaluate_steps=1, lr=3e-2, schedule="constant"), 0, tmp_path)
    looks = {row["step"]: row["dev_loss"] for row in rows(tmp_path) if "dev_loss" in row}
    assert len(looks) == state["step"] == 40
    assert state["best"] == min(looks.values()) < looks[40] - 0.1
    assert state["best_step"] == min(looks, key=looks.get) < 40
    assert evaluate(prepared(model), task)["loss"] == pytest.approx(state["best"], abs=1e-6)


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_stops_after_so_many_looks_without_a_better_one(tmp_path, patience):
    task = make_task(train=make_groups(8))
    settings_ = table(epochs=20.0, evaluate_steps=1, lr=3e-2, schedule="constant")
    whole = run(make_model(), task, settings_, 0, tmp_path / "whole")
    model = make_model()
    state = run(model, task, settings_.model_copy(update={"patience": patience}), 0, tmp_path / "short")
    looks = [row["dev_loss"] for row in rows(tmp_path / "whole") if "dev_loss" in row]
    best, waited = math.inf, 0
    for number, look in enumerate(looks, 1):  # noqa: B007
        best, waited = min(best, look), 0 if look < best else waited + 1
        if waited == patience:
            break
    assert state["step"] == number < whole["step"] == 40 and state["waited"] == patience
    assert state["best"] == best and state["best_step"] == number - patience
    assert rows(tmp_path / "short") == rows(tmp_path / "whole")[: 2 * number]
    assert evaluate(prepared(model), task)["loss"] == pytest.approx(best, abs=1e-6)


def test_a_stopped_early_training_makes_no_step_when_it_is_called_again(tmp_path):
    task = make_task(train=make_groups(8))
    settings_ = table(epochs=20.0, evaluate_steps=1, checkpoint_steps=1, lr=3e-2, schedule="constant", patience=2)
    first, made, model = run(make_model(), task, settings_, 0, tmp_path), [], make_model(seed=3)
    assert run(model, task, settings_, 0, tmp_path, on_step=lambda number, _: made.append(number)) == first
    assert made == [] and evaluate(prepared(model), task)["loss"] == pytest.approx(first["best"], abs=1e-6)


def test_without_dev_the_last_weights_are_kept(tmp_path):
    state = run(make_model(), make_task(dev=[]), table(), 3, tmp_path)
    assert state == {"step": 12, "best": None, "best_step": 0, "waited": 0}
    assert not (tmp_path / "best").exists()


def test_training_learns_and_reports_every_step(tmp_path):
    folder = tmp_path
    run(make_model(), make_task(), table(), 3, folder)
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
    run(model, task, settings_, 0, tmp_path)
    matrices, vectors = ([p for p in plain.parameters() if (p.ndim >= 2) is wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    total = sum(-plain_logp(plain, group).sum() for group in task.train)
    (total / sum(map(task.over, task.train))).backward()
    optimizer.step()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0, msg=name)


@pytest.mark.parametrize(("epochs", "expected"), [(0.25, 1), (0.3, 2), (0.5, 2), (1.0, 4), (1.5, 6), (2.25, 9)])
def test_partial_epochs_make_their_share_of_steps(epochs, expected):
    made = list(plan_steps(make_task(), table(epochs=epochs), 3))
    assert len(made) == expected
    assert count_steps(make_task(), table(epochs=epochs)) == expected
    first = [share.place for step in made[:4] for share in step]
    assert len(set(first)) == len(first)


def test_most_steps_bounds_the_plan_and_epochs_differ():
    made = list(plan_steps(make_task(max_steps=7), table(epochs=9.0), 3))
    assert len(made) == 7
    whole = list(plan_steps(make_task(), table(epochs=2.0), 3))
    one, two = ([share.place for step in whole[part] for share in step] for part in (slice(0, 4), slice(4, 8)))
    assert sorted(one) == sorted(two) and one != two


@pytest.mark.parametrize("changes", [{"train": []}, {"max_steps": 0}])
def test_nothing_to_train_on_is_said(tmp_path, changes):
    with pytest.raises(UserError, match=r"supervised: nothing to train on \(0 steps from \d+ prompts\)"):
        run(make_model(), make_task(**changes), table(), 0, tmp_path)


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


@pytest.mark.parametrize("changes", [{"token_budget": 12}, {"token_budget": 10_000}, {"gradient_checkpointing": True}])
def test_memory_settings_do_not_change_the_result(tmp_path, changes):
    """Packs of one prompt, all in one, layers made again: the same steps up to rounding."""
    task = make_task(train=make_groups(8, replies=3))
    one, other = make_model(), make_model()
    run(one, task, table(epochs=1.0), 3, tmp_path / "one")
    run(other, task, table(epochs=1.0, **changes), 3, tmp_path / "other")
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, atol=2e-4, rtol=0, msg=name)
    for row, same in zip(rows(tmp_path / "one"), rows(tmp_path / "other"), strict=True):
        assert row == {key: pytest.approx(value, abs=1e-4) for key, value in same.items()}


def test_every_step_holds_exactly_its_items_and_the_loss_is_averaged_over_all_of_them(tmp_path):
    """No clip, rate 0: each step's loss is then that of the fresh model over exactly the planned replies."""
    task, model = make_task(train=make_groups(7, replies=3), dev=[]), make_model()
    settings_ = table(lr=1e-30, epochs=2.0)
    run(model, task, settings_, 3, tmp_path)
    plan = list(plan_steps(task, settings_, 3))
    assert [items(step) for step in plan] == [4] * 10 + [2]
    for step, row in zip(plan, rows(tmp_path), strict=True):
        parts = [task.train[share.place].part("replies", share.start, share.stop) for share in step]
        with torch.no_grad():
            total = sum(-plain_logp(make_model().eval(), part).sum().item() for part in parts)
        assert row["loss"] == pytest.approx(total / sum(map(task.over, parts)), abs=2e-5)


def test_opening_a_model_twice_changes_nothing():
    task, model = make_task(), make_model()
    first = step_loss(task, opened(PackedPolicy(model)), task.train)[0].item()
    again = opened(PackedPolicy(model))
    assert again.shared and step_loss(task, again, task.train)[0].item() == first


def test_trainings_of_different_precision_can_follow_each_other(tmp_path):
    losses = {}
    for name in ("fp32", "bf16", "fp32"):
        run(make_model(), make_task(), table(epochs=0.5, precision=name), 3, tmp_path / f"{name}-{len(losses)}")
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
