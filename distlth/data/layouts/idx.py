"""IDX files (`train-images-idx3-ubyte` and so on), as MNIST and Fashion-MNIST have them, gzipped or not."""

from __future__ import annotations

import gzip
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distlth.data.layouts.base import Draw, Layout, Sample, Source, few
from distlth.data.layouts.splits import divide_test
from distlth.data.layouts.stored import MAX_BYTES, Values, by_class, reading_archive
from distlth.data.layouts.walk import visible_folders
from distlth.data.reading import open_regular
from distlth.errors import DataError

# Split and kind in a file's name. torchvision writes t10k-images-idx3-ubyte; others a dot, or test.
_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
_PARTS = tuple((split, kind) for split in ("train", "t10k") for kind in ("images", "labels"))
_UBYTE = 0x08


@dataclass(frozen=True)
class _Files:
    """The IDX files of a folder, by split (`train`, `t10k`) and kind (`images`, `labels`)."""

    folder: Path
    files: dict[tuple[str, str], Path]

    @property
    def missing(self) -> list[str]:
        ranks = {"images": 3, "labels": 1}
        return [
            f"{split}-{kind}-idx{ranks[kind]}-ubyte[.gz]"
            for split, kind in _PARTS
            if (split, kind) not in self.files
        ]


def _files(folder: Path) -> _Files:
    """Return a folder's IDX files; the unpacked one where there are both."""
    found: dict[tuple[str, str], Path] = {}
    for file in sorted(folder.iterdir()):
        if (name := _NAME.fullmatch(file.name)) and file.is_file():
            split = "train" if name[1] == "train" else "t10k"
            found.setdefault((split, name[2]), file)
    return _Files(folder, found)


def _places(path: Path) -> list[_Files]:
    """Return where IDX files are: in `path`, or in a folder `raw` where torchvision would have put them."""
    if not path.is_dir():
        return []
    folders = [path, path / "raw", *(folder / "raw" for folder in visible_folders(path))]
    return [files for files in map(_files, filter(Path.is_dir, folders)) if files.files]


def _matches(path: Path) -> bool:
    return bool(_places(path))


def _read(path: Path, draw: Draw) -> Source:
    places = _places(path)
    if len(places) > 1:
        folders = few([str(files.folder) for files in places])
        raise DataError(f"{path}: has IDX files in several folders; give one of {folders}")
    if places[0].missing:
        there = few([file.name for file in places[0].files.values()])
        raise DataError(f"{places[0].folder}: has {there}, but no {few(places[0].missing)}")
    labels = {split: read_idx(places[0].files[split, "labels"], 1) for split in ("train", "t10k")}
    highest = int(labels["train"].max())
    names = [f"{label:0{len(str(highest))}}" for label in range(highest + 1)]
    train, test = (_split(places[0].files[split, "images"], labels[split], names) for split in labels)
    return divide_test(path, "IDX files", train, test, draw)


def _split(file: Path, labels: Values, names: list[str]) -> dict[str, list[Sample]]:
    images = read_idx(file, 3)
    if len(images) != len(labels):
        raise DataError(f"{file}: {len(images):,} images, but {len(labels):,} labels")
    return by_class(file, images, labels.tolist(), names)


def read_idx(path: Path, rank: int) -> Values:
    """Return an IDX file's array of `rank` dimensions of unsigned bytes; DataError for any other content."""
    with open_regular(path) as file, reading_archive(path):
        if path.suffix != ".gz":
            return _array(path, file, rank)
        with gzip.open(file) as unpacked:
            return _array(path, unpacked, rank)  # type: ignore[arg-type]


def _array(path: Path, file: BinaryIO, rank: int) -> Values:
    head = file.read(4 + 4 * rank)
    if len(head) < 4 + 4 * rank or head[:4] != bytes((0, 0, _UBYTE, rank)):
        raise DataError(f"{path}: not an IDX file of {rank} dimensions of unsigned bytes")
    shape = struct.unpack(f">{rank}I", head[4:])
    size = math.prod(shape)
    if not 0 < size <= MAX_BYTES:
        raise DataError(f"{path}: {size:,} values; from 1 to {MAX_BYTES:,} can be read")
    data = file.read(size + 1)
    if len(data) != size:
        has = "more" if len(data) > size else f"{len(data):,}"
        raise DataError(f"{path}: its head says {size:,} values, there are {has}")
    return np.frombuffer(data, np.uint8).reshape(shape)


LAYOUT = Layout(
    "idx", "train-images-idx3-ubyte, train-labels-idx1-ubyte and t10k-..., gzipped or not", _matches, _read
)
