"""A folder from somebody else is data: whatever it holds is read within bounds, and nothing outside it is read or changed."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Train
from tests.harness import SMALL, resume_in_process
from tests.report.folders import write_run, write_sweep
from train.data import idx
from train.errors import RunError, UsageError
from train.report import cli
from train.report.content import build_content
from train.report.make import ReportOptions, analyse_folders
from train.report.render import html, markdown
from train.report.results_csv import csv_text, results
from train.report.tensorboard import write_charts
from train.run.checkpoint import checksum, list_checkpoints, prune_checkpoints, remove_after, write_checkpoint
from train.sinks.broadcast import BroadcastSink
from train.sinks.figures import Drawing, Figure
from train.store import inside
from train.store.code import code_difference
from train.store.inputs import read_data
from train.store.inside import Folder, RefusedError
from train.store.lock import Lock, is_held, last_holder
from train.store.log import log_file
from train.store.manifest import read_manifest
from train.store.metrics import MAX_LINE, open_to_append, read_lines
from train.store.run import find_runs, read_run
from train.store.run_folder import RunFolder
from train.sweep.conclude import run_outcomes
from train.sweep.manifest import newest_sweep
from train.sweep.reuse import archive, stored_runs

STORED = Path(__file__).resolve().parents[1] / "stored" / "run"
BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghijklmnopqrstuvwxy", "bcdefghijklmnopqrstuvwxyz", strict=False)
)
LONG = "1" * 400
DEEP = 100_000

Attack = Callable[[Path], object]


def replacing(name: str, content: str | bytes) -> Attack:
    """Return an attack that gives a file this content."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def setting(name: str, **fields: object) -> Attack:
    """Return an attack that sets fields of a file of JSON. Python writes long numbers and halves of characters as they are."""
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))


def adding(name: str, text: str) -> Attack:
    """Return an attack that adds lines to a file."""
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def record(**fields: object) -> str:
    return (
        json.dumps({"step": 900, "epoch": 1.0, "time_s": 1.0, "values": {"loss/train": 1.0, "accuracy/test": 0.5}} | fields)
        + "\n"
    )


def special(name: str, make: Callable[[Path], object]) -> Attack:
    """Return an attack that puts something that is no file in the place of one."""

    def attack(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return attack


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(path.parent)  # the length of its path is limited
        try:
            server.bind(path.name)
        finally:
            os.chdir(before)


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "random": lambda path: path.symlink_to("/dev/urandom"),
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "folder": Path.mkdir,
    "terabyte": make_sparse,
}

