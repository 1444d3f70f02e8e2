"""Images that lie inside other files: as parts of an archive, or as the pixels of an array."""

from __future__ import annotations

import errno
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import numpy.typing as npt

from distlth.data.layouts.base import Sample, few, printable
from distlth.data.reading import open_regular
from distlth.errors import DataError

# The most that is read of one file or archive member at once.
MAX_BYTES = 1 << 30

Values = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Part(Sample):
    """An encoded image: `size` bytes of the file `archive`, from `offset` on."""

    archive: Path
    offset: int
    size: int

    def open(self) -> BinaryIO:
        """Return the image's bytes as a file; OSError where the archive does not have them any more."""
        if self.size > MAX_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fspath(self.path))
        with open_regular(self.archive) as file:
            data = os.pread(file.fileno(), self.size, self.offset)
        if len(data) < self.size:
            raise OSError(errno.EIO, "the archive ends within this image", os.fspath(self.path))
        return BytesIO(data)


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size (uint8): N x H x W if grey, N x 3 x H x W in RGB planes."""

    values: Values

    def encoded(self, index: int) -> bytes:
        """Return one of them as a PGM or PPM file."""
        image = self.values[index]
        height, width = image.shape[-2:]
        kind, pixels = (b"P5", image) if image.ndim == 2 else (b"P6", image.transpose(1, 2, 0))
        return b"%s %d %d 255\n%s" % (kind, width, height, pixels.tobytes())


@dataclass(frozen=True)
class Pixels(Sample):
    """One image of an array; `path` is made up of the file that holds it and its number there."""

    images: Images
    index: int

    def open(self) -> BinaryIO:
        """Return the image as a file that Pillow reads."""
        return BytesIO(self.images.encoded(self.index))

    def key(self, root: Path) -> bytes:
        """Return the same for the image whether its file is packed, and in which form of the data set."""
        return f"{self.path.parent.name.partition('.')[0]}/{self.index}".encode()


def by_class(
    file: Path, values: Values, labels: Sequence[int], names: Sequence[str]
) -> dict[str, list[Sample]]:
    """Return the images of an array by class name; `labels` are indices into `names`.

    Raises DataError for a label that no class has.
    """
    images, width = Images(values), len(str(max(0, len(values) - 1)))
    found: dict[str, list[Sample]] = {}
    for index, label in enumerate(labels):
        if not 0 <= label < len(names):
            raise DataError(f"{file}: image {index} has label {label}, of {len(names)} classes")
        found.setdefault(names[label], []).append(Pixels(file / f"{index:0{width}}", 0, images, index))
    return found


@contextmanager
def reading_archive(path: Path) -> Iterator[None]:
    """Turn what tarfile and zlib raise of a damaged archive into a DataError that names it."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: a damaged archive ({error or 'it ends too early'})") from None


def is_plain(member: tarfile.TarInfo) -> bool:
    """Return whether a member's bytes lie in the archive as they are: no link, device or sparse file."""
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)


def plain_tar(file: IO[bytes], archive: Path, tar: range) -> Iterator[tarfile.TarInfo]:
    """Yield the members of the tar that lies in these bytes of a file; their offsets count from its start."""
    file.seek(tar.start)
    with tarfile.open(fileobj=file, mode="r:") as opened:
        for member in opened:
            if member.offset >= tar.stop:  # it has no end of its own
                return
            if member.offset_data + member.size > tar.stop:
                raise DataError(f"{archive}: ends within {printable(member.name)}; download it again")
            yield member


def read_members(archive: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """Return the files of a tar archive, compressed or not, by the last part of their names.

    Nothing is written to disk. Raises DataError for files that are missing, too large, or there twice.
    """
    found: dict[str, bytes] = {}
    with (
        open_regular(archive) as file,
        reading_archive(archive),
        tarfile.open(fileobj=file, mode="r:*") as tar,
    ):
        for member in tar:
            name = member.name.rpartition("/")[2]
            if name in wanted and is_plain(member):
                if name in found or member.size > MAX_BYTES:
                    what = "comes twice" if name in found else f"has more than {MAX_BYTES:,} bytes"
                    raise DataError(f"{archive}: {name} {what}")
                extracted = tar.extractfile(member)
                found[name] = extracted.read() if extracted else b""
    if missing := [name for name in wanted if name not in found]:
        raise DataError(f"{archive}: lacks {few(missing)}")
    return found


def read_file(path: Path) -> bytes:
    """Return what a regular file holds; DataError where that is more than MAX_BYTES."""
    with open_regular(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DataError(f"{path}: has more than {MAX_BYTES:,} bytes")
    return data


def text_lines(path: Path, data: bytes) -> list[str]:
    """Return the lines of a UTF-8 text without those that are empty."""
    try:
        return [line for line in data.decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
