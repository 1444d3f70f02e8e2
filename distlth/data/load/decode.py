"""The compiled kernels: from an image's bytes to one cropped, resized, flipped and normalised sample.

Random numbers come from a counter: draw k of a sample is a hash of (epoch key, sample index, k). So the
augmentation of a sample does not depend on threads, on batches, or on what was drawn before. Its steps, in
their order: crop and resize, shift, rotate, mirror, colours; then it is normalised.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from distlth.data.load.native import crop_jpeg, resize
from distlth.kernels import kernels

kernel = kernels(__file__)

CENTRE, RANDOM_RESIZED, PAD = 0, 1, 2
AREA_SCALE = (0.08, 1.0)
ASPECT_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10
PLACE_DRAWS = 2 * CROP_TRIES
FLIP_DRAW = PLACE_DRAWS + 2
ROTATE_DRAW = FLIP_DRAW + 1
JITTER_DRAW = ROTATE_DRAW + 1

# From RGB to luma, I and Q, and the weights of I and Q on the way back (that of luma is 1).
YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))
RGB = (
    (0.9562957197589484, 0.6210244164652612),
    (-0.2721220993185105, -0.6473805968256952),
    (-1.1069890167364904, 1.7046149983646484),
)
# Colours change in whole numbers of 1/65536: the same bits on every machine.
COLOUR_BITS = 16

_JPG = 0
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LOG_RATIO = (math.log(ASPECT_RATIO[0]), math.log(ASPECT_RATIO[1]))


@kernel
def sample_key(epoch_key: np.uint64, index: int) -> np.uint64:
    """Return the 64-bit key of sample `index` in the epoch of `epoch_key`."""
    return _mix(epoch_key + np.uint64(index + 1) * _GAMMA)


@kernel
def _mix(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


@kernel
def uniform(key: np.uint64, draw: int) -> float:
    """Return draw number `draw` of `key`: a float64 in [0, 1)."""
    word = _mix(key + np.uint64(draw + 1) * _GAMMA)
    return float(word >> np.uint64(11)) * 2.0**-53


@kernel
def random_resized_crop(height: int, width: int, key: np.uint64) -> tuple[int, int, int, int]:
    """Return a crop (top, left, height, width) in pixels, drawn as by torchvision's RandomResizedCrop.

    Its area is 0.08..1 of the image's and its aspect ratio 3/4..4/3, log-uniform; after ten draws that do
    not fit, the largest centre crop within those ratios.
    """
    for attempt in range(CROP_TRIES):
        low, high = AREA_SCALE
        area = height * width * (low + (high - low) * uniform(key, 2 * attempt))
        low, high = _LOG_RATIO
        ratio = math.exp(low + (high - low) * uniform(key, 2 * attempt + 1))
        w = round(math.sqrt(area * ratio))
        h = round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(uniform(key, PLACE_DRAWS) * (height - h + 1))
            left = int(uniform(key, PLACE_DRAWS + 1) * (width - w + 1))
            return top, left, h, w
    h = min(height, max(1, round(width / ASPECT_RATIO[0])))
    w = min(width, max(1, round(height * ASPECT_RATIO[1])))
    return (height - h) // 2, (width - w) // 2, h, w


@kernel
def shift(key: np.uint64, reach: int) -> tuple[int, int]:
    """Return by how many pixels a sample is moved (down, right), each in -reach..reach."""
    down = int(uniform(key, PLACE_DRAWS) * (2 * reach + 1)) - reach
    right = int(uniform(key, PLACE_DRAWS + 1) * (2 * reach + 1)) - reach
    return down, right


@kernel
def turn(key: np.uint64, degrees: float) -> tuple[float, float]:
    """Return cosine and sine of the angle by which a sample is turned, of up to `degrees` either way."""
    angle = math.radians(degrees * (2 * uniform(key, ROTATE_DRAW) - 1))
    return math.cos(angle), math.sin(angle)


@kernel
def is_mirrored(key: np.uint64) -> bool:
    """Return whether a sample is mirrored: one of two."""
    return uniform(key, FLIP_DRAW) < 0.5


@kernel
def centre_crop(height: int, width: int, ratio: float) -> tuple[int, int, int, int]:
    """Return the centred square (top, left, side, side) of `ratio` of the image's shorter side."""
    side = max(1, int(ratio * min(height, width)))
    return (height - side) // 2, (width - side) // 2, side, side


