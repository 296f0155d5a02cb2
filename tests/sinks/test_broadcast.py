from collections.abc import Mapping

import pytest

from train.sinks.broadcast import BroadcastSink
from train.sinks.contracts import Level, Record, RunInfo, Sink, Summary
from train.sinks.jsonl import JsonlSink, read_records
from train.sinks.lines import LineSink
from train.sinks.log import log_file

RECORD = Record(5, 0.5, 1.0, {"loss/val": 1.0})


class Notebook(Sink):
    """Writes down the calls it gets; raises at the ones named in `broken`."""

    def __init__(self, name: str = "notebook", broken: tuple[str, ...] = (), essential: bool = False) -> None:
        self.name = name
        self.essential = essential
        self.calls: list[tuple] = []
        self._broken = broken

    def _note(self, call: str, *arguments: object) -> None:
        self.calls.append((call, *arguments))
        if call in self._broken:
            raise OSError(f"{call} is broken")

    def start(self, info: RunInfo) -> None:
        self._note("start", info)

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        self._note("progress", step, epoch, values)

    def record(self, record: Record) -> None:
        self._note("record", record)

    def image(self, tag: str, step: int, png: bytes) -> None:
        self._note("image", tag, step, png)

    def message(self, text: str, level: Level = "info") -> None:
        self._note("message", text, level)

    def finish(self, summary: Summary) -> None:
        self._note("finish", summary)

    def close(self) -> None:
        self._note("close")

    def heard(self) -> list[str]:
        return [call[0] for call in self.calls]


def whole_run(sink: Sink, info: RunInfo, summary: Summary) -> list[tuple]:
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


def test_every_sink_gets_everything_in_order(info, outcome):
    first, second = Notebook(), Notebook()
    calls = whole_run(BroadcastSink([first, second]), info, outcome)
    assert first.calls == second.calls == calls


def test_no_sinks_and_a_bare_sink_do_nothing(info, outcome):
    whole_run(BroadcastSink(), info, outcome)
    whole_run(Sink.__new__(type("Bare", (Sink,), {})), info, outcome)
    assert list(info.folder.iterdir()) == []


@pytest.mark.parametrize("call", ["start", "progress", "record", "image", "finish"])
def test_a_failing_view_is_dropped_with_one_warning(info, outcome, call):
    broken, other = Notebook("the broken one", (call,)), Notebook()
    whole_run(BroadcastSink([broken, other]), info, outcome)
    after = broken.heard()[broken.heard().index(call) + 1 :]
    assert after == ["close"]
    warnings = [arguments for name, *arguments in other.calls if name == "message" and arguments[1] == "warning"]
    assert len(warnings) == 1
    assert f"the broken one is off from here on (OSError: {call} is broken)" in warnings[0][0]
    assert [name for name in other.heard() if name != "message"] == ["start", "progress", "record", "image", "finish", "close"]


def test_views_that_fail_at_the_news_of_a_failure_are_dropped_too(info, outcome):
    sinks = [Notebook("a", ("record", "close")), Notebook("b", ("message",)), Notebook("c", ("message", "close")), Notebook("d")]
    whole_run(BroadcastSink(sinks), info, outcome)
    told = [arguments[0][0] for name, *arguments in sinks[3].calls if name == "message" and arguments[1] == "warning"]
    assert sorted(told) == ["a", "b", "c"]
    assert sinks[3].heard()[-2:] == ["finish", "close"]


def test_an_essential_failure_reaches_the_caller(info):
    sinks = BroadcastSink([Notebook(), Notebook(broken=("record",), essential=True)])
    sinks.start(info)
    with pytest.raises(OSError, match="record is broken"):
        sinks.record(RECORD)


def test_close_closes_all_and_then_raises(info):
    first, last = Notebook(broken=("close",), essential=True), Notebook()
    sinks = BroadcastSink([first, last])
    sinks.start(info)
    with pytest.raises(OSError, match="close is broken"):
        sinks.close()
    assert last.heard() == ["start", "close"]


def test_the_records_are_complete_when_a_view_breaks(info, outcome):
    lines: list[str] = []
    sinks = BroadcastSink([JsonlSink(), Notebook("x", ("record",)), LineSink(lines.append)])
    sinks.start(info)
    for step in range(3):
        sinks.record(Record(step, step / 10, step, {"accuracy/val": 0.5}))
    sinks.finish(outcome)
    sinks.close()
    assert [record.step for record in read_records(info.folder / "metrics.jsonl")] == [0, 1, 2]
    assert sum("x is off from here on" in line for line in lines) == 1


def test_the_log_file_holds_what_logging_says(info, outcome, caplog):
    import logging

    logger = logging.getLogger("train")
    handler = log_file(info.folder)
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "train"):
            logger.warning("careful: %s", "é")
            whole_run(BroadcastSink([Notebook("x", ("record",))]), info, outcome)
    finally:
        logger.removeHandler(handler)
        handler.close()
    text = (info.folder / "train.log").read_text("utf-8")
    assert "WARNING train: careful: é" in text
    assert "OSError: record is broken" in text
