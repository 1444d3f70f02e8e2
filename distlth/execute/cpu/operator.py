"""The engine as one operator of torch: (images, handle of a network, threads) -> result."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distlth.execute.cpu.engine import EngineError, Network, call


def run(images: Tensor, network: Network, threads: int | None = None) -> Tensor:
    """Return what a network of the engine makes of `images`.

    Images are float32, N x C x H x W, on the CPU; so is the result. `threads` is torch's number if None.

    Raises:
        EngineError: the images do not fit the network.
    """
    assert network.handle is not None
    result: Tensor = torch.ops.distlth.grouped(images, network.handle, threads or torch.get_num_threads())
    return result


@torch.library.custom_op("distlth::grouped", mutates_args=(), device_types="cpu")
def grouped(images: Tensor, handle: int, threads: int) -> Tensor:
    """Run the network behind `handle`, which the caller keeps alive."""
    _check(images)
    contiguous = images.contiguous()
    result = images.new_empty(_shape(images, handle))
    size = np.array(contiguous.shape[1:], np.int32)
    if len(images):
        call("run", handle, contiguous.data_ptr(), len(images), size, result.data_ptr(), threads)
    return result


@grouped.register_fake
def _(images: Tensor, handle: int, threads: int) -> Tensor:
    return images.new_empty(_shape(images, handle))


def _check(images: Tensor) -> None:
    if images.dtype != torch.float32 or images.ndim != 4:
        raise EngineError(
            f"the CPU engine takes float32 images, N x C x H x W, not {images.dtype} {tuple(images.shape)}"
        )


def _shape(images: Tensor, handle: int) -> tuple[int, int, int, int]:
    size, found = np.array(images.shape[1:], np.int32), np.zeros(3, np.int32)
    call("size", handle, size, found)
    channels, height, width = found.tolist()
    return len(images), channels, height, width
