"""Programs that stand for NVIDIA's tools: real processes on the PATH that answer as those do, and log how they are called."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

NOWHERE = 64
"""The index of a GPU that no machine has: a run that is sent there computes on the CPU, also where there are real GPUs."""

SMI = """#!/bin/sh
case "$1" in
    *memory*) printf '%s\\n' {memory} ;;
    *) printf '%s\\n' {indices} ;;
esac
"""

CONTROL = """#!/bin/sh
pipes=${{CUDA_MPS_PIPE_DIRECTORY:-{folder}/machine}}
if [ "$1" = -d ]; then
    echo "start $pipes ${{CUDA_VISIBLE_DEVICES-all}}" >> {folder}/calls
    [ -e {folder}/broken ] && exit 1
    setsid sh -c 'echo $$ > "$0/pid"; exec sleep 600' "$pipes" </dev/null &
    while [ ! -s "$pipes/pid" ]; do sleep 0.02; done
    exit 0
fi
read -r command
echo "$command $pipes" >> {folder}/calls
kill -0 "$(cat "$pipes/pid" 2>/dev/null)" 2>/dev/null || exit 1
[ "$command" = quit ] && kill "$(cat "$pipes/pid")" && sleep 0.1
exit 0
"""


@dataclass(frozen=True)
class FakeGpu:
    """A folder with the tools. The daemon lives until it is told to quit, and keeps its output open, as the real one does."""

    folder: Path

    @property
    def path(self) -> str:
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"

    @property
    def tool(self) -> str:
        return str(self.folder / "nvidia-cuda-mps-control")

    def calls(self, command: str) -> list[list[str]]:
        """Return what followed `command` at each call of the daemon's tool: its pipes and, at a start, the visible devices."""
        log = self.folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split()[1:] for line in lines if line.split()[0] == command]

    def pid(self) -> int:
        """Return the process of the daemon that was started last."""
        return int((Path(self.calls("start")[-1][0]) / "pid").read_text())

    def left_nothing(self, pid: int) -> bool:
        """Return whether the daemon with this id and the folders of all daemons are gone."""
        folders = [Path(pipes).parent for pipes, _ in self.calls("start")]
        try:
            ended = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            ended = True
        return ended and not any(folder.exists() for folder in folders)


def fake_gpu(folder: Path, mebibytes: str = "81559", count: int = 1, mig: str = "Disabled", first: int = 0) -> FakeGpu:
    """Write the tools of a machine with `count` GPUs, numbered from `first`, into `folder`."""
    folder.mkdir()
    indices = range(first, first + count)
    memory = " ".join(f"'{index}, {mebibytes}, {mig}'" for index in indices)
    texts = {
        "nvidia-smi": SMI.format(memory=memory, indices=" ".join(map(str, indices))),
        "nvidia-cuda-mps-control": CONTROL.format(folder=folder),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return FakeGpu(folder)
