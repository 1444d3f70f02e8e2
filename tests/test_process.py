"""What the system tells about processes: their identity, and why they may have died."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from distlth.process import identity, is_alive, memory_shortage


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    assert is_alive(identity())
    assert not is_alive(f"{os.getpid()} 1.0")
    assert not is_alive("damaged")


def test_a_full_shared_memory_is_named() -> None:
    """In a mount namespace of its own, where this user may make one."""
    assert memory_shortage() == ""
    code = "from distlth.process import memory_shortage; print(memory_shortage())"
    fill = "mount -t tmpfs -o size=8m tmpfs /dev/shm && head -c 7M /dev/zero > /dev/shm/filler"
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{fill} && exec "$@"', "sh", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        pytest.skip(f"no mount namespace: {ended.stderr}")
    assert ended.stdout.startswith("; /dev/shm is full (1 of 8 MiB free)")
