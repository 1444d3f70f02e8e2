"""Write a stratified part of an IDX data set: python -m jobs.idx_subset SOURCE DIR --per-class 1000."""

from __future__ import annotations

import argparse
import gzip
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distlth.errors import DataError
from distlth.files import replacing_folder
from distlth.report.ending import exit_code
from jobs.arguments import path_given

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def write_subset(source: Path, target: Path, per_class: int) -> int:
    """Write the first `per_class` training images of each class, and all test images.

    Return the number of the former, which keep their order. A `target` that exists is left as it is (0);
    a new one appears only when it is whole.
    """
    if target.exists():
        return 0
    labels = np.frombuffer(_read(source, LABELS)[8:], np.uint8)
    images = np.frombuffer(_read(source, IMAGES)[16:], np.uint8).reshape(len(labels), -1)
    chosen = _first_of_each(labels, per_class)
    with replacing_folder(target) as folder:
        header = struct.pack(">4i", 0x803, len(chosen), *_sides(source))
        (folder / IMAGES).write_bytes(header + images[chosen].tobytes())
        (folder / LABELS).write_bytes(struct.pack(">2i", 0x801, len(chosen)) + labels[chosen].tobytes())
        for name in TEST:
            (folder / name).write_bytes(_read(source, name))
    return len(chosen)


def _first_of_each(labels: npt.NDArray[np.uint8], per_class: int) -> npt.NDArray[np.int64]:
    classes, counts = np.unique(labels, return_counts=True)
    if not 1 <= per_class <= counts.min():
        raise DataError(
            f"per-class {per_class}: expected 1..{counts.min()}, the images of the smallest class"
        )
    chosen = [np.flatnonzero(labels == label)[:per_class] for label in classes]
    return np.sort(np.concatenate(chosen))


def _sides(source: Path) -> tuple[int, int]:
    height, width = struct.unpack(">2i", _read(source, IMAGES)[8:16])
    return height, width


def _read(source: Path, name: str) -> bytes:
    for path in (source / name, source / f"{name}.gz"):
        if path.is_file():
            return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    raise DataError(f"{source}: no {name}, gzipped or not")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.idx_subset", description=__doc__)
    parser.add_argument("source", type=path_given, metavar="SOURCE", help="a folder of IDX files")
    parser.add_argument("target", type=path_given, metavar="DIR", help="the folder to write")
    parser.add_argument("--per-class", type=int, default=1000, metavar="N", help="training images of a class")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _write(options))


def _write(options: argparse.Namespace) -> int:
    written = write_subset(options.source, options.target, options.per_class)
    print(f"{options.target}: {written} training images" if written else f"{options.target}: there already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
