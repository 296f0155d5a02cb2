"""A sweep folder as a stranger might write it: every text in it carries what a terminal, a page or a shell would obey."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.report.folders import write_run, write_sweep
from train.store.identity import VERSION
from train.store.manifest import Dropped

CONTROLS = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x0b\x0c\x85\u2028\u2029\x7f\x08\u202e\u2066\u200b\ufeff\U000e0041"
MARKUP = "</code></pre><img src=x onerror=alert(1)><details><!-- x --><script>alert(2)</script>&lt;b&gt;\"'><svg/onload=x>"
MARKDOWN = "`` ` [a](javascript:alert(3)) ![i](http://evil.example/i.png) <https://evil.example> **b** | c $x$ ~~s~~ @user"
MARKDOWN += " www.evil.example a@evil.example"
LINES = "\n# heading\n\n- item\n\n    code\n\n---\n| a | b |\n|---|---|\n| c | d |\n\n[ref]: http://evil.example\n"
PAYLOAD = f"=HYPERLINK(1);=2+3{CONTROLS}{MARKUP}{MARKDOWN}{LINES}"
"""Begins as a formula."""
SURROGATE = "\udc80\ud800"
"""Half characters, which JSON can hold and no encoding can write."""

TRUST = ["trust=[os]", "--config-dir", "/evil conf", "-cd=/evil", "--config-path=/evil", "--config-d", "/evil", "-r"]
TRUST += ["hydra.searchpath=[/evil]", "++hydra.callbacks.x._target_=os.system", "hydra/launcher=evil", "hydra.run.dir=/evil"]
TRUST += ["+norm@hydra.callbacks.x=evil", "experiment=../../../proc/self/cwd/evil", "'../../evil@_global_'=x", "resume=/evil"]
TRUST += ["--config-name=evil", " trust=[os]", "trust.0=os", "../../evil=x", "/evil", "~trust=evil"]
HARMLESS = ("identity", "arm", "status", "started", "pid", "host", "id", "baseline", "design", "metric", "seeds", "tuned", "data")
"""Keys without which the folder would not count as runs of the sweep."""
OVERRIDES = ("overrides", "command", "own_parts")
NAMES = ("axes", "levels", "versions", "own_code")
"""Keys whose mappings have names of the stranger's own."""


def poisoned(value: Any, key: str = "", payload: str = PAYLOAD + SURROGATE) -> Any:
    """Return a value of JSON whose texts carry the payload: in front, or behind in overrides."""
    if isinstance(value, str):
        return value if key in HARMLESS else value + payload if key in OVERRIDES else payload + value
    if isinstance(value, list):
        return [poisoned(item, key, payload) for item in value]
    if isinstance(value, dict):
        own = key in NAMES
        return {
            payload + name if own else name: poisoned(item, "levels" if own else name, payload) for name, item in value.items()
        }
    return value


def write_hostile_sweep(folder: Path) -> Path:
    """Write a sweep with runs in all states, poison every file, and return its folder, which has a hostile name, too."""
    dropped = [Dropped(("norm=group",), "no reason")]
    arms = {("norm=batch",): (0.8, 0.81, 0.82), ("norm=none",): (0.6, 0.61, 0.62, 0.6)}
    diagnosis = {"kind": "diverged", "finding": "growth", "statistic": "s", "layer": "l", "step": "t"}
    own = {"identity_version": VERSION, "diagnosis": diagnosis, "own_parts": [], "own_code": {"module": "1"}}
    found = {"contradictions": ["norm=none, but x"], "initial_verdict": {"kind": "fades"}}
    sweep = write_sweep(folder / f"{_as_name(PAYLOAD)}", arms, dropped=dropped, without=1, records=3, status=own, summary=found)
    states = ("diverged", "failed", "interrupted", "queued")
    for seed, state in enumerate(states, start=5):
        write_run(sweep / f"{state}{_as_name(MARKUP + CONTROLS)}", [f"seed={seed}"], None, state, reason="r", status=own)  # type: ignore[arg-type]
    for path in [*sweep.rglob("*.json")]:
        path.write_text(json.dumps(poisoned(json.loads(path.read_text()))))
    for path in sweep.rglob("*.jsonl"):
        path.write_text(path.read_text().replace("stage0", json.dumps(PAYLOAD)[1:-1].replace("/", "")))
    for path in sweep.rglob("config.yaml"):
        path.write_text(yaml.dump(poisoned(yaml.safe_load(path.read_text()), payload=PAYLOAD)))
    for path in sweep.rglob("overrides.yaml"):
        path.write_text(yaml.dump([f"norm=batch{PAYLOAD}", f"data.root={PAYLOAD}", *TRUST, f"{PAYLOAD}"]))
    _poison_plan(sweep / "sweep.json")
    (sweep / f"torn{_as_name(PAYLOAD)}").mkdir()
    (sweep / f"torn{_as_name(PAYLOAD)}" / "status.json").write_text(json.dumps({"status": PAYLOAD}))
    return sweep


def _poison_plan(path: Path) -> None:
    content = json.loads(path.read_text())
    content["command"] = ["train", "-m", f"data.root={PAYLOAD}", *TRUST, *content["command"][2:], PAYLOAD]
    content["notes"], content["study"] = [PAYLOAD + SURROGATE], PAYLOAD
    for run in content["runs"]:
        run["overrides"] += TRUST
    path.write_text(json.dumps(content))


def _as_name(text: str) -> str:
    """Return the beginning of a text as a name that a file system takes."""
    return text.replace("/", "")[:60]
