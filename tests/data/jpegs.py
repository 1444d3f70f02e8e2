"""JPEGs for tests, and what libturbojpeg and our decoder of baseline JPEGs make of them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
import sklearn

ROOT = Path(__file__).parent.parent.parent
SOURCES = ROOT / "distlth" / "data" / "jpeg"
DECODER = ("header", "huffman", "segments", "decode", "decode_portable", "decode_avx2")
COMPILED = ROOT / "build" / "tests"  # kept from run to run
AVX2 = ["-mavx2", "-mbmi", "-mbmi2"]  # what setup.py compiles decode_avx2.cpp with

Bytes = npt.NDArray[np.uint8]
Planes = tuple[Bytes, Bytes, Bytes]  # Y, Cb and Cr, height x width each
Crop = tuple[int, int, int, int]  # top, left, height, width
Sampling = Literal["444", "422", "440", "420"]
Status = Literal["decoded", "damaged", "other kind"]
STATUSES: tuple[Status, ...] = ("decoded", "damaged", "other kind")


@cache
def photos() -> tuple[Bytes, ...]:
    """Return photos that our dependencies ship: height x width x 3, uint8."""
    images = Path(sklearn.__path__[0]) / "datasets" / "images"
    files = [images / "china.jpg", images / "flower.jpg"]
    files.append(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    return tuple(np.asarray(cv2.imread(str(file)), np.uint8) for file in files)


def encode(
    image: Bytes,
    sampling: Sampling = "420",
    quality: int = 90,
    *,
    restart: int = 0,
    optimise: bool = False,
    progressive: bool = False,
) -> bytes:
    """Return an image as a JPEG, with a restart marker after every so many MCUs; 0: none."""
    options = {
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}"),
        cv2.IMWRITE_JPEG_QUALITY: quality,
        cv2.IMWRITE_JPEG_RST_INTERVAL: restart,
        cv2.IMWRITE_JPEG_OPTIMIZE: optimise,
        cv2.IMWRITE_JPEG_PROGRESSIVE: progressive,
    }
    return cv2.imencode(".jpg", image, [int(n) for option in options.items() for n in option])[1].tobytes()


def compile_decoder(name: str, *main: Path, flags: tuple[str, ...], parts: tuple[str, ...] = DECODER) -> Path:
    """Return the decoder, or other `parts` beside it, and more files as a shared library or a program.

    It is compiled unless it already is.
    """
    sources = [SOURCES / f"{part}.cpp" for part in parts]
    files = [*sources, *sorted(SOURCES.glob("*.h")), *main]
    digest = hashlib.sha256(repr(flags).encode() + b"".join(file.read_bytes() for file in files)).hexdigest()
    folder = COMPILED / f"{name}-{digest[:16]}"
    if not folder.exists():
        COMPILED.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=COMPILED) as fresh:
            _compile(Path(fresh) / "whole" / name, [*sources, *main], flags)
            os.rename(Path(fresh) / "whole", folder)
    return folder / name


def _compile(out: Path, sources: list[Path], flags: tuple[str, ...]) -> None:
    out.parent.mkdir()

    def compiled(source: Path) -> Path:
        own = AVX2 if source.stem.endswith("_avx2") and os.uname().machine == "x86_64" else []
        target = out.parent / f"{source.stem}.o"
        command = ["g++", "-std=c++20", "-Wall", "-fPIC", f"-I{SOURCES}", *flags, *own, "-c", str(source)]
        subprocess.run([*command, "-o", str(target)], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    subprocess.run(["g++", *flags, *objects, "-o", str(out)], check=True)


class _Planes(ctypes.Structure):
    """struct Planes of planes.h."""

    _fields_ = (
        ("plane", ctypes.c_void_p * 3),
        ("stride", ctypes.c_ssize_t * 3),
        *((name, ctypes.c_int) for name in ("top", "left", "image_height", "image_width")),
        ("horizontal", ctypes.c_int),
        ("vertical", ctypes.c_int),
        ("is_grey", ctypes.c_bool),
        ("is_rgb", ctypes.c_bool),
    )


@dataclass(frozen=True)
class Part:
    """What was decoded of an image: planes from a luma pixel on, within the image."""

    top: int
    left: int
    planes: Planes


class Library:
    """The decoder behind jpeg_driver.cpp."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.new_decoder.restype = ctypes.c_void_p
        self._library.time_decode.restype = ctypes.c_int64
        self.has_fast_instructions = bool(self._library.has_fast_instructions())
        self._decoders = [ctypes.c_void_p(self._library.new_decoder(portable)) for portable in (0, 1)]

    def decode(
        self, jpeg: bytes, size: tuple[int, int], crop: Crop | None = None, *, portable: bool = False
    ) -> tuple[Status, Part | None]:
        """Return what the decoder says to an image of a size, and what it decodes of a crop."""
        crop, planes = crop or (0, 0, *size), _Planes()
        # Of its own, so that a sanitizer sees what is read beyond it.
        data = (ctypes.c_uint8 * len(jpeg)).from_buffer_copy(jpeg)
        decoder, wanted = self._decoders[portable], (ctypes.c_int * 4)(*crop)
        status = STATUSES[
            self._library.decode(
                decoder, data, ctypes.c_size_t(len(jpeg)), *size, wanted, ctypes.byref(planes)
            )
        ]
        return status, _part(planes, crop) if status == "decoded" else None

    def time(self, jpeg: bytes, size: tuple[int, int], crops: list[Crop], *, portable: bool = False) -> float:
        """Return the microseconds of this thread that decoding takes, for each crop."""
        wanted = np.array(crops, np.int32)
        time = self._library.time_decode(
            self._decoders[portable],
            jpeg,
            ctypes.c_size_t(len(jpeg)),
            *size,
            wanted.ctypes.data_as(ctypes.c_void_p),
            len(crops),
        )
        assert time >= 0
        return float(time / len(crops) / 1e3)


