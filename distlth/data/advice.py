"""What to change where a data set is larger than memory, or its file does not suit its order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distlth.data.beton import Beton, read_beton
from distlth.data.dataset import Dataset
from distlth.data.load.order import LANES, WINDOW, Shuffle
from distlth.data.load.storage import Cache
from distlth.memory import memory

# How much more often than in the whole file two images of a page may be of one class: pages are mixed.
MIXED = 1.5


def advice(dataset: Dataset, shuffle: Shuffle, cache: Cache) -> Iterator[str]:
    """Yield a line for each thing about reading the train split that a user should know."""
    size, room = dataset.split("train").size, memory().total
    if shuffle == "full" and cache != "gpu" and size > room:
        yield (
            f"{dataset.file('train')}: {size / 2**30:,.1f} GiB, more than this machine's memory "
            f"({room / 2**30:,.1f} GiB); data.shuffle=lanes reads it page by page, each node a part of it"
        )
    if shuffle == "lanes":
        index = read_beton(dataset.file("train"), dataset.num_classes)
        is_small = len(np.unique(index.pages)) <= LANES * WINDOW  # all of it is mixed at a time
        if not is_small and (ratio := alikeness(index)) > MIXED:
            yield (
                f"{index.path}: two images of a page are of one class {ratio:.1f} times as often as two of "
                "the file, so with data.shuffle=lanes batches have less mixed classes than with full; "
                "`distlth data build` mixes pages"
            )


def alikeness(index: Beton) -> float:
    """Return how often two images of a page are of one class, over how often two of the whole file are."""
    _, page = np.unique(index.pages, return_inverse=True)
    _, labels = np.unique(index.labels, return_inverse=True)
    _, both = np.unique(page * (labels.max() + 1) + labels, return_counts=True)
    in_pages = _pairs(both) / max(1, _pairs(np.bincount(page)))
    in_file = _pairs(np.bincount(labels)) / max(1, _pairs(np.array([len(labels)])))
    return float(in_pages / in_file) if in_file else 1.0


def _pairs(counts: np.ndarray) -> int:
    """Return how many pairs there are within groups of so many members."""
    return int((counts * (counts - 1) // 2).sum())