UNREADABLE: dict[str, Attack] = {
    **{
        f"{name} is {kind}": special(name, make)
        for name in ("status.json", "config.yaml", "overrides.yaml", "summary.json")
        for kind, make in SPECIAL.items()
    },
    "status deep": replacing("status.json", "[" * DEEP),
    "status deep mapping": replacing("status.json", '{"a":' * DEEP + "1" + "}" * DEEP),
    "status 200 deep": lambda folder: setting("status.json", git={"a": json.loads("[" * 200 + "]" * 200)})(folder),
    "status list": replacing("status.json", "[]"),
    "status number": replacing("status.json", "5"),
    "status text": replacing("status.json", '"done"'),
    "status empty": replacing("status.json", ""),
    "status latin": replacing("status.json", b'{"status": "done\xff"}'),
    "status without status": replacing("status.json", "{}"),
    "status digits": replacing("status.json", '{"status": "done", "wall_s": ' + "1" * 10_000 + "}"),
    **{
        f"status.{key}={str(value)[:20]!r}": setting("status.json", **{key: value})
        for key, value in {
            "status": [],
            "choices": ["norm"],
            "versions": "2.1",
            "resumed": 5,
            "own_code": [1],
            "own_parts": {"a": 1},
            "identity": {"a": 1},
            "arm": [1],
            "data": [1],
            "code": {"a": 1},
            "pid": "x",
            "reason": ["x"],
            "started": {},
            "device": [],
            "precision": {"a": 1},
            "git": "main",
            "exit_code": "x",
            "total_steps": "x",
            "identity_version": "x",
            "wall_s": int(LONG),
        }.items()
    },
    "status.choices nested": setting("status.json", choices={"norm": ["batch"]}),
    "status.versions nested": setting("status.json", versions={"torch": {"a": 1}}),
    "status.resumed of numbers": setting("status.json", resumed=[1]),
    "status.pid huge": setting("status.json", status="running", pid=1 << 70),
    "status.pid negative": setting("status.json", status="running", pid=-1),
    "config number": replacing("config.yaml", "5"),
    "config list": replacing("config.yaml", "[1, 2]"),
    "config bomb": replacing("config.yaml", BOMB),
    "config self": replacing("config.yaml", "a: &a {b: *a}"),
    "config merge": replacing("config.yaml", "a: &a {b: 1}\nc: {<<: *a}"),
    "config flow": replacing("config.yaml", "a: " + "[" * DEEP),
    "config block": replacing("config.yaml", "- " * DEEP),
    "config 200 deep": replacing("config.yaml", "a: " + "[" * 200 + "]" * 200),
    "config huge": replacing("config.yaml", "a: " + "x" * (1 << 21)),
    "config python": replacing("config.yaml", "a: !!python/object/apply:os.system [id]"),
    "config set": replacing("config.yaml", "a: !!set {x, y}"),
    "config date": replacing("config.yaml", "a: 2020-13-45"),
    "config binary": replacing("config.yaml", "a: !!binary abc"),
    "config bad bool": replacing("config.yaml", "a: !!bool x"),
    "config bad int": replacing("config.yaml", "a: !!int x"),
    "config empty float": replacing("config.yaml", "a: !!float ''"),
    "config digits": adding("config.yaml", f"extra: {LONG}\n"),
    "config 10,000 digits": adding("config.yaml", f"extra: {'1' * 10_000}\n"),
    "config hex": adding("config.yaml", f"extra: 0x{'f' * 10_000}\n"),
    "config base 60": adding("config.yaml", f"extra: {'1:' * 500}1.5\n"),
    "config key": replacing("config.yaml", "? [a, b]\n: 1"),
    "config mixed keys": replacing("config.yaml", "a: {1: x, b: y}"),
    "config number keys": replacing("config.yaml", "1: x"),
    "config of many keys": adding("config.yaml", "many:\n" + "".join(f"  k{i}: {i}\n" for i in range(50_000))),
    "config latin": replacing("config.yaml", b"a: \xff"),
    "config null byte": replacing("config.yaml", b"a: \0"),
    "config.seed text": lambda folder: reconfigure(folder, "seed", "x"),
    "config.seed list": lambda folder: reconfigure(folder, "seed", [1]),
    "config.seed half": lambda folder: reconfigure(folder, "seed", 1.5),
    "config.seeds text": lambda folder: reconfigure(folder, "seeds", "x"),
    "config.seeds list": lambda folder: reconfigure(folder, "seeds", [1]),
    "config.seeds of text": lambda folder: reconfigure(folder, "seeds", {"init": "x"}),
    "overrides number": replacing("overrides.yaml", "5"),
    "overrides mapping": replacing("overrides.yaml", "a: b"),
    "overrides nested": replacing("overrides.yaml", "- [a, b]"),
    "overrides bomb": replacing("overrides.yaml", BOMB),
    "overrides deep": replacing("overrides.yaml", "[" * DEEP),
    "summary list": replacing("summary.json", "[]"),
    "summary deep": replacing("summary.json", "[" * DEEP),
}
"""Attacks after which a run cannot be read: one row of a report, and one message of `train resume=FOLDER`."""


def reconfigure(folder: Path, key: str, value: object) -> None:
    lines = (folder / "config.yaml").read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{key}:"))
    end = next((index for index in range(start + 1, len(lines)) if not lines[index].startswith((" ", "-"))), len(lines))
    (folder / "config.yaml").write_text("\n".join([*lines[:start], f"{key}: {json.dumps(value)}", *lines[end:]]) + "\n")


