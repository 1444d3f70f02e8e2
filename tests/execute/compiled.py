"""Compile the kernel for a GPU of compute capability 9.0, which need not be there."""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from distlth.execute.triton.kernel import blocks_kernel

FLOATS, TABLES = ("x", "weight", "residual", "out"), ("tiles", "taps", "channels", "rows")


def ptx(dtype: str, pointwise: bool) -> str:
    """Return the PTX for a dtype as Triton names it."""
    names = blocks_kernel.arg_names
    types = dict.fromkeys(names, "i32") | dict.fromkeys(FLOATS, f"*{dtype}") | dict.fromkeys(TABLES, "*i32")
    types |= {"bias": "*fp32", "floor": "fp32"}
    constants = {"ROWS": 32, "COLUMNS": 32, "PIXELS": 64, "POINTWISE": pointwise, "PRECISION": "tf32"}
    constants |= {"WIDEN": False}
    source = ASTSource(
        blocks_kernel,
        types | dict.fromkeys(constants, "constexpr"),
        {(names.index(name),): value for name, value in constants.items()},
        {},
    )
    return str(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"])
