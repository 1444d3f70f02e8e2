"""The compiled library, as Python and numba call it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from distlth.errors import DataError

_INT, _POINTER = ctypes.c_int, ctypes.c_void_p
Arguments = tuple[Any, ...]
# data, bytes, height, width, top, left, crop height, crop width, mirrored?, resolution, pixels
CROP: Arguments = (_POINTER, ctypes.c_int64, *[_INT] * 8, _POINTER)


def load(turbo: Path) -> ctypes.CDLL:
    """Return the compiled library, which reads what is no common JPEG by the libturbojpeg that `turbo` links.

    Raises:
        DataError: it was not compiled here, or from older sources, or `turbo` links no libturbojpeg.
    """
    found = sorted(Path(__file__).parent.glob("_jpeg*.so"))
    if not found:
        raise DataError("the JPEG decoder is not compiled here; run cluster/setup.sh or pip install -e .")
    library = ctypes.CDLL(str(found[0]))
    try:
        library.distlth_jpeg_crop.argtypes = CROP
        library.distlth_jpeg_compare.argtypes = (_POINTER, ctypes.c_int64, _INT, _INT)
    except AttributeError:
        raise DataError(f"{found[0]}: compiled from older sources; run cluster/setup.sh") from None
    if library.distlth_jpeg_load_turbo(str(turbo).encode()):
        raise DataError(f"{turbo}: links no libturbojpeg; run cluster/setup.sh")
    return library
