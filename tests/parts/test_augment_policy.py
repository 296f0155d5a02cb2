"""trivial_augment and rand_augment against torchvision's transforms of one image."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from train.parts import augment
from train.parts.augment.policy import LEVELS, NAMES, USUAL, WIDE, Policy

SHAPES = [(3, 32, 32), (1, 28, 28), (3, 21, 34), (1, 2, 5)]
TWINS = {WIDE: v2.TrivialAugmentWide(), USUAL: v2.RandAugment()}


def pictures(shape: tuple[int, int, int], count: int) -> torch.Tensor:
    """Return smooth images, as nearest pixels of noise are all different, with some constant channels among them."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand((count, shape[0], 4, 4), generator=generator)
    images = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear") * 255
    images[0, 0] = 40
    return images.to(torch.uint8)


def twin(image: torch.Tensor, number: int, magnitude: float, limits: object) -> torch.Tensor:
    """Return what torchvision makes of one image."""
    made = TWINS[limits]  # pyright: ignore[reportArgumentType]
    name = NAMES[number]
    make, signed = made._AUGMENTATION_SPACE[name]
    levels = make(LEVELS, *image.shape[1:])
    strength = 0.0 if levels is None else float(levels[round(abs(magnitude) * (LEVELS - 1))])
    strength = round(strength, 5)  # linspace has 15.999999 in the place of 16, of which whole pixels are taken
    strength = -strength if signed and magnitude < 0 else strength
    return made._apply_image_or_video_transform(image, name, strength, InterpolationMode.NEAREST, {type(image): None})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shape", "limits"), [*((shape, WIDE) for shape in SHAPES), (SHAPES[0], USUAL)])
def test_transformation_is_torchvisions(shape: tuple[int, int, int], name: str, limits: object) -> None:
    """But for pixels in the middle between two, bytes at the edge of two, and a threshold that a float misses."""
    magnitudes = torch.arange(-LEVELS + 1, LEVELS).float() / (LEVELS - 1)
    images, number = pictures(shape, len(magnitudes)), NAMES.index(name)
    draws = {"number": torch.full((len(images), 1), number), "magnitude": magnitudes[:, None]}
    made = Policy(1, None, limits).apply(images, draws)  # pyright: ignore[reportArgumentType]
    expected = torch.stack([twin(image, number, m, limits) for image, m in zip(images, magnitudes.tolist(), strict=True)])
    assert made.dtype == expected.dtype == torch.uint8
    difference = (made.int() - expected.int()).abs()
    if name == "Solarize":
        thresholds = (255 * (1 - magnitudes.abs())).round()[:, None, None, None]
        assert not difference[images != thresholds].any()
    elif name in ("ShearX", "ShearY", "Rotate"):
        assert (difference > 0).float().mean() < 0.01
    else:
        assert difference.max() <= (1 if name in NAMES[6:10] else 0)
        assert (difference > 0).float().mean() < 0.02
    if name != "Identity" and shape[1] > 2 and not (name == "Color" and shape[0] == 1):
        assert (made != images).any()


def test_rand_augment_applies_transformations_in_order() -> None:
    op, images = augment.rand_augment(3, 12), pictures((3, 32, 32), 24)
    draws = op.draw(torch.Generator().manual_seed(1), 24, (3, 32, 32))
    assert draws["magnitude"].abs().unique().tolist() == pytest.approx([12 / 30])
    expected = images
    for step in range(3):
        alone = {name: value[:, step : step + 1] for name, value in draws.items()}
        expected = Policy(1, None, USUAL).apply(expected, alone)
    assert op.apply(images, draws).equal(expected)


def test_transformations_levels_and_signs_are_drawn_uniformly() -> None:
    count = 42_000
    draws = augment.trivial_augment().draw(torch.Generator().manual_seed(0), count, (1, 8, 8))
    numbers = torch.bincount(draws["number"][:, 0], minlength=len(NAMES)) / count
    levels = torch.bincount((draws["magnitude"][:, 0].abs() * 30).round().long(), minlength=LEVELS) / count
    for share in (numbers, levels):
        expected = 1 / len(share)
        assert (share - expected).abs().max() < 5 * (expected / count) ** 0.5
    assert (draws["magnitude"] < 0).float().mean() == pytest.approx(30 / 31 / 2, abs=0.02)


@pytest.mark.parametrize("op", [augment.trivial_augment(), augment.rand_augment()])
def test_floats_are_taken_as_the_nearest_bytes(op: Policy) -> None:
    images = pictures((3, 16, 16), 20)
    draws = op.draw(torch.Generator().manual_seed(2), 20, (3, 16, 16))
    assert op.apply(images.float() / 255, draws).equal(op.apply(images, draws))
