"""Batches from memory, against a reader that takes one image after the other."""

from itertools import islice

import pytest
import torch

from train.data.array_reader import ArrayReader
from train.data.batches import Batching
from train.data.contracts import Arrays
from train.data.draws import AHEAD
from train.data.preprocess import Preprocess, fit_pixels
from train.errors import UsageError
from train.parts.augment import Pipeline, alternating_flip, color, crop, flip
from train.rng import generator

CPU = torch.device("cpu")
DEVICES = [
    pytest.param("cpu"),
    pytest.param("cuda", marks=pytest.mark.cuda),
]
PLAIN = Preprocess("none", (0.0,), (1.0,))


class Shift:
    """Adds a drawn number to each image in training, 100 in evaluation."""

    def draw(self, generator, count, shape):  # noqa: ARG002
        return {"by": torch.randint(1, 50, (count,), generator=generator)}

    def apply(self, images, choices):
        return images + choices["by"].to(images.device, images.dtype).view(-1, 1, 1, 1)

    def evaluate(self, images):
        return images + 100

    def output_shape(self, shape):
        return shape


def numbered(count):
    """Image number i is filled with i and has label 1000 + i."""
    labels = torch.arange(count)
    return Arrays(labels.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 4, 5), labels + 1000)


def photographs(count):
    source = torch.Generator().manual_seed(4)
    return Arrays(torch.randint(256, (count, 3, 12, 12), dtype=torch.uint8, generator=source), torch.arange(count))


def reader(source, op=None, preprocess=PLAIN, batch_size=8, device=CPU, order_seed=1, augment_seed=2, **settings):
    op = Pipeline([]) if op is None else op
    settings = {"batch_size": batch_size, "device": device, "order_seed": order_seed, "augment_seed": augment_seed, **settings}
    return ArrayReader(source, op, preprocess, Batching(**settings))


def values(batches):
    """(images, labels) of each batch, on the CPU."""
    return [(batch.images.cpu(), batch.labels.cpu()) for batch in batches]


def same(some, others):
    return len(some) == len(others) and all(
        torch.equal(images, more_images) and torch.equal(labels, more_labels)
        for (images, labels), (more_images, more_labels) in zip(some, others, strict=True)
    )


def whole_number(images):
    """The number that fills each image of `numbered`, after division by 255."""
    assert (images == images[:, :, :1, :1]).all()
    return (images[:, 0, 0, 0] * 255).round().long()


def test_reader_epoch_pairs_labels_and_never_repeats():
    batches = values(reader(numbered(50)).epoch(0))
    assert [len(labels) for _, labels in batches] == [8] * 6
    for images, labels in batches:
        assert torch.equal(whole_number(images) + 1000, labels)
    assert len(torch.cat([labels for _, labels in batches]).unique()) == 48


def test_reader_epoch_of_full_batches_has_every_image():
    labels = torch.cat([labels for _, labels in values(reader(numbered(48)).epoch(3))])
    assert labels.sort().values.tolist() == list(range(1000, 1048))


def test_reader_order_depends_on_seed_and_epoch():
    orders = [
        torch.cat([labels for _, labels in values(reader(numbered(40), order_seed=seed).epoch(epoch))]).tolist()
        for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3] != orders[0]
    expected = torch.randperm(40, generator=generator(1, "order", 0)) + 1000
    assert orders[0] == expected.tolist()


def test_reader_augmentation_depends_on_seed_and_step():
    batches = values(reader(numbered(40), Shift()).epoch(2))
    for step, (images, labels) in enumerate(batches):
        by = Shift().draw(generator(2, "augment", 2, step), 8, (1, 4, 5))["by"]
        assert torch.equal(whole_number(images), labels - 1000 + by)
    other = values(reader(numbered(40), Shift(), augment_seed=3).epoch(2))
    assert all(torch.equal(labels, more) for (_, labels), (_, more) in zip(batches, other, strict=True))
    assert not same(batches, other)


@pytest.mark.parametrize("start", [0, 1, 4, 5])
@pytest.mark.parametrize("op", [Shift(), Pipeline([flip(), crop(padding=2), color()])])
def test_reader_epoch_from_start_is_the_bit_exact_tail(op, start):
    source = photographs(41)
    whole = values(reader(source, op, fit_pixels("standardize", source)).epoch(1))
    tail = values(reader(source, op, fit_pixels("standardize", source)).epoch(1, start=start))
    assert same(tail, whole[start:])


@pytest.mark.parametrize("start", [0, 1, AHEAD - 1, AHEAD, AHEAD + 1, 2 * AHEAD, 69])
@pytest.mark.parametrize("op", [Pipeline([]), Pipeline([crop(), flip()]), Shift()])
def test_reader_draws_ahead_what_each_step_would_draw(op, start):
    """More steps than are drawn ahead, from any of them on, and ended at any of them."""
    source = photographs(70)
    some, whole = reader(source, op, batch_size=1), values(reader(source, op, batch_size=1).epoch(3))
    assert same(values(some.epoch(3, start)), whole[start:])
    assert same(values(islice(some.epoch(3, start), 5)), whole[start : start + 5])
    order = torch.randperm(70, generator=generator(1, "order", 3))
    for step in (start, 69):
        draws = op.draw(generator(2, "augment", 3, step), 1, (3, 12, 12))
        assert torch.equal(whole[step][0], PLAIN.apply(op.apply(source.images[order[step : step + 1]], draws)))


