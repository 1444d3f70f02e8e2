"""A disk that becomes full or read-only: `disk`, a small file system, or folders without permission."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SIZE_MB = 24


class Disk:
    """A folder that can become full."""

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder, self._mounted = folder, mounted
        self._filler = folder / "filler"

    def fill(self) -> None:
        if not self._mounted:
            self._allow(0o500)
            return
        with open(self._filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**16))

    def free(self) -> None:
        if self._mounted:
            self._filler.unlink()
        else:
            self._allow(0o700)

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Let nobody write while entered."""
        if self._mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)
            yield
            subprocess.run(["mount", "-o", "remount,rw", str(self.folder)], check=True)
        else:
            self._allow(0o500)
            yield
            self._allow(0o700)

    def _allow(self, mode: int) -> None:
        for folder in [self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())]:
            folder.chmod(mode)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if os.geteuid() == 0 and not mounted:
        pytest.skip("root that may not mount: permissions do not hold it back either")
    try:
        yield Disk(folder, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        else:
            Disk(folder, mounted).free()
