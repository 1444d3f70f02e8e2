"""A packed split, opened once for all loaders of a process: index, mapping and decoding threads."""

from __future__ import annotations

import queue
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from distlth.data.beton import read_beton
from distlth.data.dataset import Dataset
from distlth.data.load.storage import (
    Cache,
    Indices,
    MappedFile,
    Storage,
    check_cache,
    page_cache,
    requested_ahead,
)
from distlth.data.load.unchanged import Stamp, Unchanged
from distlth.errors import DataError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Workspace:
    """Memory that one decoding thread writes into. It grows to the largest resolution that was asked for."""

    def __init__(self) -> None:
        self._pixels = np.empty(0, np.uint8)
        self._room = np.empty(0, np.uint8)

    def room(self, resolution: int) -> npt.NDArray[np.uint8]:
        """Return room for one image: uint8, resolution x resolution x 3, flat."""
        size = resolution * resolution * 3
        if size > len(self._room):
            self._room = np.empty(size, np.uint8)
        return self._room[:size]

    def pixels(self, count: int, resolution: int) -> npt.NDArray[np.uint8]:
        """Return room for `count` images: uint8, count x resolution x resolution x 3."""
        size = count * resolution * resolution * 3
        if size > len(self._pixels):
            self._pixels = np.empty(size, np.uint8)
        return self._pixels[:size].reshape(count, resolution, resolution, 3)


class PackedSplit:
    """What stays warm from job to job on one split: nothing here depends on seed, batch size or resolution.

    `threads` decode; torch's own are left alone. `cache`: 'os' maps the file, 'process' reads its pages ahead
    into this process, with 'gpu' its loaders decode it once (`resident`). Several loaders may use one split,
    also at the same time. `ranks` of this machine read it, each for itself. Raises DataError for a file that
    is damaged.
    """

    def __init__(
        self, dataset: Dataset, split: str, *, threads: int, cache: Cache = "os", ranks: int = 1
    ) -> None:
        check_cache(cache)
        if threads < 1:
            raise DataError(f"threads ({threads}) must be at least 1")
        self.dataset, self.split, self.threads, self.cache = dataset, split, threads, cache
        self._ranks = ranks
        path = dataset.file(split)
        stamp = Stamp.of(path)
        self.index = read_beton(path, dataset.num_classes)
        self.unchanged = Unchanged(self.index, stamp, dataset.num_classes)
        self._mapped = None if cache == "process" else MappedFile(self.index)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="distlth-decode")
        self._workspaces: queue.SimpleQueue[Workspace] = queue.SimpleQueue()
        for _ in range(threads):
            self._workspaces.put(Workspace())
        self._kept: tuple[Hashable, Any] | None = None

    def storage(self, batches: Sequence[Indices], *, by_page: bool) -> AbstractContextManager[Storage]:
        """Open the storage of the stored images for one pass over `batches`, perhaps in an order by page."""
        if self._mapped is None:
            return page_cache(self.index, batches, self._ranks)
        return requested_ahead(self._mapped, self.index, batches, by_page=by_page)

    def kept(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """Return what `make` makes, or made for an equal `key`; what was kept for another one goes first."""
        if self._kept is None or self._kept[0] != key:
            self._kept = None
            self._kept = (key, make())
        return self._kept[1]

    def submit(
        self,
        function: Callable[Concatenate[Workspace, Arguments], Result],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> Future[Result]:
        """Call a function in a decoding thread, with that thread's workspace first."""

        def call() -> Result:
            workspace = self._workspaces.get()
            try:
                return function(workspace, *arguments, **named)
            finally:
                self._workspaces.put(workspace)

        return self._pool.submit(call)

    def close(self) -> None:
        """End the decoding threads. Streams that are still open fail."""
        self._kept = None
        # Not cancelled: whoever waits for a cancelled chunk would wait for ever.
        self._pool.shutdown(wait=True)
