"""Plans: a layer's dense blocks as the tables that the kernel walks through; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distlth.prune.blocks import Block, dense_blocks
from distlth.prune.columns import Rows

ROWS = (16, 32, 64, 128)
# Columns a step: one tap of the filter, so that padding at the border is a matter of pixels alone.
COLUMNS = {torch.float32: (16, 32), torch.bfloat16: (16, 32, 64), torch.float16: (16, 32, 64)}
SEVERAL_TAPS_COLUMNS = 32  # at most: their loads, of single values, pass through registers
LOAD_COST = 32  # products a column of the input costs beside its own, to load it
CUT_OFF = 2**-11 / (2 * log(2))  # share that a value loses on average; its mantissa is distributed as 1/m
STEP_COST = 8  # columns that a step costs beside its own


@dataclass(frozen=True, eq=False)
class Plan:
    """What the kernel needs to know of a layer; tensors on the weight's device.

    Tiles are up to ROWS output channels of one block, the longest first; a tile's steps are COLUMNS input
    channels of one tap each. `weight` has the layer's dtype and the shape steps x ROWS x COLUMNS, zeros where
    a tile or a step is not full; `channels` (steps x COLUMNS), `taps` (steps x 2, in pixels), `tiles`
    (tiles x 2: first step, number of steps) and `rows` (tiles x ROWS) are int32, -1 where not full.
    """

    weight: Tensor
    channels: Tensor
    taps: Tensor
    tiles: Tensor
    rows: Tensor

    @property
    def macs(self) -> int:
        """Multiply-accumulates per output pixel, padding included."""
        return self.weight.numel()


def for_tf32(weight: Tensor) -> Tensor:
    """Return float32 weights to multiply with TF32: rounded to its 10 bits, and larger by CUT_OFF.

    Tensor cores cut the other 13 bits off. A network whose weights and maps all lose a little in this way
    computes logits four times as wrong as with rounding; larger weights make up for what the maps lose.
    """
    bits = (weight.detach() * (1 + CUT_OFF)).contiguous().view(torch.int32)
    return ((bits + 0x1000) & -0x2000).view(torch.float32)


def grouped_blocks(mask: Tensor, groups: int = 1) -> list[Block]:
    """Return the dense blocks of a convolution's bool mask (C_out x C_in/groups x kh x kw), over all inputs.

    Columns count in C_in x kh x kw, so that a block of one of several `groups` names the channels it reads.
    """
    height, fan_in = mask.shape[0] // groups, mask[0].numel()
    return [
        Block(block.rows + group * height, block.columns + group * fan_in)
        for group in range(groups)
        for block in dense_blocks(mask[group * height : (group + 1) * height])
    ]


def coarser(blocks: Sequence[Block], min_rows: int) -> list[Block]:
    """Return blocks of at least `min_rows` rows, if there are as many: unions that add the fewest cells.

    A union has all columns of its parts, so that it multiplies zeros, but it loads its input once.
    """
    rows = [block.rows for block in blocks]
    kept = np.zeros((len(blocks), 1 + max(block.columns[-1] for block in blocks)), np.bool_)
    for number, block in enumerate(blocks):
        kept[number, block.columns] = True
    while len(rows) > 1 and min(map(len, rows)) < min_rows:
        heights = np.array([len(each) for each in rows])
        one = int(heights.argmin())
        widths = kept.sum(axis=1)
        added = (kept | kept[one]).sum(axis=1) * (heights + heights[one]) - widths * heights
        added[one] = np.iinfo(added.dtype).max
        other = int(added.argmin())
        rows[other], kept[other] = np.union1d(rows[one], rows[other]), kept[one] | kept[other]
        rows.pop(one)
        kept = np.delete(kept, one, axis=0)
    return [Block(own, np.flatnonzero(columns)) for own, columns in zip(rows, kept, strict=True)]


def plan(
    weight: Tensor, blocks: Sequence[Block], *, groups: int = 1, dilation: tuple[int, int] = (1, 1)
) -> Plan:
    """Return the plan of the cells in `blocks` of a convolution's weight (C_out x C_in/groups x kh x kw).

    Output channels of no block get tiles without steps: they are the bias alone.
    """
    kernel = (weight.shape[2], weight.shape[3])
    taps = kernel[0] * kernel[1]
    most = SEVERAL_TAPS_COLUMNS if taps > 1 else max(COLUMNS[weight.dtype])
    rows, columns = _sizes(blocks, taps, [size for size in COLUMNS[weight.dtype] if size <= most])
    tiles = [
        (block.rows[start : start + rows], _steps(block.columns, taps, columns))
        for block in blocks
        for start in range(0, len(block.rows), rows)
    ]
    tiles.sort(key=lambda tile: -len(tile[1]))
    used = np.concatenate([np.empty(0, np.int64), *(tile_rows for tile_rows, _ in tiles)])
    rest = np.setdiff1d(np.arange(weight.shape[0]), used)
    nothing = np.empty((0, columns), np.int64)
    tiles += [(rest[start : start + rows], nothing) for start in range(0, len(rest), rows)]

    counts = np.array([len(steps) for _, steps in tiles])
    steps = np.concatenate([steps for _, steps in tiles])
    tap = steps.max(axis=1, initial=-1) % taps
    places = np.stack([tap // kernel[1] * dilation[0], tap % kernel[1] * dilation[1]], axis=1)
    flat = weight.detach().reshape(weight.shape[0], -1)
    return Plan(
        weight=torch.cat([_cells(flat, *tile, rows, groups) for tile in tiles]).contiguous(),
        channels=_int32(steps // taps, flat),  # -1 stays -1
        taps=_int32(places, flat),
        tiles=_int32(np.stack([np.cumsum(counts) - counts, counts], axis=1), flat),
        rows=_int32(np.stack([_padded(tile_rows, rows) for tile_rows, _ in tiles]), flat),
    )


def _sizes(blocks: Sequence[Block], taps: int, choices: Sequence[int]) -> tuple[int, int]:
    """Return the rows of a tile and the columns of a step that fit these blocks best."""

    def columns_cost(columns: int) -> float:
        return sum(_num_steps(block.columns, taps, columns) for block in blocks) * (columns + STEP_COST)

    def rows_cost(rows: int) -> float:
        return sum(-(-len(block.rows) // rows) * len(block.columns) for block in blocks) * (rows + LOAD_COST)

    return min(ROWS, key=rows_cost), min(choices, key=columns_cost)


def _num_steps(columns: Rows, taps: int, size: int) -> int:
    return int((-(-np.bincount(columns % taps, minlength=taps) // size)).sum())


def _steps(columns: Rows, taps: int, size: int) -> npt.NDArray[np.int64]:
    """Return the columns by steps (steps x size), each of one tap, -1 where it is not full."""
    parts = [columns[columns % taps == tap] for tap in range(taps)]
    filled = [_padded(part, -(-len(part) // size) * size) for part in parts]
    return np.concatenate(filled).reshape(-1, size)


def _cells(flat: Tensor, rows: Rows, steps: npt.NDArray[np.int64], height: int, groups: int) -> Tensor:
    """Return a tile's weights: steps x height x columns."""
    cells = flat.new_zeros(len(steps), height, steps.shape[1])
    if len(steps):
        group = int(rows[0]) // (flat.shape[0] // groups)
        local = torch.from_numpy(steps - group * flat.shape[1]).to(flat.device)
        found = flat[torch.from_numpy(rows).to(flat.device)[:, None, None], local.clamp(min=0)]
        cells[:, : len(rows)] = found.permute(1, 0, 2)  # from rows x steps x columns
        cells *= torch.from_numpy(steps >= 0).to(flat.device)[:, None]
    return cells


def _padded(indices: Rows, size: int) -> npt.NDArray[np.int64]:
    return np.pad(indices, (0, size - len(indices)), constant_values=-1)


def _int32(values: npt.NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int32)).to(like.device)
