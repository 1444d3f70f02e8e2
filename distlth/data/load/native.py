"""FFCV's C functions for numba to call, and a cache of compiled kernels that processes may share."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numba
import numpy as np
import numpy.typing as npt
from numba import types

from distlth.errors import DataError

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


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


def kernels(source: str) -> Callable[[Kernel], Kernel]:
    """Return a decorator that compiles functions of the file `source`, or loads them from the cache.

    The name of the cache's folder stands for everything that machine code depends on. So machines that share
    a home directory never load each other's code, and processes that race write the same bytes.
    """
    folder = _cache_folder(Path(source).read_bytes() + Path(__file__).read_bytes())
    config: Any = numba.config
    compiler: Any = numba.njit(nogil=True, error_model="numpy", cache=folder is not None)

    def decorate(function: Kernel) -> Kernel:
        if folder is None:
            return compiler(function)  # type: ignore[no-any-return]
        before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
        try:
            return compiler(function)  # type: ignore[no-any-return]
        finally:
            config.CACHE_DIR = before

    return decorate


def _cache_folder(source: bytes) -> Path | None:
    """Return the user's cache for `source` on this kind of machine; None when there is nowhere to write."""
    machine = (
        sys.version,
        numba.__version__,
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
    )
    tag = hashlib.sha256(source + repr(machine).encode()).hexdigest()[:16]
    config: Any = numba.config
    home = config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(home) / "distlth" / f"kernels-{tag}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None
