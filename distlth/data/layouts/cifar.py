"""CIFAR-10 and CIFAR-100 as they are downloaded: in binary or for Python, packed (tar.gz) or unpacked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distlth.data.layouts.base import Draw, Layout, Sample, Source, few
from distlth.data.layouts.pickled import byte_array, read_pickle
from distlth.data.layouts.splits import divide_test
from distlth.data.layouts.stored import Values, by_class, read_file, read_members, text_lines
from distlth.errors import DataError

SIDE = 32
PIXELS = 3 * SIDE * SIDE


@dataclass(frozen=True)
class _Form:
    """One of the four downloads. `label` is the byte of a binary record, or the key of a pickle."""

    title: str
    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label: int | str
    names_key: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        return *self.train, self.test, self.names

    def place(self, path: Path) -> Path | None:
        """Return the folder or archive of this form that `path` is or has, the folder first."""
        for folder in (path, path / self.folder):
            if (folder / self.train[0]).is_file() or (folder.name == self.folder and folder.is_dir()):
                return folder
        archives = (path, path / self.archive)
        return next((one for one in archives if one.name == self.archive and one.is_file()), None)


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
# Where both forms of one data set are there, the first is read.
FORMS = (
    _Form(
        "CIFAR-10",
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        tuple(f"{batch}.bin" for batch in _BATCHES),
        "test_batch.bin",
        "batches.meta.txt",
        label=0,
    ),
    _Form(
        "CIFAR-10",
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py",
        _BATCHES,
        "test_batch",
        "batches.meta",
        label="labels",
        names_key="label_names",
    ),
    _Form(
        "CIFAR-100",
        "cifar-100-binary.tar.gz",
        "cifar-100-binary",
        ("train.bin",),
        "test.bin",
        "fine_label_names.txt",
        label=1,
    ),
    _Form(
        "CIFAR-100",
        "cifar-100-python.tar.gz",
        "cifar-100-python",
        ("train",),
        "test",
        "meta",
        label="fine_labels",
        names_key="fine_label_names",
    ),
)


def _places(path: Path) -> dict[str, tuple[_Form, Path]]:
    found: dict[str, tuple[_Form, Path]] = {}
    for form in FORMS:
        if place := form.place(path):
            found.setdefault(form.title, (form, place))
    return found


def _matches(path: Path) -> bool:
    return bool(_places(path))


def _read(path: Path, draw: Draw) -> Source:
    found = _places(path)
    if len(found) > 1:
        places = few([str(place) for _, place in found.values()])
        raise DataError(f"{path}: has both CIFAR-10 and CIFAR-100; give one of {places}")
    form, place = next(iter(found.values()))
    data = _files(form, place)
    names = _names(form, place / form.names, data[form.names])
    train: dict[str, list[Sample]] = {}
    for batch in form.train:
        for name, samples in _batch(form, place / batch, data[batch], names).items():
            train.setdefault(name, []).extend(samples)
    test = _batch(form, place / form.test, data[form.test], names)
    return divide_test(path, f"{form.title} ({place.name})", train, test, draw)


def _files(form: _Form, place: Path) -> Mapping[str, bytes]:
    if not place.is_dir():
        return read_members(place, form.files)
    if missing := [name for name in form.files if not (place / name).is_file()]:
        raise DataError(f"{place}: {form.title} without {few(missing)}")
    return {name: read_file(place / name) for name in form.files}


def _names(form: _Form, file: Path, data: bytes) -> list[str]:
    if isinstance(form.label, int):
        return [line.strip() for line in text_lines(file, data)]
    names = _entry(file, read_pickle(file, data), form.names_key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: {form.names_key} is no list of names")
    return names


def _batch(form: _Form, file: Path, data: bytes, names: list[str]) -> dict[str, list[Sample]]:
    if isinstance(form.label, int):
        values, labels = _records(file, data, form.label)
    else:
        values, labels = _pickled(file, data, form.label)
    return by_class(file, values.reshape(-1, 3, SIDE, SIDE), labels, names)


def _records(file: Path, data: bytes, label: int) -> tuple[Values, list[int]]:
    """Return pixels and labels of a binary batch, whose records have the label at byte `label`."""
    size = label + 1 + PIXELS
    if not data or len(data) % size:
        raise DataError(f"{file}: {len(data):,} bytes are no whole number of records of {size:,} bytes")
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    return records[:, label + 1 :], records[:, label].tolist()


def _pickled(file: Path, data: bytes, key: str) -> tuple[Values, list[int]]:
    batch = read_pickle(file, data)
    values, labels = byte_array(_entry(file, batch, "data")), _entry(file, batch, key)
    if values is None or values.ndim != 2 or values.shape[1] != PIXELS:
        raise DataError(f"{file}: its data is no array of N x {PIXELS} bytes")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{file}: {key} is no list of numbers")
    if len(labels) != len(values):
        raise DataError(f"{file}: {len(values):,} images, but {len(labels):,} labels")
    return values, labels


def _entry(file: Path, content: Any, key: str) -> Any:
    if not isinstance(content, dict) or key not in content:
        raise DataError(f"{file}: has no {key}")
    return content[key]


LAYOUT = Layout(
    "cifar", "cifar-10-batches-bin/ or -py/, cifar-100-binary/ or -python/, or their tar.gz", _matches, _read
)