READABLE: dict[str, Attack] = {
    **{f"{name} is {kind}": special(name, make) for name in ("metrics.jsonl", "data.json") for kind, make in SPECIAL.items()},
    **{
        f"summary.{key}={str(value)[:20]!r}": setting("summary.json", **{key: value})
        for key, value in {
            "val_accuracy": "x",
            "test_accuracy": [1],
            "test_loss": {"a": 1},
            "train_loss": "inf",
            "steps": "many",
            "time_s": -1,
            "parameters": -5,
            "flops_per_image": [],
            "peak_memory_bytes": 1e300,
            "images_per_s": "Infinity",
            "fingerprint": 5,
            "initial_verdict": "bad",
            "contradictions": {"a": 1},
            "test_examples": "all",
        }.items()
    },
    "status.diagnosis text": setting("status.json", diagnosis="bad"),
    "half a character in status": setting("status.json", reason="\ud800", choices={"norm": "\udfff"}),
    "half a character in the summary": setting("summary.json", contradictions=["\ud800 x, but"]),
    "half a character in a tag": adding("metrics.jsonl", record(values={"gradient_std/\ud800": 1.0, "loss/train": 2.0})),
    "no records": replacing("metrics.jsonl", ""),
    "deep record": adding("metrics.jsonl", '{"loss/train":' + "[" * DEEP + "\n"),
    "long line": replacing("metrics.jsonl", b'"loss/train"' + b" " * MAX_LINE),
    **{
        f"record.{key}={str(value)[:20]!r}": adding("metrics.jsonl", record(**{key: value}))
        for key, value in {
            "step": "x",
            "epoch": [1],
            "time_s": int(LONG),
            "values": [1],
        }.items()
    },
    "record.step infinite": adding("metrics.jsonl", record().replace("900", "1e999")),
    "record.step long": adding("metrics.jsonl", record().replace("900", LONG)),
    "record.step negative": adding("metrics.jsonl", record(step=-1)),
    "record.epoch NaN": adding("metrics.jsonl", record(epoch=float("nan"))),
    "value text": adding("metrics.jsonl", record(values={"loss/train": "x", "accuracy/test": "x"})),
    "value long": adding("metrics.jsonl", record(values={"loss/train": int(LONG), "gradient_std/a": int(LONG)})),
    "value list": adding("metrics.jsonl", record(values={"loss/train": [1]})),
    "value true": adding("metrics.jsonl", record(values={"loss/train": True})),
    "value large": adding("metrics.jsonl", record(values={"loss/train": 1e308, "loss/val": -1e308, "accuracy/train": 1e308})),
    "data number": replacing("data.json", "5"),
    "data without classes": replacing("data.json", '{"splits": {}}'),
    "data with other splits": replacing("data.json", '{"classes": ["a"], "splits": {"train": {"counts": "x", "order": 1}}}'),
    "data deep": replacing("data.json", "[" * DEEP),
    "choices are null": setting("status.json", choices=None, versions=None, git=None, own_parts=None),
    "choices hold null": setting("status.json", choices={"norm": None}),
    "summary null": setting("summary.json", test_accuracy=None, time_s=None, parameters=None, fingerprint=None),
    "largest counts": setting("summary.json", **dict.fromkeys(("time_s", "parameters", "steps", "peak_memory_bytes"), 10**18)),
    "loss huge": setting("summary.json", test_loss=1e308, val_loss=-1e308, train_loss=1e308),
    "verdict of lists": setting("summary.json", initial_verdict={"kind": ["x"]}, fingerprint={"first_batch": [1]}),
    "diagnosis of lists": setting("status.json", diagnosis={"kind": [], "finding": {}, "statistic": [1], "layer": 5}),
    "config without groups": replacing("config.yaml", "{}"),
    "config of texts": replacing("config.yaml", "trainer: x\ndata: y\nnorm: [1]\noptimizer: 5\nseed: 3"),
    "config unresolved": lambda folder: reconfigure(folder, "seeds", {"init": "${seed}"}),
}
"""Attacks after which a report still has something to say about the run."""


@contextmanager
def nothing_leaves(outside: Path) -> Iterator[None]:
    """Check that nothing in the folder outside is changed within the context."""
    outside.mkdir(exist_ok=True)
    for name in ("thesis.txt", "step-000000001-0123456789abcdef.pt", "events.out.tfevents.0000000000.train-report", ".hidden"):
        (outside / name).write_text("a year of work")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in outside.iterdir()}
    yield
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in outside.iterdir()} == before


def page_of(folder: Path) -> str:
    """Return everything that a report says about a folder, without figures."""
    analysis = analyse_folders([folder], ReportOptions())
    content = build_content(analysis, [])
    page = markdown(content, folder) + html(content, folder) + csv_text(results(analysis, folder))
    page.encode()
    return page


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("runs")
    write_run(top / "good", ["norm=layer", "seed=1"], 0.5)
    write_run(top / "bad", ["norm=layer", "seed=2"], 0.5)
    (top / "bad" / "data.json").write_text("{}")
    return top


