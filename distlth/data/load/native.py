"""FFCV's C functions, for numba and for Python to call."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from numba import types

from distlth.errors import DataError


def _ffcv_library() -> Path:
    """Return FFCV's compiled decoder, without importing the package, which compiles for three seconds."""
    spec = importlib.util.find_spec("ffcv")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder).glob("_libffcv*.so")):
            return file
    raise DataError("ffcv is not installed here, or lacks its compiled decoder; run cluster/setup.sh")


LIBRARY = ctypes.CDLL(str(_ffcv_library()))


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    """Return FFCV's C function `name`, called by symbol: numba cannot cache code with raw addresses."""
    symbol = f"distlth_ffcv_{name}"
    llvm.add_symbol(symbol, ctypes.cast(getattr(LIBRARY, name), ctypes.c_void_p).value)
    return types.ExternalFunction(symbol, result(*arguments))


# Pointers travel as intp and bools as 32-bit words, as the C calling conventions of 64-bit Linux allow.
# imdecode(input, bytes, height, width, output, out_height, out_width, y, x, scale_num, scale_denom, crop?,
# flip?) returns 0 when libjpeg had neither an error nor a warning.
imdecode = _declare(
    "imdecode",
    *(types.int32, types.intp, types.uint64, types.uint32, types.uint32, types.intp),
    *[types.uint32] * 8,
)
# resize(unused, input, height, width, top, bottom, left, right, output, out_height, out_width): by area.
resize = _declare("resize", types.void, *[types.int64] * 11)


def decode_jpeg(data: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8] | None:
    """Return the whole image (height x width x 3, uint8); None when libjpeg has an error or a warning."""
    pixels = np.empty((height, width, 3), np.uint8)
    arguments = (height, width, pixels.ctypes.data, height, width, 0, 0, 1, 1, False, False)
    failed = LIBRARY.imdecode(*_typed(data.ctypes.data, data.size, *arguments))
    return None if failed else pixels


def _typed(*arguments: int) -> list[Any]:
    kinds = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p]
    kinds += [ctypes.c_uint32] * 6 + [ctypes.c_bool] * 2
    return [kind(argument) for kind, argument in zip(kinds, arguments, strict=True)]
