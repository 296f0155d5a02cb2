"""A cache of images as one Arrow file (the IPC format, also called Feather V2), which others can read and map into memory.

A row has the `name` of the file, the `image`, its `height` and `width`, those of the upright file (`source_height`,
`source_width`), and `crc32c`, see `checksum`. What the file holds is in the metadata of its schema, as JSON. It ends with a
footer: a file that was not written to its end cannot be opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.data.cached_image import CachedImage

KEY = b"train.image_cache"
BATCH_BYTES = 2**25
"""Bytes of images that are written together: the memory that writing takes, whatever the number of images."""
SIZES = ("height", "width", "source_height", "source_width")


def write_cache(path: Path, facts: Mapping[str, Any], images: Iterable[tuple[str, CachedImage]]) -> None:
    """Write the images with their names. OSError when that fails."""
    import pyarrow as pa

    whole_numbers = [(name, pa.uint32()) for name in (*SIZES, "crc32c")]
    schema = pa.schema([("name", pa.string()), ("image", pa.large_binary()), *whole_numbers], {KEY: json.dumps(facts)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        batch: list[tuple[str, CachedImage]] = []
        size = 0
        for name, image in images:
            batch.append((name, image))
            size += len(image.content)
            if size >= BATCH_BYTES:
                writer.write(_record_batch(batch, schema))
                batch, size = [], 0
        if batch:
            writer.write(_record_batch(batch, schema))


def _record_batch(images: Sequence[tuple[str, CachedImage]], schema: Any) -> Any:
    import pyarrow as pa

    rows = [(name, image.content, *image.size, *image.source, image.checksum) for name, image in images]
    return pa.record_batch([list(column) for column in zip(*rows, strict=True)], schema=schema)


def read_rows(path: Path, facts: Mapping[str, Any]) -> Tensor | None:
    """Return the rows of `CachedImages`, int64 [N, 7]; None without a whole file that holds what `facts` say."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            content = file.read_buffer()
            reader = pa.ipc.open_file(content)
            if json.loads((reader.schema.metadata or {})[KEY]) != facts:
                return None
            parts = [_rows(reader.get_batch(number), content.address) for number in range(reader.num_record_batches)]
    except (OSError, pa.ArrowException, KeyError, ValueError):  # there is none, or not all of it
        return None
    rows = torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, 7, dtype=torch.int64)
    return rows if len(rows) == facts["images"] else None


def _rows(batch: Any, start: int) -> np.ndarray[Any, Any]:
    """Return the rows of a batch. `start`: the address of the beginning of the file."""
    _, offsets, data = batch.column("image").buffers()
    ends = np.frombuffer(offsets, np.int64, count=len(batch) + 1)
    columns = [batch.column(name).to_numpy().astype(np.int64) for name in (*SIZES, "crc32c")]
    return np.stack([data.address - start + ends[:-1], np.diff(ends), *columns], axis=1)
