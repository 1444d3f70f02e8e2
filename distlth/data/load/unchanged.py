"""Whether a packed file that was opened is still the same while batches are read from it."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distlth.data.beton import Beton, read_beton
from distlth.data.digest import checksum, sample_digest
from distlth.data.load.storage import Bytes, Indices
from distlth.data.reading import reading
from distlth.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stamp:
    """By what a file is first told from another one: its size and its time of change."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """Return the stamp of a file; None where there is none."""
        try:
            with reading(path):
                found = path.stat()
        except DataError:
            return None
        return cls(found.st_size, found.st_mtime_ns)


class Unchanged:
    """Guards an opened file, whose `stamp` was taken before its `index` was read.

    A new time of change alone, as `touch` or a copy back and forth leaves it, ends nothing: size, header and
    index are compared with what was opened, and from then on each image with its checksum before it is used.
    """

    def __init__(self, index: Beton, stamp: Stamp | None, num_classes: int) -> None:
        self._index, self._stamp, self._num_classes = index, stamp, num_classes
        self._lock = threading.Lock()
        self._is_touched = False

    def check_file(self, sample: int) -> None:
        """Raise DataError where the file was changed since it was opened, before `sample` is read.

        Called before each batch: reading a mapped file behind its new end would kill the process.
        """
        with self._lock:
            stamp = Stamp.of(self._index.path)
            if stamp == self._stamp:
                return
            if stamp is None or self._stamp is None or stamp.size != self._stamp.size or not self._is_same():
                raise self._changed(sample)
            self._stamp, self._is_touched = stamp, True
        log.warning(
            "%s: its time of change is new, its size and index are not: reading it on, with checksums",
            self._index.path,
        )

    def check_samples(self, stored: Bytes, offsets: Indices, indices: Indices) -> None:
        """Raise DataError where the file was touched and one of these images is not the one it was.

        Image `indices[i]` begins at `offsets[i]` of `stored`.
        """
        if not self._is_touched:
            return
        index = self._index
        for begin, sample in zip(offsets.tolist(), indices.tolist(), strict=True):
            what = (int(index.labels[sample]), int(index.modes[sample]))
            size = int(index.heights[sample]), int(index.widths[sample])
            data = stored[begin : begin + int(index.lengths[sample])]
            if checksum(sample_digest(*what, *size, data)) != index.checksums[sample]:
                raise self._changed(sample)

    def _is_same(self) -> bool:
        try:
            found = read_beton(self._index.path, self._num_classes)
        except DataError:
            return False
        return all(np.array_equal(old, vars(found)[name]) for name, old in vars(self._index).items())

    def _changed(self, sample: int) -> DataError:
        return DataError(
            f"{self._index.path}: was cut, replaced or changed while it was read, before sample {sample};"
            " put the file back, or build the data set again"
        )
