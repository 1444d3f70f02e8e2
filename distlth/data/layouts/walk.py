"""Walk the folders of a source: every image once, never what is hidden, and count what is passed over."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from distlth.data.layouts.base import Passed, printable
from distlth.errors import DataError

# Those of torchvision's ImageFolder.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

# Folders that systems and tools leave in those of people, in small letters; those with a dot are hidden.
SYSTEM_FOLDERS = frozenset(
    (
        *("__macosx", "__pycache__", "lost+found", "$recycle.bin", "recycler", "system volume information"),
        *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot"),
    )
)

LOOSE = "images outside class folders"


class Walk:
    """Reads the folders of one source, and counts what is passed over.

    Hidden and system folders are left out at any depth. A link to a folder is followed once, and never into
    a class folder or one above it: its images would come twice, or under a wrong label. A folder that cannot
    be read raises OSError.
    """

    def __init__(self) -> None:
        self._files: Counter[str] = Counter()
        self._folders: Counter[str] = Counter()
        self._links = 0
        self._claimed: set[str] = set()
        self._followed: set[tuple[int, int]] = set()

    @property
    def passed(self) -> Passed:
        """Return what was passed over so far."""
        return Passed(dict(self._files), dict(self._folders), self._links)

    def pass_beside(self, folder: Path, parts: Collection[Path]) -> None:
        """Count all that lies in `folder` beside those of its folders that are `parts` of the data set."""
        for entry in self._entries(folder):
            if not _is_folder(entry):
                self._pass_file(entry)
            elif Path(entry.path) not in parts:
                self._folders[printable(entry.name)] += 1

    def pass_files(self, kind: str, count: int) -> None:
        """Count files that are no part of the data set."""
        self._files.update({kind: count} if count else {})

    def class_folders(self, folder: Path) -> dict[str, Path]:
        """Return the class folders in `folder` by name, sorted; files beside them are passed over."""
        found: dict[str, Path] = {}
        real: dict[str, str] = {}
        for entry in self._entries(folder):
            path = Path(entry.path)
            if not _is_folder(entry):
                self._pass_file(entry)
            elif entry.is_symlink() and _contains(_real(entry.path), _real(folder)):
                self._links += 1
            else:
                other = real.setdefault(_real(entry.path), entry.name)
                if other != entry.name:
                    raise DataError(f"{path}: the same folder as {folder / other}; remove one of the two")
                found[_class_name(path)] = path
        self._claimed |= real.keys()
        return dict(sorted(found.items()))

    def images(self, folder: Path) -> list[Path]:
        """Return all image files below a class folder, sorted by path."""
        return sorted(self._images(folder, via_link=False))

    def _images(self, folder: Path, via_link: bool) -> Iterator[Path]:
        for entry in self._entries(folder):
            if not _is_folder(entry):
                if _is_image(entry):
                    yield Path(entry.path)
                else:
                    self._pass_file(entry)
            elif self._is_new(entry, via_link):
                yield from self._images(Path(entry.path), via_link or entry.is_symlink())

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """Return what is visible in a folder, sorted by name."""
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            if is_hidden(entry.name):
                if _is_folder(entry):
                    self._folders[printable(entry.name)] += 1
                else:
                    self._files["hidden"] += 1
        return [entry for entry in listed if not is_hidden(entry.name)]

    def _is_new(self, entry: os.DirEntry[str], via_link: bool) -> bool:
        """Return whether a folder is to be read; remember those that a link leads to."""
        if not via_link and not entry.is_symlink():
            return True
        target = _real(entry.path)
        found = os.stat(target)
        identity = found.st_dev, found.st_ino
        is_claimed = any(_contains(target, one) or _contains(one, target) for one in self._claimed)
        if is_claimed or identity in self._followed:
            self._links += 1
            return False
        self._followed.add(identity)
        return True

    def _pass_file(self, entry: os.DirEntry[str]) -> None:
        kind = os.path.splitext(printable(entry.name))[1].lower() or "without an ending"
        if not _is_file(entry):
            kind = "no regular files"
        elif kind in EXTENSIONS:
            kind = LOOSE
        self._files[kind] += 1


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is no part of what a person put there."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def visible_folders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry) for entry in entries if not is_hidden(entry.name) and _is_folder(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether this is a regular file or a broken link: one that leads nowhere is named when opened."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(EXTENSIONS) and _is_file(entry)


def _class_name(folder: Path) -> str:
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{printable(folder)}: the name of this class is not UTF-8; rename it") from None
    return folder.name


def _real(path: str | Path) -> str:
    return os.path.realpath(path)


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
