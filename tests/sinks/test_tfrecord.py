"""The record format against TensorBoard's own writer, which computes the checksums in Python."""

from __future__ import annotations

import io
import random

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from train.sinks.tensorboard_protos import is_whole, tfrecord

CONTENTS = [b"", b"\0", b"123456789", bytes(range(256)) * 5, random.Random(3).randbytes(4099)]


@pytest.mark.parametrize("data", CONTENTS, ids=len)
def test_tfrecord_equals_the_record_of_tensorboards_writer(data: bytes) -> None:
    file = io.BytesIO()
    RecordWriter(file).write(data)
    assert tfrecord(data) == file.getvalue()


def test_is_whole_is_true_only_at_the_end_of_a_record() -> None:
    content = b"".join(map(tfrecord, CONTENTS))
    ends = {0}
    for data in CONTENTS:
        ends.add(max(ends) + len(tfrecord(data)))
    positions = {position + shift for position in ends for shift in range(-9, 10)} & set(range(len(content) + 1))
    assert {position for position in positions if is_whole(content[:position])} == ends