@pytest.mark.parametrize(("seed", "epochs"), [(2, (0, 1, 2, 3, 9, 10)), (3, (4, 5))])
def test_alternating_flip_shows_both_sides_of_every_image_in_two_epochs(seed, epochs):
    """The slow way: the side of each image is drawn once, and changes with each epoch."""
    source, side = photographs(40), torch.rand(40, generator=generator(seed, "augment")) < 0.5
    alternating = reader(source, Pipeline([crop(padding=0), alternating_flip()]), augment_seed=seed)
    for epoch in epochs:
        for images, labels in values(alternating.epoch(epoch)):
            for image, index in zip(images, labels.tolist(), strict=True):
                mirrored = bool(side[index]) ^ (epoch % 2 == 1)
                original = PLAIN.apply(source.images[index : index + 1])[0]
                assert torch.equal(image, original.flip(2) if mirrored else original)


def test_sides_of_images_do_not_depend_on_batches_order_or_the_step_of_a_resume():
    def sides(start=0, epoch=0, **settings):
        batches = reader(photographs(40), Pipeline([alternating_flip()]), **settings).epoch(epoch, start)
        return {int(label): image for images, labels in values(batches) for image, label in zip(images, labels, strict=True)}

    whole = sides()
    for other in (sides(batch_size=5), sides(order_seed=7), sides(start=3)):
        assert all(torch.equal(image, whole[label]) for label, image in other.items())
    assert any(not torch.equal(image, whole[label]) for label, image in sides(augment_seed=3).items())
    assert all(not torch.equal(image, whole[label]) for label, image in sides(epoch=1).items())


@pytest.mark.parametrize("batch_size", [8, 50, 64])
def test_reader_eval_batches_keep_order_and_draw_nothing(batch_size):
    source = numbered(50)
    batches = values(reader(source, Shift(), batch_size=batch_size).eval_batches())
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(labels, source.labels)
    assert torch.equal(whole_number(images), source.labels - 1000 + 100)
    assert max(len(labels) for _, labels in batches) == min(batch_size, 50)


@pytest.mark.parametrize("op", [Shift(), Pipeline([flip(), crop(padding=2)]), Pipeline([color(), crop(padding=2), flip()])])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("device", DEVICES)
def test_reader_batch_equals_single_images(op, memory_format, device):
    source = photographs(33)
    preprocess = fit_pixels("standardize", source)
    order = torch.randperm(33, generator=generator(1, "order", 0))
    batches = list(reader(source, op, preprocess, device=torch.device(device), memory_format=memory_format).epoch(0))
    assert len(batches) == 4
    for step, batch in enumerate(batches):
        choices = op.draw(generator(2, "augment", 0, step), 8, (3, 12, 12))
        for row, index in enumerate(order[step * 8 : step * 8 + 8]):
            alone = op.apply(source.images[index : index + 1], {name: value[row : row + 1] for name, value in choices.items()})
            expected = preprocess.apply(alone)[0]
            torch.testing.assert_close(batch.images[row].cpu(), expected, atol=2e-4 if device == "cuda" else 1e-5, rtol=1e-4)
            assert batch.labels[row] == source.labels[index]
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=memory_format)
        assert batch.images.device.type == batch.labels.device.type == device


def test_reader_copies_float_images():
    images = torch.randn(20, 6, 1, 1, generator=torch.Generator().manual_seed(0))
    preprocess = Preprocess("none", (0.0,) * 6, (1.0,) * 6)
    whole = reader(Arrays(images.clone(), torch.arange(20)), preprocess=preprocess, batch_size=20)
    for batch in (next(whole.eval_batches()), next(whole.epoch(0))):
        assert torch.equal(batch.images, images[batch.labels])
        batch.images.zero_()  # as an in-place first layer might
    assert torch.equal(next(whole.eval_batches()).images, images)


def test_reader_refuses_batch_larger_than_split():
    small = reader(numbered(7))
    for training in (lambda: small.steps_per_epoch, lambda: small.epoch(0)):
        with pytest.raises(UsageError, match=r"trainer\.batch_size=8 .*7 training images"):
            training()
    assert len(list(small.eval_batches())) == 1
    assert reader(numbered(8)).steps_per_epoch == 1


@pytest.mark.cuda
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_reader_on_gpu_never_waits_and_residence_is_equal(monkeypatch, share):
    source, device = photographs(64), torch.device("cuda")
    op, preprocess = Pipeline([flip(), crop(padding=2), color()]), fit_pixels("standardize", source)
    expected = values(reader(source, op, preprocess).epoch(0))
    monkeypatch.setattr("train.data.array_reader.SHARE_OF_FREE_MEMORY", share)
    there = reader(source, op, preprocess, device=device, memory_format=torch.channels_last)
    assert there.resident == (share > 0)
    for what_is_made_once in (there.epoch(0), there.eval_batches()):  # bytes and augmented floats have constants of their own
        list(what_is_made_once)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(there.epoch(0))
        evaluated = list(there.eval_batches())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum(len(batch.labels) for batch in evaluated) == 64
    for batch, (images, labels) in zip(batches, expected, strict=True):
        torch.testing.assert_close(batch.images.cpu(), images, atol=2e-4, rtol=1e-4)
        assert torch.equal(batch.labels.cpu(), labels)
