"""The cores that a process may use, in an allocation fewer than the machine's, and the loader's share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# More loader threads than these speed nothing up: what feeds a GPU, and what a CPU can train on.
MOST_THREADS = {"cuda": 16, "cpu": 4}

# The cores of a rank on a GPU beside its loader's: for the thread that launches the work, and for all else.
BESIDE_THREADS = 2

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def loader_threads(cores: int, device: str) -> int:
    """Return how many loader threads a rank on a device has by default, where its share is `cores`."""
    beside = BESIDE_THREADS if device == "cuda" else 0
    return max(1, min(cores - beside, MOST_THREADS[device]))


def num_cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Return the cores that this process may run on, or whose time its control groups grant; at least 1.

    `cgroups` is where control groups are mounted, `own` lists those of the process.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *map(round, _granted(cgroups, own))]))


def _granted(cgroups: Path, own: Path) -> Iterator[float]:
    """Yield the limit of each control group around this process that has one, in cores."""
    for folder in control_groups(cgroups, own):
        yield from _limit(folder)


def control_groups(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> Iterator[Path]:
    """Yield the folders of the control groups around this process; arguments as of `num_cores`."""
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            mount = cgroups / controllers
            yield from _upwards(mount, mount / path.lstrip("/"))


def _upwards(mount: Path, folder: Path) -> Iterator[Path]:
    """Yield a folder and those around it, up to where they are mounted."""
    yield folder
    while folder not in (mount, folder.parent):
        folder = folder.parent
        yield folder


def _limit(folder: Path) -> Iterator[float]:
    """Yield the limit of one control group: `cpu.max` in version 2, two files in version 1."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)
