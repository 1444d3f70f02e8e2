"""From decoded pixels to the images of a batch, on the CPU or on a GPU."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distlth.data.load import decode
from distlth.data.load.buffers import Buffers
from distlth.data.load.transform import Transform
from distlth.errors import DataError

Batch = tuple[Tensor, Tensor]
Pixels = npt.NDArray[np.uint8]


class Finisher(Protocol):
    """Takes decoded pixels (uint8, n x R x R x 3) until they are the images of a batch."""

    def allocate(self, count: int) -> Tensor:
        """Return host memory for the images of a batch."""

    def store(self, pixels: Pixels, target: npt.NDArray[np.generic]) -> None:
        """Put a chunk's pixels into its part of that memory; called in a decoding thread."""

    def finish(self, images: Tensor, labels: Tensor) -> Batch:
        """Return the batch; called in the thread that prepares batches."""

    def receive(self, batch: Batch) -> Batch:
        """Hand the batch over; called in the consumer's thread."""


def finisher(transform: Transform, device: torch.device, batch_size: int, keep: int) -> Finisher:
    """Return the finisher of a device; on the CPU it keeps memory for `keep` batches that nobody uses."""
    if device.type == "cuda":
        return OnGpu(transform, device)
    if device.type == "cpu":
        return OnCpu(transform, batch_size, keep)
    raise DataError(f"cannot load images to device {device}; choose cpu or cuda")


class AsStored:
    """Leaves the pixels as they are: uint8, count x R x R x 3, in host memory."""

    def __init__(self, resolution: int) -> None:
        self._resolution = resolution

    def allocate(self, count: int) -> Tensor:
        """Return uint8 memory."""
        return torch.empty((count, self._resolution, self._resolution, 3), dtype=torch.uint8)

    def store(self, pixels: Pixels, target: npt.NDArray[np.generic]) -> None:
        """Copy a chunk."""
        target[...] = pixels

    def finish(self, images: Tensor, labels: Tensor) -> Batch:
        """Return the batch as it is."""
        return images, labels

    def receive(self, batch: Batch) -> Batch:
        """Return the batch as it is."""
        return batch


class OnCpu:
    """Normalises in the decoding threads, while a chunk's pixels are still in the processor's cache."""

    def __init__(self, transform: Transform, batch_size: int, keep: int) -> None:
        resolution = transform.resolution
        self._buffers = Buffers((batch_size, resolution, resolution, 3), keep)
        self._scale = np.tile(transform.scale, resolution).astype(np.float32)
        self._bias = np.tile(transform.bias, resolution).astype(np.float32)

    def allocate(self, count: int) -> Tensor:
        """Return float32 memory that was used before, where there is some."""
        return self._buffers.take(count)

    def store(self, pixels: Pixels, target: npt.NDArray[np.generic]) -> None:
        """Normalise a chunk."""
        decode.normalise(pixels.reshape(-1), self._scale, self._bias, target.reshape(-1))

    def finish(self, images: Tensor, labels: Tensor) -> Batch:
        """Return the images as N x 3 x R x R in channels-last memory."""
        return images.permute(0, 3, 1, 2), labels

    def receive(self, batch: Batch) -> Batch:
        """Return the batch as it is."""
        return batch


class OnGpu:
    """Copies uint8 pixels to the GPU on a stream of its own, and normalises them there.

    A thread's current device is GPU 0 until it chooses one: pinning memory or entering a stream in another
    thread than the consumer's would open a context there, on every rank. So each method that may run in
    such a thread enters the device first.
    """

    def __init__(self, transform: Transform, device: torch.device) -> None:
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self._resolution, self._device = transform.resolution, device
        self._scale = torch.tensor(transform.scale, dtype=torch.float32, device=device)
        self._bias = torch.tensor(transform.bias, dtype=torch.float32, device=device)
        self._stream = torch.cuda.Stream(device)

    def allocate(self, count: int) -> Tensor:
        """Return pinned uint8 memory."""
        shape = (count, self._resolution, self._resolution, 3)
        with torch.cuda.device(self._device):
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)

    def store(self, pixels: Pixels, target: npt.NDArray[np.generic]) -> None:
        """Copy a chunk."""
        target[...] = pixels

    def finish(self, images: Tensor, labels: Tensor) -> Batch:
        """Copy to the GPU and normalise; wait until that is done."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            pixels = images.to(self._device, non_blocking=True)
            normalised = pixels.float().mul_(self._scale).add_(self._bias)
            labels = labels.pin_memory().to(self._device, non_blocking=True)
        self._stream.synchronize()
        return normalised.permute(0, 3, 1, 2), labels

    def receive(self, batch: Batch) -> Batch:
        """Tie the batch's memory to the consumer's stream."""
        # The allocator must not reuse this memory on the copying stream while the consumer computes with it.
        for tensor in batch:
            tensor.record_stream(torch.cuda.current_stream(self._device))
        return batch
