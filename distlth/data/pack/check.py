"""Verify a built data set by reading all of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from distlth.cores import num_cores
from distlth.data.beton import JPG, Beton, read_beton
from distlth.data.dataset import Dataset
from distlth.data.digest import DIGEST_BYTES, checksum, sample_digest, split_digest
from distlth.data.load.native import decode_jpeg
from distlth.errors import DataError

_CHUNK = 256


@dataclass(frozen=True)
class CheckReport:
    """What was verified: the data set, and how many samples and bytes of images."""

    dataset: Dataset
    num_samples: int
    num_bytes: int


def check(path: str | Path, *, workers: int = 0, progress: Progress | None = None) -> CheckReport:
    """Verify file sizes, labels, every sample's digest and that every image decodes, with `workers` threads.

    0 workers is one a core. DataError at the first thing that is wrong, naming the file and the sample.
    """
    dataset = Dataset.load(path)
    num_samples = num_bytes = 0
    with ThreadPoolExecutor(workers or num_cores()) as pool:
        for split in dataset.names:
            beton = read_beton(dataset.file(split), dataset.num_classes)
            _check_split(beton, dataset, split, pool, progress)
            num_samples += len(beton)
            num_bytes += int(beton.lengths.sum())
    return CheckReport(dataset, num_samples, num_bytes)


def _check_split(
    beton: Beton, dataset: Dataset, split: str, pool: ThreadPoolExecutor, progress: Progress | None
) -> None:
    expected = dataset.split(split)
    counts = np.bincount(beton.labels, minlength=dataset.num_classes)
    if tuple(counts.tolist()) != expected.class_counts:
        raise DataError(f"{beton.path}: its labels are not those of dataset.json; build the data set again")
    stored = np.memmap(beton.path, np.uint8, mode="r")
    digests = np.zeros((len(beton), DIGEST_BYTES), np.uint8)
    task = progress.add_task(f"check {split}", total=len(beton)) if progress else None
    for begin in range(0, len(beton), _CHUNK):
        chunk = range(begin, min(begin + _CHUNK, len(beton)))
        for index, digest in zip(
            chunk, pool.map(lambda i: _check_sample(beton, stored, i), chunk), strict=True
        ):
            digests[index] = np.frombuffer(digest, np.uint8)
        if progress and task is not None:
            progress.advance(task, len(chunk))
    if split_digest(digests) != expected.digest:
        raise DataError(f"{beton.path}: not the samples of dataset.json; build the data set again")


def _check_sample(beton: Beton, stored: npt.NDArray[np.uint8], index: int) -> bytes:
    """Return the sample's digest, after comparing it with its row and decoding its image."""
    height, width = int(beton.heights[index]), int(beton.widths[index])
    begin = int(beton.offsets[index])
    data = np.array(stored[begin : begin + int(beton.lengths[index])])
    digest = sample_digest(int(beton.labels[index]), int(beton.modes[index]), height, width, data)
    if checksum(digest) != beton.checksums[index]:
        raise DataError(
            f"{beton.path}: sample {index} has changed since it was packed; build the data set again"
        )
    if beton.modes[index] == JPG and decode_jpeg(data, height, width) is None:
        raise DataError(f"{beton.path}: sample {index} does not decode; build the data set again")
    return digest
