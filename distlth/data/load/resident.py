"""A split decoded once into the memory of a device, and batches made there: for data sets that fit.

The pixels of a batch are those that `Reader` makes, to the bit: the same decoder leaves them here before
they are moved, turned and mirrored, and the same counter draws by how much. That takes no arithmetic on
pixels, only other places to take them from, which is why `random-resized` crops and jitter do not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from distlth.data.load import decode
from distlth.data.load.finish import AsStored, Batch
from distlth.data.load.packed import PackedSplit
from distlth.data.load.reader import Batches, Reader
from distlth.data.load.storage import Indices
from distlth.data.load.transform import Jitter, Transform
from distlth.errors import DataError

_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Images:
    """All images of a split on one device.

    `pixels` (uint8, rows of RGB) has them one after the other, `side` x `side` each: the network's image with
    a border of the transform's colour around it, `margin` pixels wide, which moved and turned images uncover.
    `labels` is int64.
    """

    pixels: Tensor
    labels: Tensor
    side: int
    margin: int


def resident(packed: PackedSplit, transform: Transform, device: torch.device) -> Resident:
    """Return the source of a split's batches on a device; decode the split, unless that was done before.

    Raises:
        DataError: the crop is 'random-resized', colours change, the images do not fit into the device's free
            memory, or one does not decode.
    """
    if transform.kind == decode.RANDOM_RESIZED:
        raise DataError("cache 'gpu' fits crop 'pad' and 'none', not 'random-resized'; choose cache 'os'")
    if transform.jitter != Jitter():
        raise DataError("cache 'gpu' has no colour jitter; choose cache 'os'")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    margin = _margin(transform)
    key = (transform.resolution, transform.ratio, margin, tuple(transform.border), device)
    return Resident(packed.kept(key, lambda: _decoded(packed, transform, margin, device)), transform)


def _margin(transform: Transform) -> int:
    """Return how far beyond a stored image a transform looks; a turned one needs one pixel of border."""
    reach = transform.reach if transform.kind == decode.PAD else 0
    return reach + (transform.rotate > 0)


def _decoded(packed: PackedSplit, transform: Transform, margin: int, device: torch.device) -> Images:
    """Decode all images of a split onto a device."""
    count, resolution = len(packed.index.labels), transform.resolution
    side = resolution + 2 * margin
    _check_fits(packed, count * side * side * 3, device)
    pixels = torch.empty((count, side, side, 3), dtype=torch.uint8, device=device)
    pixels[:] = torch.from_numpy(transform.border).to(device)
    inner = pixels[:, margin : margin + resolution, margin : margin + resolution]
    plain = replace(transform, crop="none", pad=None, flip=False, rotate=0.0)
    reader = Reader(packed, plain, AsStored(resolution), ahead=2)
    parts = [np.arange(at, min(at + _CHUNK, count), dtype=np.int64) for at in range(0, count, _CHUNK)]
    with reader.stream(parts, key=0) as stream:
        for part, (images, _) in zip(parts, stream, strict=True):
            inner[part[0] : part[-1] + 1] = images.to(device)
    labels = torch.from_numpy(packed.index.labels).to(device)
    return Images(pixels.view(-1, 3), labels, side, margin)


def _check_fits(packed: PackedSplit, size: int, device: torch.device) -> None:
    """Raise DataError where `size` bytes are more than the device has free."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if size > free:
        raise DataError(
            f"data.cache: gpu: the {packed.split} images of {packed.dataset.path} need {_gib(size)} GiB, "
            f"{device} has {_gib(free)} GiB free; use data.cache: os, or a smaller data.resolution"
        )


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g}"


