"""A built data set as a value: its classes, statistics and splits, read from `dataset.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distlth.data.reading import open_regular, reading
from distlth.errors import DataError, UserError

FORMAT = 1
MANIFEST = "dataset.json"
SPLITS = ("train", "val", "test")
REQUIRED = SPLITS[:2]


@dataclass(frozen=True)
class Split:
    """One packed part of a data set.

    `digest` (hex) covers every sample's label and stored bytes in order, but not the file's layout;
    `size` is the file's bytes; the image sides are pixels as stored; `class_counts[c]` counts label c.
    """

    count: int
    digest: str
    size: int
    class_counts: tuple[int, ...]
    min_height: int
    max_height: int
    min_width: int
    max_width: int

    def __post_init__(self) -> None:
        if self.count < 1 or sum(self.class_counts) != self.count:
            raise DataError(f"a split of {self.count} samples cannot have class counts {self.class_counts}")


@dataclass(frozen=True)
class Dataset:
    """A folder with `train.beton`, `val.beton`, perhaps `test.beton` (links, if adopted) and `dataset.json`.

    Networks are trained on train, choices are made on val, results are reported on test where there is one.
    `classes[label]` is the class name. `mean` and `std` are over all pixels of the train split, per RGB
    channel, in units of 0..1. `skipped` lists source files that were left out as (path, reason); `notes` are
    lines about the source: its layout, what was passed over, warnings.
    """

    path: Path
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    splits: Mapping[str, Split]
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of its splits: train, val and, where there is one, test."""
        return tuple(name for name in SPLITS if name in self.splits)

    def split(self, name: str) -> Split:
        """Return the split called `name`; DataError names the known ones."""
        if name not in self.splits:
            raise DataError(f"{self.path}: no split {name!r}; there are {', '.join(self.splits)}")
        return self.splits[name]

    def file(self, split: str) -> Path:
        """Return the packed file of `split`."""
        self.split(split)
        return split_file(self.path, split)

    @property
    def digest(self) -> str:
        """Return the splits' content digests (hex), joined: they identify what is trained and tested on."""
        return "-".join(self.splits[name].digest for name in self.names)

    @property
    def identity(self) -> dict[str, Any]:
        """The facts by which a run recognises its data set."""
        return {"digest": self.digest, "classes": self.num_classes}

    @staticmethod
    def load(path: str | Path) -> Dataset:
        """Read a built data set; DataError when it is missing, unfinished, cut short or of another format."""
        path = Path(path)
        dataset = _from_json(path, _read_manifest(path))
        for name in dict.fromkeys((*REQUIRED, *dataset.names)):
            _check_size(split_file(path, name), dataset.split(name).size)
        return dataset

    @staticmethod
    def load_unchanged(path: str | Path, digest: str | None) -> Dataset | None:
        """Read a built data set; None where it is not there any more, or another one is."""
        try:
            found = Dataset.load(path)
        except UserError:
            return None
        return found if found.digest == digest else None

    def to_json(self) -> str:
        """Return the text of `dataset.json`."""
        fields = {key: value for key, value in asdict(self).items() if key != "path"}
        return json.dumps({"format": FORMAT, **fields}, indent=2) + "\n"


def split_file(path: Path, split: str) -> Path:
    """Return the file with the packed samples of `split` in the data set folder `path`."""
    return path / f"{split}.beton"


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = path / MANIFEST
    try:
        if not path.is_dir():
            raise DataError(
                f"{path}: no such data set; make one with `distlth data build SOURCE --out {path}`"
            )
        with open_regular(manifest) as file:
            content = json.loads(file.read())
    except FileNotFoundError:
        raise DataError(f"{path}: not a finished data set, it has no {MANIFEST}; build it again") from None
    except OSError as error:
        raise DataError(f"{manifest}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise DataError(f"{manifest}: cannot be read ({error}); build the data set again") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise DataError(
            f"{manifest}: format {found!r}, this version reads {FORMAT}; build the data set again"
        )
    return content  # type: ignore[no-any-return]


def _from_json(path: Path, content: Mapping[str, Any]) -> Dataset:
    try:
        return Dataset(
            path=path,
            classes=tuple(content["classes"]),
            mean=_triple(content["mean"]),
            std=_triple(content["std"]),
            splits={
                name: Split(**{**split, "class_counts": tuple(split["class_counts"])})
                for name, split in content["splits"].items()
            },
            options=content["options"],
            versions=content["versions"],
            skipped=tuple((str(name), str(reason)) for name, reason in content["skipped"]),
            notes=tuple(content.get("notes", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path / MANIFEST}: damaged ({error!r}); build the data set again") from None


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _check_size(file: Path, expected: int) -> None:
    """Raise DataError unless the file can be read and has this size."""
    if not file.exists():
        if file.is_symlink():
            raise DataError(f"{file}: leads to {os.readlink(file)}, which is missing; put it back")
        raise DataError(f"{file}: missing; build the data set again")
    with reading(file), open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
    if size != expected:
        raise DataError(
            f"{file}: {size:,} bytes, expected {expected:,}; it was cut or changed, build it again"
        )
