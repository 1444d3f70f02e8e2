"""Feature maps channel by channel, as blocks read them, or channels last, as cuDNN does."""

from __future__ import annotations

import torch
from torch import Tensor

from distlth.execute.triton.kernel import TILE, transpose_kernel
from distlth.execute.triton.runs import runs


@torch.library.custom_op("distlth::transposed", mutates_args=(), schema="(Tensor matrix) -> Tensor")
def transposed(matrix: Tensor) -> Tensor:
    """Return the transpose of a contiguous matrix, contiguous."""
    if not runs(matrix):
        return matrix.t().clone(memory_format=torch.contiguous_format)
    rows, columns = matrix.shape
    out = matrix.new_empty(columns, rows)
    programs = -(-rows // TILE) * -(-columns // TILE)
    transpose_kernel[(programs,)](matrix, out, rows, columns, SIZE=TILE, num_warps=4)
    return out


@transposed.register_fake
def _(matrix: Tensor) -> Tensor:
    return matrix.new_empty(matrix.shape[1], matrix.shape[0])


def planes(maps: Tensor) -> Tensor:
    """Return feature maps (N x C x H x W) stored channel by channel: all images of a channel side by side."""
    if maps.transpose(0, 1).is_contiguous():
        return maps
    images, channels, height, width = maps.shape
    if maps.is_contiguous(memory_format=torch.channels_last):
        matrix = maps.permute(0, 2, 3, 1).reshape(-1, channels)
        found: Tensor = transposed(matrix)
        return found.view(channels, images, height, width).transpose(0, 1)
    return maps.transpose(0, 1).contiguous().transpose(0, 1)


def channels_last(maps: Tensor) -> Tensor:
    """Return feature maps (N x C x H x W) stored pixel by pixel."""
    images, channels, height, width = maps.shape
    if maps.transpose(0, 1).is_contiguous() and not maps.is_contiguous(memory_format=torch.channels_last):
        matrix: Tensor = transposed(maps.transpose(0, 1).reshape(channels, -1))
        return matrix.view(images, height, width, channels).permute(0, 3, 1, 2)
    return maps.contiguous(memory_format=torch.channels_last)
