"""Read files that others wrote: regular ones alone, and errors that no retry heals end a run by name."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from distlth.errors import DataError

# What stays as it is until a person changes it. Others, such as EIO or ESTALE, may pass.
LASTING = frozenset(
    (
        *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
        *(errno.ENAMETOOLONG, errno.ENODEV, errno.ENXIO, errno.EINVAL),
    )
)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError that lasts into a DataError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in LASTING:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        raise


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read; OSError for anything else, such as a FIFO, which could wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return os.fdopen(descriptor, "rb")
