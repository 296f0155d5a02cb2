"""One update against the formulas written out, and one look against image after image."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from train.data.contracts import Batch
from train.parts.optimizer import sgd
from train.parts.regularization import Regularization, parameter_groups
from train.run.device import Placement
from train.run.step import TrainState, eval_step, train_step

CLASSES = 5
FACTORS = [0.25, 1.0, 0.5, 0.0, 2.0]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """The numbers of one step, as a lecture would list them."""

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


def trainee_for(model: nn.Module, case: Case, dtype: torch.dtype = torch.float32, scale: float = 2.0**16) -> TrainState:
    groups = parameter_groups(model, Regularization(case.weight_decay, 0.0, case.label_smoothing, False))
    optimizer = sgd(case.lr, case.momentum, case.nesterov)(groups)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return TrainState(
        model=model,
        forward=model,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler("cpu", init_scale=scale, enabled=dtype is torch.float16),
        placement=Placement(CPU, dtype, torch.contiguous_format, "asked for"),
        label_smoothing=case.label_smoothing,
        grad_clip=case.grad_clip,
    )


def obvious_step(model: nn.Module, velocity: list[Tensor], batch: Batch, case: Case, factor: float) -> tuple[float, int]:
    """Loss and update from their definitions; returns the loss and the number of correct answers."""
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


@pytest.mark.parametrize("name", CASES)
def test_five_updates_follow_the_formulas(name: str) -> None:
    case = CASES[name]
    ours, plain = small_model(), small_model()
    train_state = trainee_for(ours, case)
    velocity = [torch.zeros_like(parameter) for parameter in plain.parameters()]
    for seed, factor in enumerate(FACTORS):
        measured = train_step(train_state, batch_of(8, seed), factor)
        loss, correct = obvious_step(plain, velocity, batch_of(8, seed), case, factor)
        assert measured.loss.item() == pytest.approx(loss, rel=1e-5)
        assert measured.correct.item() == correct
        for (parameter, v), expected in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(v, expected, rtol=1e-5, atol=1e-6, msg=lambda text, at=parameter: f"{at}: {text}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_five_updates_are_torchs_own_to_the_bit(dtype: torch.dtype) -> None:
    case = CASES["all"]
    ours, plain = small_model(), small_model()
    train_state = trainee_for(ours, case, dtype)
    weights = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": case.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=case.lr, momentum=case.momentum, nesterov=case.nesterov, fused=True)
    for seed, factor in enumerate(FACTORS):
        batch = batch_of(8, seed)
        train_step(train_state, batch, factor)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            logits = plain(batch.images)
        loss = nn.functional.cross_entropy(logits.float(), batch.labels, label_smoothing=case.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        assert case.grad_clip is not None
        nn.utils.clip_grad_norm_(plain.parameters(), case.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = case.lr * factor
        optimizer.step()
    for ours_now, plain_now in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours_now, plain_now)


def test_no_gradient_is_left_for_the_next_step() -> None:
    train_state = trainee_for(small_model(), Case())
    train_step(train_state, batch_of(8, 0), 1.0)
    assert all(parameter.grad is None for parameter in train_state.model.parameters())


def test_the_factor_is_on_the_first_learning_rate_and_not_on_the_last() -> None:
    train_state = trainee_for(small_model(), Case(lr=0.4))
    for factor in (0.5, 0.5, 0.25):
        train_step(train_state, batch_of(8, 0), factor)
        assert [group["lr"] for group in train_state.optimizer.param_groups] == [0.4 * factor] * len(
            train_state.optimizer.param_groups
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_clipping_bounds_the_true_gradient_in_every_precision(dtype: torch.dtype) -> None:
    """With loss scaling, what is clipped must be the gradient and not its multiple."""
    case = Case(lr=0.5, grad_clip=0.01)
    model = small_model()
    before = copy.deepcopy(model.state_dict())
    train_step(trainee_for(model, case, dtype), batch_of(8, 0), 1.0)
    moved = sum((value.detach() - before[name]).square().sum().item() for name, value in model.named_parameters()) ** 0.5
    assert moved == pytest.approx(case.lr * 0.01, rel=1e-3)


def test_a_loss_scale_that_overflows_is_halved_and_the_step_left_out() -> None:
    model = small_model()
    before = copy.deepcopy(dict(model.named_parameters()))
    train_state = trainee_for(model, Case(), torch.float16, scale=2.0**40)
    measured = train_step(train_state, batch_of(8, 0), 1.0)
    assert measured.loss.isfinite()
    assert train_state.scaler.get_scale() == 2.0**39
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_a_first_step_that_is_left_out_leaves_nothing_to_later_ones() -> None:
    """The fused kernel of torch would remember whatever lay in the memory it took."""
    model = small_model()
    train_state = trainee_for(model, Case(momentum=0.9), torch.float16, scale=2.0**40)
    spoil = [torch.full_like(p, 1e30) for p in model.parameters() for _ in range(8)]
    del spoil  # what is allocated next is not zero by chance
    train_step(train_state, batch_of(8, 0), 1.0)
    remembered = [state["momentum_buffer"] for state in train_state.optimizer.state.values()]
    assert len(remembered) == len(list(model.parameters()))
    assert not any(value.any() for value in remembered)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measurements_stay_tensors_in_float32(dtype: torch.dtype) -> None:
    measured = train_step(trainee_for(small_model(), Case(), dtype), batch_of(8, 0), 1.0)
    assert (measured.loss.dtype, measured.loss.shape, measured.loss.requires_grad) == (torch.float32, (), False)
    assert measured.correct.shape == ()


def test_a_look_sums_over_images_and_changes_nothing() -> None:
    model = small_model().eval()
    before = copy.deepcopy(model.state_dict())
    batch = batch_of(7, 1)
    seen = eval_step(model, Placement(CPU, torch.float32, torch.contiguous_format, ""), batch)
    loss, correct = 0.0, 0
    for image, label in zip(batch.images, batch.labels, strict=True):
        logits = model(image[None])
        loss += nn.functional.cross_entropy(logits, label[None]).item()
        correct += int(logits.argmax() == label)
    assert seen.loss.item() == pytest.approx(loss, rel=1e-5)
    assert seen.correct.item() == correct
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