@pytest.mark.parametrize("attack", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_run_is_one_row(attack: Attack, two_runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two_runs, tmp_path / "runs")
    attack(folder / "bad")
    with pytest.raises(UsageError, match=r"cannot be read|is missing"):
        read_run(folder / "bad")
    found = analyse_folders([folder], ReportOptions()).study.collection
    assert [run.folder.name for run in found.runs] == ["good"]
    assert [excluded.folder.name for excluded in found.unreadable] == ["bad"]
    assert len(found.unreadable[0].reason) < 400
    assert [run.folder.name for run in stored_runs(folder)] == ["good"]


@pytest.mark.parametrize("attack", READABLE.values(), ids=READABLE)
def test_report_goes_on_with_what_can_be_read(attack: Attack, two_runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two_runs, tmp_path / "runs")
    attack(folder / "bad")
    page = page_of(folder)
    assert "root:" not in page
    run = read_run(folder / "bad")
    read_data(folder / "bad")
    code_difference(run.status)
    cli.run(["diff", str(folder / "good"), str(folder / "bad")])


@pytest.mark.parametrize("attack", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_run_is_not_resumed(attack: Attack, tmp_path: Path) -> None:
    folder = shutil.copytree(STORED, tmp_path / "run")
    attack(folder)
    with pytest.raises(UsageError) as refused:
        resume_in_process(folder)
    assert len(str(refused.value)) < 600


LINKED = ("metrics.jsonl", "train.log", ".lock", "console.log", "weights.pt", "data.json", "events.out.tfevents.1.a.1")


@pytest.mark.parametrize("kind", ["link", "hard link", "link to nowhere", "pipe", "folder"])
@pytest.mark.parametrize("name", LINKED)
def test_run_with_a_linked_file_is_not_resumed(name: str, kind: str, tmp_path: Path) -> None:
    if kind == "hard link" and name not in LINKED[:4]:
        pytest.skip("it is replaced or removed, not written to")
    folder, outside = shutil.copytree(STORED, tmp_path / "run"), tmp_path / "outside"
    with nothing_leaves(outside):
        (folder / name).unlink(missing_ok=True)
        if kind == "hard link":
            (folder / name).hardlink_to(outside / "thesis.txt")
        elif kind == "pipe":
            os.mkfifo(folder / name)
        elif kind == "folder":
            (folder / name).mkdir()
        else:
            (folder / name).symlink_to(outside / ("new.txt" if kind == "link to nowhere" else "thesis.txt"))
        with pytest.raises(UsageError, match=name.replace(".", r"\.")):
            resume_in_process(folder)


@pytest.mark.parametrize("name", ["checkpoints", "figures"])
def test_run_with_a_linked_subfolder_is_not_resumed(name: str, tmp_path: Path) -> None:
    folder, outside = shutil.copytree(STORED, tmp_path / "run"), tmp_path / "outside"
    with nothing_leaves(outside):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).symlink_to(outside)
        with pytest.raises(UsageError, match=f"{name} is a link"):
            resume_in_process(folder)


def test_run_folder_itself_may_be_reached_through_a_link(tmp_path: Path) -> None:
    shutil.copytree(STORED, tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    assert read_run(tmp_path / "link").state == "interrupted"
    assert list(find_runs([tmp_path / "link"])) == [tmp_path / "link"]
    Lock(tmp_path / "link").acquire()
    assert (tmp_path / "run" / ".lock").stat().st_size


def write_figure(folder: Path) -> None:
    Drawing(folder, [Figure("signal", 0, lambda: b"png")]).draw(BroadcastSink())


def log_a_line(folder: Path) -> None:
    import logging

    handler = log_file(folder)
    handler.emit(logging.LogRecord("train", logging.ERROR, __file__, 0, "a line", None, None))
    handler.close()


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "append a record": ("metrics.jsonl", lambda folder: open_to_append(folder / "metrics.jsonl").close()),
    "cut records": ("metrics.jsonl", lambda folder: open_to_append(folder / "metrics.jsonl", 0).close()),
    "log": ("train.log", log_a_line),
    "lock": (".lock", lambda folder: Lock(folder).acquire()),
    "write a checkpoint": ("checkpoints", lambda folder: write_checkpoint(folder, "step", 1, b"x", keep=1)),
    "prune checkpoints": ("checkpoints", lambda folder: prune_checkpoints(folder, "step")),
    "remove checkpoints": ("checkpoints", lambda folder: remove_after(folder, 0)),
    "draw": ("figures", write_figure),
    "archive": ("previous", lambda folder: archive(folder, folder / "run")),
}


@pytest.mark.parametrize(("name", "write"), WRITERS.values(), ids=WRITERS)
def test_nothing_is_written_through_a_link(name: str, write: Callable[[Path], object], tmp_path: Path) -> None:
    """Should a link appear after the folder was looked at, it is refused where it would be followed."""
    folder, outside = tmp_path / "run", tmp_path / "outside"
    (folder / "run").mkdir(parents=True)
    with nothing_leaves(outside):
        (folder / name).symlink_to(outside if "." not in name else outside / "thesis.txt")
        if name == "train.log":
            write(folder)
        else:
            with pytest.raises((OSError, UsageError), match="is a link"):
                write(folder)
    assert (folder / "run").is_dir()


def test_files_are_created_and_replaced_without_following_links(tmp_path: Path) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    folder.mkdir()
    with nothing_leaves(outside):
        (folder / "weights.pt").symlink_to(outside / "thesis.txt")
        Folder(folder).write("weights.pt", b"x")
        (folder / "figures").mkdir()
        (folder / "figures" / "signal.png").symlink_to(outside / "thesis.txt")
        write_figure(folder)
        (folder / "new").symlink_to(outside / "created.txt")
        with pytest.raises(FileExistsError):
            Folder(folder).create("new")
    assert (folder / "weights.pt").read_bytes() == b"x"
    assert not (folder / "weights.pt").is_symlink()
    assert (folder / "figures" / "signal.png").read_bytes() == b"png"


@pytest.fixture(params=["relative", "by path"])
def door(request: pytest.FixtureRequest) -> Any:
    """The module that opens files, as it is, and as a system loads it that cannot open files relative to a folder."""
    if request.param == "relative":
        return inside
    spec = importlib.util.spec_from_file_location("inside_by_path", str(inside.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        patch.setattr(os, "supports_dir_fd", set())
        spec.loader.exec_module(module)
    return module


def test_files_are_reached_without_following_links(door: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (tmp_path / "run").mkdir()
    folder = door.Folder(tmp_path / "run")
    with nothing_leaves(outside):
        for name, target in (("file", "thesis.txt"), ("new", "created.txt"), ("sub", "")):
            (tmp_path / "run" / name).symlink_to(outside / target)
        for use in (
            folder.open,
            folder.append,
            folder.update,
            lambda name: folder.read(name, 10),
            lambda name: folder.tail(name, 10),
        ):
            for name in ("file", "new", "sub"):
                with pytest.raises(OSError, match=f"{name} is a link"):
                    use(name)
        for use in (folder.create, lambda name: folder.write_new(name, b"x")):
            with pytest.raises(FileExistsError):
                use("new")
        inner = folder / "sub"
        for use in (
            inner.names,
            inner.subfolders,
            inner.make,
            lambda: inner.read("thesis.txt", 99),
            lambda: inner.write("thesis.txt", b"x"),
            lambda: inner.remove("thesis.txt"),
            lambda: inner.move("thesis.txt", folder, "moved"),
            lambda: folder.move("file", inner, "moved"),
        ):
            with pytest.raises(OSError, match="sub is a link"):
                use()
        folder.write("file", b"content")
        folder.remove("new")
    assert (folder.read("file", 99), folder.names(), folder.subfolders()) == (b"content", ["file", "sub"], [])
    made = (folder / "made").make()
    folder.move("file", made, "moved")
    with made.append("moved") as file:
        file.write(b", more")
    assert (made.tail("moved", 4), made.problem("moved"), folder.problem("sub") == "") == (b"more", "", False)
    made.remove("moved")
    folder.remove_folder("made")
    assert folder.names() == ["sub"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../outside", "a\0b"])
def test_a_name_is_one_component(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no name of a file"):
        Folder(tmp_path).read(name, 10)
    with pytest.raises(OSError, match="no name of a file"):
        Folder(tmp_path).write(name, b"")


def test_status_that_is_a_link_to_nowhere_is_taken(tmp_path: Path) -> None:
    (tmp_path / "status.json").symlink_to("nowhere")
    with pytest.raises(UsageError, match="already holds a run"):
        RunFolder(tmp_path).claim({"seed": 0}, [])


def test_lock_of_any_content_is_no_holder(tmp_path: Path) -> None:
    for content in ("5", "[" * DEEP, '{"pid": "x", "host": 1, "since": 2}', '{"pid": ' + LONG + ', "host": "", "since": ""}'):
        (tmp_path / ".lock").write_text(content)
        assert last_holder(tmp_path) is None
        assert is_held(tmp_path) is False


def test_report_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    """Its own files replace links of their names; a linked subfolder is refused, or for TensorBoard left alone."""
    folder, outside = write_sweep(tmp_path / "sweep", {("norm=layer",): [0.5, 0.6]}), tmp_path / "outside"
    names = ("report.md", "report.html", "results.csv", "results.parquet", "curves.parquet")
    with nothing_leaves(outside):
        for name in (*names, "events.out.tfevents.0000000000.train-report"):
            (folder / name).symlink_to(outside / "thesis.txt")
        assert cli.run([str(folder)]) == 0
        assert not any((folder / name).is_symlink() for name in names)
        shutil.rmtree(folder / "summary")
        (folder / "summary").symlink_to(outside)
        with pytest.raises(OSError, match="summary is a link"):
            write_charts(analyse_folders([folder], ReportOptions()), folder)
        shutil.rmtree(folder / "figures")
        (folder / "figures").symlink_to(outside)
        assert cli.run([str(folder)]) == 2


MANIFESTS: dict[str, Attack] = {
    **{f"is {kind}": special("sweep.json", make) for kind, make in SPECIAL.items()},
    "deep": replacing("sweep.json", "[" * DEEP),
    "number": replacing("sweep.json", "5"),
    **{
        f"{key}={str(value)[:20]!r}": setting("sweep.json", **{key: value})
        for key, value in {
            "format": [],
            "command": "train -m",
            "design": "none",
            "axes": {"norm": "layer"},
            "seeds": [1],
            "baseline": 5,
            "arms": {"a": 1},
            "runs": [5],
            "dropped": [{"reason": 1}],
            "zipped": [1],
            "study": [],
            "notes": "note",
            "tune": {"a": 1},
            "metric": 5,
            "smallest_effect": "x",
            "first_batches": [1],
            "identity_version": 99,
            "tuning": {"seeds": [1], "epochs": "NaN", "extend": 2},
            "choices": {"a": {"arm": "b", "setting": {"c": 1}, "tried": [], "when": ""}},
        }.items()
    },
    "arm without levels": setting("sweep.json", arms=[{"id": "a", "overrides": []}]),
    "arm of numbers": setting("sweep.json", arms=[{"id": "a", "levels": {"norm": 5}, "overrides": []}]),
    "run of numbers": setting("sweep.json", runs=[{"identity": 1, "arm": 2, "folder": 3, "overrides": [4]}]),
    "overrides text": setting("sweep.json", runs=[{"identity": "", "arm": "", "folder": "", "overrides": "abc"}]),
}


@pytest.mark.parametrize("attack", MANIFESTS.values(), ids=MANIFESTS)
def test_unreadable_manifest_is_one_row(attack: Attack, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", {("norm=layer",): [0.5, 0.6]})
    attack(folder)
    found = analyse_folders([folder], ReportOptions()).study.collection
    assert len(found.runs) == 2
    assert [excluded.folder.name for excluded in found.unreadable] == ["sweep.json"]
    with pytest.raises(UsageError, match=r"sweep\.json"):
        read_manifest(folder)
    assert newest_sweep(tmp_path) == folder


def trying(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return fields that say of every run that it tries a level, in a way that fits nothing."""
    choice = {"arm": "nothing", "setting": {}, "tried": [], "when": ""}
    first, *others = ({**run, "tries": run["arm"]} for run in manifest["runs"])
    arms = [{**arm, "tuned": "same", "levels": {}} for arm in manifest["arms"] * 2]
    arms[0]["tuned"] = "another"
    tuning = {"seeds": [], "epochs": 0.5, "extend": 1e9}
    runs = [first, *others, {**first, "identity": "x", "tries": "unknown"}]
    return {"tune": ["norm", "a.b"], "tuning": tuning, "choices": {"same": choice}, "runs": runs, "arms": arms}


READABLE_MANIFESTS: dict[str, Attack] = {
    "no arms": setting("sweep.json", arms=[], runs=[], axes={}),
    "no arms and no runs": lambda folder: (
        [shutil.rmtree(run) for run in folder.iterdir() if run.is_dir()]
        and setting("sweep.json", arms=[], runs=[], axes={})(folder)
    ),
    "an arm twice": lambda folder: setting("sweep.json", arms=json.loads((folder / "sweep.json").read_text())["arms"] * 2)(
        folder
    ),
    "no baseline": setting("sweep.json", baseline="nothing"),
    "axes that no arm has": setting("sweep.json", axes={"depth": ["1", "2"]}),
    "no axes": setting("sweep.json", axes={}),
    "folders elsewhere": setting(
        "sweep.json", runs=[{"identity": "x", "arm": "y", "folder": "../../../etc", "overrides": ["a=b"]}]
    ),
    "runs that try": lambda folder: setting("sweep.json", **trying(json.loads((folder / "sweep.json").read_text())))(folder),
    "tuned seeds": setting("sweep.json", tune=["seed"]),
    "tuned nothing": setting("sweep.json", tune=["a.b.c"]),
}


@pytest.mark.parametrize("attack", READABLE_MANIFESTS.values(), ids=READABLE_MANIFESTS)
def test_report_goes_on_with_a_strange_manifest(attack: Attack, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", {("norm=layer",): [0.5, 0.6], ("norm=batch",): [0.5, 0.7]})
    attack(folder)
    with suppress(UsageError):  # one message
        page_of(folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    run_outcomes(folder, manifest.runs, stored_runs(folder))


def test_strange_subfolders_end_no_report(two_runs: Path, tmp_path: Path) -> None:
    """What cannot be read is named once; links below the folder that the user names are not followed."""
    folder = shutil.copytree(two_runs, tmp_path / "runs")
    deep = folder / "deep"
    deep.mkdir()
    before = Path.cwd()
    try:
        os.chdir(deep)
        for _ in range(1_500):  # deeper than Python calls itself, and with a path that is longer than the system takes
            Path("abcd").mkdir()
            os.chdir("abcd")
    finally:
        os.chdir(before)
    (folder / "loop").symlink_to(".")
    (folder / "linked").symlink_to(write_run(tmp_path / "elsewhere", ["norm=layer"], 0.5))
    (folder / "nowhere").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    found = analyse_folders([folder], ReportOptions()).study.collection
    assert sorted(run.folder.name for run in found.runs) == ["bad", "good"]
    assert ["File name too long" in excluded.reason for excluded in found.unreadable] == [True]
    subprocess.run(["rm", "-r", str(deep)], check=True)


def test_unreadable_subfolder_is_named(two_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads every folder, so the system's answer is given by hand where the tests run as root."""
    folder = shutil.copytree(two_runs, tmp_path / "runs")
    (folder / "secret").mkdir(mode=0)
    if os.access(folder / "secret", os.R_OK):
        scandir, secret = os.scandir, (folder / "secret").stat().st_ino

        def refuse(place: int) -> object:
            if os.fstat(place).st_ino == secret:
                raise PermissionError(13, "Permission denied")
            return scandir(place)

        monkeypatch.setattr(os, "scandir", refuse)
    found = analyse_folders([folder], ReportOptions()).study.collection
    assert sorted(run.folder.name for run in found.runs) == ["bad", "good"]
    assert [(excluded.folder.name, "Permission denied" in excluded.reason) for excluded in found.unreadable] == [("secret", True)]


def packed(content: object) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def compressed(data: bytes) -> bytes:
    """Return the archive of a checkpoint, compressed, and with much more in it."""
    small = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("archive/data/bomb", bytes(10_000_000))
    return small.getvalue()


def bomb_of_lists() -> list[object]:
    """Return 40 lists that hold each other twice: a trillion values."""
    values: list[object] = [0]
    for _ in range(40):
        values = [values, values]
    return values


def replaced(value: Any, path: Sequence[Any], new: Any) -> Any:
    """Return a copy of nested values with another one at a path. `new`: a function changes the value that is there."""
    if not path:
        return new(value) if callable(new) else new
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


def zeros(*shape: int) -> Any:
    import torch

    return torch.zeros(shape)


FIRST = ("loop", "optimizer", "state", 0)
GROUP = ("loop", "optimizer", "param_groups", 0)
SNAPSHOT = ("loop", "bookmark")
STRANGE: dict[str, tuple[tuple[Any, ...], Any]] = {
    "the model is a number": (("loop", "model"), 5),
    "weights of other shapes": (("loop", "model"), lambda model: {name: zeros(3, 3) for name in model}),
    "weights that are text": (("loop", "model"), lambda model: dict.fromkeys(model, "x")),
    "of another step": (("loop", "steps"), -5),
    "negative sizes": (("files", "metrics.jsonl"), -1),
    "a long number": (("elapsed_s",), 10**400),
    "time without end": (("elapsed_s",), float("inf")),
    "a format of many numbers": (("format",), lambda _: zeros(3)),
    "a long format": (("format",), 10**5000),
    "lists in lists": (("loop", "best"), lambda _: bomb_of_lists()),
    "a tensor of a trillion numbers": (
        (*FIRST, "momentum_buffer"),
        lambda _: zeros(1).to(dtype=__import__("torch").int8).expand(10**12),
    ),
    "a tensor on no machine": (("loop", "model", "head.weight"), lambda weight: weight.to("meta")),
    "momentum of another shape": ((*FIRST, "momentum_buffer"), lambda _: zeros(3, 3)),
    "momentum of one number": ((*FIRST, "momentum_buffer"), lambda _: zeros()),
    "a state of another parameter": (("loop", "optimizer", "state"), lambda state: {**state, 99: state[0]}),
    "states in another order": (("loop", "optimizer", "param_groups", 1, "params"), lambda numbers: numbers[::-1]),
    "momentum that is text": ((*FIRST, "momentum_buffer"), "x"),
    "a state of a parameter that is a list": (FIRST, [1]),
    "a learning rate that is text": ((*GROUP, "initial_lr"), "x"),
    "no learning rate": ((*GROUP, "initial_lr"), None),
    "momentum setting that is a list": ((*GROUP, "momentum"), [0.9]),
    "groups of other parameters": ((*GROUP, "params"), [0]),
    "losses of other shapes": (("loop", "losses"), lambda _: [zeros(2)]),
    "more losses than answers": (("loop", "losses"), lambda losses: [*losses, *losses]),
    "rows without averages": (("loop", "moments", "steps"), [5]),
    "a best score that is text": (("loop", "best"), {"step": 1, "score": "x"}),
    "a best score of text": (("loop", "best"), {"step": 1, "score": {"loss": "x", "accuracy": 1.0, "examples": 1}}),
    "time that is text": (("loop", "train_s"), "x"),
    "a scale that is text": (("loop", "scaler"), {"scale": "x"}),
    "a snapshot of a later step": ((*SNAPSHOT, "step"), 900),
    "a snapshot of other weights": ((*SNAPSHOT, "model"), lambda model: model[:3]),
    "a snapshot with momentum of another shape": ((*SNAPSHOT, "optimizer", "state", 0, "momentum_buffer"), lambda _: zeros(3, 3)),
    "a snapshot with another optimizer": ((*SNAPSHOT, "optimizer", "state", 0), lambda _: {"exp_avg": zeros(3)}),
    "no field": (("loop",), lambda loop: {key: value for key, value in loop.items() if key != "best"}),
}
"""Where a checkpoint of a stranger differs from one of ours, and how."""


@pytest.mark.parametrize("change", ["not an archive", "compressed", *STRANGE])
def test_strange_checkpoint_is_one_message(change: str, tmp_path: Path) -> None:
    """Its name holds the right checksum: a stranger can compute it, too."""
    import torch

    folder = shutil.copytree(STORED, tmp_path / "run")
    newest, *_ = list_checkpoints(folder)
    path, new = STRANGE.get(change, ((), lambda content: content))
    data = packed(replaced(torch.load(newest.path, weights_only=True), path, new))
    data = b"x" * 1000 if change == "not an archive" else compressed(data) if change == "compressed" else data
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / f"step-{newest.step:09d}-{checksum(data)}.pt").write_bytes(data)
    with pytest.raises((UsageError, RunError), match="checkpoint") as refused:
        resume_in_process(folder)
    assert len(str(refused.value)) < 700


def test_long_records_are_read_within_bounds(tmp_path: Path) -> None:
    make_sparse(tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match="has a line of more than"):
        read_lines(tmp_path / "metrics.jsonl")


def test_commands_refuse_a_strangers_folder(train: Train, tmp_path: Path) -> None:
    folder, outside = shutil.copytree(STORED, tmp_path / "run"), tmp_path / "outside"
    with nothing_leaves(outside):
        (folder / "metrics.jsonl").unlink()
        (folder / "metrics.jsonl").symlink_to(outside / "thesis.txt")
        result = train("resume=run")
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
        assert "metrics.jsonl is a link" in result.stderr


def test_repeated_sweep_archives_links(train: Train, tmp_path: Path) -> None:
    """A sweep from somebody else: the folder of a run is a link, and the archive is. Neither is followed."""
    outside = tmp_path / "outside"
    sweep = ["-m", "seed=0", *SMALL, "trainer.max_steps=2", "hydra.sweep.dir=sweep", "report.tensorboard=false"]
    assert train(*sweep).returncode == 0
    (run,) = find_runs([tmp_path / "sweep"])
    shutil.rmtree(run)
    with nothing_leaves(outside):
        run.symlink_to(outside)
        assert train(*sweep).returncode == 0
        assert (tmp_path / "sweep" / "previous" / f"{run.name}.1").is_symlink()
        assert read_run(run).state == "done"


def test_files_beyond_memory_are_written_anew_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that is said to be continued from a terabyte on, and images that unpack to more than any set has."""
    import torch

    folder = shutil.copytree(STORED, tmp_path / "run")
    newest, *_ = list_checkpoints(folder)
    make_sparse(folder / "events.out.tfevents.9999999999.a.1")
    path = ("files", "events.out.tfevents")
    data = packed(replaced(torch.load(newest.path, weights_only=True), path, 1 << 39))
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / f"step-{newest.step:09d}-{checksum(data)}.pt").write_bytes(data)
    assert resume_in_process(folder)[1] == "done"
    (view,) = folder.glob("events.out.tfevents.*")
    assert view.stat().st_size < 1 << 30
    monkeypatch.setattr(idx, "LARGEST", 10_000)
    idx.write(tmp_path / "images.gz", torch.zeros(20, 100, 10, dtype=torch.uint8))
    with pytest.raises(ValueError, match="holds more than"):
        idx.read(tmp_path / "images.gz")


def test_limit_is_no_demand_for_memory(tmp_path: Path) -> None:
    """That of a checkpoint is the memory of the machine, which nobody gets at once."""
    (tmp_path / "file").write_bytes(b"content")
    assert Folder(tmp_path).read("file", 1 << 60) == b"content"
    with pytest.raises(RefusedError, match="more than 6 bytes"):
        Folder(tmp_path).read("file", 6)
