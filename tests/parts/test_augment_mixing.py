"""mixup and cutmix against torchvision's, with one weight for the whole batch, and how labels and answers are mixed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from train.data.array_reader import ArrayReader
from train.data.batches import Batching
from train.data.contracts import Arrays, Batch, MixedLabels
from train.data.preprocess import Preprocess
from train.errors import UsageError
from train.parts import augment
from train.parts.contracts import Draws
from train.run.step import answers

COUNT, CLASSES = 6, 4
IMAGES = torch.rand(COUNT, 3, 12, 20, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 3, 1, 0])
OPS = [augment.mixup(), augment.cutmix()]


def drawn(op: augment.Mixup | augment.Cutmix, count: int = COUNT, seed: int = 3, size: tuple[int, int] = (12, 20)) -> Draws:
    return op.draw(torch.Generator().manual_seed(seed), count, (3, *size))


def torchvisions(op: augment.Mixup | augment.Cutmix, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return images and soft labels of torchvision's transform of the batch, given the draws of the first image."""
    lam = float(draws["share"][0])
    params: dict[str, object] = {"labels": LABELS, "batch_size": COUNT, "lam": lam, "lam_adjusted": lam}
    if isinstance(op, augment.Mixup):
        transform: v2.Transform = v2.MixUp(num_classes=CLASSES)
    else:
        transform = v2.CutMix(num_classes=CLASSES)
        params["box"] = tuple(int(draws[edge][0]) for edge in ("left", "top", "right", "bottom"))
    return transform.transform(IMAGES, params), transform.transform(LABELS, params)


def mixed_labels(op: augment.Mixup | augment.Cutmix, draws: Draws) -> MixedLabels:
    mixture = op.mixture(draws)
    return MixedLabels(LABELS[mixture.partner], mixture.share)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("seed", range(4))
def test_mixed_images_and_labels_are_torchvisions(op: augment.Mixup | augment.Cutmix, seed: int) -> None:
    draws = {name: value[:1].expand(COUNT) for name, value in drawn(op, seed=seed).items()}
    images, soft = torchvisions(op, draws)
    torch.testing.assert_close(op.apply(IMAGES, draws), images)
    mixed = mixed_labels(op, draws)
    share = mixed.share[:, None]
    torch.testing.assert_close(share * F.one_hot(LABELS, CLASSES) + (1 - share) * F.one_hot(mixed.others, CLASSES), soft)


@pytest.mark.parametrize("op", OPS)
def test_each_image_has_its_own_weight(op: augment.Mixup | augment.Cutmix) -> None:
    draws = drawn(op)
    whole = op.apply(IMAGES, draws)
    for index in range(COUNT):
        alone = {name: value[index : index + 1].expand(2) for name, value in draws.items()}
        assert torch.equal(op.apply(IMAGES[[index - 1, index]], alone)[1], whole[index])


def test_cutmix_box_has_the_drawn_area_unless_it_is_cut() -> None:
    draws = drawn(augment.cutmix(), 20_000, size=(100, 100))
    height, width = draws["bottom"] - draws["top"], draws["right"] - draws["left"]
    torch.testing.assert_close(draws["share"], 1 - height * width / 10_000)
    inside = (draws["top"] > 0) & (draws["left"] > 0) & (draws["bottom"] < 100) & (draws["right"] < 100)
    assert (height == width)[inside].all()
    assert inside.any()
    assert draws["share"].mean() == pytest.approx(0.68, abs=0.02)  # 1/2, and what borders cut off


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weight_has_the_moments_of_beta(alpha: float) -> None:
    share = drawn(augment.mixup(alpha), 20_000)["share"]
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


@pytest.mark.parametrize("op", OPS)
def test_answers_count_either_label_by_its_share(op: augment.Mixup | augment.Cutmix) -> None:
    logits = torch.randn(COUNT, CLASSES, generator=torch.Generator().manual_seed(2))
    mixed = mixed_labels(op, drawn(op))
    expected = 0.0
    for index, found in enumerate(logits.argmax(1)):
        share = float(mixed.share[index])
        expected += share * (found == LABELS[index]).item() + (1 - share) * (found == mixed.others[index]).item()
    assert answers(logits, Batch(IMAGES, LABELS, mixed)).item() == pytest.approx(expected, rel=1e-6)
    assert answers(logits, Batch(IMAGES, LABELS)).dtype == torch.int64


@pytest.mark.parametrize("op", OPS)
def test_reader_mixes_labels_as_images(op: augment.Mixup | augment.Cutmix) -> None:
    """Each image is constant and of the value of its label, so that its content tells what is in it."""
    labels = torch.arange(8)
    images = (labels.float()[:, None, None, None] / 8).expand(8, 1, 16, 16)
    batching = Batching(8, torch.device("cpu"), 0, 0)
    pipeline = augment.Pipeline([augment.flip(), op])
    (batch,) = ArrayReader(Arrays(images, labels), pipeline, Preprocess("none", (0.0,), (1.0,)), batching).epoch(0)
    assert batch.mixed is not None
    mean = (batch.mixed.share * batch.labels + (1 - batch.mixed.share) * batch.mixed.others) / 8
    torch.testing.assert_close(batch.images.mean((1, 2, 3)), mean)
    assert sorted(batch.mixed.others.tolist()) == labels.tolist()
    assert not (batch.mixed.others == batch.labels).any()


def test_pipeline_mixes_once() -> None:
    with pytest.raises(UsageError, match="augment: Mixup and Cutmix both mix the images and labels of a batch"):
        augment.Pipeline(OPS)
