"""The tests of the suite that only a GPU lets run."""

from __future__ import annotations

import subprocess
import sys

from tests.gpu.lines import Options, check, expect, main

# Of the networks' rehearsals those that differ; the section `classifiers` trains every network.
OWN = "tests/train/test_rehearsal.py::TestOnAGpu"
TESTS = (
    "tests/data/test_gpu.py",
    f"{OWN}::test_vgg_does_at_each_kind_of_resolution",
    f"{OWN}::test_torchs_own_pooling_is_refused",
)


def suite(options: Options) -> None:
    """Run each file by pytest."""
    for path in TESTS:
        with check(path.rpartition("::")[2]) as said:
            command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", path]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "E  "))]
            said.append(ended.stdout.strip().splitlines()[-1])
            expect(ended.returncode == 0, "; ".join(lines[:6]) + ended.stderr[-300:])


if __name__ == "__main__":
    main(suite)
