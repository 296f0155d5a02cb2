"""Statistics of sweeps as functions of plain numbers. The dataclasses they share are in `train.report.contracts`."""
