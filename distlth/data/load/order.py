"""The order of samples in an epoch, and each rank's part of a global batch: pure functions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GAMMA = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


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


def epoch_order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return a permutation of 0..count-1 (int64): the samples sorted by a hash of (seed, epoch, index).

    It uses no random generator of numpy's, so it is the same with every version.
    """
    return np.argsort(hashes(count, epoch_key(seed, epoch)), kind="stable").astype(np.int64)


def part(batch_size: int, rank: int, world_size: int) -> range:
    """Return the positions in a global batch that a rank trains on.

    The parts are contiguous, in order of rank, and together the whole batch. Sizes differ by at most one:
    rank 0's is the largest, the last rank's the smallest.
    """
    size, larger = divmod(batch_size, world_size)
    begin = rank * size + min(rank, larger)
    return range(begin, begin + size + (rank < larger))
