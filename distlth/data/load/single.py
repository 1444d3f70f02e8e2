"""One image that is in no packed file, made ready as evaluation makes those of a data set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distlth.data.load import decode
from distlth.data.load.transform import Jitter, Transform
from distlth.errors import DataError

RAW = 1


def prepare(pixels: npt.NDArray[np.uint8], transform: Transform) -> Tensor:
    """Return an image (H x W x 3, RGB) as float32 of 3 x R x R: cropped, resized and normalised.

    These are the kernels that read packed images that are stored as pixels, without augmentation.
    """
    side, (height, width) = transform.resolution, pixels.shape[:2]
    tile, image = np.empty((1, side, side, 3), np.uint8), np.empty((side, side, 3), np.float32)
    failed = decode.decode_samples(
        np.ascontiguousarray(pixels).reshape(-1),
        *(_one(0), _one(pixels.size), np.array([RAW], np.uint8), _one(height), _one(width), _one(0)),
        np.uint64(0),
        *(transform.kind, False, transform.ratio, transform.reach, 0.0),
        transform.border,
        Jitter().reaches,
        np.empty(tile.size, np.uint8),
        tile,
    )
    if failed >= 0:
        raise DataError(f"an image of {width} x {height} pixels cannot be cropped")
    scale, bias = (np.tile(row, side).astype(np.float32) for row in (transform.scale, transform.bias))
    decode.normalise(tile.reshape(-1), scale, bias, image.reshape(-1))
    return torch.from_numpy(image).permute(2, 0, 1)


def _one(value: int) -> npt.NDArray[np.int64]:
    return np.array([value], np.int64)
