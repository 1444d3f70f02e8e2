"""Where a packed file's bytes come from: the operating system's page cache, or memory of this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from distlth.data.beton import Beton
from distlth.data.load.slots import plan_slots
from distlth.data.reading import open_regular, reading
from distlth.errors import DataError
from distlth.memory import memory

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Cache = Literal["os", "process", "gpu"]

# From the indices of a batch to the bytes of the file to ask for: where they begin, and where they end.
Extents = Callable[[Indices], tuple[Indices, Indices]]

_READERS = 12

# How far ahead of the batch that is being decoded images are asked for: so many batches, or images if more.
AHEAD_BATCHES, AHEAD_IMAGES = 2, 256

# Linux reads no more than this of one request where a file system is set as most are.
REQUEST_BYTES = 128 << 10

# Bytes: of all images, and of an image in the mean.
SMALL_FILE, SMALL_IMAGE = 1 << 30, 16 << 10


class Storage(Protocol):
    """The bytes of one pass over batches. A batch stays loaded while at most `ahead` later ones are."""

    ahead: int

    def load(self, batch: int, indices: Indices) -> tuple[Bytes, Indices]:
        """Make batch number `batch` available; return bytes, and where in them each of its images begins."""


class MappedFile:
    """The whole file, mapped read-only: the system caches it, and all processes of a machine share it.

    By itself it reads around each page of memory that is missed, one after the other: enough for a file that
    is soon in memory as a whole. See `requested_ahead` for others.
    """

    ahead = 1

    def __init__(self, beton: Beton) -> None:
        self._offsets = beton.offsets
        with reading(beton.path):
            self._bytes: Bytes = np.asarray(np.memmap(beton.path, np.uint8, mode="r"))

    def load(self, batch: int, indices: Indices) -> tuple[Bytes, Indices]:
        """Return the mapping itself; nothing is read before it is needed."""
        return self._bytes, self._offsets[indices]


class RequestedFile:
    """A mapped file whose images the system is asked to read before the batches that need them are decoded.

    It then has many requests at a time, and reads 1.03 bytes of a cold file for each that is wanted. Page
    faults read 5 from a disk that is set to read 8 MiB around each of them, and take 5 times as long. What is
    in memory already costs 4 microseconds an image of 130 kB. `extents` returns which bytes a batch needs.
    """

    ahead = MappedFile.ahead

    def __init__(self, mapped: MappedFile, extents: Extents, batches: Sequence[Indices], file: int) -> None:
        """Ask for parts of the open `file`, which is `mapped`, in a pass over `batches`."""
        self._mapped, self._extents = mapped, extents
        self._batches, self._file = batches, file
        self._asked_batches = self._asked_images = self._begun_images = 0

    def load(self, batch: int, indices: Indices) -> tuple[Bytes, Indices]:
        """Return the mapping; ask for what this batch and the next ones need."""
        self._begun_images += len(indices)
        goal = self._begun_images + max(AHEAD_IMAGES, len(indices) * AHEAD_BATCHES)
        while self._asked_images < goal and self._asked_batches < len(self._batches):
            self._ask(self._batches[self._asked_batches])
        return self._mapped.load(batch, indices)

    def _ask(self, indices: Indices) -> None:
        begins, ends = self._extents(indices)
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            for place in range(begin, end, REQUEST_BYTES):
                size = min(REQUEST_BYTES, end - place)
                os.posix_fadvise(self._file, place, size, os.POSIX_FADV_WILLNEED)
        self._asked_batches += 1
        self._asked_images += len(indices)


def image_extents(beton: Beton) -> Extents:
    """Return what gives the bytes of the images of a batch."""
    return lambda indices: merged(beton.offsets[indices], beton.lengths[indices])


def page_extents(beton: Beton) -> Extents:
    """Return what gives the pages that a batch has images of, each the first time that a batch has any.

    For an order by page, which is soon to need the rest: a disk reads a page as fast as a few images of it.
    """
    pages, is_new = beton.pages, np.ones(int(beton.pages.max()) + 1, np.bool_)

    def extents(indices: Indices) -> tuple[Indices, Indices]:
        found = np.unique(pages[indices])
        found = found[is_new[found]]
        is_new[found] = False
        return found * beton.page_size, (found + 1) * beton.page_size

    return extents


def merged(offsets: Indices, lengths: Indices) -> tuple[Indices, Indices]:
    """Return begins and ends of the intervals that these images cover, those that touch joined."""
    order = np.argsort(offsets, kind="stable")
    begins = offsets[order]
    ends = np.maximum.accumulate(begins + lengths[order])
    is_first = np.append(True, begins[1:] > ends[:-1])
    return begins[is_first], ends[np.append(is_first[1:], True)]


@contextmanager
def requested_ahead(
    mapped: MappedFile, beton: Beton, batches: Sequence[Indices], *, by_page: bool
) -> Iterator[Storage]:
    """Yield a mapped file for one pass over `batches`, of which parts are asked for ahead where that pays.

    Those parts are images, or pages where the order of the batches is `by_page`. It does not pay in a small
    file of small images: what the system reads around one is others of them.
    """
    if beton.lengths.sum() <= SMALL_FILE and beton.lengths.mean() <= SMALL_IMAGE:
        yield mapped
        return
    with reading(beton.path):
        file = open_regular(beton.path)
    with file:
        extents = page_extents(beton) if by_page else image_extents(beton)
        yield RequestedFile(mapped, extents, batches, file.fileno())


class PageCache:
    """Pages that this process reads ahead of the batches that need them, into memory of its own.

    A page stays from its first to its last use in the pass (`plan_slots`): with `shuffle: full` that is
    most of the file, with `lanes` a few pages a lane.
    """

    ahead = 0

    def __init__(
        self, beton: Beton, batches: Sequence[Indices], readers: ThreadPoolExecutor, ranks: int
    ) -> None:
        """Raise DataError where the pages do not fit into the memory of a machine with so many `ranks`."""
        self._path = beton.path
        self._page_size = beton.page_size
        self._offsets = beton.offsets
        pages = beton.pages
        self._plan = plan_slots([np.unique(pages[batch]).tolist() for batch in batches])
        check_fits(beton, self._plan.count * self._page_size, ranks)
        self._memory: Bytes = np.empty((self._plan.count, self._page_size), np.uint8)
        self._view = self._memory.reshape(-1)
        self._view.flags.writeable = False
        self._slots = np.zeros(int(pages.max()) + 1, np.int64)
        for page, slot in self._plan.of_page.items():
            self._slots[page] = slot
        self._readers = readers
        self._reads: dict[int, Future[None]] = {}

    def load(self, batch: int, indices: Indices) -> tuple[Bytes, Indices]:
        """Start reading the pages of the next batches, and wait for those of this one."""
        for page in self._plan.asked[batch]:
            self._reads[page] = self._readers.submit(self._read, page)
        for page in self._plan.needed[batch]:
            self._reads.pop(page).result()
        pages, places = np.divmod(self._offsets[indices], self._page_size)
        return self._view, self._slots[pages] * self._page_size + places

    def _read(self, page: int) -> None:
        """Read one page; the last one of the file may be short."""
        target = memoryview(self._memory[self._slots[page]])
        with reading(self._path), open(self._path, "rb", buffering=0) as file:
            begin = page * self._page_size
            expected = min(self._page_size, os.fstat(file.fileno()).st_size - begin)
            if expected <= 0 or os.preadv(file.fileno(), [target], begin) < expected:
                raise DataError(f"{self._path}: could not read the {self._page_size} bytes at {begin}")


def check_fits(beton: Beton, size: int, ranks: int) -> None:
    """Raise DataError where `ranks` of this machine, which need `size` bytes each, lack memory."""
    found = memory()
    if size <= found.available and ranks * size <= found.total:
        return
    raise DataError(
        f"data.cache: process: needs {size / 2**30:,.1f} GiB of {beton.path} at a time on each of {ranks} "
        f"ranks of a node, which has {found.total / 2**30:,.1f} GiB, {found.available / 2**30:,.1f} of them "
        "free; use data.cache: os, or data.shuffle: lanes"
    )


@contextmanager
def page_cache(beton: Beton, batches: Sequence[Indices], ranks: int) -> Iterator[Storage]:
    """Yield a page cache for one pass over `batches`, with threads of its own; errors as of `PageCache`."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="distlth-pages") as readers:
        try:
            yield PageCache(beton, batches, readers, ranks)
        finally:
            readers.shutdown(wait=False, cancel_futures=True)


def check_cache(cache: str) -> None:
    """Raise DataError where there is no storage of kind `cache`."""
    if cache not in get_args(Cache):
        raise DataError(f"cache {cache!r} is not known; choose 'os', 'process' or 'gpu'")
