"""A real TensorBoard on loopback, and questions to it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Ask = Callable[..., Any]


@contextmanager
def serving(logdir: Path, loaded: Callable[[Ask], bool], *flags: str) -> Iterator[Ask]:
    """Inside, `ask("scalars/tags", **body)` is what the server answers, once `loaded(ask)` or a minute is over."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), *flags, "--port", "0", "--host", "127.0.0.1"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        assert server.stderr is not None
        address = next(found[1] for line in server.stderr if (found := re.search(r"at (http://[\w.:]+)/", line)))

        def ask(path: str, **body: object) -> Any:
            data = json.dumps(body).encode() if body else None
            question = urllib.request.Request(f"{address}/data/plugin/{path}", data, {"Content-Type": "application/json"})
            with opener.open(question, timeout=10) as response:
                return json.load(response)

        deadline = time.monotonic() + 60
        while not loaded(ask) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield ask
    finally:
        server.kill()
        server.communicate()
