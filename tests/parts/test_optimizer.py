"""Optimizers against the update rules written out."""

import copy

import pytest
import torch
from torch import nn

from train.errors import UsageError
from train.parts import norm, optimizer
from train.parts.kinds import parameter_kinds
from train.parts.model import fixup
from train.parts.regularization import parameter_groups, regularization

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


def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), norm.batch()(8), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))
        return nn.Sequential(body, nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 5))


def built(factory, model, decay=0.1):
    groups = parameter_groups(model, regularization(weight_decay=decay))
    return factory(factory.split(groups, parameter_kinds(model)))


def train(model, *updates, steps=3):
    x = torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        model.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(16) % 5).backward()
        for update in updates:
            update.step()


@pytest.mark.parametrize("make", [optimizer.sgd, optimizer.adamw])
def test_factors_are_torchs_rates_of_groups(make):
    model, twin = net(), net()
    made = built(make(lr=0.1, bias_factor=2.0, norm_factor=0.5, head_factor=3.0), model)
    named = dict(twin.named_parameters())
    rates = {"0.0.weight": 0.1, "0.3.weight": 0.1, "2.weight": 0.1, "4.weight": 0.3}
    biases = {"2.bias": 0.2, "0.1.weight": 0.05, "0.1.bias": 0.05, "4.bias": 0.3}
    groups = [{"params": [named[n]], "lr": lr, "weight_decay": 0.1} for n, lr in rates.items()]
    groups += [{"params": [named[n]], "lr": lr, "weight_decay": 0.0} for n, lr in biases.items()]
    train(model, made)
    train(twin, make(lr=0.1)(groups))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert made.param_groups[0]["lr"] == 0.1, "the rate that is recorded"


def test_single_factors_in_the_place_of_norms_have_the_rate_of_norms():
    model = fixup(input_shape=(1, 8, 8), classes=2, norm=None, activation=nn.ReLU, dropout=0.0, depth=8, width=2)
    made = built(optimizer.sgd(lr=1.0, bias_factor=2.0, norm_factor=3.0, head_factor=4.0), model)
    rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        module = name.split(".")[-2].rstrip("1234")
        assert rates[id(parameter)] == {"shift": 2.0, "gain": 3.0, "head": 4.0}.get(module, 1.0), name


@pytest.mark.parametrize("make", [optimizer.sgd, optimizer.adamw])
def test_factors_of_one_leave_the_groups(make):
    """Checkpoints from before there were factors have these groups."""
    groups = parameter_groups(net(), regularization(weight_decay=0.1))
    assert make().split(groups, {}) is groups


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torchs_on_reshaped_filters_and_adam_on_the_rest(nesterov):
    model, twin = net(), net()
    made = built(optimizer.muon(lr=0.05, momentum=0.8, nesterov=nesterov, rest_lr=0.01), model)
    matrices = {n: p for n, p in twin.named_parameters() if n in ("0.0.weight", "0.3.weight", "2.weight")}
    flat = {n: nn.Parameter(p.detach().flatten(1)) for n, p in matrices.items()}  # shares the memory of the filters
    muon = torch.optim.Muon(list(flat.values()), lr=0.05, weight_decay=0.1, momentum=0.8, nesterov=nesterov)
    others = {n: p for n, p in twin.named_parameters() if n not in matrices}
    rest = [{"params": [p], "weight_decay": 0.1 if n == "4.weight" else 0.0} for n, p in others.items()]
    adam = torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.95), eps=1e-10)

    class OnReshaped:
        def step(self):
            for name, parameter in matrices.items():
                gradient = parameter.grad
                assert gradient is not None
                flat[name].grad = gradient.flatten(1)
            muon.step()

    train(model, made)
    train(twin, OnReshaped(), adam)
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)
    assert made.param_groups[0]["lr"] == 0.05, "the rate that is recorded"


@pytest.mark.parametrize("shape", [(8, 8), (30, 5), (4, 27)])
def test_orthogonalized_has_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(optimizer.orthogonalized(matrix).float())
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_muon_goes_on_from_its_state():
    first, second = net(), net()
    whole, begun = built(optimizer.muon(), first), built(optimizer.muon(), second)
    train(first, whole, steps=4)
    train(second, begun, steps=2)
    goes_on = built(optimizer.muon(), second)
    goes_on.load_state_dict(copy.deepcopy(begun.state_dict()))
    train(second, goes_on, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_sgd_nesterov_needs_momentum():
    with pytest.raises(UsageError, match=r"optimizer\.nesterov=true.*optimizer\.momentum"):
        optimizer.sgd(momentum=0.0, nesterov=True)
