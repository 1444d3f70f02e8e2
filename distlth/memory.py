"""The memory that a process may use: of the machine, or what its control groups grant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from distlth.cores import CGROUPS, OWN_CGROUPS, control_groups

# Files of a control group in versions 2 and 1: its limit, what it uses, and what of that are cached files,
# which give way.
_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


@dataclass(frozen=True)
class Memory:
    """Bytes: `total` for all that shares it, `available` now."""

    total: int
    available: int


def memory(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> Memory:
    """Return the memory that this process may use; arguments as of `num_cores`."""
    machine = psutil.virtual_memory()
    found = [Memory(machine.total, machine.available)]
    found += (limit for folder in control_groups(cgroups, own) for limit in _limits(folder))
    return Memory(min(one.total for one in found), min(one.available for one in found))


def _limits(folder: Path) -> Iterator[Memory]:
    """Yield the limit of one control group, if it has one."""
    for limit, usage, cached in _FILES:
        with suppress(OSError, ValueError):
            total, used = (int((folder / name).read_text()) for name in (limit, usage))
            counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            reclaimed = sum(int(counts.get(name, 0)) for name in cached)
            yield Memory(total, max(0, total - used + reclaimed))
