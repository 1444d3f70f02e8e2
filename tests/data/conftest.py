"""What the tests of data need."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that every user may enter: the way to `tmp_path` is its owner's alone."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pages of 64 KiB in files that are built, so that small files have many: their size."""
    size = 1 << 16
    monkeypatch.setattr("distlth.data.pack.writer.PAGE_SIZE", size)
    monkeypatch.setattr("ffcv.writer.MIN_PAGE_SIZE", size)
    return size
