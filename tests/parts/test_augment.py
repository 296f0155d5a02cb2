"""Each op against torchvision's per-image counterpart, and what the draws promise."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision.transforms.v2.functional as V
from torchvision.transforms import InterpolationMode

from train.errors import UsageError
from train.parts import augment
from train.parts.contracts import Framing

SHAPES = [(3, 32, 32), (1, 28, 28), (3, 21, 34), (3, 37, 24)]
OPS = {
    "flip": augment.flip(),
    "crop": augment.crop(),
    "color": augment.color(),
    "rotate": augment.rotate(40.0),
    "multi_scale": augment.multi_scale(),
    "erase": augment.erase(),
    "cutout": augment.cutout(),
    "trivial_augment": augment.trivial_augment(),
    "rand_augment": augment.rand_augment(),
    "pipeline": augment.Pipeline([augment.multi_scale(), augment.flip(), augment.crop(), augment.color(), augment.erase()]),
}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(shape, count=16, dtype=torch.uint8):
    images = torch.randint(0, 256, (count, *shape), generator=rng(7), dtype=torch.uint8)
    return images if dtype == torch.uint8 else images.float() / 255


def one_by_one(op, images, reference):
    """What `op` makes of a batch, and what `reference(image, its draws)` makes of each image alone."""
    draws = op.draw(rng(), len(images), tuple(images.shape[1:]))
    alone = [reference(image, {name: value[i] for name, value in draws.items()}) for i, image in enumerate(images)]
    return op.apply(images, draws), torch.stack(alone)


def same(actual, expected):
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 if expected.is_floating_point() else 0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_flip_mirrors_drawn_images(shape, dtype):
    same(*one_by_one(augment.flip(), pictures(shape, dtype=dtype), lambda x, c: V.horizontal_flip(x) if c["flip"] else x))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 73, 75), (3, 74, 74), (1, 128, 128)], ids=["large", "just large", "grey"])
def test_flip_of_large_images_keeps_their_layout(shape, memory_format, dtype):
    images = pictures(shape, dtype=dtype).contiguous(memory_format=memory_format)
    kept, draws = images.clone(), augment.flip().draw(rng(), len(images), shape)
    flipped = augment.flip().apply(images, draws)
    assert torch.equal(flipped, torch.where(draws["flip"][:, None, None, None], images.flip(3), images))
    assert flipped.stride() == images.stride()
    assert torch.equal(images, kept)


@pytest.mark.parametrize("padding", [None, 0, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_crop_cuts_the_padded_image(shape, dtype, padding):
    pixels = math.ceil(min(shape[1:]) / 8) if padding is None else padding

    def reference(image, c):
        return V.crop(V.pad(image, [pixels]), int(c["top"]), int(c["left"]), *image.shape[1:])

    same(*one_by_one(augment.crop(padding), pictures(shape, dtype=dtype), reference))


@pytest.mark.parametrize(("count", "padding"), [(1, 0), (1, 3), (7, 4), (64, 4), (1000, 1)])
def test_crop_draws_all_rows_before_all_columns(count, padding):
    """Runs are repeated by their seeds: what a generator leads to is part of the results."""
    draws = augment.crop(padding).draw(torch.Generator().manual_seed(5), count, (1, 28, 28))
    source = torch.Generator().manual_seed(5)
    for name in ("top", "left"):
        drawn = torch.rand(count, generator=source, dtype=torch.float64) * (2 * padding + 1)
        assert torch.equal(draws[name], drawn.long())


@pytest.mark.parametrize("side", [28, 32])
def test_crop_positions_are_uniform(side):
    draws = augment.crop().draw(rng(), 81 * 200, (1, side, side))
    counts = torch.bincount(draws["top"] * 9 + draws["left"], minlength=81)
    assert len(counts) == 81
    assert ((counts - 200).abs() < 5 * 200**0.5).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_color_matches_torchvision(shape):
    def reference(image, c):
        image = V.adjust_brightness(image, c["brightness"].item())
        return V.adjust_saturation(V.adjust_contrast(image, c["contrast"].item()), c["saturation"].item())

    images = pictures(shape, dtype=torch.float32)
    same(*one_by_one(augment.color(0.8, 0.7, 1.5), images, reference))


def test_color_factors_fill_their_range():
    draws = augment.color(0.4, 1.5, 0.0).draw(rng(), 20_000, (3, 8, 8))
    for name, low, high in (("brightness", 0.6, 1.4), ("contrast", 0.0, 2.5), ("saturation", 1.0, 1.0)):
        factor = draws[name]
        assert factor.min() == pytest.approx(low, abs=1e-3)
        assert factor.max() == pytest.approx(high, abs=1e-3)
        assert factor.mean() == pytest.approx((low + high) / 2, abs=0.03)
    images = pictures((3, 8, 8), dtype=torch.float32)
    op = augment.color(0, 0, 0)
    same(op.apply(images, op.draw(rng(), 16, (3, 8, 8))), images)


@pytest.mark.parametrize("degrees", [15.0, 180.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_rotate_uses_one_angle_per_image(shape, degrees):
    def reference(image, c):
        return V.rotate(image, math.degrees(c["radians"]), InterpolationMode.BILINEAR)

    same(*one_by_one(augment.rotate(degrees), pictures(shape, dtype=torch.float32), reference))


def test_rotate_angles_fill_their_range():
    degrees = augment.rotate(30.0).draw(rng(), 20_000, (1, 8, 8))["radians"].rad2deg()
    assert degrees.abs().max() <= 30.001
    assert degrees.mean() == pytest.approx(0, abs=0.5)
    assert degrees.std() == pytest.approx(60 / 12**0.5, rel=0.02)


def short_side(image, length):
    return V.resize(image, [length], InterpolationMode.BILINEAR, antialias=False)


@pytest.mark.parametrize("fit", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_multi_scale_cuts_the_resized_image(shape, fit):
    op = augment.multi_scale([48, 90], 42, 48, fit_to_data=fit)
    crop = min(shape[1:]) if fit else 42

    def reference(image, c):
        return V.crop(short_side(image, int(c["target"])), int(c["top"]), int(c["left"]), crop, crop)

    images = pictures(shape, dtype=torch.float32)
    same(*one_by_one(op, images, reference))
    assert op.output_shape(shape) == (shape[0], crop, crop)


@pytest.mark.parametrize("shape", [*SHAPES, (3, 300, 256)])
def test_multi_scale_evaluates_the_centre(shape):
    op = augment.multi_scale()
    side = min(shape[1:])
    resized = short_side(pictures(shape, 4, torch.float32), round(256 * side / 224))
    top, left = (resized.shape[2] - side) // 2, (resized.shape[3] - side) // 2
    same(op.evaluate(pictures(shape, 4)), V.crop(resized, top, left, side, side))


def test_multi_scale_draws_every_length_and_position():
    draws = augment.multi_scale().draw(rng(), 50_000, (1, 28, 28))
    assert draws["target"].unique().tolist() == list(range(32, 61))
    for length in (32, 45, 60):
        drawn = draws["target"] == length
        for corner in ("top", "left"):
            assert draws[corner][drawn].unique().tolist() == list(range(length - 28 + 1))


@pytest.mark.parametrize(("height", "width"), [(300, 500), (500, 300), (64, 64)])
def test_framing_region_is_the_crop_in_the_source(height, width):
    op = augment.multi_scale([256, 480], 224, 256, fit_to_data=True)
    assert isinstance(op, Framing)
    assert op.size() == (224, 224)
    short = min(height, width)
    regions = torch.tensor([op.train_region(rng(seed), height, width) for seed in range(2000)], dtype=torch.float64)
    top, left, high, wide = regions.unbind(1)
    assert high.equal(wide)
    assert (high >= 224 / 480 * short - 1e-9).all()
    assert (high <= 224 / 256 * short + 1e-9).all()
    length = 224 * short / high
    assert (length - length.round()).abs().max() < 1e-9
    assert length.mean() == pytest.approx(368, abs=8)
    assert (regions >= 0).all()
    assert (top + high <= height + 1e-9).all()
    assert (left + wide <= width + 1e-9).all()
    for place in (top / (height - high), left / (width - wide)):
        assert place.mean() == pytest.approx(0.5, abs=0.03)
        assert place.std() == pytest.approx(12**-0.5, abs=0.02)
    side = short * 224 / 256
    assert op.test_region(height, width) == pytest.approx(((height - side) / 2, (width - side) / 2, side, side))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_erase_zeroes_drawn_rectangle(shape, dtype):
    def reference(image, c):
        top, left, height, width = (int(c[name]) for name in ("top", "left", "height", "width"))
        return V.erase(image, top, left, height, width, torch.zeros((), dtype=dtype)) if height else image

    images = pictures(shape, 64, dtype)
    actual, expected = one_by_one(augment.erase(), images, reference)
    same(actual, expected)
    assert (actual != images).any()


def test_erase_respects_probability_and_ranges():
    draws = augment.erase(0.3, [0.1, 0.2], [0.5, 2.0]).draw(rng(), 20_000, (3, 200, 200))
    erased = draws["height"] > 0
    assert erased.float().mean() == pytest.approx(0.3, abs=0.015)
    top, left, height, width = (draws[name][erased] for name in ("top", "left", "height", "width"))
    share, ratio = height * width / 200**2, height / width
    assert 0.095 < share.min() < 0.11
    assert 0.19 < share.max() < 0.205
    assert share.mean() == pytest.approx(0.15, abs=0.002)
    assert 0.49 < ratio.min() < 0.52
    assert ratio.log().mean() == pytest.approx(0, abs=0.02)
    assert (top / (200 - height)).mean() == pytest.approx(0.5, abs=0.02)
    assert ((top + height <= 200) & (left + width <= 200)).all()


def test_erase_skips_image_without_fitting_rectangle():
    op, images = augment.erase(1.0, [1.0, 1.0], [3.0, 3.0]), pictures((3, 32, 32))
    same(op.apply(images, op.draw(rng(), 16, (3, 32, 32))), images)


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_flip_respects_probability(p):
    assert augment.flip(p).draw(rng(), 20_000, (1, 8, 8))["flip"].float().mean() == pytest.approx(p, abs=0.015)


@pytest.mark.parametrize("name", OPS)
def test_augment_draws_depend_on_generator(name):
    op, shape = OPS[name], (3, 32, 32)
    state = torch.get_rng_state()
    first, again, other = (op.draw(rng(seed), 64, shape) for seed in (1, 1, 2))
    assert torch.get_rng_state().equal(state)
    for key, value in first.items():
        assert len(value) == 64
        assert value.device.type == "cpu"
        assert value.equal(again[key])
        assert not value.equal(other[key])
        assert len(value.unique()) > 1


@pytest.mark.parametrize("size", [None, 1, 5, 60])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_cutout_erases_the_square_within_the_image(shape, dtype, size):
    side = min(shape[1:]) // 2 if size is None else size

    def reference(image, c):
        bottom, right = int(c["top"]) + side, int(c["left"]) + side
        top, left = max(int(c["top"]), 0), max(int(c["left"]), 0)
        return V.erase(image, top, left, min(bottom, shape[1]) - top, min(right, shape[2]) - left, torch.zeros((), dtype=dtype))

    same(*one_by_one(augment.cutout(size), pictures(shape, dtype=dtype), reference))


def test_cutout_centres_are_uniform_over_all_pixels():
    draws = augment.cutout(4).draw(rng(), 48 * 200, (1, 6, 8))
    counts = torch.bincount((draws["top"] + 2) * 8 + draws["left"] + 2, minlength=48)
    assert len(counts) == 48
    assert ((counts - 200).abs() < 5 * 200**0.5).all()


@pytest.mark.parametrize("name", OPS)
def test_augment_apply_is_pure_and_per_image(name):
    op, shape = OPS[name], (3, 32, 32)
    images = pictures(shape)
    draws = op.draw(rng(), len(images), shape)
    result = op.apply(images, draws)
    assert images.equal(pictures(shape))
    assert tuple(result.shape[1:]) == op.output_shape(shape)
    last = op.apply(images[-1:], {key: value[-1:] for key, value in draws.items()})
    torch.testing.assert_close(result[-1:], last, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["flip", "crop", "color", "rotate", "erase", "cutout", "trivial_augment", "rand_augment"])
def test_augment_evaluate_keeps_images(name):
    images = pictures((3, 32, 32))
    assert OPS[name].evaluate(images) is images


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: augment.Pipeline([augment.flip(), augment.multi_scale()]), "first"),
        (lambda: augment.multi_scale([480, 256]), r"augment.multi_scale.short_side=\[480,256\]"),
        (lambda: augment.multi_scale([200, 256]), r"augment.multi_scale.short_side=\[200,256\]"),
        (lambda: augment.multi_scale(test_short_side=100), "augment.multi_scale.test_short_side=100"),
        (lambda: augment.erase(scale=[0.4, 0.1]), r"augment.erase.scale=\[0.4,0.1\]"),
        (lambda: augment.erase(ratio=[3.0, 1.0]), r"augment.erase.ratio=\[3.0,1.0\]"),
    ],
)
def test_augment_refuses_impossible_settings(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_as_float_scales_bytes_only():
    images = pictures((1, 4, 4))
    same(augment.as_float(images), images / 255)
    noise = torch.randn(2, 1, 4, 4, generator=rng())
    assert augment.as_float(noise) is noise


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("name", OPS)
def test_augment_on_gpu_is_equal_without_waiting(name):
    op, images = OPS[name], pictures((3, 32, 32))
    draws = op.draw(rng(), len(images), (3, 32, 32))
    device = torch.device("cuda")
    on_device = images.to(device)
    op.apply(on_device, {name: augment.send(drawn, device) for name, drawn in draws.items()})  # the first call loads kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = op.apply(on_device, {name: augment.send(drawn, device) for name, drawn in draws.items()})
        op.evaluate(on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(result.cpu(), op.apply(images, draws), rtol=0, atol=1e-4)
