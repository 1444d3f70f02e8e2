"""Parquet files as Hugging Face has them: a column of encoded images and one of labels, in shards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from distlth.data.layouts.base import NOTHING, Draw, Layout, Passed, Sample, Source, few
from distlth.data.layouts.shards import check_train, shards
from distlth.data.layouts.splits import divide
from distlth.data.layouts.stored import MAX_BYTES
from distlth.data.reading import open_regular
from distlth.errors import DataError

ENDING = ".parquet"
LABELS = ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Cell(Sample):
    """An encoded image in a Parquet file: row `row` of a row group, in column `column`."""

    file: Path
    group: int
    row: int
    column: str

    @property
    def block(self) -> Hashable:
        """Names the row group."""
        return self.file, self.group

    def open(self) -> BinaryIO:
        """Return the image's bytes as a file."""
        return BytesIO(_column(self.file, self.group, self.column)[self.row].as_py() or b"")


@dataclass(frozen=True)
class _Table:
    """The columns of a data set, and its class names where the files have any."""

    image: str
    label: str
    names: tuple[str, ...]


def _parquet(file: BinaryIO) -> Any:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(file)


# Images of a group come one after the other, so that it serves many of them.
@lru_cache(maxsize=1)
def _column(path: Path, group: int, column: str) -> Any:
    """Return the bytes of a row group's images. OSError where the file is damaged or too large."""
    with open_regular(path) as file:
        # Without threads, since this runs in processes that were forked.
        table = _parquet(file).read_row_group(group, columns=[f"{column}.bytes"], use_threads=False)
    return table.column(0).combine_chunks().field("bytes")


def _found(path: Path) -> dict[str, list[Path]]:
    return shards(path, ENDING) or shards(path / "data", ENDING)


def _matches(path: Path) -> bool:
    return bool(_found(path))


def _read(path: Path, draw: Draw) -> Source:
    found = _found(path)
    check_train(path, found)
    table = _table(found["train"][0])
    passed = NOTHING
    if "test" in found and not _has_labels(found["test"][0], table):
        passed = Passed({"test files without labels": len(found.pop("test"))})
    classes = {split: _classes(files, table) for split, files in found.items()}
    names = _names(table, max(classes["train"]))
    named = {split: _by_name(found[split][0], samples, names) for split, samples in classes.items()}
    source = divide(path, "Parquet files", named, draw, passed)
    train, val, test = map(_ordered, (source.train, source.val, source.test))
    return replace(source, train=train, val=val, test=test)


def _has_labels(path: Path, table: _Table) -> bool:
    """Return whether a file's first labels are any: Hugging Face has -1 where they are not published."""
    with _opened(path) as parquet:
        if table.label not in parquet.schema_arrow.names or not parquet.num_row_groups:
            return False
        labels = parquet.read_row_group(0, columns=[table.label]).column(0).to_pylist()
    return any(label is not None and label >= 0 for label in labels)


def _ordered(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda sample: sample.path))


def _table(path: Path) -> _Table:
    with _opened(path) as parquet:
        schema = parquet.schema_arrow
    images = [field.name for field in schema if _is_image(field.type)]
    labels = [name for name in LABELS if name in schema.names]
    if len(images) != 1 or not labels:
        raise DataError(
            f"{path}: has the columns {few(schema.names)}; expected one of images (bytes and path) and one of"
            f" {', '.join(LABELS)}"
        )
    return _Table(images[0], labels[0], _stored_names(schema.metadata or {}, labels[0]))


def _is_image(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _stored_names(metadata: Mapping[bytes, bytes], label: str) -> tuple[str, ...]:
    """Return the class names that Hugging Face's library left in the file; () where there are none."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _names(table: _Table, highest: int) -> list[str]:
    """Return a name for each label; where two are alike, with the labels."""
    if len(table.names) <= highest:
        return [f"{label:0{len(str(highest))}}" for label in range(highest + 1)]
    counts = Counter(table.names)
    return [f"{name} ({label})" if counts[name] > 1 else name for label, name in enumerate(table.names)]


def _by_name(file: Path, classes: Mapping[int, list[Sample]], names: list[str]) -> dict[str, list[Sample]]:
    if wrong := [label for label in classes if not 0 <= label < len(names)]:
        raise DataError(f"{file}: label {wrong[0]} of {len(names)} classes")
    return {names[label]: samples for label, samples in classes.items()}


def _classes(files: list[Path], table: _Table) -> dict[int, list[Sample]]:
    found: dict[int, list[Sample]] = {}
    for file in files:
        with _opened(file) as parquet:
            for group in range(parquet.num_row_groups):
                for row, label in enumerate(_labels(file, parquet, group, table)):
                    number = f"{group:05}-{row:06}"
                    cell = Cell(file / number, 0, file, group, row, table.image)
                    found.setdefault(label, []).append(cell)
    if not found:
        raise DataError(f"{files[0]}: no rows")
    return found


def _labels(file: Path, parquet: Any, group: int, table: _Table) -> list[int]:
    head = parquet.metadata.row_group(group)
    size = sum(head.column(place).total_uncompressed_size for place in range(head.num_columns))
    if size > MAX_BYTES:
        raise DataError(f"{file}: row group {group} has {size:,} bytes; at most {MAX_BYTES:,} can be read")
    if not {table.image, table.label} <= set(parquet.schema_arrow.names):
        raise DataError(f"{file}: has no columns {table.image} and {table.label} like the first file")
    labels: list[Any] = parquet.read_row_group(group, columns=[table.label]).column(0).to_pylist()
    if wrong := [label for label in labels if not isinstance(label, int) or label < 0]:
        raise DataError(f"{file}: {wrong[0]} is no number of a class")
    return labels


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a Parquet file to read its head and labels; DataError where it is none, or damaged."""
    from pyarrow import ArrowException

    with open_regular(path) as file:
        try:
            yield _parquet(file)
        except (ArrowException, OSError) as error:
            raise DataError(f"{path}: not a Parquet file, or a damaged one ({error})") from None


LAYOUT = Layout(
    "parquet",
    "[data/]train-00000-of-00001.parquet, validation-... with an image and a label column",
    _matches,
    _read,
)
