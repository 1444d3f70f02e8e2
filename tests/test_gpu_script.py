"""The checks for GPUs themselves: on a CPU, in their small forms, they run and tell pass from fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.gpu.lines import FailedError, check, expect
from tests.gpu.loading import merged, shared

ROOT = Path(__file__).parent.parent


def test_sections_run_on_a_cpu_in_their_small_forms() -> None:
    sections = [word for name in ("parity", "feeding", "kernels") for word in ("--section", name)]
    command = ["bash", "tests/gpu.sh", "--device", "cpu", "--quick", *sections]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("pass")]
    assert len([line for line in lines if "resnet20" in line]) == 4
    assert lines[-1].split()[:4] == ["pass", "all", "12", "passed,"]


def test_a_check_that_fails_or_breaks_is_a_line_and_the_next_one_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with check("fails") as said:
        said.append("seen so far")
        expect(1 > 2, "expected more")
    with check("breaks"):
        raise RuntimeError("what is said first\nwhat counts")
    with check("holds"):
        expect(True, "never said")
    fails, breaks, holds = capsys.readouterr().out.splitlines()
    assert fails.split() == ["FAIL", "fails", "seen", "so", "far;", "expected", "more"]
    assert breaks.startswith("FAIL   breaks")
    assert breaks.endswith(": what counts")
    assert holds == "pass   holds"


def test_only_a_failed_check_is_raised() -> None:
    with pytest.raises(FailedError, match="why"):
        expect(False, "why")


def test_the_overlap_of_spans() -> None:
    kernels = merged([(5, 9), (0, 2), (1, 4), (9, 10)])
    assert kernels == [(0, 4), (5, 10)]
    assert shared((3, 6), kernels) == 2
    assert shared((10, 12), kernels) == 0
