"""The fields of `sweep.json`, and what each may hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from train.store.decisions import are_looks
from train.store.kinds import COUNT, FLAG, SHARE, TEXT, WHOLE, Kind, is_number, is_whole, list_of, mapping_of, wrong_field

OPTIONAL = frozenset({"tuned", "data", "plan", "margin", "difference", "low", "high", "tries", "score"})
"""Fields that earlier versions did not write, or that are null where nothing is known."""


def _record(fields: Mapping[str, Kind]) -> Kind:
    """Return the kind of a mapping with these fields, of which earlier versions lack the optional ones."""

    def holds(value: Any) -> bool:
        required = fields.keys() - OPTIONAL
        return isinstance(value, dict) and not any(value.get(key) is None for key in required) and not wrong_field(value, fields)

    return Kind(f"a mapping with {', '.join(fields)}", holds)


def _records(fields: Mapping[str, Kind]) -> Kind:
    return list_of(_record(fields))


_ARM = {"id": TEXT, "levels": mapping_of(TEXT), "overrides": list_of(TEXT), "tuned": TEXT, "data": TEXT}
_RUN = {"identity": TEXT, "arm": TEXT, "folder": TEXT, "overrides": list_of(TEXT), "plan": WHOLE, "tries": TEXT}
_DROPPED = {"overrides": list_of(TEXT), "reason": TEXT}
_POSITIVE = Kind("a number above 0", lambda value: is_number(value) and 0 < value < math.inf)

_LEVELS = mapping_of(list_of(TEXT))
_PLAN = {
    **dict.fromkeys(("when", "design", "baseline"), TEXT),
    **dict.fromkeys(("command", "tune"), list_of(TEXT)),
    **dict.fromkeys(("axes", "seeds"), _LEVELS),
    **dict.fromkeys(("arms", "runs"), WHOLE),
}
_STANDING = Kind("final, interim or exploratory", lambda value: value in ("final", "interim", "exploratory"))
_LOOK = {
    **dict.fromkeys(("when", "metric"), TEXT),
    "standing": _STANDING,
    "plans": WHOLE,
    "closes": FLAG,
    "runs": mapping_of(WHOLE),
    "level": SHARE,
}


_FINITE = Kind("a finite number", lambda value: is_number(value) and math.isfinite(value))
_LOOKS = {
    **dict.fromkeys(("axis", "metric"), TEXT),
    "seeds": list_of(TEXT),
    "arms": Kind("the names of two arms or more", lambda value: list_of(TEXT).holds(value) and len(value) > 1),
    "looks": Kind("rising numbers of seeds", are_looks),
    "stops": FLAG,
    "margin": _POSITIVE,
}
_DECISION = {
    **dict.fromkeys(("look", "seeds"), Kind("a whole number above 0", lambda value: is_whole(value) and value > 0)),
    "verdict": Kind("a decision", lambda value: value in ("different", "equivalent", "not_comparable", "undecided", "open")),
    "level": Kind("a number between 0 and 1", lambda value: is_number(value) and 0 <= value <= 1),
    **dict.fromkeys(("difference", "low", "high"), _FINITE),
    "note": TEXT,
}


_PART = Kind("a number above 0, at most 1", lambda value: is_number(value) and 0 < value <= 1)
_TRIED = {
    "setting": mapping_of(TEXT),
    "score": Kind("a number", is_number),
    **dict.fromkeys(("runs", "diverged", "failed"), COUNT),
}
_CHOICE = {"arm": TEXT, "setting": mapping_of(TEXT), "tried": _records(_TRIED), "when": TEXT}
_TUNING = {"seeds": list_of(WHOLE), "epochs": _PART, "extend": COUNT}

MANIFEST: Mapping[str, Kind] = {
    "command": list_of(TEXT),
    **dict.fromkeys(("design", "baseline", "study", "metric", "analysis"), TEXT),
    **dict.fromkeys(("axes", "seeds"), _LEVELS),
    "arms": _records(_ARM),
    "runs": _records(_RUN),
    "dropped": _records(_DROPPED),
    "zipped": list_of(list_of(TEXT)),
    **dict.fromkeys(("notes", "tune"), list_of(TEXT)),
    "smallest_effect": _POSITIVE,
    "first_batches": mapping_of(TEXT),
    "planned_looks": _record(_LOOKS),
    "decisions": mapping_of(_record(_DECISION)),
    "plans": _records(_PLAN),
    "looks": _records(_LOOK),
    "tuning": _record(_TUNING),
    "choices": mapping_of(_record(_CHOICE)),
    "identity_version": WHOLE,
}
