"""The Triton kernels: one launch computes all dense blocks of a convolution, or transposes a matrix."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
from __future__ import annotations

try:
    import triton
    import triton.language as tl
except ImportError as error:
    from distlth.execute.triton.errors import ExecuteError

    raise ExecuteError(
        "grouped execution on a GPU needs Triton, which this Python lacks; torch builds for CUDA bring it"
    ) from error


# Only the two that say how maps are aligned are worth a kernel of their own.
SIZES = ["num_tiles", "height", "width", "out_height", "out_width", "stride_y", "stride_x", "padding_y"]
SIZES += ["padding_x", "has_residual"]


@triton.jit(do_not_specialize=SIZES)  # type: ignore[untyped-decorator]
def blocks_kernel(
    x,  # input, [C_in, N, H, W]
    weight,  # [steps, ROWS, COLUMNS]
    bias,  # [tiles, ROWS]
    residual,  # as out; not read where has_residual is 0
    out,  # [C_out, N, OH, OW]
    tiles,  # int32 [tiles, 2]: first step, number of steps
    taps,  # int32 [steps, 2]: rows and columns of pixels that a step's input lies away
    channels,  # int32 [steps, COLUMNS]: input channels, -1 for none
    rows,  # int32 [tiles, ROWS]: output channels, -1 for none
    num_tiles,
    num_pixels,  # N * OH * OW
    plane,  # N * H * W
    height,
    width,
    out_height,
    out_width,
    stride_y,
    stride_x,
    padding_y,
    padding_x,
    has_residual,
    floor,  # what an output is at least: 0 or -inf
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIXELS: tl.constexpr,
    POINTWISE: tl.constexpr,  # output pixel i reads input pixel i alone
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,  # multiply in float32: Triton's interpreter has no products of bfloat16
):
    """Compute PIXELS output pixels of the ROWS output channels of one tile.

    Programs that share pixels run at the same time, so that all but one find their input in the L2 cache.
    """
    program = tl.program_id(0)
    tile = program % num_tiles
    pixel = (program // num_tiles) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < num_pixels
    row_index = tl.arange(0, ROWS)
    column_index = tl.arange(0, COLUMNS)

    if not POINTWISE:
        image = pixel // (out_height * out_width)
        place = pixel % (out_height * out_width)
        top = (place // out_width) * stride_y - padding_y
        left = (place % out_width) * stride_x - padding_x
        origin = (image * height + top) * width + left  # outside the image in its padding: masked below

    first = tl.load(tiles + 2 * tile)
    count = tl.load(tiles + 2 * tile + 1)
    total = tl.zeros((PIXELS, ROWS), dtype=tl.float32)
    for step in range(first, first + count):
        channel = tl.load(channels + step * COLUMNS + column_index)
        used = channel >= 0
        start = x + channel.to(tl.int64) * plane
        if POINTWISE:
            values = tl.load(start[:, None] + pixel[None, :], mask=used[:, None] & inside[None, :], other=0.0)
        else:
            down = tl.load(taps + 2 * step)
            right = tl.load(taps + 2 * step + 1)
            y = top + down
            z = left + right
            valid = inside & (y >= 0) & (y < height) & (z >= 0) & (z < width)
            source = origin + down * width + right
            values = tl.load(start[:, None] + source[None, :], mask=used[:, None] & valid[None, :], other=0.0)
        cells = tl.load(
            weight + step * (ROWS * COLUMNS) + row_index[None, :] * COLUMNS + column_index[:, None]
        )
        if WIDEN:
            values = values.to(tl.float32)
            cells = cells.to(tl.float32)
        total = tl.dot(tl.trans(values), cells, total, input_precision=PRECISION)

    row = tl.load(rows + tile * ROWS + row_index)
    total += tl.load(bias + tile * ROWS + row_index).to(tl.float32)[None, :]
    target = (row.to(tl.int64) * num_pixels)[None, :] + pixel[:, None]
    written = inside[:, None] & (row >= 0)[None, :]
    added = tl.load(residual + target, mask=written & (has_residual != 0), other=0.0)
    total += added.to(tl.float32)
    total = tl.where(total < floor, floor, total)
    tl.store(out + target, total.to(out.dtype.element_ty), mask=written)


TILE = 64


@triton.jit  # type: ignore[untyped-decorator]
def transpose_kernel(x, out, rows, columns, SIZE: tl.constexpr):
    """Write a tile of a matrix (rows x columns) to its place in the transpose."""
    across = tl.cdiv(columns, SIZE)
    row = (tl.program_id(0) // across) * SIZE + tl.arange(0, SIZE)
    column = (tl.program_id(0) % across) * SIZE + tl.arange(0, SIZE)
    source = x + row.to(tl.int64)[:, None] * columns + column[None, :]
    tile = tl.load(source, mask=(row < rows)[:, None] & (column < columns)[None, :], other=0.0)
    target = out + column.to(tl.int64)[:, None] * rows + row[None, :]
    tl.store(target, tl.trans(tile), mask=(column < columns)[:, None] & (row < rows)[None, :])
