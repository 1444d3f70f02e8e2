"""Where images lie in a packed file: in pages of one size, filled in an order that workers do not change."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.context import BaseContext

import numpy as np
import numpy.typing as npt

from distlth.data.layouts.base import Sample
from distlth.data.load.order import epoch_key, hashes

# Each part of every packed file's order is drawn with the same key: a rebuilt file has the same pages.
_BLOCKS, _SAMPLES = epoch_key(0, 0), epoch_key(0, 1)


def shuffled(samples: Sequence[Sample]) -> npt.NDArray[np.int64]:
    """Return the positions of samples, shuffled: each page is then a random sample of the classes.

    Samples of a block stay together, and blocks are shuffled, so that each block is read once.
    """
    blocks = {block: number for number, block in enumerate(dict.fromkeys(one.block for one in samples))}
    block = np.array([blocks[one.block] for one in samples], np.int64)
    return np.lexsort((hashes(len(samples), _SAMPLES), hashes(len(blocks), _BLOCKS)[block])).astype(np.int64)


class Pages:
    """Hands out places in pages to worker processes, chunk after chunk, whichever of them is done first."""

    def __init__(self, context: BaseContext, start: int, page_size: int) -> None:
        """Begin at the first page from byte `start` on."""
        self._page_size = page_size
        self._turn = context.Condition()
        # Both are read and written under the lock of `_turn`.
        self._chunk = context.RawValue("Q", 0)
        self._end = context.RawValue("Q", -(-start // page_size) * page_size)

    def place(self, chunk: int, sizes: Sequence[int]) -> list[int]:
        """Return where images of these sizes begin (bytes), once all chunks before them have a place."""
        with self._turn:
            self._turn.wait_for(lambda: self._chunk.value == chunk)
            places = [self._next(size) for size in sizes]
            self._chunk.value += 1
            self._turn.notify_all()
        return places

    def _next(self, size: int) -> int:
        """Return the place of one more image: behind the last, or in a new page if that has no room."""
        begin = int(self._end.value)
        left = -begin % self._page_size or self._page_size
        if size > left:
            begin += left
        self._end.value = begin + size
        return begin
