"""Telling a process from a later one with the same number."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import psutil

# The start of a process is computed from the clock, which may be set while it lives.
CLOCK_SLACK_SECONDS = 2.0


def numbering() -> str:
    """Where process numbers mean the same: a machine since its last start, or a container on it."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def identity(pid: int | None = None) -> str:
    """`PID START` of a process (this one, unless given), START in seconds since the epoch."""
    process = psutil.Process(pid)
    return f"{process.pid} {process.create_time()}"


def is_alive(identity_text: str) -> bool:
    """Whether the process of an `identity` lives on this machine; one that waits to be reaped is dead."""
    try:
        pid, start = identity_text.split()
        process = psutil.Process(int(pid))
        is_same = abs(process.create_time() - float(start)) < CLOCK_SLACK_SECONDS
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return False
