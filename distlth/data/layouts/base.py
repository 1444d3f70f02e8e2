"""What a layout finds: samples with labels in two or three splits, and what was passed over on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from distlth.data.reading import open_regular
from distlth.errors import DataError


@dataclass(frozen=True)
class Sample:
    """An image file and its label, an index into the source's classes.

    A layout whose images lie inside other files derives its own, with another `open`.
    """

    path: Path
    label: int

    def open(self) -> BinaryIO:
        """Return the encoded image as a file. OSError where there is none, or it is not a regular file."""
        return open_regular(self.path)

    @property
    def block(self) -> Hashable:
        """Names what can only be read as a whole and has this image; None where it can be read alone."""
        return None

    def key(self, root: Path) -> bytes:
        """Return what tells the image from others of a source at `root`: a val split is drawn by it."""
        return os.fsencode(self.path.relative_to(root))


@dataclass(frozen=True)
class Passed:
    """What lies in a source and is no part of it: counts of files by ending, of folders by name, of links.

    `links` counts links to folders that are read anyway.
    """

    files: Mapping[str, int] = field(default_factory=dict)
    folders: Mapping[str, int] = field(default_factory=dict)
    links: int = 0

    def __str__(self) -> str:
        """Return one line, empty where nothing was passed over."""
        parts = [_counts("file", self.files), _counts("folder", self.folders)]
        parts += [_number(self.links, "link") + " to folders that are read anyway"] * bool(self.links)
        said = "; ".join(part for part in parts if part)
        return f"passed over {said}" if said else ""


NOTHING = Passed()

# Of each class, where a source has no val split and nothing was asked for.
DEFAULT_FRACTION = 0.1


@dataclass(frozen=True)
class Source:
    """The images of a data set, sorted by class and path within each split; `classes` are sorted names.

    `layout` says in words how the images lay there. `warnings` are lines about what may be a mistake. `test`
    is empty where there is no such split.
    """

    path: Path
    layout: str
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    passed: Passed = NOTHING
    warnings: tuple[str, ...] = ()
    test: tuple[Sample, ...] = ()

    @property
    def splits(self) -> dict[str, tuple[Sample, ...]]:
        """Return the splits by name: train, val and, where there is one, test."""
        found = {"train": self.train, "val": self.val}
        return {**found, "test": self.test} if self.test else found

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what was found, one line each."""
        passed = [str(self.passed)] if str(self.passed) else []
        return (f"layout: {self.layout}", *passed, *(f"warning: {line}" for line in self.warnings))


@dataclass(frozen=True)
class Draw:
    """How val is drawn from train: of each class the images with the smallest hash of (`seed`, key).

    `fraction` (0..1) of each class, at least one image, or `images` in all, in proportion to the classes.
    With neither of them val is drawn only where a source has none, by DEFAULT_FRACTION.
    """

    fraction: float | None = None
    seed: int = 0
    images: int | None = None

    def __post_init__(self) -> None:
        if self.fraction is not None and self.images is not None:
            raise DataError(f"val fraction {self.fraction} and {self.images} val images; give one of the two")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise DataError(f"val fraction {self.fraction} is not between 0 and 1")
        if self.images is not None and self.images < 1:
            raise DataError(f"{self.images} val images; give at least one for each class")

    @property
    def is_asked(self) -> bool:
        """Whether val is to be drawn in any case."""
        return self.fraction is not None or self.images is not None

    def counts(self, sizes: Sequence[int]) -> list[int]:
        """Return how many val images each class gives, of `sizes` images (2 or more) each.

        Raises DataError where there are too few or too many `images` for one of each class on both sides.
        """
        if self.images is None:
            share = DEFAULT_FRACTION if self.fraction is None else self.fraction
            return [min(max(1, round(share * size)), size - 1) for size in sizes]
        most = sum(sizes) - len(sizes)
        if not len(sizes) <= self.images <= most:
            raise DataError(
                f"{self.images:,} val images; expected {len(sizes):,} to {most:,} for {len(sizes):,} classes"
            )
        return _apportioned(self.images, sizes)

    def __str__(self) -> str:
        if self.images is not None:
            return f"{self.images:,} images"
        return f"{DEFAULT_FRACTION if self.fraction is None else self.fraction:.3g} of each class"


def _apportioned(total: int, sizes: Sequence[int]) -> list[int]:
    """Return parts of `total` in proportion to `sizes`, 1..size-1 each; the largest remainders round up."""
    whole = sum(sizes)
    parts = [min(max(1, total * size // whole), size - 1) for size in sizes]
    while left := total - sum(parts):
        step = 1 if left > 0 else -1
        open_ones = [place for place, size in enumerate(sizes) if 1 <= parts[place] + step <= size - 1]
        best = max(open_ones, key=lambda place: step * (total * sizes[place] - parts[place] * whole))
        parts[best] += step
    return parts


@dataclass(frozen=True)
class Layout:
    """One way in which people keep images: `matches` recognises a source, `read` finds its images.

    `name` is what a user calls it, `parts` says what belongs to it.
    """

    name: str
    parts: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, Draw], Source]


def few(names: Iterable[str], limit: int = 5) -> str:
    """Return the first names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def printable(path: str | Path) -> str:
    """Return a path as text that can be printed and stored: bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _counts(noun: str, counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items(), key=_most_first))
    return f"{_number(sum(counts.values()), noun)}: {listed}" if counts else ""


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    name, count = item
    return -count, name


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