@kernel
def _decode_crop(
    data: Any, is_jpg: bool, height: int, width: int, crop: Any, mirrored: bool, resolution: int, tile: Any
) -> bool:
    """Fill tile (R x R x 3, uint8) with the crop of one image; return False when its bytes do not decode."""
    top, left, h, w = crop
    source, target = data.ctypes.data, tile.ctypes.data
    if is_jpg:
        size = data.size
        status = crop_jpeg(source, size, height, width, top, left, h, w, mirrored, resolution, target)
        return bool(status == 0)
    if data.size < 3 * height * width:
        return False
    resize(0, source, height, width, top, top + h, left, left + w, target, resolution, resolution)
    if mirrored:
        _mirror(tile)
    return True


@kernel
def _shift(tile: Any, down: int, right: int, fill: Any, out: Any) -> None:
    """Copy tile into out, moved by (down, right) pixels; uncovered pixels become `fill` (RGB)."""
    side = tile.shape[0]
    for y in range(side):
        for x in range(side):
            inside = 0 <= y - down < side and 0 <= x - right < side
            for c in range(3):
                out[y, x, c] = tile[y - down, x - right, c] if inside else fill[c]


@kernel
def _rotate(tile: Any, cos: float, sin: float, fill: Any, out: Any) -> None:
    """Turn tile counter-clockwise about its centre into out: nearest pixels; uncovered ones become `fill`."""
    side = tile.shape[0]
    centre = (side - 1) / 2
    for y in range(side):
        for x in range(side):
            down, right = y - centre, x - centre
            from_y = math.floor(sin * right + cos * down + centre + 0.5)
            from_x = math.floor(cos * right - sin * down + centre + 0.5)
            inside = 0 <= from_y < side and 0 <= from_x < side
            for c in range(3):
                out[y, x, c] = tile[from_y, from_x, c] if inside else fill[c]


@kernel
def colour_factors(key: np.uint64, jitter: Any) -> tuple[float, float, float, float]:
    """Return a sample's brightness, contrast and saturation (factors), and by how many turns its hue moves.

    `jitter` has how far each may go: a factor is in max(0, 1 - j)..1 + j, the hue in -j..j turns.
    """
    brightness = _factor(uniform(key, JITTER_DRAW), jitter[0])
    contrast = _factor(uniform(key, JITTER_DRAW + 1), jitter[1])
    saturation = _factor(uniform(key, JITTER_DRAW + 2), jitter[2])
    return brightness, contrast, saturation, jitter[3] * (2 * uniform(key, JITTER_DRAW + 3) - 1)


@kernel
def _factor(draw: float, reach: float) -> float:
    low = max(0.0, 1.0 - reach)
    return low + (1.0 + reach - low) * draw


@kernel
def _fixed(value: float) -> int:
    return math.floor(value * 2.0**COLOUR_BITS + 0.5)


@kernel
def _mean_luma(tile: Any) -> float:
    """Return the mean luma of an image, from an exact sum."""
    total = 0
    for y in range(tile.shape[0]):
        for x in range(tile.shape[1]):
            total += 299 * tile[y, x, 0] + 587 * tile[y, x, 1] + 114 * tile[y, x, 2]
    return float(total / (1000.0 * (tile.shape[0] * tile.shape[1])))


@kernel
def _change_colours(tile: Any, factors: Any, weights: Any) -> None:
    """Change brightness, contrast, saturation and hue of an image, all at once: a linear map of its pixels.

    Brightness multiplies, contrast moves away from the image's mean luma, saturation from each pixel's luma,
    hue turns I and Q. Nothing is rounded or cut off in between, so the order of the four does not matter.
    `weights` is room for the map: int64, 3 x 3.
    """
    brightness, contrast, saturation, turns = factors
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    scale = brightness * contrast
    for to in range(3):
        along_i, along_q = RGB[to]
        for of in range(3):
            i, q = YIQ[1][of], YIQ[2][of]
            chroma = along_i * (cos * i - sin * q) + along_q * (sin * i + cos * q)
            weights[to, of] = _fixed(scale * (YIQ[0][of] + saturation * chroma))
    shift = _fixed(brightness * (1.0 - contrast) * _mean_luma(tile) + 0.5)
    for y in range(tile.shape[0]):
        for x in range(tile.shape[1]):
            red, green, blue = np.int64(tile[y, x, 0]), np.int64(tile[y, x, 1]), np.int64(tile[y, x, 2])
            for to in range(3):
                value = weights[to, 0] * red + weights[to, 1] * green + weights[to, 2] * blue + shift
                tile[y, x, to] = min(255, max(0, value >> COLOUR_BITS))


