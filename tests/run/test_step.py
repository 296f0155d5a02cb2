"""The train step against its formulas, and the eval step against one image at a time."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tests.steps import train_step
from train.data.contracts import Batch, MixedLabels
from train.parts.optimizer import sgd
from train.parts.regularization import Regularization, parameter_groups
from train.run.device import Placement
from train.run.step import TrainState, eval_step, training_loss

CLASSES = 5
FACTORS = [0.25, 1.0, 0.5, 0.0, 2.0]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """The hyperparameters of one train step."""

    lr: float = 0.3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    grad_clip: float | None = None


CASES = {
    "plain": Case(),
    "momentum": Case(momentum=0.9),
    "nesterov": Case(momentum=0.9, nesterov=True),
    "smoothed": Case(label_smoothing=0.2),
    "decayed": Case(weight_decay=0.1),
    "clipped": Case(grad_clip=0.2),
    "never clipped": Case(grad_clip=1e6),
    "all": Case(momentum=0.9, nesterov=True, weight_decay=0.1, label_smoothing=0.2, grad_clip=0.2),
}


def small_model() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 4, CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model


def batch_of(count: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(count, 2, 6, 6, generator=generator), torch.randint(CLASSES, (count,), generator=generator))


def train_state_for(model: nn.Module, case: Case, dtype: torch.dtype = torch.float32, scale: float = 2.0**16) -> TrainState:
    groups = parameter_groups(model, Regularization(case.weight_decay, 0.0, case.label_smoothing, False))
    optimizer = sgd(case.lr, case.momentum, case.nesterov)(groups)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return TrainState(
        model=model,
        forward=model,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler("cpu", init_scale=scale, enabled=dtype is torch.float16),
        placement=Placement(CPU, dtype, torch.contiguous_format, "requested"),
        label_smoothing=case.label_smoothing,
        grad_clip=case.grad_clip,
    )


def reference_step(model: nn.Module, velocity: list[Tensor], batch: Batch, case: Case, factor: float) -> tuple[float, int]:
    """Update by the definitions; return the loss and the number of correct answers."""
    logits = model(batch.images)
    target = torch.full_like(logits, case.label_smoothing / CLASSES)
    for row, label in enumerate(batch.labels.tolist()):
        target[row, label] += 1 - case.label_smoothing
    loss = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    length = sum(gradient.square().sum() for gradient in gradients) ** 0.5
    shrink = 1.0 if case.grad_clip is None else min(1.0, case.grad_clip / float(length))
    with torch.no_grad():
        for parameter, v, gradient in zip(parameters, velocity, gradients, strict=True):
            is_bias_or_norm = parameter.ndim < 2
            g = gradient * shrink + (0 if is_bias_or_norm else case.weight_decay) * parameter
            v.mul_(case.momentum).add_(g)
            parameter -= case.lr * factor * (g + case.momentum * v if case.nesterov else v)
    return loss.item(), int((logits.argmax(dim=1) == batch.labels).sum())


def test_loss_of_mixed_labels_is_that_of_mixed_targets() -> None:
    case = Case(label_smoothing=0.2)
    plain, share = batch_of(8, 1), torch.rand(8, generator=torch.Generator().manual_seed(5))
    others = plain.labels.roll(1)
    train_state = train_state_for(small_model(), case)
    batch = Batch(plain.images, plain.labels, MixedLabels(others, share))
    loss, logits = training_loss(train_state, train_state.forward, batch)
    own, other = (nn.functional.one_hot(labels, CLASSES) for labels in (plain.labels, others))
    target = share[:, None] * own + (1 - share[:, None]) * other
    expected = nn.functional.cross_entropy(logits, target, label_smoothing=0.2)
    torch.testing.assert_close(loss, expected)
    assert (loss - training_loss(train_state, train_state.forward, plain)[0]).abs() > 0.01


@pytest.mark.parametrize("name", CASES)
def test_train_step_matches_formulas(name: str) -> None:
    case = CASES[name]
    model, reference = small_model(), small_model()
    train_state = train_state_for(model, case)
    velocity = [torch.zeros_like(parameter) for parameter in reference.parameters()]
    for seed, factor in enumerate(FACTORS):
        measured = train_step(train_state, batch_of(8, seed), factor)
        loss, correct = reference_step(reference, velocity, batch_of(8, seed), case, factor)
        assert measured.loss.item() == pytest.approx(loss, rel=1e-5)
        assert measured.correct.item() == correct
        for (parameter, v), expected in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
            torch.testing.assert_close(v, expected, rtol=1e-5, atol=1e-6, msg=lambda text, at=parameter: f"{at}: {text}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_train_step_is_bit_exact_with_torch(dtype: torch.dtype) -> None:
    case = CASES["all"]
    model, reference = small_model(), small_model()
    train_state = train_state_for(model, case, dtype)
    weights = [p for p in reference.parameters() if p.ndim > 1]
    others = [p for p in reference.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": case.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=case.lr, momentum=case.momentum, nesterov=case.nesterov, fused=True)
    for seed, factor in enumerate(FACTORS):
        batch = batch_of(8, seed)
        train_step(train_state, batch, factor)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            logits = reference(batch.images)
        loss = nn.functional.cross_entropy(logits.float(), batch.labels, label_smoothing=case.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        assert case.grad_clip is not None
        nn.utils.clip_grad_norm_(reference.parameters(), case.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = case.lr * factor
        optimizer.step()
    for value, expected in zip(model.state_dict().values(), reference.state_dict().values(), strict=True):
        assert torch.equal(value, expected)


def test_train_step_clears_gradients() -> None:
    train_state = train_state_for(small_model(), Case())
    train_step(train_state, batch_of(8, 0), 1.0)
    assert all(parameter.grad is None for parameter in train_state.model.parameters())


def test_lr_factor_applies_to_initial_lr() -> None:
    train_state = train_state_for(small_model(), Case(lr=0.4))
    for factor in (0.5, 0.5, 0.25):
        train_step(train_state, batch_of(8, 0), factor)
        assert [group["lr"] for group in train_state.optimizer.param_groups] == [0.4 * factor] * len(
            train_state.optimizer.param_groups
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_grad_clip_bounds_unscaled_gradient(dtype: torch.dtype) -> None:
    """With loss scaling, the gradient must be unscaled before clipping."""
    case = Case(lr=0.5, grad_clip=0.01)
    model = small_model()
    before = copy.deepcopy(model.state_dict())
    train_step(train_state_for(model, case, dtype), batch_of(8, 0), 1.0)
    distance = sum((value.detach() - before[name]).square().sum().item() for name, value in model.named_parameters()) ** 0.5
    assert distance == pytest.approx(case.lr * 0.01, rel=1e-3)


def test_loss_scale_overflow_halves_scale_and_skips_step() -> None:
    model = small_model()
    before = copy.deepcopy(dict(model.named_parameters()))
    train_state = train_state_for(model, Case(), torch.float16, scale=2.0**40)
    measured = train_step(train_state, batch_of(8, 0), 1.0)
    assert measured.loss.isfinite()
    assert train_state.scaler.get_scale() == 2.0**39
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_skipped_first_step_leaves_momentum_zero() -> None:
    """Torch's fused kernel would take momentum from uninitialised memory."""
    model = small_model()
    train_state = train_state_for(model, Case(momentum=0.9), torch.float16, scale=2.0**40)
    garbage = [torch.full_like(p, 1e30) for p in model.parameters() for _ in range(8)]
    del garbage  # so that freshly allocated memory is not zero by chance
    train_step(train_state, batch_of(8, 0), 1.0)
    momenta = [state["momentum_buffer"] for state in train_state.optimizer.state.values()]
    assert len(momenta) == len(list(model.parameters()))
    assert not any(value.any() for value in momenta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_train_step_returns_detached_float32_tensors(dtype: torch.dtype) -> None:
    measured = train_step(train_state_for(small_model(), Case(), dtype), batch_of(8, 0), 1.0)
    assert (measured.loss.dtype, measured.loss.shape, measured.loss.requires_grad) == (torch.float32, (), False)
    assert measured.correct.shape == ()


def test_eval_step_sums_over_images_and_changes_nothing() -> None:
    model = small_model().eval()
    before = copy.deepcopy(model.state_dict())
    batch = batch_of(7, 1)
    measured = eval_step(model, Placement(CPU, torch.float32, torch.contiguous_format, ""), batch)
    loss, correct = 0.0, 0
    for image, label in zip(batch.images, batch.labels, strict=True):
        logits = model(image[None])
        loss += nn.functional.cross_entropy(logits, label[None]).item()
        correct += int(logits.argmax() == label)
    assert measured.loss.item() == pytest.approx(loss, rel=1e-5)
    assert measured.correct.item() == correct
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
