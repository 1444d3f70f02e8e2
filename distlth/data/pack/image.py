"""Decode one image of a source to RGB pixels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from distlth.data.layouts.base import Sample

Pixels = npt.NDArray[np.uint8]

MAX_SIDE = 65_535
DEEP_BITS = 16
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


class UnusableImageError(Exception):
    """The reason why an image cannot be packed."""


@dataclass(frozen=True)
class Decoded:
    """An image, H x W x 3, and the highest value of its file where that has 16 bits a value."""

    pixels: Pixels
    highest: int | None


def read_image(sample: Sample, max_side: int | None, bits: int = DEEP_BITS) -> Decoded:
    """Return the image of a sample, its longer side reduced to at most `max_side` pixels.

    Grey, palette and CMYK images are converted, an alpha channel is dropped and EXIF orientation ignored, as
    torchvision's ImageFolder does. Of values of 16 bits, the upper 8 of the lowest `bits` (8..16) are kept.
    UnusableImageError for all that cannot be read.
    """
    try:
        with warnings.catch_warnings(), sample.open() as file, Image.open(file) as image:
            warnings.simplefilter("ignore")
            deep = _deep_values(image, file)
            rgb = _to_rgb(image) if deep is None else _shallow(deep, bits)
    except UnusableImageError:
        raise
    except UnidentifiedImageError:
        raise UnusableImageError("not an image of a kind that Pillow reads") from None
    except Exception as error:  # PIL's decoders raise errors of any kind
        raise UnusableImageError(str(error) or type(error).__name__) from None
    return Decoded(np.asarray(_reduced(rgb, max_side)), None if deep is None else int(deep.max()))


def _deep_values(image: Image.Image, file: BinaryIO) -> npt.NDArray[Any] | None:
    """Return the values (H x W, or H x W x 3) of an image of 16 bits a value; None for all others."""
    colour = image.mode in ("RGB", "RGBA") and _is_deep_colour(image)
    image.load()
    if colour:  # PIL keeps the upper 8 bits alone
        file.seek(0)
        values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), _COLOUR)
        if values is None:
            raise UnusableImageError("16-bit pixels that do not decode; convert it to 8 bits")
        return np.asarray(values)[:, :, ::-1]
    if not image.mode.startswith("I"):
        return None
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65_535:
        raise UnusableImageError("32-bit pixels; convert it to 8 or 16 bits")
    return grey


def _is_deep_colour(image: Image.Image) -> bool:
    """Return whether the file has 16 bits a value, as PIL's decoders are told."""
    for tile in image.tile if hasattr(image, "tile") else ():
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(str(argument).find(";16") > 0 or argument == 65_535 for argument in arguments[:2]):
            return True
    return False


def _shallow(values: npt.NDArray[Any], bits: int) -> Image.Image:
    return Image.fromarray((values >> (bits - 8)).astype(np.uint8)).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnusableImageError("floating-point pixels; convert it to 8 bits")
    return image.convert("RGB")


def _reduced(rgb: Image.Image, max_side: int | None) -> Image.Image:
    if max_side is not None and max(rgb.size) > max_side:
        ratio = max_side / max(rgb.size)
        rgb = rgb.resize(
            (max(1, int(ratio * rgb.width)), max(1, int(ratio * rgb.height))), Image.Resampling.BOX
        )
    if max(rgb.size) > MAX_SIDE:
        raise UnusableImageError(f"{rgb.width} x {rgb.height} pixels; at most {MAX_SIDE} a side fit")
    return rgb
