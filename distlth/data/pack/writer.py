"""Pack images into one FFCV file in one pass, with worker processes whose death is noticed."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from distlth.data.beton import JPG, SAMPLE, head
from distlth.data.digest import DIGEST_BYTES, checksum, content_key, sample_digest
from distlth.data.layouts.base import Sample, printable
from distlth.data.load.native import decoders_agree
from distlth.data.pack.encode import Encoding
from distlth.data.pack.image import DEEP_BITS, Pixels, UnusableImageError, read_image
from distlth.data.pack.pages import Pages, shuffled
from distlth.errors import DataError
from distlth.process import memory_shortage

Histogram = npt.NDArray[np.int64]

PAGE_SIZE = 8 << 20
_CHUNK = 16
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Packed:
    """What was packed: the usable samples in order, and those that are not in the file.

    `digests` is n x 16 uint8 and `sizes` n x 2 int64 (height, width as stored), for the n usable samples at
    the positions `kept`; `histogram[c, v]` counts the pixels of value v in RGB channel c, as encoded;
    `broken` pairs positions with reasons, `constant` are the positions of images of one colour, `contents`
    the n usable samples' keys without their labels, `highest` the highest value of images with 16 bits a
    value (None where there is none).
    """

    kept: npt.NDArray[np.int64]
    digests: Pixels
    sizes: npt.NDArray[np.int64]
    histogram: Histogram
    broken: list[tuple[int, str]]
    constant: list[int]
    contents: npt.NDArray[np.uint64]
    highest: int | None


@dataclass(frozen=True)
class _Good:
    """A packed sample: the position in its split, digest, key without label, and size in pixels."""

    position: int
    digest: bytes
    content: int
    height: int
    width: int


@dataclass
class _Report:
    """What a worker reports of a chunk, or in the end: that it has found no more, or its error.

    `allocations` is n x 3: the position, first byte and number of bytes of each image, in their order in the
    file.
    """

    good: list[_Good] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    constant: list[int] = field(default_factory=list)
    highest: int | None = None
    histogram: Histogram = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    allocations: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 3), np.uint64))
    is_last: bool = False
    error: Exception | None = None


class Packer:
    """Writes an FFCV file with workers that report errors instead of hanging, and with pages in one order.

    `max_side` and `bits` as in `read_image`. With `is_shuffled`, each page is a random sample of the images.
    """

    def __init__(
        self,
        path: Path,
        encoding: Encoding,
        max_side: int | None,
        num_workers: int,
        bits: int = DEEP_BITS,
        *,
        is_shuffled: bool,
    ) -> None:
        self._path, self._num_workers, self._page_size = path, num_workers, PAGE_SIZE
        self._encoding, self._max_side, self._bits, self._is_shuffled = encoding, max_side, bits, is_shuffled

    def pack(self, samples: Sequence[Sample], advance: Callable[[int], None]) -> Packed:
        """Write all usable samples; call advance(n) when n more are done.

        Raises DataError when a worker fails, OSError where the file cannot be written.
        """
        self._path.write_bytes(head(len(samples), self._page_size))
        rows = SharedMemory(create=True, size=len(samples) * SAMPLE.itemsize)
        try:
            reports = self._collect(samples, rows, advance)
            packed = _merge(reports)
            self._finish(rows, packed.kept, np.concatenate([report.allocations for report in reports]))
            return packed
        finally:
            rows.close()
            rows.unlink()

    def _collect(
        self, samples: Sequence[Sample], rows: SharedMemory, advance: Callable[[int], None]
    ) -> list[_Report]:
        """Return all reports of all workers; no worker outlives this call."""
        context = multiprocessing.get_context("fork")
        job = _Job(
            file=str(self._path),
            samples=samples,
            order=shuffled(samples) if self._is_shuffled else np.arange(len(samples)),
            encoding=self._encoding,
            max_side=self._max_side,
            bits=self._bits,
            memory=rows,
            pages=Pages(context, self._path.stat().st_size + rows.size, self._page_size),
            next_chunk=context.Value(ctypes.c_uint64, 0),
        )
        workers: dict[Connection, BaseProcess] = {}
        try:
            for _ in range(min(self._num_workers, len(samples))):
                reader, sender = context.Pipe(duplex=False)
                worker: BaseProcess = context.Process(
                    target=_work, args=(job, sender, os.getpid()), daemon=True
                )
                worker.start()
                sender.close()
                workers[reader] = worker
            return list(_listen(str(self._path), dict(workers), advance))
        finally:
            for reader, worker in workers.items():
                worker.kill()
                worker.join()
                reader.close()

    def _finish(
        self, rows: SharedMemory, kept: npt.NDArray[np.int64], allocations: npt.NDArray[np.uint64]
    ) -> None:
        """Write the rows of kept samples, their allocations and the head, and flush everything to disk."""
        count = rows.size // SAMPLE.itemsize
        places = np.zeros(count, np.uint64)
        places[kept] = np.arange(len(kept), dtype=np.uint64)
        allocations = allocations[np.argsort(allocations[:, 1])]
        allocations[:, 0] = places[allocations[:, 0].astype(np.int64)]
        with open(self._path, "r+b") as file:
            table = _next_page(file.seek(0, os.SEEK_END))
            file.seek(0)
            file.write(head(len(kept), self._page_size, table))
            # As bytes: of structures, what numpy copies between the values is whatever was in memory there.
            file.write(np.ndarray((count, SAMPLE.itemsize), np.uint8, rows.buf)[kept].tobytes())
            file.seek(table)
            file.write(np.ascontiguousarray(allocations, "<u8").tobytes())
            file.flush()
            os.fsync(file.fileno())


def _next_page(end: int) -> int:
    """Return where the page ends in which a file ends."""
    return -(-end // PAGE_SIZE) * PAGE_SIZE


@dataclass(frozen=True)
class _Job:
    """What all workers share."""

    file: str
    samples: Sequence[Sample]
    order: npt.NDArray[np.int64]
    encoding: Encoding
    max_side: int | None
    bits: int
    memory: SharedMemory
    pages: Pages
    next_chunk: Any

    def rows(self) -> npt.NDArray[np.void]:
        """Return the samples' rows, which all workers write."""
        return np.ndarray(len(self.samples), SAMPLE, self.memory.buf)


