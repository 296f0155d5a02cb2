import json
import math
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from train.sinks.contracts import Record, RunInfo
from train.sinks.jsonl import JsonlSink
from train.store.metrics import read_records

RECORDS = [
    Record(0, 0.0, 0.0, {}),
    Record(1, 0.01, 0.125, {"loss/train": 0.1 + 0.2, "lr": 5e-324, "activation_std/conv1 é": 1.7976931348623157e308}),
    Record(2, 0.02, 0.25, {"loss/train": math.nan, "a": math.inf, "b": -math.inf, "c": -0.0, "NaN": 1.0}),
    Record(3, 0.03, 0.375, {"loss/train": 2.302585092994046}),
]


def bits(record: Record) -> tuple:
    """Return a value for bit-exact comparison: NaN equals NaN, and -0.0 is not 0.0."""
    values = {tag: struct.pack("d", value) for tag, value in record.values.items()}
    return record.step, record.epoch, record.time_s, values


def write(info: RunInfo, records: list[Record]) -> Path:
    sink = JsonlSink()
    sink.start(info)
    for record in records:
        sink.record(record)
    sink.close()
    return info.folder / "metrics.jsonl"


def test_read_records_is_bit_exact(info):
    path = write(info, RECORDS)
    assert [bits(record) for record in read_records(path)] == [bits(record) for record in RECORDS]


def test_jsonl_sink_writes_standard_json(info):
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    lines = write(info, RECORDS).read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert rows[2]["values"] == {"loss/train": "NaN", "a": "Infinity", "b": "-Infinity", "c": -0.0, "NaN": 1.0}


def test_jsonl_sink_writes_each_record_at_once(info):
    sink = JsonlSink()
    sink.start(info)
    for count, record in enumerate(RECORDS, start=1):
        sink.record(record)
        assert len(list(read_records(info.folder / "metrics.jsonl"))) == count
    sink.close()


@pytest.mark.parametrize("torn", [1, 5, 20])
def test_jsonl_sink_replaces_a_torn_last_line_on_resume(info, torn):
    path = write(info, RECORDS)
    path.write_bytes(path.read_bytes()[:-torn])
    assert [record.step for record in read_records(path)] == [0, 1, 2]
    write(info, [RECORDS[3]])
    assert [bits(record) for record in read_records(path)] == [bits(record) for record in RECORDS]


def test_jsonl_sink_appends_on_resume(info):
    write(info, RECORDS[:2])
    path = write(info, RECORDS[2:])
    assert [record.step for record in read_records(path)] == [0, 1, 2, 3]


def test_full_disk_raises_and_earlier_records_stay_readable(info):
    sink = JsonlSink()
    sink.start(info)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        sink.record(RECORDS[0])
        with pytest.raises(OSError, match="File too large"):
            sink.record(RECORDS[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    sink.close()
    assert [record.step for record in read_records(info.folder / "metrics.jsonl")] == [0]


def test_sinks_import_without_torch_rich_and_tensorboard():
    code = """
import sys
import train.sinks.contracts, train.sinks.broadcast, train.sinks.jsonl, train.sinks.lines, train.sinks.lines, train.store.log
print([name for name in ("torch", "rich", "tensorboard", "numpy") if name in sys.modules])
"""
    root = Path(__file__).parents[2]
    process = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
