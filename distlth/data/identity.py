"""By what a run recognises its data set: what it holds, and where an order depends on it, how it lies."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from distlth.data.beton import read_beton
from distlth.data.dataset import Dataset
from distlth.data.load.order import Shuffle


def identity(dataset: Dataset, shuffle: Shuffle) -> dict[str, Any]:
    """Return the facts that a run records and compares; with `lanes` the pages of train are one of them."""
    return dataset.identity if shuffle == "full" else {**dataset.identity, "pages": _pages_digest(dataset)}


def _pages_digest(dataset: Dataset) -> str:
    """Return a digest (hex) of which images share a page, and in which order pages lie."""
    index = read_beton(dataset.file("train"), dataset.num_classes)
    _, page = np.unique(index.pages, return_inverse=True)
    return hashlib.blake2b(page.astype("<i8").tobytes(), digest_size=16).hexdigest()
