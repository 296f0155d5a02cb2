"""Where runs differ in what went into them besides their configuration: plain values for threats."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputFacts:
    """Where runs that should differ in their configuration alone differ in something else that went into them.

    `data`, `code`: how the data differ between runs that ask for the same, and the versions of code that is not ours;
    `configurations`: how arms differ that have the same levels. `unknown_data`: ended runs whose data are not known;
    `shown_data`: those whose first batch shows them; `unknown_code`: those that do not record code that others of their arm do.
    `same_test_data`: whether all were tested on the same images, None if that is not known.
    """

    data: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    configurations: tuple[str, ...] = ()
    unknown_data: int = 0
    shown_data: int = 0
    unknown_code: int = 0
    same_test_data: bool | None = True
