"""Take FFCV files as people have them for a data set: check every sample once, copy nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from rich.progress import Progress

from distlth.cores import num_cores
from distlth.data.beton import JPG, Beton, checksum_file, read_foreign
from distlth.data.dataset import Dataset, split_file
from distlth.data.digest import DIGEST_BYTES, checksum, content_key, sample_digest
from distlth.data.layouts.base import Sample, Source, few, printable
from distlth.data.layouts.stored import read_file, text_lines
from distlth.data.load.native import decode_jpeg
from distlth.data.pack.build import check_is_free, describe, write_whole
from distlth.data.pack.writer import Packed
from distlth.data.reading import open_regular
from distlth.errors import DataError

MAX_CLASSES = 1_000_000
_CHUNK = 256


@dataclass(frozen=True)
class _Checked:
    """What is known of a sample once all of it was read; `broken` says why it is none."""

    digest: bytes = b""
    content: int = 0
    histogram: npt.NDArray[np.int64] | None = None
    broken: str = ""


def adopt(
    train: str | Path,
    val: str | Path,
    out: str | Path,
    *,
    test: str | Path | None = None,
    classes: str | Path | None = None,
    workers: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Make the folder `out` a data set of two or three FFCV files with the fields `image` and `label`.

    The files stay where they are; `out` has links to them, their checksums and `dataset.json`. `classes` is a
    text file with a name for each label, one a line; by default labels are named by their numbers. `workers`
    threads (0: one a core) read and decode every sample once. Raises DataError, and leaves no folder behind,
    for files of another kind and samples that are broken.
    """
    out, files = Path(out), {"train": Path(train), "val": Path(val)}
    if test is not None:
        files["test"] = Path(test)
    try:
        check_is_free(out, overwrite)
        found = {split: read_foreign(file, MAX_CLASSES) for split, file in files.items()}
        source = _source(files, found, classes)
        with ThreadPoolExecutor(workers or num_cores()) as pool:
            packed = {split: _check(found[split], split, pool, progress) for split in files}
        write_whole(out, lambda folder: _write(folder, files, source, packed))
    except OSError as error:
        raise DataError(f"{printable(out)}: cannot be written ({printable(str(error))})") from error
    return Dataset.load(out)


def _source(files: dict[str, Path], found: dict[str, Beton], classes: str | Path | None) -> Source:
    names = _class_names(found, classes)
    samples = {split: _samples(file, found[split]) for split, file in files.items()}
    layout = f"FFCV files, adopted: {' and '.join(map(printable, files.values()))}"
    train, val = samples["train"], samples["val"]
    return Source(files["train"], layout, names, train, val, test=samples.get("test", ()))


def _samples(file: Path, beton: Beton) -> tuple[Sample, ...]:
    return tuple(Sample(file / str(place), label) for place, label in enumerate(beton.labels.tolist()))


def _class_names(found: dict[str, Beton], classes: str | Path | None) -> tuple[str, ...]:
    """Return the class names; DataError unless all of them, and no others, have images in each split."""
    labels = {split: np.unique(beton.labels) for split, beton in found.items()}
    for split, there in labels.items():
        if different := np.setxor1d(labels["train"], there).tolist():
            raise DataError(
                f"{found[split].path}: train and {split} have different labels: {few(map(str, different))}"
            )
    count = int(labels["train"][-1]) + 1
    if len(labels["train"]) < count:
        absent = np.setdiff1d(np.arange(count), labels["train"])
        raise DataError(
            f"{found['train'].path}: labels up to {count - 1}, but none has {few(map(str, absent))}"
        )
    if classes is None:
        return tuple(f"{label:0{len(str(count - 1))}}" for label in range(count))
    names = tuple(line.strip() for line in text_lines(Path(classes), read_file(Path(classes))))
    if len(set(names)) != len(names) or len(names) != count:
        raise DataError(f"{classes}: {len(set(names)):,} different names, expected {count:,}, one a line")
    return names


def _check(beton: Beton, split: str, pool: ThreadPoolExecutor, progress: Progress | None) -> Packed:
    """Return what a build would know of the file's samples, all of which are read and decoded."""
    digests, contents = np.zeros((len(beton), DIGEST_BYTES), np.uint8), np.zeros(len(beton), np.uint64)
    total = np.zeros((3, 256), np.int64)
    broken: list[tuple[int, str]] = []
    constant: list[int] = []
    for index, checked in enumerate(_checked(beton, split, pool, progress)):
        if checked.histogram is None:
            broken.append((index, checked.broken))
            continue
        digests[index] = np.frombuffer(checked.digest, np.uint8)
        contents[index] = checked.content
        total += checked.histogram
        if np.count_nonzero(checked.histogram) == 3:
            constant.append(index)
    if broken:
        said = few([f"sample {index} ({reason})" for index, reason in broken], limit=3)
        raise DataError(f"{beton.path}: {len(broken):,} of {len(beton):,} images cannot be used: {said}")
    sizes = np.stack([beton.heights, beton.widths], axis=1)
    return Packed(np.arange(len(beton)), digests, sizes, total, [], constant, contents, None)


def _checked(
    beton: Beton, split: str, pool: ThreadPoolExecutor, progress: Progress | None
) -> Iterator[_Checked]:
    task = progress.add_task(f"check {split}", total=len(beton)) if progress else None
    with open_regular(beton.path) as file:
        for begin in range(0, len(beton), _CHUNK):
            chunk = range(begin, min(begin + _CHUNK, len(beton)))
            yield from pool.map(lambda index: _check_sample(beton, file.fileno(), index), chunk)
            if progress and task is not None:
                progress.advance(task, len(chunk))


def _check_sample(beton: Beton, descriptor: int, index: int) -> _Checked:
    data = os.pread(descriptor, int(beton.lengths[index]), int(beton.offsets[index]))
    height, width = int(beton.heights[index]), int(beton.widths[index])
    stored = np.frombuffer(data, np.uint8)
    if len(stored) != beton.lengths[index]:
        return _Checked(broken="the file ends within it")
    if beton.modes[index] == JPG:
        if reason := _unlike(data, height, width):
            return _Checked(broken=reason)
        pixels = decode_jpeg(stored, height, width)
        if pixels is None:
            return _Checked(broken="does not decode")
    else:
        pixels = stored.reshape(height, width, 3)
    what = int(beton.modes[index]), height, width, stored
    histogram = np.array(Image.fromarray(pixels).histogram(), np.int64).reshape(3, 256)
    return _Checked(sample_digest(int(beton.labels[index]), *what), content_key(*what), histogram)


def _unlike(data: bytes, height: int, width: int) -> str:
    """Return what is wrong with the head of a JPEG, which must have the size that the file's row says."""
    try:
        with Image.open(BytesIO(data), formats=["JPEG"]) as image:
            size = image.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return "no JPEG"
    return "" if size == (width, height) else f"{size[0]} x {size[1]} pixels, its row says {width} x {height}"


def _write(folder: Path, files: dict[str, Path], source: Source, packed: dict[str, Packed]) -> Dataset:
    for split, file in files.items():
        link = split_file(folder, split)
        link.symlink_to(file.resolve())
        checksums = [checksum(digest.tobytes()) for digest in packed[split].digests]
        np.array(checksums, "<i8").tofile(checksum_file(link))
    return describe(
        source, folder, packed, {"adopted": {split: str(file.resolve()) for split, file in files.items()}}
    )
