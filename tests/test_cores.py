"""The cores that a process may use, by its affinity and by the limits of its control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distlth.cores import loader_threads, num_cores

ALL = len(os.sched_getaffinity(0))


def test_the_affinity_counts_and_not_the_machine() -> None:
    code = "from distlth.cores import num_cores; print(num_cores())"
    command = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/job/step", {"job/cpu.max": "100000 100000", "job/step/cpu.max": "max 100000"}, 1),
        ("0::/job", {"job/cpu.max": "20000 100000"}, 1),
        ("0::/job", {"job/cpu.max": "max 100000"}, ALL),
        ("0::/", {"cpu.max": "100000 100000"}, 1),
        (
            "3:cpu,cpuacct:/job",
            {f"cpu,cpuacct/job/cpu.cfs_{name}_us": "100000" for name in ("quota", "period")},
            1,
        ),
        ("3:cpu,cpuacct:/job", {"cpu,cpuacct/job/cpu.cfs_quota_us": "-1"}, ALL),
        ("nonsense", {}, ALL),
    ],
)
def test_limits_of_control_groups(tmp_path: Path, own: str, files: dict[str, str], cores: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "own").write_text(f"{own}\n")
    assert num_cores(tmp_path, tmp_path / "own") == cores
    assert num_cores(tmp_path, tmp_path / "none") == ALL


def test_the_loader_gets_what_training_leaves() -> None:
    assert [loader_threads(cores, "cuda") for cores in (1, 2, 6, 12, 64)] == [1, 1, 4, 10, 16]
    assert [loader_threads(cores, "cpu") for cores in (0, 1, 2, 12)] == [1, 1, 2, 4]
