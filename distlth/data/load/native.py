"""C functions of FFCV and of our own, for numba and for Python to call."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from numba import types

from distlth.data.jpeg.library import load
from distlth.errors import DataError


def _ffcv_library() -> Path:
    """Return FFCV's compiled decoder, without importing the package, which compiles for four seconds."""
    spec = importlib.util.find_spec("ffcv")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder).glob("_libffcv*.so")):
            return file
    raise DataError("ffcv is not installed here, or lacks its compiled decoder; run cluster/setup.sh")


_FFCV = _ffcv_library()
LIBRARY = ctypes.CDLL(str(_FFCV))
JPEG = load(_FFCV)


def _declare(function: Any, signature: Any) -> Any:
    """Return a C function, called by symbol: numba cannot cache code with raw addresses."""
    symbol = f"distlth_native_{function.__name__}"
    llvm.add_symbol(symbol, ctypes.cast(function, ctypes.c_void_p).value)
    return types.ExternalFunction(symbol, signature)


# Pointers travel as intp.
# crop_jpeg(data, bytes, height, width, top, left, crop height, crop width, mirrored?, resolution, pixels)
# returns 0 when libjpeg would have neither an error nor a warning.
crop_jpeg = _declare(
    JPEG.distlth_jpeg_crop, types.int32(types.intp, types.int64, *[types.int32] * 8, types.intp)
)
# resize(unused, input, height, width, top, bottom, left, right, output, out_height, out_width): by area.
resize = _declare(LIBRARY.resize, types.void(*[types.int64] * 11))


def decode_jpeg(data: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8] | None:
    """Return the whole image (height x width x 3, uint8); None when libjpeg has an error or a warning."""
    pixels = np.empty((height, width, 3), np.uint8)
    arguments = (height, width, pixels.ctypes.data, height, width, 0, 0, 1, 1, False, False)
    failed = LIBRARY.imdecode(*_typed(data.ctypes.data, data.size, *arguments))
    return None if failed else pixels


def decoders_agree(data: npt.NDArray[np.uint8], height: int, width: int) -> bool:
    """Return whether our decoder reads a JPEG of a common kind, all of it, and to libjpeg's bits."""
    return not JPEG.distlth_jpeg_compare(data.ctypes.data, data.size, height, width)


def _typed(*arguments: int) -> list[Any]:
    kinds = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p]
    kinds += [ctypes.c_uint32] * 6 + [ctypes.c_bool] * 2
    return [kind(argument) for kind, argument in zip(kinds, arguments, strict=True)]
