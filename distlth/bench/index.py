"""What a data set of many images costs before any is read: its index, and the orders of an epoch."""

from __future__ import annotations

import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distlth.data.beton import (
    ALLOCATION,
    FIELD,
    FIELD_KINDS,
    FIELDS,
    HEADER,
    RAW,
    SAMPLE,
    VERSION,
    read_beton,
)
from distlth.data.load.order import epoch_order, lanes_order

IMAGENET, IMAGE_BYTES, CLASSES, BATCH = 1_281_167, 110_592, 1000, 1024
PAGE_SIZE, SIDES = 8 << 20, (192, 192)


@dataclass(frozen=True)
class IndexRow:
    """What a rank does once for a data set or an epoch: CPU seconds, what stays in memory, and the peak."""

    what: str
    images: int
    cpu_seconds: float
    kept_mib: float
    most_mib: float


def bench(*, images: int = IMAGENET, rounds: int = 3) -> list[IndexRow]:
    """Open a file of so many images as a rank and as stock FFCV does, and draw the orders of an epoch.

    The file has its header, rows and table of allocations; its images are holes.
    """
    from ffcv.reader import Reader

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.beton"
        write_index(path, images)
        pages = read_beton(path, CLASSES).pages
        steps: dict[str, Callable[[], Any]] = {
            "open": lambda: read_beton(path, CLASSES),
            "open, stock ffcv": lambda: Reader(str(path)),
            "order full": lambda: epoch_order(images, 1, 0),
            "order lanes": lambda: lanes_order(pages, BATCH, 1, 0),
        }
        return [_row(what, images, step, rounds) for what, step in steps.items()]


def _row(what: str, images: int, step: Callable[[], Any], rounds: int) -> IndexRow:
    seconds = statistics.median(_cpu_seconds(step) for _ in range(rounds))
    tracemalloc.start()
    result = step()
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    return IndexRow(what, images, seconds, kept / 2**20, most / 2**20)


def _cpu_seconds(step: Callable[[], Any]) -> float:
    begin = time.process_time()
    step()
    return time.process_time() - begin


def write_index(path: Path, images: int) -> None:
    """Write a packed file whose images are holes: raw pixels of 192 x 192, in full pages."""
    in_page = PAGE_SIZE // IMAGE_BYTES
    start = HEADER.itemsize + len(FIELDS) * FIELD.itemsize + images * SAMPLE.itemsize
    page, place = np.divmod(np.arange(images), in_page)
    offsets = -(-start // PAGE_SIZE) * PAGE_SIZE + page * PAGE_SIZE + place * IMAGE_BYTES
    header, fields = np.zeros(1, HEADER), np.zeros(len(FIELDS), FIELD)
    header["version"], header["num_fields"], header["page_size"] = VERSION, len(FIELDS), PAGE_SIZE
    header["num_samples"], header["alloc_table_ptr"] = images, (offsets[-1] // PAGE_SIZE + 1) * PAGE_SIZE
    for field, name, kind in zip(fields, FIELDS, FIELD_KINDS, strict=True):
        field["type_id"], field["name"][: len(name)] = kind, np.frombuffer(name.encode(), np.uint8)
    samples, table = np.zeros(images, SAMPLE), np.zeros(images, ALLOCATION)
    image = samples["image"]
    image["mode"], (image["height"], image["width"]), image["data_ptr"] = RAW, SIDES, offsets
    samples["label"] = np.arange(images) * CLASSES // images
    table["sample_id"], table["ptr"], table["size"] = np.arange(images), offsets, IMAGE_BYTES
    with open(path, "wb") as file:
        for part in (header, fields, samples):
            file.write(part.tobytes())
        file.seek(int(header["alloc_table_ptr"][0]))
        file.write(table.tobytes())
