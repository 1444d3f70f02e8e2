"""Process identity: tell a process from a later one with the same number."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path

import psutil

# Ray's object store, NCCL and processes that pack data share memory here. Who touches a page of it that it
# cannot hold is killed by SIGBUS, without a word.
SHARED_MEMORY, SHORTAGE_BYTES = "/dev/shm", 2**22

# psutil computes the start of a process from the clock, which may be adjusted later.
CLOCK_SLACK_SECONDS = 2.0


def numbering() -> str:
    """Return a text that is the same wherever process numbers are: one boot of a machine or container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def memory_shortage() -> str:
    """Return the end of a message where shared memory is full, which kills those who use it; else nothing."""
    with suppress(OSError):
        found = shutil.disk_usage(SHARED_MEMORY)
        if found.free < SHORTAGE_BYTES:
            return (
                f"; {SHARED_MEMORY} is full ({found.free >> 20} of {found.total >> 20} MiB free): remove "
                "what others left there, or give a container more (--shm-size)"
            )
    return ""


def identity(pid: int | None = None) -> str:
    """Return `PID START` of a process (by default this one), START in seconds since the epoch."""
    process = psutil.Process(pid)
    return f"{process.pid} {process.create_time()}"


def is_alive(identity_text: str) -> bool:
    """Return whether the process of an `identity` is alive on this machine; a zombie is not."""
    try:
        pid, start = identity_text.split()
        process = psutil.Process(int(pid))
        is_same = abs(process.create_time() - float(start)) < CLOCK_SLACK_SECONDS
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return False
