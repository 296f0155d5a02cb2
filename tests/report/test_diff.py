"""`train-report diff A B`: how two runs differ, key by key."""

import re

from tests.report.folders import write_run


def test_two_arms_differ_in_choices_keys_code_and_results(tmp_path, train_report):
    one = write_run(tmp_path / "one", ["norm=batch", "optimizer.lr=0.1"], 0.8)
    changed = {"git": {"commit": "fedcba", "dirty": True}, "device": "cuda:0, some GPU"}
    other = write_run(
        tmp_path / "other", ["norm=group", "norm.groups=4", "seed=3"], None, "failed", reason="no memory", status=changed
    )
    result = train_report("diff", one, other)
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
    assert "Runs of two arms." in result.stdout
    assert "trainer.epochs" not in result.stdout


def test_runs_of_one_arm_differ_in_seeds_and_results_only(tmp_path, train_report):
    one = write_run(tmp_path / "one", ["seed=0"], 0.80)
    other = write_run(tmp_path / "other", ["seed=1"], 0.75)
    result = train_report("diff", one, other)
    assert "they differ in their seeds only" in result.stdout
    assert "choices: no difference" in result.stdout
    assert re.search(r"test_accuracy +80\.00 % +75\.00 % +\(-5\.00 points\)", result.stdout)


def test_what_is_no_run_is_refused(tmp_path, train_report):
    result = train_report("diff", write_run(tmp_path / "one"), tmp_path)
    assert result.returncode == 2
    assert "no run folder" in result.stderr
    assert "Traceback" not in result.stderr
