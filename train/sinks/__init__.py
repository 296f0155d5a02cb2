"""Sinks receive the records of a run. A run writes to one `contracts.Sink` and knows no other."""
