"""The folders of sessions on this machine: of this user alone, found again when their process was killed."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distlth.errors import ConfigError
from distlth.files import read_small
from distlth.process import identity, is_alive, numbering

# In a folder, the file that names the process that holds it.
PREFIX, OWNER = "distlth-", "owner"
OWNER_BYTES = 4096

# In a session's folder: Ray's files, and the path of the folder with a short link to them.
RAY, SHORT = "ray", "short"

# The path of a socket has at most so many bytes. What Ray adds to its folder is the name of its session, with
# time and process, a socket, and a number where that is taken.
SOCKET_BYTES = 107
ADDED_BYTES = len("/session_2026-11-26_20-04-52_167552_4194304/sockets/plasma_store.99")
RANDOM_BYTES = 8

# Where a short link may lie when TMPDIR is long.
SHORT_BASES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))


def new_folder(base: Path | None = None) -> Path:
    """Return a new folder that only this user can enter, below `base` (default: TMPDIR).

    It is abandoned when this process has ended, be it as another program.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    (folder / OWNER).write_text(f"{numbering()}\n{identity()}\n")
    return folder


@contextmanager
def owned_folder(base: Path | None = None) -> Iterator[Path]:
    """Yield a new folder, as `new_folder` makes it; remove it after."""
    folder = new_folder(base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def abandoned_folders() -> list[Path]:
    """Return the folders of this user whose process on this machine has ended."""
    bases = {Path(tempfile.gettempdir()), *SHORT_BASES}
    return [folder for base in sorted(bases) for folder in base.glob(f"{PREFIX}*") if _is_abandoned(folder)]


def check_temporary_folder() -> None:
    """Raise ConfigError where there is no folder in which Ray can have its sockets."""
    _short_base()


@contextmanager
def short_link(folder: Path) -> Iterator[None]:
    """Have a short path to Ray's files in a session's folder, where theirs is too long for sockets."""
    (folder / RAY).mkdir(mode=0o700)
    base = _short_base()
    if base is None:
        yield
        return
    with owned_folder(base) as short:
        (short / RAY).symlink_to(folder / RAY)
        (folder / SHORT).write_text(str(short))
        yield


def ray_folder(folder: Path) -> Path:
    """Return the path by which Ray is to know its files in a session's folder."""
    with suppress(FileNotFoundError):
        return Path((folder / SHORT).read_text()) / RAY
    return folder / RAY


def _short_base() -> Path | None:
    """Return the folder for a short link; None where TMPDIR is short enough itself.

    Raises:
        ConfigError: there is none.
    """
    try:
        base = Path(tempfile.gettempdir())
    except FileNotFoundError:
        raise ConfigError("TMPDIR: no folder for temporary files can be written") from None
    if _fits(base):
        return None
    for short in SHORT_BASES:
        with suppress(OSError), owned_folder(short):
            if _fits(short):
                return short
    raise ConfigError(
        f"TMPDIR: {base} is too long for Ray's sockets (at most {_longest_base()} bytes), and none of "
        f"{', '.join(map(str, SHORT_BASES))} can be written; set TMPDIR to a shorter path"
    )


def _longest_base() -> int:
    return SOCKET_BYTES - ADDED_BYTES - len(f"/{PREFIX}/{RAY}") - RANDOM_BYTES


def _fits(base: Path) -> bool:
    return len(os.fsencode(base)) <= _longest_base()


def _is_abandoned(folder: Path) -> bool:
    """Return whether a folder is this user's and its process has ended, whatever others have put there."""
    try:
        found = os.lstat(folder)
        if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
            return False
        where, owner = read_small(folder / OWNER, OWNER_BYTES, own=True).splitlines()
    except (OSError, ValueError):
        return False  # it is still being set up
    return where == numbering() and not is_alive(owner)
