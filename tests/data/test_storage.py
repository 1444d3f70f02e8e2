"""Where stored images are read from: what is read ahead, how much of it, and what does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distlth.data.beton import Beton
from distlth.data.load.storage import MappedFile, RequestedFile, merged, page_cache, requested_ahead
from distlth.errors import DataError
from distlth.memory import Memory, memory
from tests.data.fixtures import index

IMAGE, COUNT, BATCH = 120_000, 320, 16


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 40)), min_size=1, max_size=40))
def test_requests_cover_what_is_wanted_and_no_more(images: list[tuple[int, int]]) -> None:
    offsets, lengths = np.array(images, np.int64).T
    begins, ends = merged(offsets, lengths)
    assert (begins < ends).all()
    assert (begins[1:] > ends[:-1]).all()
    wanted = {byte for begin, size in images for byte in range(begin, begin + size)}
    pairs = zip(begins.tolist(), ends.tolist(), strict=True)
    assert {byte for begin, end in pairs for byte in range(begin, end)} == wanted


def bytes_read() -> int:
    """What this process has had read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


@pytest.fixture
def cold(tmp_path: Path) -> Beton:
    """A file of 320 images of 120 kB, not in memory."""
    path = tmp_path / "images"
    with open(path, "wb") as file:
        file.write(np.random.default_rng(0).bytes(COUNT * IMAGE))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return index(path, np.arange(COUNT) * IMAGE, IMAGE)


@pytest.mark.parametrize("is_shuffled", [True, False])  # as in training, and in evaluation
def test_little_more_is_read_from_a_cold_disk_than_is_wanted(cold: Beton, is_shuffled: bool) -> None:
    order = np.random.default_rng(1).permutation(COUNT) if is_shuffled else np.arange(COUNT)
    batches = list(order[: COUNT // 2].reshape(-1, BATCH))
    expected, seen = np.fromfile(cold.path, np.uint8), 0
    with open(cold.path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = bytes_read()
    with requested_ahead(MappedFile(cold), cold, batches, by_page=False) as storage:
        assert isinstance(storage, RequestedFile)
        for number, batch in enumerate(batches):
            stored, offsets = storage.load(number, batch)
            for sample, begin in zip(batch.tolist(), offsets.tolist(), strict=True):
                image = expected[sample * IMAGE : (sample + 1) * IMAGE]
                seen += np.array_equal(stored[begin : begin + IMAGE], image)
    assert seen == COUNT // 2
    read = bytes_read() - before
    if not read:
        pytest.skip("this folder is in memory, not on a disk")
    assert read <= 1.1 * seen * IMAGE


def test_a_small_file_of_small_images_is_read_as_it_comes(cold: Beton) -> None:
    small = index(cold.path, np.arange(0, COUNT * IMAGE, 3072), 3072)
    with requested_ahead(MappedFile(small), small, [], by_page=False) as storage:
        assert isinstance(storage, MappedFile)


def test_pages_that_do_not_fit_are_refused_before_any_is_read(cold: Beton) -> None:
    batches = list(np.arange(COUNT).reshape(-1, BATCH))
    with page_cache(cold, batches, ranks=1) as storage:
        storage.load(0, batches[0])
    words = r"data\.cache: process: needs 0\.0 GiB of .*images at a time on each of 10000000 ranks of a node"
    with pytest.raises(DataError, match=words), page_cache(cold, batches, ranks=10**7):
        pass


@pytest.mark.parametrize(
    ("own", "folder", "limit", "usage", "prefix"),
    [
        ("0::/job", "job", "memory.max", "memory.current", ""),
        ("9:memory:/job", "memory/job", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ],
)
def test_memory_is_what_control_groups_grant(
    tmp_path: Path, own: str, folder: str, limit: str, usage: str, prefix: str
) -> None:
    (tmp_path / folder).mkdir(parents=True)
    cached = f"anon 7\n{prefix}inactive_file 500\n{prefix}active_file 200\n"
    for name, text in ((limit, "10000"), (usage, "4000"), ("memory.stat", cached)):
        (tmp_path / folder / name).write_text(text)
    (tmp_path / "own").write_text(f"{own}\n")
    assert memory(tmp_path, tmp_path / "own") == Memory(total=10000, available=6700)
    (tmp_path / folder / limit).write_text("max")
    assert memory(tmp_path, tmp_path / "own").total == psutil.virtual_memory().total
