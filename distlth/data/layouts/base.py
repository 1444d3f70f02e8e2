"""What a layout finds: samples with labels in two splits, and what was passed over on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
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


@dataclass(frozen=True)
class Source:
    """The images of a data set, sorted by class and path within each split; `classes` are sorted names.

    `layout` says in words how the images lay there. `warnings` are lines about what may be a mistake.
    """

    path: Path
    layout: str
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    passed: Passed = NOTHING
    warnings: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what was found, one line each."""
        passed = [str(self.passed)] if str(self.passed) else []
        return (f"layout: {self.layout}", *passed, *(f"warning: {line}" for line in self.warnings))


@dataclass(frozen=True)
class Draw:
    """How a val split is drawn where the source has none.

    Of each class `fraction` (0..1, at least one image): those with the smallest hash of (`seed`, name).
    """

    fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise DataError(f"val fraction {self.fraction} is not between 0 and 1")


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
