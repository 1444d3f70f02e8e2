"""Digests of one stored sample and of a split, independent of the file's layout."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

DIGEST_BYTES = 16


def sample_digest(label: int, mode: int, height: int, width: int, stored: npt.NDArray[np.uint8]) -> bytes:
    """Return 16 bytes that identify a stored sample."""
    head = np.array([label, mode, height, width], "<i8").tobytes()
    return hashlib.blake2b(head + stored.tobytes(), digest_size=DIGEST_BYTES).digest()


def content_key(mode: int, height: int, width: int, stored: npt.NDArray[np.uint8]) -> int:
    """Return 64 bits that are the same for images that are stored alike, whatever their labels."""
    return int.from_bytes(sample_digest(-1, mode, height, width, stored)[:8], "little")


def checksum(digest: bytes) -> int:
    """Return the part of a sample's digest that the file holds in its row, as a signed 64-bit number."""
    return int.from_bytes(digest[:8], "little", signed=True)


def split_digest(digests: npt.NDArray[np.uint8]) -> str:
    """Return the digest (hex) of a split from those of its samples (n x 16 uint8), in order."""
    return hashlib.blake2b(digests.tobytes(), digest_size=DIGEST_BYTES).hexdigest()
