"""Where a packed file's bytes come from: the operating system's page cache, or memory of this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from distlth.data.beton import Beton
from distlth.data.reading import reading
from distlth.errors import DataError

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Cache = Literal["os", "process", "gpu"]

_READERS = 12


class Storage(Protocol):
    """The bytes of one pass over batches. A batch stays loaded while at most `ahead` later ones are."""

    ahead: int

    def load(self, batch: int, indices: Indices) -> tuple[Bytes, Indices]:
        """Make batch number `batch` available; return bytes, and where in them each of its images begins."""


class MappedFile:
    """The whole file, mapped read-only: the system caches it, and all processes of a machine share it."""

    ahead = 1

    def __init__(self, beton: Beton) -> None:
        self._offsets = beton.offsets
        with reading(beton.path):
            self._bytes: Bytes = np.asarray(np.memmap(beton.path, np.uint8, mode="r"))

    def load(self, batch: int, indices: Indices) -> tuple[Bytes, Indices]:
        """Return the mapping itself; nothing is read before it is needed."""
        return self._bytes, self._offsets[indices]


class PageCache:
    """Pages that this process reads ahead of the batches that need them, into memory of its own.

    A page stays from its first to its last use in the pass (FFCV's schedule), so with a random order most of
    the file is in memory in the end: for files on slow or shared disks that fit into memory.
    """

    ahead = 0

    def __init__(self, beton: Beton, batches: Sequence[Indices], readers: ThreadPoolExecutor) -> None:
        from ffcv.memory_managers.process_cache.schedule import compute_schedule

        self._path = beton.path
        self._page_size = beton.page_size
        self._offsets = beton.offsets
        pages = beton.offsets // beton.page_size
        self._schedule: Any = compute_schedule([set(pages[batch].tolist()) for batch in batches])
        self._memory: Bytes = np.empty((self._schedule.num_slots, self._page_size), np.uint8)
        self._view = self._memory.reshape(-1)
        self._view.flags.writeable = False
        self._slots = np.zeros(int(pages.max()) + 1, np.int64)
        for page, slot in self._schedule.page_to_slot.items():
            self._slots[page] = slot
        self._readers = readers
        self._reads: dict[int, Future[None]] = {}

    def load(self, batch: int, indices: Indices) -> tuple[Bytes, Indices]:
        """Start reading the pages of the next batches, and wait for those of this one."""
        for page in self._schedule.can_prefetch_at[batch]:
            self._reads[page] = self._readers.submit(self._read, page)
        for page in self._schedule.entering_at[batch]:
            self._reads.pop(page).result()
        offsets = self._offsets[indices]
        page, place = np.divmod(offsets, self._page_size)
        return self._view, self._slots[page] * self._page_size + place

    def _read(self, page: int) -> None:
        """Read one page; the last one of the file may be short."""
        target = memoryview(self._memory[self._slots[page]])
        with reading(self._path), open(self._path, "rb", buffering=0) as file:
            begin = page * self._page_size
            expected = min(self._page_size, os.fstat(file.fileno()).st_size - begin)
            if expected <= 0 or os.preadv(file.fileno(), [target], begin) < expected:
                raise DataError(f"{self._path}: could not read the {self._page_size} bytes at {begin}")


@contextmanager
def page_cache(beton: Beton, batches: Sequence[Indices]) -> Iterator[Storage]:
    """Yield a page cache for one pass over `batches`, with threads of its own that read."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="distlth-pages") as readers:
        try:
            yield PageCache(beton, batches, readers)
        finally:
            readers.shutdown(wait=False, cancel_futures=True)


def check_cache(cache: str) -> None:
    """Raise DataError where there is no storage of kind `cache`."""
    if cache not in get_args(Cache):
        raise DataError(f"cache {cache!r} is not known; choose 'os', 'process' or 'gpu'")
