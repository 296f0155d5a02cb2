"""The reader of image files: same bits for any number of workers, and no process left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.data.batches import Batching
from train.data.contracts import Files
from train.data.decode import decode
from train.data.folder_reader import FolderReader, fit_files
from train.data.image_folder import CentreFraming
from train.data.preprocess import Preprocess
from train.errors import RunError, UsageError
from train.parts.augment import Pipeline, alternating_flip, color, flip, multi_scale
from train.rng import generator

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core

COUNT = 11
FRAMING = CentreFraming(short_side=20, crop=16)
RAW = Preprocess("none", (0.0,) * 3, (1.0,) * 3)
MULTI_SCALE = multi_scale([18, 30], 16, 20)
REST = Pipeline([flip(0.5), color()])
LECTURE = Pipeline([MULTI_SCALE, *REST.ops])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    paths = []
    for index in range(COUNT):
        size = (24 + index, 40 - index, 3)
        paths.append(folder / f"{index:02}.{'png' if index % 2 else 'jpg'}")
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(paths[-1])
    return Files(tuple(paths), torch.arange(COUNT) * 10)


def reader(files, op=LECTURE, *, workers=0, batch_size=4, preprocess=RAW, **changes):
    framing, channels = changes.pop("framing", FRAMING), changes.pop("channels", 3)
    settings = {"batch_size": batch_size, "device": torch.device("cpu"), "order_seed": 1, "augment_seed": 2} | changes
    batching = Batching(**settings)
    return FolderReader(files, op, preprocess, batching, framing=framing, channels=channels, workers=workers)


def same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    return all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_folder_reader_is_equal_for_any_workers(files, workers):
    alone, many = reader(files), reader(files, workers=workers)
    assert same(alone.epoch(0), many.epoch(0))
    kept = set(multiprocessing.active_children())
    assert len(kept) == workers
    assert same(alone.epoch(1), many.epoch(1))
    assert set(multiprocessing.active_children()) == kept
    iterator = many.epoch(2)
    next(iterator)  # and the rest never asked for
    assert same(alone.epoch(3, start=1), many.epoch(3, start=1))
    assert same(alone.eval_batches(), many.eval_batches())
    assert set(multiprocessing.active_children()) == kept
    many.close()
    assert not multiprocessing.active_children()


def test_folder_reader_epochs_differ_and_repeat(files):
    images = reader(files)
    assert images.steps_per_epoch == 2
    assert len(images) == COUNT
    first, again, second = (list(images.epoch(number)) for number in (0, 0, 1))
    assert same(first, again)
    assert not same(first, second)
    seen = torch.cat([batch.labels for batch in first])
    assert len(seen.unique()) == 8
    assert same(first[1:], images.epoch(0, start=1))
    assert [batch.images.shape for batch in first] == [(4, 3, 16, 16)] * 2
    assert first[0].images.dtype == torch.float32


def test_folder_reader_image_is_its_region(files):
    """The whole path, by hand: region by (epoch, index), the batch's ops by (epoch, step)."""
    batch = list(reader(files).epoch(5))[1]
    order = torch.randperm(COUNT, generator=generator(1, "order", 5))[4:8].tolist()
    images = torch.stack(
        [
            decode(files.paths[i], lambda h, w, i=i: MULTI_SCALE.train_region(generator(2, "augment", 5, i), h, w), (16, 16))
            for i in order
        ]
    )
    expected = RAW.apply(REST.apply(images, REST.draw(generator(2, "augment", 5, 1, 1), 4, (3, 16, 16))))
    assert torch.allclose(batch.images, expected, atol=1e-5)
    assert batch.labels.tolist() == [10 * index for index in order]


def test_folder_reader_seed_roles_are_independent(files):
    def batches(**seeds):
        return list(reader(files, **seeds).epoch(0))

    base, order, augment = batches(), batches(order_seed=9), batches(augment_seed=9)
    assert not torch.equal(base[0].labels, order[0].labels)
    assert torch.equal(base[0].labels, augment[0].labels)
    assert not torch.equal(base[0].images, augment[0].images)


def test_folder_reader_alternates_the_sides_of_its_images(files):
    sides = [
        {
            int(label): image
            for batch in reader(files, Pipeline([alternating_flip()])).epoch(epoch)
            for image, label in zip(batch.images, batch.labels, strict=True)
        }
        for epoch in (0, 1)
    ]
    both = sides[0].keys() & sides[1].keys()
    assert both
    assert all(torch.equal(sides[0][label], sides[1][label].flip(2)) for label in both)


def test_folder_reader_start_skips_decoding(files):
    order = torch.randperm(COUNT, generator=generator(1, "order", 0)).tolist()
    paths = list(files.paths)
    for index in order[:4]:
        paths[index] = Path("missing.png")
    images = reader(Files(tuple(paths), files.labels))
    assert len(list(images.epoch(0, start=1))) == 1
    with pytest.raises(RunError, match=r"missing\.png"):
        list(images.epoch(0))


def test_folder_reader_eval_batches_keep_order_and_test_region(files):
    batches = list(reader(files).eval_batches())
    assert [len(batch.labels) for batch in batches] == [4, 4, 3]
    assert torch.cat([batch.labels for batch in batches]).tolist() == files.labels.tolist()
    expected = torch.stack([decode(path, MULTI_SCALE.test_region, (16, 16)) for path in files.paths])
    assert torch.equal(torch.cat([batch.images for batch in batches]), RAW.apply(expected))


