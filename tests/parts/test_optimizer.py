"""Optimizers against the update rules written out."""

import pytest
import torch

from train.errors import UsageError
from train.parts import optimizer

TARGET = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def gradient(w):
    return 3 * (w - TARGET) + torch.sin(w)


def trajectory(factory, decay, steps=8, device="cpu"):
    w = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64, device=device))
    update = factory([{"params": [w], "weight_decay": decay}])
    for _ in range(steps):
        w.grad = gradient(w.detach().cpu()).to(device)
        update.step()
    return w.detach().cpu()


def sgd_by_hand(lr, momentum, nesterov, decay, steps=8):
    w, v = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(steps):
        g = gradient(w) + decay * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v if nesterov else v)
    return w


def adamw_by_hand(lr, first, second, eps, decay, steps=8):
    w, m, v = (torch.zeros(3, dtype=torch.float64) for _ in range(3))
    for t in range(1, steps + 1):
        g = gradient(w)
        m, v = first * m + (1 - first) * g, second * v + (1 - second) * g**2
        w = w - lr * decay * w - lr * (m / (1 - first**t)) / ((v / (1 - second**t)).sqrt() + eps)
    return w


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.8, False), (0.8, True)])
def test_sgd_is_the_formula(momentum, nesterov, decay):
    steps = trajectory(optimizer.sgd(lr=0.05, momentum=momentum, nesterov=nesterov), decay)
    torch.testing.assert_close(steps, sgd_by_hand(0.05, momentum, nesterov, decay), rtol=1e-9, atol=0)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_the_formula(decay):
    steps = trajectory(optimizer.adamw(lr=0.05, betas=[0.7, 0.9], eps=1e-4), decay)
    torch.testing.assert_close(steps, adamw_by_hand(0.05, 0.7, 0.9, 1e-4, decay), rtol=1e-9, atol=0)


@pytest.mark.cuda
@pytest.mark.parametrize("factory", [optimizer.sgd(), optimizer.adamw()])
def test_optimizer_on_gpu_takes_equal_steps(factory):
    torch.testing.assert_close(trajectory(factory, 0.1, device="cuda"), trajectory(factory, 0.1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("factory", "kind"), [(optimizer.sgd(), torch.optim.SGD), (optimizer.adamw(), torch.optim.AdamW)])
def test_optimizer_is_torchs_and_fused_where_possible(factory, kind):
    here = factory([{"params": [torch.nn.Parameter(torch.ones(2))], "weight_decay": 0.1}])
    assert type(here) is kind
    assert here.defaults["fused"] is True
    elsewhere = factory([{"params": [torch.nn.Parameter(torch.ones(2, device="meta"))], "weight_decay": 0.1}])
    assert elsewhere.defaults["fused"] is False


def test_optimizer_uses_changed_learning_rate():
    """As the loop applies a schedule: by writing `lr` into the groups."""
    w = torch.nn.Parameter(torch.zeros(1))
    update = optimizer.sgd(lr=1.0, momentum=0.0, nesterov=False)([{"params": [w], "weight_decay": 0.0}])
    for group in update.param_groups:
        group["lr"] = 0.25
    w.grad = torch.ones(1)
    update.step()
    assert w.item() == -0.25


def test_sgd_nesterov_needs_momentum():
    with pytest.raises(UsageError, match=r"optimizer\.nesterov=true.*optimizer\.momentum"):
        optimizer.sgd(momentum=0.0, nesterov=True)
