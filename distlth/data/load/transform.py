"""What a job does with stored images: crop, resize, rotate, flip, change colours, normalise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from distlth.data.load import decode
from distlth.errors import DataError

Crop = Literal["random-resized", "pad", "none"]
Fill = Literal["mean", "black"]
Colour = tuple[float, float, float]

PAD_SHARE = 8

_KINDS = {"random-resized": decode.RANDOM_RESIZED, "pad": decode.PAD, "none": decode.CENTRE}


@dataclass(frozen=True)
class Jitter:
    """How far the colours of a training image change, each drawn evenly, as torchvision's ColorJitter does.

    `brightness`, `contrast` and `saturation` are multiplied by a factor in max(0, 1 - j)..1 + j; `hue` moves
    by up to 0.5 turns of the circle either way. Hues turn in YIQ, as in NVIDIA DALI, and not in HSV.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise DataError(f"jitter: {name} {value} is negative")
        if self.hue > 0.5:
            raise DataError(f"jitter: hue {self.hue} is not in 0..0.5 turns")

    @property
    def reaches(self) -> npt.NDArray[np.float64]:
        """Return the four as the kernels take them."""
        return np.array([self.brightness, self.contrast, self.saturation, self.hue], np.float64)


@dataclass(frozen=True)
class Transform:
    """From a stored image to float32 of 3 x `resolution` x `resolution`.

    `crop`: 'random-resized' as torchvision's RandomResizedCrop; 'none': the centred square of `ratio` of the
    shorter side; 'pad': that square, resized, then moved by up to `pad` pixels (by default resolution/8) each
    way. `rotate`: turned by up to so many degrees either way. What these two uncover has the colour `fill`.
    `flip` mirrors half of the samples. `jitter` changes colours, last of all and of all that is there. `mean`
    and `std` are per RGB channel, in units of 0..1.
    """

    resolution: int
    crop: Crop
    ratio: float
    flip: bool
    mean: Colour
    std: Colour
    pad: int | None = None
    fill: Fill = "mean"
    rotate: float = 0.0
    jitter: Jitter = Jitter()

    def __post_init__(self) -> None:
        if self.crop not in _KINDS:
            known = ", ".join(map(repr, _KINDS))
            raise DataError(f"crop {self.crop!r} is not known; choose one of {known}")
        if self.resolution < 1:
            raise DataError(f"resolution ({self.resolution}) must be at least 1")
        if not 0 < self.ratio <= 1:
            raise DataError(f"ratio {self.ratio} is not in (0, 1]")
        if self.fill not in ("mean", "black"):
            raise DataError(f"fill {self.fill!r} is not known; choose one of 'mean', 'black'")
        if not 0 <= self.reach <= self.resolution:
            raise DataError(f"pad {self.pad} is not in 0..{self.resolution} pixels")
        if not 0 <= self.rotate <= 180:
            raise DataError(f"rotate {self.rotate} is not in 0..180 degrees")

    @property
    def kind(self) -> int:
        """Return the crop as the kernels know it."""
        return _KINDS[self.crop]

    @property
    def reach(self) -> int:
        """Return by how many pixels a square is moved at most."""
        return self.resolution // PAD_SHARE if self.pad is None else self.pad

    @property
    def border(self) -> npt.NDArray[np.uint8]:
        """Return the colour (RGB) of what a moved or turned square uncovers."""
        if self.fill == "black":
            return np.zeros(3, np.uint8)
        return np.round(np.asarray(self.mean, np.float64) * 255).astype(np.uint8)

    @property
    def scale(self) -> npt.NDArray[np.float64]:
        """Return what a pixel's channels (0..255) are multiplied by."""
        return 1 / (255 * self._spread)

    @property
    def bias(self) -> npt.NDArray[np.float64]:
        """Return what is added to its channels then."""
        return -np.asarray(self.mean, np.float64) / self._spread

    @property
    def _spread(self) -> npt.NDArray[np.float64]:
        return np.maximum(np.asarray(self.std, np.float64), 1 / 255)
