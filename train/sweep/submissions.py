"""What a sweep has submitted to Slurm, and which of its runs Slurm still holds: those are never submitted again.

A submission is written down before it is made, under the name of its jobs, which is drawn. So also a command that is killed in
between leaves no run that is queued and not known. If it is killed before Slurm has told it their number, the jobs end at once:
submitit finds no work of that number. Their runs may be submitted again.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from train.errors import UsageError
from train.store.inside import Folder

SUBMITTED = ".submitit"
"""The folder of a sweep for what is submitted. Slurm's jobs read pickles there, this program only `RECORD`."""
RECORD = "runs.json"
"""The folders of the runs of each job, in the order of the job array."""
MOST_BYTES = 64 * 1024**2
ANSWER_S = 60.0


def draw_name() -> str:
    """Return a new name for a submission and its jobs. Nobody who hands on a sweep can have placed a file under it."""
    return f"train-{secrets.token_hex(6)}"


def record(sweep: Path, name: str, jobs: Sequence[Sequence[str]]) -> Path:
    """Write down the folders of the runs of each job, and return the folder of the submission."""
    folder = ((Folder(sweep) / SUBMITTED).make() / name).make()
    folder.write(RECORD, json.dumps({"format": 1, "jobs": [list(job) for job in jobs]}).encode())
    return folder.path


def held_folders(sweep: Path) -> set[str]:
    """Return the folders, below that of a sweep, of the runs whose jobs are queued or running in Slurm.

    UsageError when runs were submitted and Slurm does not answer.
    """
    jobs = _recorded(sweep)
    if not jobs:
        return set()
    held: set[str] = set()
    for name, number in queue(sweep):
        recorded = jobs.get(name, [])
        held.update(*recorded[number : number + 1])
    return held


def queue(sweep: Path) -> set[tuple[str, int]]:
    """Return the name and the number in its array of each of this user's jobs in Slurm. UsageError as of `held_folders`.

    submitit makes no array of one job: its number is 0.
    """
    command = ["squeue", "--me", "--array", "--noheader", "--format=%j|%K"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
        problem = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        done, problem = None, str(error)
    if done is None or problem:
        raise UsageError(
            f"{sweep}: runs were submitted to Slurm, and it does not say which of them are still queued (squeue: {problem}). "
            f"Repeat the command where it answers, or remove {sweep / SUBMITTED} if none is."
        )
    lines = (line.strip().rpartition("|") for line in done.stdout.splitlines())
    return {(name, int(number) if number.isdigit() else 0) for name, _, number in lines if name}


def _recorded(sweep: Path) -> dict[str, list[list[str]]]:
    """Return name -> folders of the runs of each job. What cannot be read was never submitted by this program."""
    found = {}
    with suppress(OSError, ValueError):
        submissions = Folder(sweep) / SUBMITTED
        for name in submissions.subfolders():
            with suppress(OSError, ValueError, KeyError, TypeError):
                jobs = json.loads((submissions / name).read(RECORD, MOST_BYTES))["jobs"]
                found[name] = [[str(folder) for folder in job] for job in jobs]
    return found
