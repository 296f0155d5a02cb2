"""Equal parts of stored values as one object: thousands of runs have most of what they store in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Shared:
    """The parts of plain values that were seen, so that equal ones take memory once. Nobody may change them."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._parts: dict[str, Any] = {}

    def fields(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return a mapping with its keys and values shared; the mapping itself is not: each run has one of its own."""
        return {self.of(key): self.of(value) for key, value in content.items()}

    def of(self, value: Any) -> Any:
        """Return the first value seen that is the same as this one, number by number and key by key, in the same order."""
        if not isinstance(value, dict | list | tuple):
            return self._with_texts(value)
        key = repr(value)  # unlike ==, it tells 1 from 1.0 and from true
        known = self._parts.get(key)
        return self._parts.setdefault(key, self._with_texts(value)) if known is None else known

    def _with_texts(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._texts.setdefault(value, value)
        if isinstance(value, dict):
            return {self._with_texts(key): self._with_texts(inner) for key, inner in value.items()}
        return type(value)(map(self._with_texts, value)) if isinstance(value, list | tuple) else value
