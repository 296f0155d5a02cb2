"""`train-report diff A B` compares two runs key by key."""

import re

from tests.report.folders import write_run


def test_diff_lists_choices_keys_code_and_results(tmp_path, train_report):
    first = write_run(tmp_path / "first", ["norm=batch", "optimizer.lr=0.1"], 0.8)
    changed = {"git": {"commit": "fedcba", "dirty": True}, "device": "cuda:0, some GPU"}
    second = write_run(
        tmp_path / "second", ["norm=group", "norm.groups=4", "seed=3"], None, "failed", reason="no memory", status=changed
    )
    result = train_report("diff", first, second)
    assert (result.returncode, result.stderr) == (0, "")
    lines = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    for expected in (
        ["norm", "batch", "group"],
        ["seed", "0", "3"],
        ["norm.groups", "-", "4"],
        ["optimizer.lr", "0.1", "0.2"],
        ["git.commit", "0123456789abcdef", "fedcba"],
        ["git.dirty", "false", "true"],
        ["device", "cpu, 1 threads", "cuda:0, some GPU"],
        ["state", "done", "failed: no memory"],
        ["test_accuracy", "80.00 %", "-"],
    ):
        assert expected in lines, expected
    assert "Runs of different arms." in result.stdout
    assert "trainer.epochs" not in result.stdout


def test_diff_of_one_arm_lists_seeds_and_results_only(tmp_path, train_report):
    first = write_run(tmp_path / "first", ["seed=0"], 0.80)
    second = write_run(tmp_path / "second", ["seed=1"], 0.75)
    result = train_report("diff", first, second)
    assert "they differ only in their seeds" in result.stdout
    assert "choices: no difference" in result.stdout
    assert re.search(r"test_accuracy +80\.00 % +75\.00 % +\(-5\.00 points\)", result.stdout)


def test_diff_rejects_a_folder_without_a_run(tmp_path, train_report):
    result = train_report("diff", write_run(tmp_path / "first"), tmp_path)
    assert result.returncode == 2
    assert "not a run folder" in result.stderr
    assert "Traceback" not in result.stderr
