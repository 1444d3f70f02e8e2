"""From lists of sample indices to streams of batches: what one job reads of a packed split."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distlth.data.load import decode
from distlth.data.load.finish import Batch, Finisher
from distlth.data.load.packed import PackedSplit, Workspace
from distlth.data.load.storage import Bytes, Indices, Storage
from distlth.data.load.stream import Stream
from distlth.data.load.transform import Transform
from distlth.errors import DataError

# More chunks than threads: a thread with easy images then takes another chunk.
_CHUNKS_PER_THREAD = 4


class Batches(Protocol):
    """An iterator over batches that can be closed before its end, as a `with` block does."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def close(self) -> None:
        """End it and what prepares its batches. May be called again."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BatchSource(Protocol):
    """Makes batches of a split's samples."""

    def stream(self, batches: Sequence[Indices], key: int) -> Batches:
        """Return the batches of the given sample indices, augmented by `key` (64 bits)."""


class Reader:
    """Reads batches and has them finished, up to `ahead` of them in advance.

    `by_page` says that the order of its batches has all images of a page near each other.
    """

    def __init__(
        self,
        packed: PackedSplit,
        transform: Transform,
        finisher: Finisher,
        *,
        ahead: int,
        by_page: bool = False,
    ) -> None:
        self._packed, self._transform, self._finisher, self._ahead = packed, transform, finisher, ahead
        self._by_page = by_page
        self._border, self._jitter = transform.border, transform.jitter.reaches

    def stream(self, batches: Sequence[Indices], key: int) -> Batches:
        """Return the batches of the given sample indices, augmented by `key` (64 bits)."""
        return Stream(lambda: self._batches(batches, np.uint64(key)), self._ahead, self._finisher.receive)

    def _batches(self, batches: Sequence[Indices], key: np.uint64) -> Iterator[Batch]:
        """Decode the batches in order. While one is finished, the next ones are decoded if storage allows."""
        pending: deque[_Pending] = deque()
        if batches:
            self._packed.unchanged.check_file(int(batches[0][0]))
        with self._packed.storage(batches, by_page=self._by_page) as storage:
            try:
                for number, indices in enumerate(batches):
                    pending.append(self._begin(storage, number, indices, key))
                    if len(pending) > storage.ahead:
                        yield self._finish(pending.popleft())
                while pending:
                    yield self._finish(pending.popleft())
            finally:
                for batch in pending:
                    wait(batch.chunks)

    def _begin(self, storage: Storage, number: int, indices: Indices, key: np.uint64) -> _Pending:
        """Have the decoding threads start on a batch."""
        self._packed.unchanged.check_file(int(indices[0]))
        stored, offsets = storage.load(number, indices)
        images = self._finisher.allocate(len(indices))
        size = -(-len(indices) // (self._packed.threads * _CHUNKS_PER_THREAD))
        chunks = []
        for begin in range(0, len(indices), size):
            part = slice(begin, begin + size)
            arguments = (stored, offsets[part], indices[part], key, images[part].numpy())
            chunks.append(self._packed.submit(self._decode, *arguments))
        return _Pending(indices, images, chunks)

    def _finish(self, batch: _Pending) -> Batch:
        """Wait for a batch's chunks, and return the batch; raises what a chunk raised."""
        for chunk in batch.chunks:
            chunk.result()
        return self._finisher.finish(batch.images, torch.from_numpy(self._packed.index.labels[batch.indices]))

    def _decode(
        self,
        workspace: Workspace,
        stored: Bytes,
        offsets: Indices,
        indices: Indices,
        key: np.uint64,
        target: npt.NDArray[np.generic],
    ) -> None:
        """Decode one chunk into `target`, in a decoding thread."""
        index, transform = self._packed.index, self._transform
        self._packed.unchanged.check_samples(stored, offsets, indices)
        pixels = workspace.pixels(len(indices), transform.resolution)
        failed = decode.decode_samples(
            stored,
            offsets,
            index.lengths[indices],
            index.modes[indices],
            index.heights[indices],
            index.widths[indices],
            indices,
            key,
            transform.kind,
            transform.flip,
            transform.ratio,
            transform.reach,
            transform.rotate,
            self._border,
            self._jitter,
            workspace.room(transform.resolution),
            pixels,
        )
        if failed >= 0:
            raise DataError(
                f"{index.path}: sample {indices[failed]} does not decode;"
                f" `distlth data check {index.path.parent}` looks at all of them"
            )
        self._finisher.store(pixels, target)


@dataclass(frozen=True)
class _Pending:
    """A batch whose chunks are being decoded into `images`."""

    indices: Indices
    images: Tensor
    chunks: list[Future[None]]
