"""The kernel as an operator of torch, `distlth::grouped_conv2d`, which torch.compile and CUDA graphs take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distlth.execute.triton.errors import ExecuteError
from distlth.execute.triton.kernel import blocks_kernel
from distlth.execute.triton.layout import planes
from distlth.execute.triton.runs import INTERPRETED, runs


@dataclass(frozen=True)
class Launch:
    """How the kernel runs: output pixels of a program, its warps, and the stages of its pipeline of loads."""

    pixels: int = 128
    warps: int = 4
    stages: int = 3


@dataclass(frozen=True)
class Geometry:
    """A convolution's sizes: output channels, and kernel, stride, padding and dilation as (y, x)."""

    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the output for those of an input."""
        sizes = zip((height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        found = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes]
        return found[0], found[1]

    @property
    def pointwise(self) -> bool:
        """Whether an output pixel reads the input's pixel at its own place alone."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)

    def words(self) -> list[int]:
        """Return it as a list of integers, as operators take it."""
        return [self.out_channels, *self.kernel, *self.stride, *self.padding, *self.dilation]

    @classmethod
    def of(cls, words: Sequence[int]) -> Geometry:
        """Return the geometry of a list of integers."""
        pairs = [(words[i], words[i + 1]) for i in range(1, len(words), 2)]
        return cls(words[0], *pairs)


@torch.library.custom_op(
    "distlth::grouped_conv2d",
    mutates_args=(),
    schema="(Tensor x, Tensor? residual, Tensor weight, Tensor bias, Tensor tiles, Tensor taps, "
    "Tensor channels, Tensor rows, int[] geometry, bool relu, bool tf32, int[] launch) -> Tensor",
)
def grouped_conv2d(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    tiles: Tensor,
    taps: Tensor,
    channels: Tensor,
    rows: Tensor,
    geometry: Sequence[int],
    relu: bool,
    tf32: bool,
    launch: Sequence[int],
) -> Tensor:
    """Return the convolution of `x` (N x C_in x H x W) with a plan's blocks, stored as planes().

    `bias` (tiles x ROWS) is in the order of the tiles. `residual` is added before `relu`; it has the output's
    shape. `geometry` is Geometry.words(), `launch` a Launch's fields in order. `tf32` rounds float32 operands
    to TF32.

    Raises ExecuteError where `x` is not on a GPU, unless Triton interprets (TRITON_INTERPRET=1).
    """
    if not runs(x):
        raise ExecuteError(f"grouped execution by Triton needs a GPU, not {x.device}")
    sizes = Geometry.of(geometry)
    out = _empty(x, geometry)
    arguments, options = kernel_call(
        planes(x),
        out if residual is None else planes(residual),
        out,
        (weight, bias, tiles, taps, channels, rows),
        sizes,
        has_residual=residual is not None,
        relu=relu,
        tf32=tf32,
        launch=Launch(*launch),
    )
    programs = len(tiles) * -(-out[:, 0].numel() // launch[0])
    blocks_kernel[(programs,)](*arguments, **options)
    return out


def kernel_call(
    x: Tensor,
    residual: Tensor,
    out: Tensor,
    tables: Sequence[Tensor],
    sizes: Geometry,
    *,
    has_residual: bool,
    relu: bool,
    tf32: bool,
    launch: Launch,
) -> tuple[list[Any], dict[str, Any]]:
    """Return the kernel's arguments and options for feature maps stored as planes()."""
    weight, bias, tiles, taps, channels, rows = tables
    images, _, height, width = x.shape
    _, _, out_height, out_width = out.shape
    arguments = [x, weight, bias, residual, out, tiles, taps, channels, rows, len(tiles)]
    arguments += [images * out_height * out_width, images * height * width]
    arguments += [height, width, out_height, out_width, *sizes.stride, *sizes.padding]
    arguments += [int(has_residual), 0.0 if relu else float("-inf")]
    options = {
        "ROWS": weight.shape[1],
        "COLUMNS": weight.shape[2],
        "PIXELS": launch.pixels,
        "POINTWISE": sizes.pointwise,
        "PRECISION": "tf32" if tf32 else "ieee",
        "WIDEN": INTERPRETED,
        "num_warps": launch.warps,
        "num_stages": launch.stages,
    }
    return arguments, options


@grouped_conv2d.register_fake
def _(x: Tensor, residual: Tensor | None, *tables: Any) -> Tensor:
    return _empty(x, tables[6])


def _empty(x: Tensor, geometry: Sequence[int]) -> Tensor:
    sizes = Geometry.of(geometry)
    height, width = sizes.output(x.shape[2], x.shape[3])
    return x.new_empty(sizes.out_channels, x.shape[0], height, width).transpose(0, 1)
