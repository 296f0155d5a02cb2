"""Names: of the arms of a study, one for all outputs, and of the folders of runs and sweeps.

Folders of runs are readable, sortable by time, and unique even for runs that start at the same moment.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Mapping

BASELINE = "baseline"
ABSENT = "-"
"""The level of a key that a configuration does not have."""

SLUG_BYTES = 120
"""Maximum length of a slug. File systems allow 255 bytes per name; date, time and random part take 24, a job's hash 9."""


def levels_text(levels: Mapping[str, str]) -> str:
    """Return the levels as one text, `init=xavier norm=none`, without the keys that are absent."""
    return " ".join(f"{factor}={level}" for factor, level in levels.items() if level != ABSENT)


def arm_names(arms: Mapping[str, Mapping[str, str]], baseline: str, *, combinations: bool) -> dict[str, str]:
    """Return the name of every arm of a study, by its id: the one name that every output uses.

    `arms`: id -> factor -> level, without tuned keys; `baseline`: its id. With `combinations`, as in a grid, a name has all
    levels, and that of the baseline ends with `(baseline)`. Elsewhere, it has the levels that are not the baseline's, whose
    name is `baseline`. A part of the id tells arms of the same levels apart.
    """
    reference = {} if combinations else arms.get(baseline, {})
    texts = {id: _differences(levels, reference) for id, levels in arms.items()}
    counts = Counter(texts.values())
    return {id: _arm_name(text, id, is_baseline=id == baseline, is_shared=counts[text] > 1) for id, text in texts.items()}


def _differences(levels: Mapping[str, str], reference: Mapping[str, str]) -> str:
    """Return the levels that are not those of `reference`. Keys that are absent are named only where nothing else differs."""
    differing = {factor: level for factor, level in levels.items() if level != reference.get(factor)}
    return levels_text(differing) or " ".join(f"{factor}={level}" for factor, level in differing.items())


def _arm_name(text: str, id: str, *, is_baseline: bool, is_shared: bool) -> str:
    if is_baseline:
        return f"{text} ({BASELINE})" if text else BASELINE
    return f"{text or f'like the {BASELINE}'} ({id[:6]})" if is_shared or not text else text


def arm_folder(name: str) -> str:
    """Return the name of an arm as the name of a folder: `init=xavier norm=none` -> `init=xavier,norm=none`."""
    return slug(re.sub(r"[()]", "", part) for part in name.split())


def slug(overrides: Iterable[str]) -> str:
    """Join overrides to a text that is safe as a file name on every system and in a URL.

    `['init=xavier', 'norm=batch']` -> `init=xavier,norm=batch`.
    """
    text = ",".join(overrides) or "defaults"
    safe = re.sub(r"[^A-Za-z0-9=.,_+~-]+", "-", text).strip("-.")
    return (safe or "run")[:SLUG_BYTES]


def stamp() -> str:
    """Return date, time and five random characters, which let the later exclusive claim of the folder succeed."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    return time.strftime("%Y-%m-%d_%H-%M-%S_") + "".join(secrets.choice(alphabet) for _ in range(5))


def run_name(overrides: Iterable[str]) -> str:
    """Return the folder name of a single run."""
    return f"{stamp()}_{slug(overrides)}"


def job_name(overrides: Iterable[str], shown: Iterable[str] = ()) -> str:
    """Return the folder name of a run within its sweep: `norm=batch,seed=0_1d3d0532`.

    It depends on the overrides alone, not on the position in the sweep. `shown`: those of them that differ between the runs; a
    hash of all tells names apart.
    """
    lines = [str(line) for line in overrides]
    return f"{slug([*shown] or lines)}_{hashlib.sha256(chr(0).join(lines).encode()).hexdigest()[:8]}"


def sweep_name() -> str:
    """Return the folder name of a sweep."""
    return f"{stamp()}_sweep"