class Resident:
    """Makes batches of the images on a device, each with a few kernels that the host does not wait for."""

    def __init__(self, images: Images, transform: Transform) -> None:
        device = images.pixels.device
        self._images, self._transform, self._device = images, transform, device
        self._scale = torch.tensor(transform.scale, dtype=torch.float32, device=device)
        self._bias = torch.tensor(transform.bias, dtype=torch.float32, device=device)
        self._grid = _grid(transform.resolution, images.side).to(device)

    def stream(self, batches: Sequence[Indices], key: int) -> Batches:
        """Return the batches of the given sample indices, augmented by `key` (64 bits)."""
        return _Made(self._batches(batches, np.uint64(key)))

    def _batches(self, batches: Sequence[Indices], key: np.uint64) -> Iterator[Batch]:
        """Draw for all batches and send that, then make one after the other."""
        if not batches:
            return
        draws = self._draw(np.concatenate(batches), key)
        begin = 0
        for indices in batches:
            part = slice(begin, begin + len(indices))
            yield self._image(draws, part), draws.labels[part]
            begin = part.stop

    def _draw(self, indices: Indices, key: np.uint64) -> _Draws:
        transform, images, count = self._transform, self._images, len(indices)
        shifts, turns = np.empty((count, 2), np.int64), np.empty((count, 2), np.float64)
        mirrored = np.empty(count, np.int64)
        reach = transform.reach if transform.kind == decode.PAD else 0
        decode.draw_samples(indices, key, reach, transform.rotate, transform.flip, shifts, turns, mirrored)
        down, right = images.margin - shifts.T
        corners = (indices * images.side + down) * images.side + right
        samples = self._send(indices)
        return _Draws(
            self._send(corners),
            self._send(mirrored),
            self._send(turns) if transform.rotate > 0 else None,
            samples * images.side**2,
            self._images.labels[samples],
        )

    def _send(self, values: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> Tensor:
        """Return an array as a tensor on the device; a GPU takes it from pinned memory, without a wait."""
        tensor = torch.from_numpy(values)
        return (
            tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor
        )

    def _image(self, draws: _Draws, part: slice) -> Tensor:
        """Return images as float32 N x 3 x R x R in channels-last memory, normalised."""
        places = self._places(draws, part)
        images = self._images.pixels[places].float().mul_(self._scale).add_(self._bias)
        return images.permute(0, 3, 1, 2)

    def _places(self, draws: _Draws, part: slice) -> Tensor:
        """Return the row of `pixels` that each pixel of a batch is: int64, N x R x R."""
        corners = draws.corners[part].view(-1, 1, 1)
        if draws.turns is None:
            return self._grid[draws.mirrored[part]].add_(corners)
        inner = self._turned(draws.turns[part], draws.mirrored[part])
        # The first pixel of an image with a margin is border, whichever way it moves.
        return torch.where(inner >= 0, inner + corners, draws.firsts[part].view(-1, 1, 1))

    def _turned(self, turns: Tensor, mirrored: Tensor) -> Tensor:
        """Return where in a stored image each pixel lies (as `_grid`), -1 outside: as `decode` turns it."""
        resolution, side = self._transform.resolution, self._images.side
        grid = self._grid[mirrored]
        centre = (resolution - 1) / 2
        down = torch.div(grid, side, rounding_mode="floor") - centre
        right = grid % side - centre
        cos, sin = turns.view(-1, 2, 1, 1).unbind(1)
        from_y = torch.floor(sin * right + cos * down + centre + 0.5).long()
        from_x = torch.floor(cos * right - sin * down + centre + 0.5).long()
        inside = (from_y >= 0) & (from_y < resolution) & (from_x >= 0) & (from_x < resolution)
        return torch.where(inside, from_y * side + from_x, -1)


@dataclass(frozen=True, eq=False)
class _Draws:
    """What an epoch draws, on the device, an entry a sample: the row of `Images.pixels` that its first pixel
    comes from when it is not turned, whether it is mirrored, its turn, its image's first row, its label."""

    corners: Tensor
    mirrored: Tensor
    turns: Tensor | None
    firsts: Tensor
    labels: Tensor


class _Made:
    """An iterator over batches that nothing prepares in advance."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def close(self) -> None:
        """Yield no more."""
        self._batches = iter(())

    def __enter__(self) -> _Made:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _grid(resolution: int, side: int) -> Tensor:
    """Return each pixel's place from an image's first, as it is and mirrored: int64, 2 x R x R."""
    down = torch.arange(resolution).view(-1, 1) * side
    right = torch.arange(resolution)
    return torch.stack([down + right, down + right.flip(0)])
