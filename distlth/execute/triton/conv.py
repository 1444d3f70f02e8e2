"""A convolution that runs as its dense blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import torch
from torch import Tensor, nn

from distlth.execute.triton.errors import ExecuteError
from distlth.execute.triton.op import Geometry, Launch, grouped_conv2d
from distlth.execute.triton.plan import COLUMNS, Plan, coarser, for_tf32, grouped_blocks, plan
from distlth.prune.blocks import Block


class GroupedConv2d(nn.Module):
    """A Conv2d in eval mode as its dense blocks, with what is added to its output and a ReLU, in one launch.

    `blocks` are blocks_of() the convolution's mask; its weight is zero outside them. Blocks of fewer than
    `min_rows` rows are joined with others, unless the convolution has groups. The bias is added in float32,
    whatever the weight's dtype: float32, bfloat16 or float16. `tf32` lets float32 products round to TF32.

    Raises ExecuteError for a dtype or a padding that it does not have.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        blocks: Sequence[Block] | None = None,
        *,
        min_rows: int = 1,
        relu: bool = False,
        tf32: bool = False,
        launch: Launch | None = None,
    ) -> None:
        super().__init__()
        self.geometry = geometry_of(conv)
        self.relu, self.tf32, self.launch = relu, tf32, launch or Launch()
        blocks = blocks_of(conv) if blocks is None else blocks
        if conv.groups == 1 and blocks:
            blocks = coarser(blocks, min_rows)
        weight = for_tf32(conv.weight) if tf32 and conv.weight.dtype == torch.float32 else conv.weight
        tables = plan(weight, blocks, groups=conv.groups, dilation=self.geometry.dilation)
        self.macs, self.dense_macs = tables.macs, conv.weight.numel()
        self._keep(tables, conv)

    def _keep(self, tables: Plan, conv: nn.Conv2d) -> None:
        zeros = torch.zeros(conv.out_channels, device=conv.weight.device)
        bias = zeros if conv.bias is None else conv.bias.detach().float()
        for name, value in {**vars(tables), "bias": bias[tables.rows.clamp(min=0)]}.items():
            self.register_buffer(name, value)

    def tables(self) -> tuple[Tensor, ...]:
        """Return the plan's tensors in the operator's order."""
        names = ("weight", "bias", "tiles", "taps", "channels", "rows")
        return tuple(self.get_buffer(name) for name in names)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return the output (N x C_out x OH x OW, stored channel by channel) for N x C_in x H x W."""
        found: Tensor = grouped_conv2d(
            x,
            residual,
            *self.tables(),
            self.geometry.words(),
            self.relu,
            self.tf32,
            list(astuple(self.launch)),
        )
        return found


def blocks_of(conv: nn.Conv2d, mask: Tensor | None = None) -> list[Block]:
    """Return the dense blocks of a convolution's bool mask, or of its weights that are not zero."""
    kept = conv.weight.detach() != 0 if mask is None else mask
    return grouped_blocks(kept.cpu(), conv.groups)


def geometry_of(conv: nn.Conv2d) -> Geometry:
    """Return a convolution's sizes; raise ExecuteError for what the kernel cannot do."""
    if conv.weight.dtype not in COLUMNS:
        raise ExecuteError(f"grouped execution knows float32, bfloat16 and float16, not {conv.weight.dtype}")
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        raise ExecuteError(
            f"grouped execution knows zero padding in pixels, not {conv.padding!r}, {conv.padding_mode}"
        )
    pairs = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return Geometry(conv.out_channels, *((int(pair[0]), int(pair[1])) for pair in pairs))
