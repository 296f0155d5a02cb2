"""Noise, the validation split and the pre-processing, against their definitions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from train.data.contracts import Arrays, Files, Source, Splits
from train.data.noise import noise
from train.data.preprocess import Preprocess, channel_histogram, fit_pixels, preprocess_from_histogram
from train.data.split import keep_fraction, refuse_single_label, split_validation
from train.errors import UsageError


def numbered(labels):
    """Arrays whose image number i holds i, as two bytes."""
    places = torch.arange(len(labels))
    images = torch.stack([places // 256, places % 256], dim=1).to(torch.uint8).view(-1, 2, 1, 1)
    return Arrays(images, torch.as_tensor(labels))


def places(source: Source | None) -> list[int]:
    """Which images of `numbered` these are."""
    assert isinstance(source, Arrays)
    return (source.images[:, 0].long() * 256 + source.images[:, 1].long()).flatten().tolist()


def random_bytes(*shape, seed=0, high=256):
    return torch.randint(high, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# noise


@pytest.mark.parametrize("shape", [[3, 8, 8], [512, 1, 1]])
def test_noise_is_standard_normal_with_every_label(shape):
    dataset = noise(shape=shape, classes=7, train_size=400, test_size=300)
    splits = dataset.load()
    assert len(dataset.class_names) == 7
    for split, size in ((splits.train, 400), (splits.test, 300)):
        assert isinstance(split, Arrays)
        assert split.images.shape == (size, *shape) == (size, *dataset.shape)
        assert split.images.dtype == torch.float32
        assert abs(split.images.mean().item()) < 0.02
        assert split.images.std().item() == pytest.approx(1, abs=0.02)
        assert split.labels.unique().tolist() == list(range(7))


def test_noise_depends_on_seed_and_split():
    parts: list[Arrays] = []
    for seed in (0, 0, 1):
        splits = noise(seed=seed, train_size=8, test_size=8).load()
        parts += [part for part in (splits.train, splits.test) if isinstance(part, Arrays)]
    train, test, train_again, test_again, other_train, _ = parts
    assert torch.equal(train.images, train_again.images)
    assert torch.equal(test.labels, test_again.labels)
    assert not torch.equal(train.images, other_train.images)
    assert not torch.equal(train.images, test.images)


# split


LABELS = torch.tensor([0] * 40 + [1] * 25 + [2] * 3 + [3])[torch.randperm(69, generator=torch.Generator().manual_seed(9))]


def test_refuse_single_label_names_the_class():
    refuse_single_label(numbered(LABELS), ("a", "b", "c", "d"))
    with pytest.raises(UsageError, match=r"All 40 training images are of the class 'a', number 0 of 4\."):
        refuse_single_label(numbered(LABELS[LABELS == 0]), ("a", "b", "c", "d"))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_split_validation_is_stratified_and_ordered(fraction):
    splits = Splits(train=numbered(LABELS), test=numbered(LABELS))
    divided = split_validation(splits, fraction, seed=3)
    assert divided.val is not None
    assert divided.test is splits.test
    for label in range(4):
        n = LABELS.tolist().count(label)
        expected = min(int(np.floor(fraction * n + 0.5)), n - 1)
        assert int((divided.val.labels == label).sum()) == expected
        assert int((divided.train.labels == label).sum()) == n - expected >= 1
    assert sorted(places(divided.train) + places(divided.val)) == list(range(len(LABELS)))
    for part in (divided.train, divided.val):
        assert places(part) == sorted(places(part))
        assert torch.equal(part.labels, LABELS[places(part)])


def test_split_validation_depends_on_seed():
    splits = Splits(train=numbered(LABELS), test=numbered(LABELS))
    drawn = [places(split_validation(splits, 0.3, seed).val) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("seed", [0, 3])
def test_images_of_a_smaller_fraction_are_among_those_of_a_larger(seed):
    whole = Splits(train=numbered(LABELS), test=numbered(LABELS))
    divided = split_validation(whole, 0.2, seed)
    larger = set(places(divided.train))
    for fraction in (1, 0.9, 0.5, 0.25, 0.1, 1e-9):
        kept = keep_fraction(divided, fraction, seed)
        found = places(kept.train)
        assert set(found) <= larger
        assert found == sorted(found)
        assert torch.equal(kept.train.labels, LABELS[found])
        assert kept.val is divided.val
        assert kept.test is divided.test
        for label in range(4):
            n = int((divided.train.labels == label).sum())
            assert int((kept.train.labels == label).sum()) == max(1, int(np.floor(fraction * n + 0.5)))
        larger = set(found)
    assert keep_fraction(divided, 1.0, seed) is divided


def test_fraction_depends_on_seed_and_not_on_the_validation_split():
    whole = Splits(train=numbered(LABELS), test=numbered(LABELS))
    drawn = [places(keep_fraction(whole, 0.3, seed).train) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) != set(places(split_validation(whole, 0.3, 0).val)), "draws of their own"


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1])
def test_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(UsageError, match=r"data\.train_fraction="):
        keep_fraction(Splits(train=numbered(LABELS), test=numbered(LABELS)), fraction, 0)


def test_split_validation_treats_files_like_arrays():
    paths = tuple(Path(f"{number}.png") for number in range(len(LABELS)))
    files = split_validation(Splits(train=Files(paths, LABELS), test=Files((), LABELS[:0])), 0.3, seed=5)
    arrays = split_validation(Splits(train=numbered(LABELS), test=numbered(LABELS)), 0.3, seed=5)
    for source, twin in ((files.train, arrays.train), (files.val, arrays.val)):
        assert isinstance(source, Files)
        assert isinstance(twin, Arrays)
        assert [int(path.stem) for path in source.paths] == places(twin)
        assert torch.equal(source.labels, twin.labels)


def test_split_validation_keeps_own_or_no_split():
    part = numbered(LABELS)
    for splits, fraction in ((Splits(part, part), 0.0), (Splits(part, part, val=part), 0.2)):
        assert split_validation(splits, fraction, seed=0) is splits


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 0.001, float("nan")])
def test_split_validation_refuses_impossible_fraction(fraction):
    with pytest.raises(UsageError, match=r"data\.val_fraction"):
        split_validation(Splits(train=numbered(LABELS), test=numbered(LABELS)), fraction, seed=0)


# statistics


@pytest.mark.parametrize("channels", [1, 3])
def test_fit_pixels_matches_numpy(channels):
    images = random_bytes(700, channels, 5, 6) // torch.tensor([1, 3, 7][:channels]).view(-1, 1, 1).to(torch.uint8)
    scaled = images.numpy().astype(np.float64) / 255
    fitted = fit_pixels("standardize", Arrays(images, torch.zeros(700).long()))
    np.testing.assert_allclose(fitted.mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(fitted.std, scaled.std((0, 2, 3)), rtol=1e-12)
    floats = fit_pixels("standardize", Arrays(torch.from_numpy(scaled).float(), torch.zeros(700).long()))
    np.testing.assert_allclose(floats.mean, fitted.mean, rtol=1e-6)
    np.testing.assert_allclose(floats.std, fitted.std, rtol=1e-6)


def test_channel_histogram_of_parts_adds_up():
    images = random_bytes(600, 3, 4, 4)
    whole = preprocess_from_histogram("standardize", channel_histogram(images))
    assert preprocess_from_histogram("standardize", channel_histogram(images[:77]) + channel_histogram(images[77:])) == whole
    assert fit_pixels("standardize", Arrays(images, torch.zeros(600).long())) == whole


REFERENCE = {
    "none": lambda x, _: x,
    "zero_center": lambda x, train: x - train.mean((0, 2, 3), keepdims=True),
    "standardize": lambda x, train: (x - train.mean((0, 2, 3), keepdims=True)) / train.std((0, 2, 3), keepdims=True),
}


@pytest.mark.parametrize("kind", sorted(REFERENCE))
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("as_bytes", [True, False])
def test_preprocess_apply_is_the_formula(kind, memory_format, as_bytes):
    train, images = random_bytes(50, 3, 6, 6, high=200), random_bytes(9, 3, 6, 6, seed=1)
    train64, images64 = (values.numpy().astype(np.float64) / 255 for values in (train, images))
    preprocess = fit_pixels(kind, Arrays(train, torch.zeros(50).long()))
    given = images if as_bytes else torch.from_numpy(images64).float()
    kept = given.clone()
    out = preprocess.apply(given, memory_format)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=memory_format)
    np.testing.assert_allclose(out.numpy(), REFERENCE[kind](images64, train64), atol=3e-6)
    out.zero_()
    assert torch.equal(given, kept)  # the result is never the input itself


@pytest.mark.parametrize("kind", sorted(REFERENCE))
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [0, 9])
def test_preprocess_of_channels_last_has_the_same_bits(kind, memory_format, channels, count):
    images = random_bytes(count, channels, 6, 7, seed=1)
    preprocess = Preprocess(kind, (0.2, 0.3, 0.4)[:channels], (0.5, 0.6, 0.7)[:channels])
    out = preprocess.apply(images.contiguous(memory_format=torch.channels_last), memory_format)
    assert out.is_contiguous(memory_format=memory_format)
    assert torch.equal(out, preprocess.apply(images, memory_format))


def test_preprocess_describe_is_what_it_applies():
    train = Arrays(random_bytes(20, 2, 3, 3), torch.zeros(20).long())
    standard = fit_pixels("standardize", train)
    assert fit_pixels("none", train) == Preprocess("none", (0.0, 0.0), (1.0, 1.0))
    assert fit_pixels("zero_center", train) == Preprocess("zero_center", standard.mean, (1.0, 1.0))


def test_preprocess_constant_channel_keeps_std_one():
    images = random_bytes(20, 2, 3, 3)
    images[:, 1] = 51
    fitted = fit_pixels("standardize", Arrays(images, torch.zeros(20).long()))
    assert fitted.mean[1] == pytest.approx(0.2)
    assert fitted.std[1] == 1.0
    assert fitted.apply(images)[:, 1].abs().max() < 1e-6
