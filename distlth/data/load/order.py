"""The order of samples in an epoch, and each rank's part of a global batch: pure functions."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from distlth.data.beton import IntArray

Shuffle = Literal["full", "lanes"]

# Of the order `lanes`: how many streams a batch is taken from, and the pages that are mixed in each of them.
LANES, WINDOW = 64, 8

_GAMMA = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1

# Keep the draws of an epoch apart from each other.
_BY_PAGE, _IN_PAGE, _MOVES = 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3, 0x1D8E4E27C47D124F


def mix(value: int) -> int:
    """Apply the finaliser of SplitMix64: a bijection of 64-bit words; each input bit affects all others."""
    value &= _WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return value ^ (value >> 31)


def epoch_key(seed: int, epoch: int) -> int:
    """Return the 64-bit key from which the order and augmentation of one epoch are drawn."""
    return mix(mix(seed + _GAMMA) + epoch * _GAMMA)


def hashes(count: int, key: int) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of (key, index) for each index 0..count-1."""
    words = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA) + np.uint64(key)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def epoch_order(count: int, seed: int, epoch: int) -> IntArray:
    """Return a permutation of 0..count-1 (int64): the samples sorted by a hash of (seed, epoch, index).

    It uses no random generator of numpy's, so it is the same with every version.
    """
    return np.argsort(hashes(count, epoch_key(seed, epoch)), kind="stable").astype(np.int64)


def lanes_order(
    pages: IntArray, batch_size: int, seed: int, epoch: int, *, lanes: int = LANES, window: int = WINDOW
) -> IntArray:
    """Return an order in which few pages are in use at a time: whole global batches, one after the other.

    Sample i lies in page `pages[i]`. A hash of (seed, epoch) orders the pages, the samples follow theirs, and
    this stream is cut into `lanes`. In a lane, each sample moves back by up to `window` pages' worth of
    places, as a hash says. A batch has the next samples of each lane, lane by lane, as many as its `part`:
    ranks have contiguous parts of a batch, so each has lanes of its own, and their pages. Samples left over
    at the ends of lanes are dropped; in another epoch they are others.
    """
    count, steps = len(pages), len(pages) // batch_size
    stream, spread = _by_page(pages, epoch_key(seed, epoch), window)
    order = np.empty((steps, batch_size), np.int64)
    for lane in range(min(lanes, batch_size)):
        share = part(batch_size, lane, min(lanes, batch_size))
        own = stream[count * share.start // batch_size : count * share.stop // batch_size]
        moved = own[np.argsort(np.arange(len(own)) + spread[own], kind="stable")]
        order[:, share.start : share.stop] = moved[: steps * len(share)].reshape(steps, len(share))
    return order.reshape(-1)


def _by_page(pages: IntArray, key: int, window: int) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """Return the samples sorted by page, both in the order of a hash; and by how much each is to move."""
    names, page = np.unique(pages, return_inverse=True)
    by_page, in_page, moves = (mix(key ^ draw) for draw in (_BY_PAGE, _IN_PAGE, _MOVES))
    stream = np.lexsort((hashes(len(pages), in_page), hashes(len(names), by_page)[page]))
    uniform = (hashes(len(pages), moves) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return stream, uniform * (window * len(pages) / len(names))


def part(batch_size: int, rank: int, world_size: int) -> range:
    """Return the positions in a global batch that a rank trains on.

    The parts are contiguous, in order of rank, and together the whole batch. Sizes differ by at most one:
    rank 0's is the largest, the last rank's the smallest.
    """
    size, larger = divmod(batch_size, world_size)
    begin = rank * size + min(rank, larger)
    return range(begin, begin + size + (rank < larger))
