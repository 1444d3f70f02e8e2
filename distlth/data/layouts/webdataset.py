"""WebDataset's shards: tars in which `KEY.jpg` and its class `KEY.cls` (a number) lie side by side.

Shards tell their split by name (`imagenet-train-000012.tar`) or folder (`train/000012.tar`). Nothing is
unpacked: each image is read from where it lies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from distlth.data.layouts.base import Draw, Layout, Sample, Source, few, printable
from distlth.data.layouts.shards import check_train, shards
from distlth.data.layouts.splits import divide
from distlth.data.layouts.stored import Part, is_plain, plain_tar, reading_archive
from distlth.data.layouts.walk import EXTENSIONS, Walk, is_hidden
from distlth.data.reading import open_regular
from distlth.errors import DataError

MAX_DIGITS = 9


def _matches(path: Path) -> bool:
    return bool(shards(path, ".tar"))


def _read(path: Path, draw: Draw) -> Source:
    files = shards(path, ".tar")
    check_train(path, files)
    walk = Walk()
    if "test" in files and not _has_classes(files["test"][0]):
        walk.pass_files("test shards without classes", len(files.pop("test")))
    found = {split: _classes(files[split], walk) for split in files}
    named = {split: _named(classes, found["train"]) for split, classes in found.items()}
    return divide(path, "WebDataset shards", named, draw, walk.passed)


def _has_classes(shard: Path) -> bool:
    with open_regular(shard) as file, reading_archive(shard):
        members = plain_tar(file, shard, range(shard.stat().st_size))
        return any(member.name.endswith(".cls") for member in members)


def _named(found: dict[int, list[Sample]], train: dict[int, list[Sample]]) -> dict[str, list[Sample]]:
    width = len(str(max(train)))
    return {f"{label:0{width}}": samples for label, samples in found.items()}


def _classes(files: Sequence[Path], walk: Walk) -> dict[int, list[Sample]]:
    found: dict[int, list[Sample]] = {}
    for shard in files:
        for label, sample in _pairs(shard, walk):
            found.setdefault(label, []).append(sample)
    return found


def _pairs(shard: Path, walk: Walk) -> list[tuple[int, Sample]]:
    """Return the images of a shard with their classes; DataError for one without, and where there is none."""
    images: dict[str, Sample] = {}
    labels: dict[str, int] = {}
    with open_regular(shard) as file, reading_archive(shard):
        for member in plain_tar(file, shard, range(shard.stat().st_size)):
            folder, _, name = member.name.rpartition("/")
            key, _, ending = name.partition(".")
            key = f"{folder}/{key}"
            if member.isdir() or is_hidden(name):
                continue
            if is_plain(member) and f".{ending.lower()}" in EXTENSIONS:
                images[key] = Part(shard / printable(name), 0, shard, member.offset_data, member.size)
            elif is_plain(member) and ending == "cls":
                text = os.pread(file.fileno(), min(member.size, MAX_DIGITS + 3), member.offset_data)
                labels[key] = _label(shard, member.name, text)
            else:
                walk.pass_files("in shards beside images and classes", 1)
    if not images:
        raise DataError(f"{shard}: no images in this shard")
    if unlabelled := sorted(images.keys() - labels.keys()):
        keys = few([printable(key.strip("/")) for key in unlabelled], 3)
        raise DataError(f"{shard}: images without a class (.cls) beside them: {keys}")
    return [(labels[key], sample) for key, sample in images.items()]


def _label(shard: Path, name: str, text: bytes) -> int:
    digits = text.strip()
    if not digits.isdigit() or len(digits) > MAX_DIGITS:
        raise DataError(f"{shard}: {printable(name)} is no number of a class")
    return int(digits)


LAYOUT = Layout(
    "webdataset", "NAME-train-000000.tar and so on, or train/*.tar, with KEY.jpg and KEY.cls", _matches, _read
)
