"""Statistics of sweeps: functions of plain numbers. The shared dataclasses are in `train.report.contracts`."""
