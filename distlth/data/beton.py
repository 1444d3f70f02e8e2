"""The index of one FFCV file (format version 2): where each sample's image lies, its size and its label.

Read and written with numpy rather than with `ffcv`: so a damaged file gives an error that names it, and no
process need import `ffcv`, which compiles for four seconds each time.

Files that `distlth data build` writes have a checksum in each row. Those that FFCV's users write have an
image and a label alone: once adopted, their checksums lie in a file beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distlth.data.reading import reading
from distlth.errors import DataError

VERSION = 2
JPG, RAW = 0, 1
FIELDS = ("image", "label", "checksum")
FOREIGN_FIELDS = FIELDS[:2]
FIELD_KINDS = (2, 1, 1)  # FFCV's numbers of RGBImageField and IntField
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
SAMPLE = np.dtype([("image", IMAGE), ("label", "<i8"), ("checksum", "<i8")], align=True)
FOREIGN_SAMPLE = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

MAX_FIELDS = 64

IntArray = npt.NDArray[np.int64]

NO_CHECKSUMS: IntArray = np.empty(0, np.int64)


@dataclass(frozen=True)
class Beton:
    """The index of a packed split; all arrays have one entry per sample.

    `modes` is uint8 (JPG or RAW), `checksums` are the first 8 bytes of each sample's digest; the others are
    int64. Offsets and lengths are bytes, heights and widths pixels.
    """

    path: Path
    page_size: int
    modes: npt.NDArray[np.uint8]
    heights: IntArray
    widths: IntArray
    offsets: IntArray
    lengths: IntArray
    labels: IntArray
    checksums: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def pages(self) -> IntArray:
        """Return the page that each image lies in."""
        return self.offsets // self.page_size


def head(count: int, page_size: int, table: int = 0) -> bytes:
    """Return a file's first bytes, before the rows of `count` samples; its allocations begin at `table`."""
    header, fields = np.zeros((), HEADER), np.zeros(len(FIELDS), FIELD)
    header[()] = VERSION, len(FIELDS), page_size, count, table
    fields["type_id"] = FIELD_KINDS
    for text, name in zip(fields["name"], FIELDS, strict=True):
        text[: len(name)] = np.frombuffer(name.encode(), np.uint8)
    return header.tobytes() + fields.tobytes()


def read_beton(path: Path, num_classes: int) -> Beton:
    """Return the index of the file at `path`; DataError names the file, and the sample that is wrong."""
    with reading(path):
        beton = _read_beton(path)
        if beton.checksums is NO_CHECKSUMS:
            beton = replace(beton, checksums=_read_checksums(path, len(beton)))
        _check_samples(beton, path.stat().st_size, num_classes)
        return beton


def read_foreign(path: Path, max_classes: int) -> Beton:
    """Return the index of a file that FFCV's users wrote, without checksums; errors as in `read_beton`."""
    with reading(path):
        beton = _read_beton(path)
        if beton.checksums is not NO_CHECKSUMS:
            raise DataError(f"{path}: was made by `distlth data build`; use its folder as it is")
        _check_samples(beton, path.stat().st_size, max_classes)
        return beton


def checksum_file(path: Path) -> Path:
    """Return the file with the checksums of an adopted file: one signed 64-bit number a sample."""
    return path.with_suffix(".checksums")


def _read_checksums(path: Path, count: int) -> IntArray:
    file = checksum_file(path)
    if not file.is_file():
        raise DataError(f"{path}: has no checksums; `distlth data adopt TRAIN VAL --out DIR` makes them")
    checksums = np.fromfile(file, "<i8")
    if len(checksums) != count:
        raise DataError(f"{file}: {len(checksums):,} checksums, expected {count:,}; adopt the files again")
    return checksums.astype(np.int64)


def _read_beton(path: Path) -> Beton:
    header = _rows(path, HEADER, 1, 0)[0]
    _check_header(path, header)
    count, fields = int(header["num_samples"]), int(header["num_fields"])
    start = HEADER.itemsize
    found = _rows(path, FIELD, fields, start)
    names, kinds = tuple(map(_text, found["name"])), tuple(found["type_id"].tolist())
    if names not in (FIELDS, FOREIGN_FIELDS) or kinds != FIELD_KINDS[:fields]:
        raise DataError(
            f"{path}: fields {', '.join(names)}; expected image (RGB) and label (a number) alone, or a data "
            "set that `distlth data build` made"
        )
    kind = SAMPLE if fields == len(FIELDS) else FOREIGN_SAMPLE
    samples = _rows(path, kind, count, start + fields * FIELD.itemsize)
    table = _rows(path, ALLOCATION, count, int(header["alloc_table_ptr"]))
    return _index(path, int(header["page_size"]), samples, table)


def _text(name: npt.NDArray[np.uint8]) -> str:
    return bytes(name).rstrip(b"\0").decode("ascii", "backslashreplace")


def _rows(path: Path, dtype: np.dtype[np.void], count: int, offset: int) -> npt.NDArray[np.void]:
    if offset + count * dtype.itemsize > path.stat().st_size:
        raise DataError(f"{path}: cut short or not a packed data set; build it again")
    return np.fromfile(path, dtype=dtype, count=count, offset=offset)


def _check_header(path: Path, header: np.void) -> None:
    found = int(header["version"])
    if found != VERSION or not 1 <= int(header["num_fields"]) <= MAX_FIELDS:
        raise DataError(f"{path}: not a packed data set of FFCV format {VERSION}; build it again")
    page_size = int(header["page_size"])
    if page_size < 1 or page_size & (page_size - 1) or int(header["num_samples"]) < 1:
        raise DataError(f"{path}: damaged header; build the data set again")


def _index(path: Path, page_size: int, samples: npt.NDArray[np.void], table: npt.NDArray[np.void]) -> Beton:
    image = samples["image"]
    offsets = image["data_ptr"].astype(np.int64)
    table = table[np.argsort(table["ptr"], kind="stable")]
    places = np.minimum(np.searchsorted(table["ptr"], image["data_ptr"]), len(table) - 1)
    found = table["ptr"][places] == image["data_ptr"]
    return Beton(
        path=path,
        page_size=page_size,
        modes=np.ascontiguousarray(image["mode"]),
        heights=image["height"].astype(np.int64),
        widths=image["width"].astype(np.int64),
        offsets=offsets,
        lengths=np.where(found, table["size"][places].astype(np.int64), -1),
        labels=samples["label"].astype(np.int64),
        checksums=_checksums(samples),
    )


def _checksums(samples: npt.NDArray[np.void]) -> IntArray:
    return samples["checksum"].astype(np.int64) if samples.dtype == SAMPLE else NO_CHECKSUMS


def _check_samples(beton: Beton, size: int, num_classes: int) -> None:
    raw_bytes = 3 * beton.heights * beton.widths
    wrong = {
        "its image lies outside the file": (beton.offsets < 0)
        | (beton.lengths < 1)
        | (beton.offsets + beton.lengths > size),
        "unknown storage mode": (beton.modes != JPG) & (beton.modes != RAW),
        "an empty image": raw_bytes == 0,
        "its size and its bytes differ": (beton.modes == RAW) & (beton.lengths != raw_bytes),
        f"its label is not in 0..{num_classes - 1}": (beton.labels < 0) | (beton.labels >= num_classes),
    }
    for reason, mask in wrong.items():
        if mask.any():
            raise DataError(
                f"{beton.path}: sample {int(np.argmax(mask))}: {reason}; build the data set again"
            )