def _part(planes: _Planes, crop: Crop) -> Part:
    """Copy what was decoded: the crop and 2 pixels around it, and the rest of the MCUs."""
    found = []
    for i in range(3):
        across, down = (planes.horizontal, planes.vertical) if i else (1, 1)
        mcu = 8 * planes.vertical, 8 * planes.horizontal
        bottom = min(-(-(crop[0] + crop[2] + 2) // mcu[0]) * mcu[0], planes.image_height)
        right = min(-(-(crop[1] + crop[3] + 2) // mcu[1]) * mcu[1], planes.image_width)
        shape = -(-(bottom - planes.top) // down), -(-(right - planes.left) // across)
        samples = (ctypes.c_uint8 * (planes.stride[i] * (shape[0] - 1) + shape[1])).from_address(
            planes.plane[i]
        )
        whole = np.frombuffer(samples, np.uint8)
        found.append(
            np.lib.stride_tricks.as_strided(whole, shape, (planes.stride[i], 1), writeable=False).copy()
        )
    return Part(planes.top, planes.left, (found[0], found[1], found[2]))


@cache
def _turbo() -> Any:
    library = ctypes.CDLL("libturbojpeg.so.0")
    library.tjInitDecompress.restype = ctypes.c_void_p
    return library


@cache
def _turbo_handle() -> ctypes.c_void_p:
    return ctypes.c_void_p(_turbo().tjInitDecompress())


_TURBO_SAMPLINGS = {0: (1, 1), 1: (2, 1), 2: (2, 2), 4: (1, 2)}  # across and down


def turbo_planes(jpeg: bytes) -> Planes | None:
    """Return libturbojpeg's planes of an image, by its accurate transform; None: it is damaged."""
    library, handle, length = _turbo(), _turbo_handle(), ctypes.c_ulong(len(jpeg))
    width, height, sampling, colours = (ctypes.c_int() for _ in range(4))
    head = (ctypes.byref(value) for value in (width, height, sampling, colours))
    if library.tjDecompressHeader3(handle, jpeg, length, *head):
        return None
    across, down = _TURBO_SAMPLINGS[sampling.value]
    chroma = -(-height.value // down), -(-width.value // across)
    # libturbojpeg pads luma to whole chroma samples.
    found = [
        np.zeros((chroma[0] * down, chroma[1] * across), np.uint8),
        *(np.zeros(chroma, np.uint8) for _ in "br"),
    ]
    pointers = (ctypes.c_void_p * 3)(*(plane.ctypes.data for plane in found))
    size = width, (ctypes.c_int * 3)(*(plane.shape[1] for plane in found)), height
    if library.tjDecompressToYUVPlanes(handle, jpeg, length, pointers, *size, 0):
        return None
    return found[0][: height.value, : width.value], found[1], found[2]


def write_blocks(blocks: npt.NDArray[np.int64], steps: npt.NDArray[np.int64], code_bits: int) -> bytes:
    """Return a JPEG of one 4:4:4 MCU: coefficients 3 x 64 in zigzag order, codes of equal length."""
    symbols = {
        "dc": range(12),
        "ac": [0, 0xF0, *(run << 4 | size for run in range(16) for size in range(1, 11))],
    }
    segments = [(0xDB, bytes((0, *steps)))]
    for number, of_class in enumerate(symbols.values()):
        counts = [len(of_class) if bits == code_bits else 0 for bits in range(1, 17)]
        segments.append((0xC4, bytes((number << 4, *counts, *of_class))))
    segments.append((0xC0, bytes((8, 0, 8, 0, 8, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0))))
    segments.append((0xDA, bytes((3, 1, 0, 2, 0, 3, 0, 0, 63, 0))))
    head = b"".join(bytes((0xFF, code)) + (len(data) + 2).to_bytes(2) + data for code, data in segments)
    places = {name: {symbol: i for i, symbol in enumerate(all_)} for name, all_ in symbols.items()}

    def bits(of_class: str, run: int, value: int) -> str:
        size = abs(value).bit_length()
        code = f"{places[of_class][run << 4 | size]:0{code_bits}b}"
        return code + (f"{value if value > 0 else value + (1 << size) - 1:0{size}b}" if size else "")

    data = "".join("".join(_block_bits(block.tolist(), bits)) for block in blocks)
    data += "1" * (-len(data) % 8)
    coded = int(data, 2).to_bytes(len(data) // 8).replace(b"\xff", b"\xff\x00")
    return b"\xff\xd8" + head + coded + b"\xff\xd9"


def _block_bits(block: list[int], bits: Callable[[str, int, int], str]) -> Iterator[str]:
    yield bits("dc", 0, block[0])
    run = 0
    last = max((i for i in range(1, 64) if block[i]), default=0)
    for value in block[1 : last + 1]:
        if value == 0 and run < 15:
            run += 1
        else:
            yield bits("ac", run, value)
            run = 0
    if last < 63:
        yield bits("ac", 0, 0)
