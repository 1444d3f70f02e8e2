"""From an image's pixels to the bytes that are stored: the pixels, or a JPEG with restart markers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from distlth.data.beton import JPG, RAW
from distlth.data.pack.image import Pixels

WriteMode = Literal["smart", "jpg", "raw"]
WRITE_MODES: tuple[WriteMode, ...] = ("smart", "jpg", "raw")
RAW_BYTES = 64 << 10

# A decoder that wants a part of an image skips whole intervals: short ones skip more, each costs 2 bytes and
# the rest of a byte. Rows begin with an interval of their own, so that intervals form columns.
INTERVAL, INTERVALS = 8, range(4, 13)
_MCU = 16  # the side of what is encoded at a time, in pixels: chroma has half the resolution of luma


@dataclass(frozen=True)
class Encoding:
    """How images are stored: `mode` as in `BuildOptions.write_mode`, JPEGs with `quality` 1..100."""

    mode: WriteMode
    quality: int

    def encode(self, pixels: Pixels) -> tuple[int, Pixels]:
        """Return the storage mode (JPG or RAW) and the stored bytes of an image (H x W x 3)."""
        if self.mode == "raw" or (self.mode == "smart" and pixels.nbytes <= RAW_BYTES):
            return RAW, np.ascontiguousarray(pixels).reshape(-1)
        return JPG, encode_jpeg(pixels, self.quality)


def encode_jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Return a baseline JPEG as FFCV writes it, with restart markers, which cost 0.6% and change no pixel."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_RST_INTERVAL, restart_interval(pixels.shape[1])]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"{pixels.shape[1]} x {pixels.shape[0]} pixels cannot be encoded as JPEG")
    return np.asarray(data, np.uint8).reshape(-1)


def restart_interval(width: int) -> int:
    """Return how many MCUs lie between restart markers in an image of `width` pixels.

    It divides a row: of INTERVALS the divisor next to INTERVAL, or the whole row where there is none.
    """
    row = -(-width // _MCU)
    divisors = [length for length in INTERVALS if row % length == 0]
    return min(divisors, key=lambda length: abs(length - INTERVAL), default=row)
