"""Weight decay against lambda/2 |W|^2 in the loss, dropout's expectation, and which parameters decay."""

import copy
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from train.parts import norm, optimizer
from train.parts.regularization import Regularization, parameter_groups, regularization

CONF = Path(__file__).parents[2] / "conf/regularization"
SETTINGS = {  # weight_decay, dropout, stochastic_depth, ema_decay, sam_radius
    "none": (0.0, 0.0, 0.0, 0.0, 0.0),
    "weight_decay": (5e-5, 0.0, 0.0, 0.0, 0.0),
    "dropout": (0.0, 0.5, 0.0, 0.0, 0.0),
    "weight_decay_dropout": (5e-5, 0.5, 0.0, 0.0, 0.0),
    "stochastic_depth": (0.0, 0.0, 0.2, 0.0, 0.0),
    "ema": (0.0, 0.0, 0.0, 0.99, 0.0),
    "sam": (0.0, 0.0, 0.0, 0.0, 0.05),
}


def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), norm.batch()(4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 5)).double()


@pytest.mark.parametrize("decay_bias_and_norm", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weight_decay_with_sgd_is_the_penalty(decay_bias_and_norm, momentum):
    penalty = 0.05
    x = torch.randn(16, 2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(16) % 5
    make = optimizer.sgd(lr=0.1, momentum=momentum, nesterov=momentum > 0)
    decayed, explicit = net(), net()
    groups = parameter_groups(decayed, regularization(weight_decay=penalty, decay_bias_and_norm=decay_bias_and_norm))
    by_decay, by_loss = make(groups), make([{"params": list(explicit.parameters())}])
    for _ in range(10):
        by_decay.zero_grad()
        F.cross_entropy(decayed(x), labels).backward()
        by_decay.step()
        by_loss.zero_grad()
        weights = [p for name, p in explicit.named_parameters() if decay_bias_and_norm or name in ("0.weight", "4.weight")]
        (F.cross_entropy(explicit(x), labels) + penalty / 2 * sum(w.square().sum() for w in weights)).backward()
        by_loss.step()
    for a, b in zip(decayed.parameters(), explicit.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    start = net()
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(decayed.parameters(), start.parameters(), strict=True))


def test_weight_decay_with_adamw_is_decoupled():
    model = nn.Linear(3, 2, bias=False)
    before = model.weight.detach().clone()
    update = optimizer.adamw(lr=0.1)(parameter_groups(model, regularization(weight_decay=0.5)))
    model(torch.zeros(1, 3)).sum().backward()  # gradient zero: what is left is the decay
    update.step()
    torch.testing.assert_close(model.weight.detach(), before * (1 - 0.1 * 0.5))


def test_parameter_groups_hold_each_parameter_once():
    model = net()
    model.append(nn.Linear(5, 5))
    model.append(copy.copy(model[-1]))  # shares its parameters
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, regularization(weight_decay=0.1))
    assert [(g["weight_decay"], [names[id(p)] for p in g["params"]]) for g in groups] == [
        (0.1, ["0.weight", "4.weight", "5.weight"]),
        (0.0, ["1.weight", "1.bias", "4.bias", "5.bias"]),
    ]
    (group,) = parameter_groups(model, regularization(weight_decay=0.1, decay_bias_and_norm=True))
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize(("bias", "decays"), [(True, [0.1, 0.0]), (False, [0.1])])
def test_parameter_groups_have_no_empty_group(bias, decays):
    groups = parameter_groups(nn.Linear(2, 2, bias=bias), regularization(weight_decay=0.1))
    assert [g["weight_decay"] for g in groups] == decays


def test_dropout_expectation_is_the_lectures():
    """Mean over masks in training = test output; the lecture's own scaling by 1 - p at test time gives the same ratio."""
    p, n = regularization(dropout=0.3).dropout, 200_000
    x = torch.linspace(-2, 2, 5).expand(n, 5)
    drop = nn.Dropout(p)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        y = drop(x)
    off = (y == 0)[:, [0, 1, 3, 4]].double().mean().item()
    assert off == pytest.approx(p, abs=5 * (p * (1 - p) / (4 * n)) ** 0.5)
    torch.testing.assert_close(y.mean(0), drop.eval()(x)[0], atol=5 * 2 * (p / (1 - p) / n) ** 0.5, rtol=0)
    unscaled = y * (1 - p)  # the lecture's training pass
    torch.testing.assert_close(unscaled.mean(0), (1 - p) * x[0], atol=0.01, rtol=0)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_ema_is_the_weighted_sum_of_all_weights_so_far(decay):
    """And torch's own AveragedModel, once that is told that it has begun."""
    model = net()
    averaging = regularization(ema_decay=decay).averaging
    assert averaging is not None
    average = averaging(model)
    twin = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    twin.n_averaged.fill_(1)
    history = [copy.deepcopy(model.state_dict())]
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        model(torch.randn(3, 2, 5, 5, generator=generator, dtype=torch.float64))
        average.update_parameters(model)
        twin.update_parameters(model)
        history.append(copy.deepcopy(model.state_dict()))
    shares = [decay**4, *((1 - decay) * decay ** (3 - step) for step in range(4))]
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, sum(share * state[name] for share, state in zip(shares, history, strict=True)))
            assert torch.equal(value, twin.module.state_dict()[name])
        else:
            assert (name, value.item()) == ("1.num_batches_tracked", 4)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert regularization().averaging is None


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("radius", [0.05, 2.0])
def test_sam_takes_the_gradient_uphill_and_leaves_the_rest(radius, scale):
    """The slow way: one number after the other, at weights that are moved by hand."""
    generator = torch.Generator().manual_seed(3)
    images, labels = torch.randn(6, 2, 5, 5, generator=generator, dtype=torch.float64), torch.arange(6) % 5
    model, twin = net(), net()
    model.get_submodule("4").bias.requires_grad_(False)
    twin.get_submodule("4").bias.requires_grad_(False)
    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(F.cross_entropy(twin(images), labels), trained)
    length = sum(float((gradient**2).sum()) for gradient in gradients) ** 0.5
    with torch.no_grad():
        for parameter, gradient in zip(trained, gradients, strict=True):
            for place in range(parameter.numel()):
                parameter.view(-1)[place] += radius * gradient.reshape(-1)[place] / length
    expected = torch.autograd.grad(F.cross_entropy(twin(images), labels), trained)
    (scale * F.cross_entropy(model(images), labels)).backward()
    before = copy.deepcopy(model.state_dict())
    second_pass = regularization(sam_radius=radius).second_pass
    assert second_pass is not None
    second_pass(model, lambda: (scale * F.cross_entropy(model(images), labels)).backward())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    found = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, scale * other)
    assert model.get_submodule("4").bias.grad is None
    assert regularization().second_pass is None


def test_sam_stays_where_the_gradient_is_zero():
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.zeros_like(model.weight)
    regularization(sam_radius=1.0).second_pass(model, lambda: model(torch.ones(1, 2)).sum().backward())  # pyright: ignore[reportOptionalCall]
    assert torch.equal(model.weight.grad, torch.ones(1, 2))


@pytest.mark.parametrize("name", SETTINGS)
def test_regularization_yaml_sets_what_its_name_says(name):
    made = instantiate(yaml.safe_load((CONF / f"{name}.yaml").read_text()))
    assert isinstance(made, Regularization)
    found = (made.weight_decay, made.dropout, made.stochastic_depth, made.ema_decay, made.sam_radius)
    assert found == SETTINGS[name]
