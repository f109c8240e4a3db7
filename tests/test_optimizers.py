"""Optimizers: what decays, what is trained, the same bits every time."""

import copy
import sys
from types import ModuleType

import pytest
import torch
from tiny_training import make_model

from psychocounsel.errors import UserError
from psychocounsel.recipe import LoraTable, Training
from psychocounsel.training.adapters import add_adapters
from psychocounsel.training.optimizers import open_optimizer


def table(**changes):
    return Training(**{"lr": 1e-2, "epochs": 1.0, "batch": 4} | changes)


class Layers(torch.nn.Module):
    """A matrix large enough for moments in 8 bits, a bias and a norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm = torch.nn.Linear(128, 64), torch.nn.LayerNorm(64)


def step(model, optimizer, times, first=0):
    for number in range(first, first + times):
        draw = torch.Generator().manual_seed(number)
        for value in model.parameters():
            value.grad = torch.randn(value.shape, generator=draw)
        optimizer.step()


def weights(model):
    return [value.detach().clone() for value in model.parameters()]


def test_norms_and_biases_do_not_decay():
    model = Layers()
    before = weights(model)
    optimizer = open_optimizer(model, table(lr=0.1, weight_decay=0.5))
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(new, old * (1 - 0.1 * 0.5) if old.ndim == 2 else old)


def test_a_step_is_that_of_the_plain_optimizer():
    model, plain = Layers(), Layers()
    step(model, open_optimizer(model, table(lr=1e-2, weight_decay=0.1)), 4)
    groups = [{"params": [plain.linear.weight], "weight_decay": 0.1},
              {"params": [plain.linear.bias, *plain.norm.parameters()], "weight_decay": 0.0}]  # fmt: skip
    step(plain, torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), fused=False, foreach=False), 4)
    for ours, theirs in zip(weights(model), weights(plain), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_only_what_is_trained_gets_moments():
    model = add_adapters(make_model(), LoraTable(rank=2), 0)
    optimizer = open_optimizer(model, table(weight_decay=0.1))
    held = [value for group in optimizer.param_groups for value in group["params"]]
    assert len(optimizer.param_groups) == 1  # adapters are matrices
    assert {id(value) for value in held} == {id(value) for value in model.parameters() if value.requires_grad}


def resumes(kind):
    """Six steps at once and three, saved, loaded and continued: the same bits."""
    whole, half = Layers(), Layers()
    step(whole, open_optimizer(whole, table(optimizer=kind)), 6)
    optimizer = open_optimizer(half, table(optimizer=kind))
    step(half, optimizer, 3)
    again = Layers()
    again.load_state_dict(half.state_dict())
    optimizer_again = open_optimizer(again, table(optimizer=kind))
    optimizer_again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(again, optimizer_again, 3, first=3)
    return all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


def test_a_resumed_optimizer_takes_the_same_steps():
    assert resumes("adamw")


def test_a_learning_rate_set_from_outside_is_used():
    model = Layers()
    before, optimizer = weights(model), open_optimizer(model, table(lr=1.0))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step(model, optimizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


def test_8_bits_without_bitsandbytes_says_what_to_install(monkeypatch):
    for name in ("bitsandbytes", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"needs bitsandbytes: pip install 'psychocounsel\[quantised\]', or set optim"):
        open_optimizer(Layers(), table(optimizer="adamw_8bit"))


def test_8_bits_on_a_device_without_a_kernel_are_refused(monkeypatch):
    class AdamW8bit(torch.optim.AdamW):
        def step(self, closure=None):
            raise NotImplementedError("no kernel for cpu")

    package, module = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
    module.AdamW8bit = AdamW8bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)
    with pytest.raises(UserError, match=r"does not work on cpu \(no kernel for cpu\); update it, use a GPU"):
        open_optimizer(Layers(), table(optimizer="adamw_8bit"))


def test_8_bits_keep_small_moments_and_resume():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (the 'quantised' extra)")
    model = Layers()
    optimizer = open_optimizer(model, table(optimizer="adamw_8bit", weight_decay=0.1))
    step(model, optimizer, 2)
    assert optimizer.state[model.linear.weight]["state1"].dtype == torch.uint8
    assert resumes("adamw_8bit")
