"""Where a session has its files: TMPDIRs of any length, and what others put in shared folders."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster.runtime import folders
from cluster.runtime.folders import (
    ADDED_BYTES,
    OWNER,
    SOCKET_BYTES,
    abandoned_folders,
    check_temporary_folder,
    owned_folder,
    ray_folder,
    short_link,
)
from distlth.errors import ConfigError
from distlth.process import numbering

ENDED = "1 1.0"


def temporary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder TMPDIR."""
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("length", [3, 20, 21, 24, 25, 60, 200])
def test_rays_sockets_fit_whatever_the_length_of_tmpdir(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="d") as short:
        base = Path(short, "x" * max(1, length - len(short) - 1))
        temporary(base, monkeypatch)
        with owned_folder() as folder, short_link(folder):
            path = ray_folder(folder)
            assert len(os.fsencode(path)) + ADDED_BYTES <= SOCKET_BYTES
            (path / "file").touch()
            assert (folder / "ray" / "file").exists()
            for parent in (folder, path.parent):
                assert parent.stat().st_mode & 0o777 == 0o700
        assert not folder.exists()
        assert not os.path.lexists(path.parent)


def test_where_no_folder_is_short_enough_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary(tmp_path / ("x" * 60), monkeypatch)
    monkeypatch.setattr(folders, "SHORT_BASES", (Path("/proc"), tmp_path))
    with pytest.raises(ConfigError, match=r"^TMPDIR: \S+ is too long for Ray's sockets \(at most 19 bytes\)"):
        check_temporary_folder()


def test_a_short_link_that_a_killed_process_left_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, signal; from pathlib import Path; from cluster.runtime.folders import *\n"
        "with owned_folder() as folder, short_link(folder):\n"
        "    print(folder, ray_folder(folder).parent, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    with tempfile.TemporaryDirectory(prefix="x" * 40) as long:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "TMPDIR": long},
            capture_output=True,
            text=True,
            check=False,
        )
        session, short = map(Path, ended.stdout.split())
        assert short.parent == Path("/tmp")
        assert short in abandoned_folders()
        monkeypatch.setattr(tempfile, "tempdir", long)
        assert session in abandoned_folders()
    (short / "ray").unlink()
    (short / OWNER).unlink()
    short.rmdir()


def test_what_others_put_in_tmpdir_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO that nobody writes to, a file without end, links, and folders of another user."""
    base = temporary(tmp_path / "tmp", monkeypatch)
    for name in ("fifo", "endless", "file", "mine", "theirs"):
        (base / f"distlth-{name}").mkdir()
    os.mkfifo(base / "distlth-fifo" / OWNER)
    (base / "distlth-endless" / OWNER).symlink_to("/dev/zero")
    (base / "distlth-link").symlink_to(base / "distlth-mine")
    for name in ("mine", "theirs"):
        (base / f"distlth-{name}" / OWNER).write_text(f"{numbering()}\n{ENDED}\n")
    (base / "distlth-file" / OWNER).write_bytes(b"\xff" * 10**6)
    if os.geteuid() == 0:
        os.chown(base / "distlth-theirs", 12345, 12345)
    else:
        (base / "distlth-theirs" / OWNER).unlink()
    assert [path for path in abandoned_folders() if path.parent == base] == [base / "distlth-mine"]
