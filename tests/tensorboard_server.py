"""A TensorBoard server on loopback and HTTP queries to it."""

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

Query = Callable[..., Any]


@contextmanager
def serve_tensorboard(logdir: Path, is_loaded: Callable[[Query], bool], *flags: str) -> Iterator[Query]:
    """Serve `logdir` and yield `query`, once `is_loaded(query)` is true or a minute has passed.

    `query("scalars/tags", **body)` returns the server's answer as JSON data.
    """
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), *flags, "--port", "0", "--host", "127.0.0.1"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        assert server.stderr is not None
        address = next(match[1] for line in server.stderr if (match := re.search(r"at (http://[\w.:]+)/", line)))

        def query(path: str, **body: object) -> Any:
            data = json.dumps(body).encode() if body else None
            request = urllib.request.Request(f"{address}/data/plugin/{path}", data, {"Content-Type": "application/json"})
            with opener.open(request, timeout=10) as response:
                return json.load(response)

        deadline = time.monotonic() + 60
        while not is_loaded(query) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield query
    finally:
        server.kill()
        server.communicate()
