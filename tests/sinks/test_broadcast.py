from collections.abc import Mapping

import pytest

from train.sinks.broadcast import BroadcastSink
from train.sinks.contracts import Level, Record, RunInfo, Sink, Summary
from train.sinks.jsonl import JsonlSink
from train.sinks.lines import LineSink
from train.store.log import log_file
from train.store.metrics import read_records

RECORD = Record(5, 0.5, 1.0, {"loss/val": 1.0})


class RecordingSink(Sink):
    """Records its calls and raises at those named in `broken`."""

    def __init__(self, name: str = "recorder", broken: tuple[str, ...] = (), essential: bool = False) -> None:
        self.name = name
        self.essential = essential
        self.calls: list[tuple] = []
        self._broken = broken

    def _record_call(self, call: str, *arguments: object) -> None:
        self.calls.append((call, *arguments))
        if call in self._broken:
            raise OSError(f"{call} is broken")

    def start(self, info: RunInfo) -> None:
        self._record_call("start", info)

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        self._record_call("progress", step, epoch, values)

    def record(self, record: Record) -> None:
        self._record_call("record", record)

    def image(self, tag: str, step: int, png: bytes) -> None:
        self._record_call("image", tag, step, png)

    def message(self, text: str, level: Level = "info") -> None:
        self._record_call("message", text, level)

    def finish(self, summary: Summary) -> None:
        self._record_call("finish", summary)

    def close(self) -> None:
        self._record_call("close")

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


def run_all_calls(sink: Sink, info: RunInfo, summary: Summary) -> list[tuple]:
    calls = [
        ("start", info),
        ("progress", 1, 0.1, {}),
        ("record", RECORD),
        ("image", "map", 5, b"png"),
        ("message", "hello", "info"),
        ("finish", summary),
        ("close",),
    ]
    for name, *arguments in calls:
        getattr(sink, name)(*arguments)
    return calls


def test_broadcast_forwards_every_call_in_order(info, summary):
    first, second = RecordingSink(), RecordingSink()
    calls = run_all_calls(BroadcastSink([first, second]), info, summary)
    assert first.calls == second.calls == calls


def test_empty_broadcast_and_base_sink_do_nothing(info, summary):
    run_all_calls(BroadcastSink(), info, summary)
    run_all_calls(Sink.__new__(type("Bare", (Sink,), {})), info, summary)
    assert list(info.folder.iterdir()) == []


@pytest.mark.parametrize("call", ["start", "progress", "record", "image", "finish"])
def test_failing_view_is_dropped_with_one_warning(info, summary, call):
    broken, other = RecordingSink("the broken one", (call,)), RecordingSink()
    run_all_calls(BroadcastSink([broken, other]), info, summary)
    after = broken.names()[broken.names().index(call) + 1 :]
    assert after == ["close"]
    warnings = [arguments for name, *arguments in other.calls if name == "message" and arguments[1] == "warning"]
    assert len(warnings) == 1
    assert f"the broken one: disabled after an error (OSError: {call} is broken). The run continues without it." in warnings[0][0]
    assert [name for name in other.names() if name != "message"] == ["start", "progress", "record", "image", "finish", "close"]


def test_view_failing_on_the_warning_is_dropped_too(info, summary):
    sinks = [
        RecordingSink("a", ("record", "close")),
        RecordingSink("b", ("message",)),
        RecordingSink("c", ("message", "close")),
        RecordingSink("d"),
    ]
    run_all_calls(BroadcastSink(sinks), info, summary)
    warned = [arguments[0][0] for name, *arguments in sinks[3].calls if name == "message" and arguments[1] == "warning"]
    assert sorted(warned) == ["a", "b", "c"]
    assert sinks[3].names()[-2:] == ["finish", "close"]


def test_essential_failure_propagates(info):
    sinks = BroadcastSink([RecordingSink(), RecordingSink(broken=("record",), essential=True)])
    sinks.start(info)
    with pytest.raises(OSError, match="record is broken"):
        sinks.record(RECORD)


def test_close_closes_all_sinks_before_raising(info):
    first, last = RecordingSink(broken=("close",), essential=True), RecordingSink()
    sinks = BroadcastSink([first, last])
    sinks.start(info)
    with pytest.raises(OSError, match="close is broken"):
        sinks.close()
    assert last.names() == ["start", "close"]


def test_records_are_complete_when_a_view_fails(info, summary):
    lines: list[str] = []
    sinks = BroadcastSink([JsonlSink(), RecordingSink("x", ("record",)), LineSink(lines.append)])
    sinks.start(info)
    for step in range(3):
        sinks.record(Record(step, step / 10, step, {"accuracy/val": 0.5}))
    sinks.finish(summary)
    sinks.close()
    assert [record.step for record in read_records(info.folder / "metrics.jsonl")] == [0, 1, 2]
    assert sum("x: disabled after an error" in line for line in lines) == 1


def test_log_file_holds_logging_output(info, summary, caplog):
    import logging

    logger = logging.getLogger("train")
    handler = log_file(info.folder)
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "train"):
            logger.warning("careful: %s", "é")
            run_all_calls(BroadcastSink([RecordingSink("x", ("record",))]), info, summary)
    finally:
        logger.removeHandler(handler)
        handler.close()
    text = (info.folder / "train.log").read_text("utf-8")
    assert "WARNING train: careful: é" in text
    assert "OSError: record is broken" in text