def test_folder_reader_uses_default_framing(files):
    expected = torch.stack([decode(path, FRAMING.test_region, (16, 16)) for path in files.paths])
    images = reader(files, Pipeline([flip(1.0)]))
    assert torch.equal(torch.cat([batch.images for batch in images.eval_batches()]), RAW.apply(expected))
    for batch in images.epoch(0):
        assert torch.equal(batch.images, RAW.apply(expected[batch.labels // 10]).flip(3))


def test_folder_reader_grey_channels_last_preprocessed(files):
    preprocess = Preprocess("standardize", (0.4,), (0.2,))
    images = reader(files, Pipeline([]), channels=1, preprocess=preprocess, memory_format=torch.channels_last)
    batch = next(images.eval_batches())
    assert images.shape == (1, 16, 16)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    expected = decode(files.paths[0], FRAMING.test_region, (16, 16), 1)
    assert torch.allclose(batch.images[0], (expected / 255 - 0.4) / 0.2, atol=1e-5)


def test_folder_reader_refuses_batch_larger_than_split(files):
    images = reader(files, batch_size=COUNT + 1)
    with pytest.raises(UsageError, match=r"trainer\.batch_size=12 .*11"):
        images.epoch(0)
    assert len(next(images.eval_batches()).labels) == COUNT


def test_folder_reader_leaves_global_generator(files):
    before = torch.get_rng_state()
    images = reader(files)
    list(images.epoch(0))
    list(images.eval_batches())
    assert torch.equal(before, torch.get_rng_state())


def test_folder_reader_names_truncated_image(files, tmp_path):
    whole = files.paths[0].read_bytes()
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[: len(whole) // 2])
    paths = (*files.paths[:-1], path)
    images = reader(Files(paths, files.labels), batch_size=COUNT, workers=1)
    for batches in (images.eval_batches(), images.epoch(0)):
        with pytest.raises(RunError, match=r"cut\.jpg cannot be decoded: .*truncated") as caught:
            list(batches)
        assert "Traceback" not in str(caught.value)
        assert not multiprocessing.active_children()


def test_folder_reader_reports_killed_worker(files):
    images = reader(files, batch_size=1, workers=1)
    batches = images.epoch(0)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.raises(RunError, match=r"ended unexpectedly.*data\.workers"):
        list(batches)
    assert not multiprocessing.active_children()


@pytest.mark.cuda
@pytest.mark.parametrize("workers", [0, 1])
def test_folder_reader_on_gpu_never_waits_and_is_equal(files, workers):
    preprocess = Preprocess("standardize", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    expected = list(reader(files, preprocess=preprocess).epoch(1))
    settings = {"device": torch.device("cuda"), "memory_format": torch.channels_last, "preprocess": preprocess}
    there = reader(files, workers=workers, **settings)
    list(there.epoch(0))  # what is made once, is made
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(there.epoch(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
        there.close()
    for batch, other in zip(batches, expected, strict=True):
        torch.testing.assert_close(batch.images.cpu(), other.images, atol=2e-4, rtol=1e-4)
        assert torch.equal(batch.labels.cpu(), other.labels)


PARENT = """
import sys, time
from pathlib import Path
import torch
from train.data.batches import Batching
from train.data.contracts import Files
from train.data.folder_reader import FolderReader
from train.data.image_folder import CentreFraming
from train.data.preprocess import Preprocess
from train.parts.augment import Pipeline

if __name__ == "__main__":
    files = Files((Path(sys.argv[1]),) * 8, torch.zeros(8, dtype=torch.int64))
    reader = FolderReader(
        files, Pipeline([]), Preprocess("none", (0.0,) * 3, (1.0,) * 3), Batching(1, torch.device("cpu"), 0, 0),
        framing=CentreFraming(20, 16), workers=2,
    )
    batches = reader.epoch(0)
    next(batches)
    print("reading", flush=True)
    time.sleep(600)
"""


def members(group):
    """The processes of a group that are not just waiting to be reaped."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, member = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(member) == group and state != "Z":
            pids.append(int(stat.parent.name))
    return pids


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_folder_reader_workers_die_with_parent(files, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(files.paths[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, env=environment) as parent:
        assert parent.stdout is not None
        started = parent.stdout.readline()
        before = members(parent.pid)
        parent.kill()
    deadline = time.monotonic() + 10
    while members(parent.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = members(parent.pid)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert started == b"reading\n"
    assert len(before) >= 4  # itself, the server, two workers
    assert left == []


def test_fit_files_is_exact_for_small_split(files):
    pixels = torch.stack([decode(path, FRAMING.test_region, (16, 16)) for path in files.paths]).double() / 255
    fitted = fit_files("standardize", files, FRAMING)
    assert np.allclose(fitted.mean, pixels.mean((0, 2, 3)), atol=1e-12)
    assert np.allclose(fitted.std, pixels.std((0, 2, 3), correction=0), atol=1e-12)
    centred = fit_files("zero_center", files, FRAMING, channels=1)
    assert len(centred.mean) == 1
    assert centred.std == (1.0,)


def test_fit_files_sample_depends_on_seed(files):
    def fitted(seed):
        return fit_files("standardize", files, FRAMING, limit=4, seed=seed)

    assert fitted(0) == fitted(0)
    assert fitted(0) != fitted(1)


def test_fit_files_none_decodes_nothing():
    nowhere = Files((Path("missing.png"),), torch.zeros(1, dtype=torch.int64))
    assert fit_files("none", nowhere, FRAMING) == RAW