def _listen(
    file: str,
    workers: dict[Connection, BaseProcess],
    advance: Callable[[int], None],
) -> Iterator[_Report]:
    """Yield the reports of all workers until each has sent its last."""
    while workers:
        ready = wait([*workers, *(worker.sentinel for worker in workers.values())])
        for reader, worker in list(workers.items()):
            if reader in ready or reader.poll():
                try:
                    report: _Report = reader.recv()
                except EOFError:
                    raise _died(file, worker) from None
                if report.error is not None:
                    raise report.error
                advance(len(report.good) + len(report.broken))
                yield report
                if report.is_last:
                    del workers[reader]
            elif worker.sentinel in ready:
                raise _died(file, worker)


def _died(file: str, worker: BaseProcess) -> DataError:
    worker.join()
    code = worker.exitcode or 0
    reason = "is /dev/shm full?" if -code == signal.SIGBUS else "out of memory?"
    how = f"was killed by signal {-code} ({reason})" if code < 0 else f"exited with status {code}"
    return DataError(f"{file}: a worker process {how}; nothing was built{memory_shortage()}")


def _work(job: _Job, reports: Connection, parent: int) -> None:
    """Run one worker process: pack chunks of samples until there are none left."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    try:
        with open(job.file, "r+b", buffering=0) as file:
            for chunk in _chunks(job):
                reports.send(_pack_chunk(job, chunk, file.fileno()))
        reports.send(_Report(is_last=True))
    except (OSError, DataError) as error:
        reports.send(_Report(error=error))
    except Exception as error:  # whatever it is, it must reach the parent
        reports.send(_Report(error=DataError(f"{job.file}: {type(error).__name__}: {error}")))
    # Skips what belongs to the parent: its exit handlers and its buffered output.
    os._exit(0)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _chunks(job: _Job) -> Iterator[int]:
    """Yield the numbers of chunks that no other worker takes: chunk n is `_CHUNK` samples of the order."""
    while True:
        with job.next_chunk.get_lock():
            chunk = job.next_chunk.value
            job.next_chunk.value += 1
        if _CHUNK * chunk >= len(job.samples):
            return
        yield chunk


def _pack_chunk(job: _Job, chunk: int, file: int) -> _Report:
    report, stored = _Report(), []
    for position in job.order[_CHUNK * chunk : _CHUNK * (chunk + 1)].tolist():
        try:
            stored.append(_encode(job, position, report))
        except UnusableImageError as error:
            report.broken.append((position, str(error)))
    report.allocations = _write(job, chunk, [one.position for one in report.good], stored, file)
    return report


def _encode(job: _Job, position: int, report: _Report) -> Pixels:
    """Return the bytes to store of one image, and report it; UnusableImageError when it cannot be packed."""
    sample = job.samples[position]
    decoded = read_image(sample, job.max_side, job.bits)
    mode, stored = job.encoding.encode(decoded.pixels)
    if stored.size > PAGE_SIZE:
        raise UnusableImageError(
            f"takes {stored.size:,} bytes of at most {PAGE_SIZE:,}; "
            "write it as jpg or set a maximal resolution"
        )
    height, width, _ = decoded.pixels.shape
    if mode == JPG and not decoders_agree(stored, height, width):
        raise DataError(
            f"{printable(sample.path)}: stored as a JPEG of {width} x {height} pixels, it does not decode as "
            "libjpeg does; please report it, and build with --write-mode raw"
        )
    what = mode, height, width, stored
    digest = sample_digest(sample.label, *what)
    row = job.rows()[position]
    row["image"]["mode"], row["image"]["height"], row["image"]["width"] = mode, height, width
    row["label"] = sample.label
    row["checksum"] = checksum(digest)
    report.good.append(_Good(position, digest, content_key(*what), height, width))
    histogram = np.array(Image.fromarray(decoded.pixels).histogram(), np.int64).reshape(3, 256)
    report.histogram += histogram
    if np.count_nonzero(histogram) == 3:
        report.constant.append(position)
    report.highest = _highest(report.highest, decoded.highest)
    return stored


def _highest(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _write(
    job: _Job, chunk: int, positions: list[int], stored: Sequence[Pixels], file: int
) -> npt.NDArray[np.uint64]:
    """Write a chunk's images into the file; return their allocations, as in `_Report`."""
    sizes = [data.size for data in stored]
    places = job.pages.place(chunk, sizes)
    job.rows()["image"]["data_ptr"][positions] = places
    for place, data in zip(places, stored, strict=True):
        _write_at(file, place, data.data)
    return np.array([positions, places, sizes], np.uint64).T


def _write_at(file: int, place: int, data: memoryview) -> None:
    """Write all of `data` from byte `place` on; a full disk takes a part before it fails."""
    while data:
        written = os.pwrite(file, data, place)
        place, data = place + written, data[written:]


def _merge(reports: Sequence[_Report]) -> Packed:
    good = sorted((one for report in reports for one in report.good), key=lambda one: one.position)
    digests = b"".join(one.digest for one in good)
    return Packed(
        kept=np.array([one.position for one in good], np.int64),
        digests=np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES),
        sizes=np.array([(one.height, one.width) for one in good], np.int64).reshape(-1, 2),
        histogram=np.sum([report.histogram for report in reports], axis=0),
        broken=sorted(item for report in reports for item in report.broken),
        constant=sorted(position for report in reports for position in report.constant),
        contents=np.array([one.content for one in good], np.uint64),
        highest=_highest(*(report.highest for report in reports)),
    )
