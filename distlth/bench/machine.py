"""What a process can see and set of its machine: its chip, cores for its threads, and the memory it takes."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
PROCESS = Path("/proc/self")
# Written to clear_refs, this makes the peak of the resident memory what it is now.
RESET_PEAK = "5"


def chip(device: str) -> str:
    """Return the name of the GPU (`cuda`), or of the processor (`cpu`)."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Keep all threads of this process on the first `threads` of its cores, and yield these.

    torch computes with as many threads meanwhile.
    """
    before, number = os.sched_getaffinity(0), torch.get_num_threads()
    cores = tuple(sorted(before)[:threads])
    torch.set_num_threads(threads)
    _move(set(cores))
    try:
        yield cores
    finally:
        _move(before)
        torch.set_num_threads(number)


def _move(cores: set[int]) -> None:
    for thread in (PROCESS / "task").iterdir():
        with suppress(OSError):  # it has ended since
            os.sched_setaffinity(int(thread.name), cores)


def peak_memory(work: Callable[[], T]) -> tuple[T, int | None]:
    """Return what `work` returns, and the bytes that the process took for it at most; None where unknown."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (PROCESS / "clear_refs").write_text(RESET_PEAK)
    except OSError:
        return work(), None
    before = _status("VmRSS")
    found = work()
    return found, max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    """Return a number of bytes that the system knows of this process."""
    lines = (PROCESS / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) << 10
