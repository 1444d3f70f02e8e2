"""ImageNet as it is downloaded: `ILSVRC2012_img_train.tar` (of class tars) and `ILSVRC2012_img_val.tar`.

Nothing is unpacked: each image is read from where it lies in its archive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from distlth.data.layouts.base import Draw, Layout, Sample, Source, printable
from distlth.data.layouts.ground_truth import KNOWN, find_truth, sorted_by
from distlth.data.layouts.splits import divide
from distlth.data.layouts.stored import Part, is_plain, plain_tar, reading_archive
from distlth.data.layouts.walk import EXTENSIONS, Walk, is_hidden
from distlth.data.reading import open_regular
from distlth.errors import DataError

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"

_CLASS_TAR = re.compile(r"(?:\./)?(n\d{8})\.tar")


def _matches(path: Path) -> bool:
    return any((path / name).is_file() for name in (TRAIN, VAL))


def _read(path: Path, draw: Draw) -> Source:
    truth = find_truth([path])
    missing = [name for name in (TRAIN, VAL) if not (path / name).is_file()]
    missing += [f"the classes of val: {KNOWN}"] * (truth is None)
    if missing or truth is None:
        there = [name for name in (TRAIN, VAL) if (path / name).is_file()]
        raise DataError(f"{path}: has {' and '.join(there)}, but lacks {', and '.join(missing)}")
    walk = Walk()
    train = _classes(path / TRAIN, walk)
    val = sorted_by(truth, {sample.path.stem: sample for sample in _loose(path / VAL, walk)})
    layout = f"{TRAIN} and {VAL}, classes of val from {truth.name}"
    return divide(path, layout, {"train": train, "val": val}, draw, walk.passed)


def _classes(archive: Path, walk: Walk) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    with open_regular(archive) as file, reading_archive(archive):
        for member in plain_tar(file, archive, range(archive.stat().st_size)):
            if not (name := _CLASS_TAR.fullmatch(member.name)) or not is_plain(member):
                walk.pass_files("no class tars", 1)
            elif name[1] in found:
                raise DataError(f"{archive}: {name[1]}.tar comes twice")
            else:
                inside = range(member.offset_data, member.offset_data + member.size)
                found[name[1]] = list(_images(file, archive, inside, archive / name[1], walk))
    if empty := [name for name, samples in found.items() if not samples]:
        raise DataError(f"{archive}: no images in {empty[0]}.tar")
    if len(found) < 2:
        raise DataError(f"{archive}: has {len(found)} class tars (n01440764.tar); a classifier needs two")
    return found


def _loose(archive: Path, walk: Walk) -> list[Sample]:
    with open_regular(archive) as file, reading_archive(archive):
        return list(_images(file, archive, range(archive.stat().st_size), archive, walk))


def _images(file: IO[bytes], archive: Path, tar: range, place: Path, walk: Walk) -> Iterator[Sample]:
    """Yield the images of the tar that lies in these bytes of an archive, under names in `place`."""
    for member in plain_tar(file, archive, tar):
        name = member.name.rpartition("/")[2]
        if member.isdir():
            continue
        if is_plain(member) and name.lower().endswith(EXTENSIONS) and not is_hidden(name):
            yield Part(place / printable(name), 0, archive, member.offset_data, member.size)
        else:
            walk.pass_files("no images", 1)


LAYOUT = Layout("imagenet-tars", f"{TRAIN}, {VAL} and one of {KNOWN}", _matches, _read)
