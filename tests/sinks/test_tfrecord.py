"""The record format against TensorBoard's own writer, which computes the checksums in Python."""

from __future__ import annotations

import io
import random

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from train.sinks.tfrecord import is_whole, tfrecord

CONTENTS = [b"", b"\0", b"123456789", bytes(range(256)) * 5, random.Random(3).randbytes(4099)]


@pytest.mark.parametrize("data", CONTENTS, ids=len)
def test_a_record_is_that_of_tensorboards_writer(data: bytes) -> None:
    file = io.BytesIO()
    RecordWriter(file).write(data)
    assert tfrecord(data) == file.getvalue()


def test_records_are_whole_only_up_to_the_end_of_one() -> None:
    content = b"".join(map(tfrecord, CONTENTS))
    ends = {0}
    for data in CONTENTS:
        ends.add(max(ends) + len(tfrecord(data)))
    places = {place + shift for place in ends for shift in range(-9, 10)} & set(range(len(content) + 1))
    assert {place for place in places if is_whole(content[:place])} == ends