@kernel
def _mirror(tile: Any) -> None:
    side = tile.shape[1]
    for y in range(tile.shape[0]):
        for x in range(side // 2):
            for c in range(3):
                tile[y, x, c], tile[y, side - 1 - x, c] = tile[y, side - 1 - x, c], tile[y, x, c]


@kernel
def decode_samples(
    storage: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    modes: npt.NDArray[np.uint8],
    heights: npt.NDArray[np.int64],
    widths: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64],
    epoch_key: np.uint64,
    crop_kind: int,
    flip: bool,
    ratio: float,
    reach: int,
    degrees: float,
    fill: npt.NDArray[np.uint8],
    jitter: npt.NDArray[np.float64],
    room: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint8],
) -> int:
    """Decode samples into out (n x R x R x 3); entry i of the five index arrays belongs to indices[i].

    `crop_kind` is CENTRE (of `ratio`), RANDOM_RESIZED, or PAD (a centred square, then moved by up to `reach`
    pixels each way over `fill`). Where `degrees` is not 0 the result is turned by up to so many either way,
    over `fill`. Colours change by `jitter` (`colour_factors`). `room` is as large as one image of `out`.
    Returns -1, or the first i whose image lies outside `storage` or does not decode.
    """
    resolution = out.shape[1]
    weights = np.empty((3, 3), np.int64)
    is_jittered = jitter.max() > 0
    is_placed = crop_kind == PAD or degrees > 0
    for i in range(len(indices)):
        height, width = heights[i], widths[i]
        begin, end = offsets[i], offsets[i] + lengths[i]
        if begin < 0 or end > storage.size:
            return i
        key = sample_key(epoch_key, indices[i])
        if crop_kind == RANDOM_RESIZED:
            crop = random_resized_crop(height, width, key)
        else:
            crop = centre_crop(height, width, ratio)
        mirrored = flip and is_mirrored(key)
        tile = room.reshape(out[i].shape) if is_placed else out[i]
        # A tile that is moved or turned is mirrored after that.
        early = mirrored and not is_placed
        data, is_jpg = storage[begin:end], modes[i] == _JPG
        if not _decode_crop(data, is_jpg, height, width, crop, early, resolution, tile):
            return i
        if crop_kind == PAD:
            down, right = shift(key, reach)
            _shift(tile, down, right, fill, out[i])
        if degrees > 0:
            if crop_kind == PAD:
                tile[:] = out[i]
            cos, sin = turn(key, degrees)
            _rotate(tile, cos, sin, fill, out[i])
        if mirrored and is_placed:
            _mirror(out[i])
        if is_jittered:
            _change_colours(out[i], colour_factors(key, jitter), weights)
    return -1


@kernel
def draw_samples(
    indices: npt.NDArray[np.int64],
    epoch_key: np.uint64,
    reach: int,
    degrees: float,
    flip: bool,
    shifts: npt.NDArray[np.int64],
    turns: npt.NDArray[np.float64],
    mirrored: npt.NDArray[np.int64],
) -> None:
    """Draw what `decode_samples` draws of samples whose crop is PAD (CENTRE: with a `reach` of 0).

    Fills in rows of `shifts` (down, right; pixels), of `turns` (cosine and sine of the angle), and entries of
    `mirrored` (0 or 1).
    """
    for i in range(len(indices)):
        key = sample_key(epoch_key, indices[i])
        shifts[i, 0], shifts[i, 1] = shift(key, reach)
        turns[i, 0], turns[i, 1] = turn(key, degrees)
        mirrored[i] = flip and is_mirrored(key)


@kernel
def normalise(
    pixels: npt.NDArray[np.uint8], scale: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], out: Any
) -> None:
    """Compute out = pixels x scale + bias, all flat; scale and bias hold one image row and repeat."""
    row = len(scale)
    for begin in range(0, len(pixels), row):
        for i in range(row):
            out[begin + i] = np.float32(pixels[begin + i]) * scale[i] + bias[i]
