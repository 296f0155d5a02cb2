"""Runs as a table: the command `train-runs` and `train.runs`. Reads status and summary of a run, not its records."""
