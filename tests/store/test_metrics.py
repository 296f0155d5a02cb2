"""Reading metrics.jsonl: whole, in parts while it grows, and with damage."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from train.errors import RunError
from train.store.metrics import (
    Record,
    decode_float,
    encode_float,
    format_record,
    open_to_append,
    parse_record,
    parse_rows,
    read_lines,
    read_records,
)

RECORDS = [Record(step, step / 10, step / 4, {"loss/train": 1.0 / (step + 1)}) for step in range(4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(map(format_record, RECORDS)))
    return path


@pytest.mark.parametrize(
    "line", ["[]", "{", '{"step": 1}', '{"step":1,"epoch":0,"time_s":0,"values":{"a":"NaN","b":"Infinity?"}}']
)
def test_read_records_names_an_invalid_line(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n" + '{"step":9,"epoch":0,"time_s":0,"values":{}}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 5: "):
        list(read_records(path))


ROW = '{"step":1,"epoch":0,"time_s":0,"values":{"a":%s}}'
ODD = {
    "a number that is too long": ROW % ("9" * 400),
    "true for a number": ROW % "true",
    "other text for a number": ROW % '"1.5"',
    "half of a character": '{"step":1,"epoch":0,"time_s":0,"values":{"\\ud800":1}}',
    "two records": f"{ROW % 1},{ROW % 2}",
    "a half": ROW[:20],
    "deep": "[" * 100_000,
    "nothing": "",
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_line_between_others_is_no_record(kind: str) -> None:
    lines = [format_record(RECORDS[0]), ODD[kind].encode() + b"\n", format_record(RECORDS[1])]
    with pytest.raises(ValueError, match=r"."):
        parse_record(lines[1])
    with pytest.raises(ValueError, match=r"."):
        parse_rows(lines)


def test_lines_parsed_together_are_those_parsed_alone() -> None:
    odd = [ROW % value for value in ("1", "-0.0", '"NaN"', '"-Infinity"', "1e999")] + [(ROW % 2).replace('"a"', '"\\u00e9"')]
    lines = [*map(format_record, RECORDS), *(f" {line}\n".encode() for line in odd)]
    alone = [parse_record(line) for line in lines]
    assert repr(parse_rows(lines)) == repr([(r.step, r.epoch, r.time_s, dict(r.values)) for r in alone])
    assert alone[: len(RECORDS)] == RECORDS


def test_lines_are_those_of_the_file_wherever_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for length in (1 << 18, (1 << 18) - 1, 3 << 18):
        lines = [b"x" * (length - 1) + b"\n", b"\r\n", b"\n", b"y" * 10 + b"\n"]
        path.write_bytes(b"".join(lines) + b"torn")
        assert read_lines(path) == lines


def test_encode_float_and_decode_float() -> None:
    assert [encode_float(value) for value in (1.5, math.nan, math.inf, -math.inf)] == [1.5, "NaN", "Infinity", "-Infinity"]
    assert decode_float("-Infinity") == -math.inf
    with pytest.raises(ValueError, match="nope"):
        decode_float("nope")


def test_read_lines_returns_each_line_once_while_the_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_lines(path) == [], "there is no file yet"
    content = b"".join(map(format_record, RECORDS)) + b"torn"
    found: list[bytes] = []
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(content), 7):
            file.write(content[start : start + 7])
            found += read_lines(path, sum(map(len, found)))
    assert found == [format_record(record) for record in RECORDS]


def test_file_that_ends_before_its_checkpoint_is_not_continued(path: Path) -> None:
    content = path.read_bytes()
    with pytest.raises(
        RunError, match=f"before the checkpoint are gone. To start again from step 0, remove {path.parent}/checkpoints"
    ):
        open_to_append(path, len(content) + 1)
    assert path.read_bytes() == content
    open_to_append(path, len(content)).close()
