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


def _grouped(images: Tensor, handle: int, threads: int) -> Tensor:
    """Run the network behind `handle`, which the caller keeps alive."""
    _check(images)
    contiguous = images.contiguous()
    result = _empty(images, handle)
    size = np.array(contiguous.shape[1:], np.int32)
    if len(images):
        call("run", handle, contiguous.data_ptr(), len(images), size, result.data_ptr(), threads)
    return result


def _empty(images: Tensor, handle: int, threads: int = 0) -> Tensor:
    """Return a result without values: what the operator gives where only shapes are asked for."""
    size, found = np.array(images.shape[1:], np.int32), np.zeros(3, np.int32)
    call("size", handle, size, found)
    return images.new_empty(len(images), *found.tolist())


def _check(images: Tensor) -> None:
    if images.dtype != torch.float32 or images.ndim != 4:
        raise EngineError(
            f"the CPU engine takes float32 images, N x C x H x W, not {images.dtype} {tuple(images.shape)}"
        )


LIBRARY = torch.library.Library("distlth", "FRAGMENT")
LIBRARY.define("grouped(Tensor images, int handle, int threads) -> Tensor")
LIBRARY.impl("grouped", _grouped, "CPU")
LIBRARY.impl("grouped", _empty, "Meta")
