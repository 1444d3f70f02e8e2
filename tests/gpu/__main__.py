"""Run the sections, each in a process of its own, several at a time where none of them is timed."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from distlth.cores import num_cores
from tests.gpu.lines import say

AT_ONCE = 4


@dataclass(frozen=True)
class Section:
    """A section, the seconds that it may take, and whether it measures time: then it runs alone."""

    name: str
    seconds: int
    timed: bool = False

    def run(self, options: list[str]) -> list[str]:
        """Run it, show its lines when it has ended, and return them."""
        command = [sys.executable, "-m", f"tests.gpu.{self.name}", *options]
        start = time.monotonic()
        cores = num_cores() // (1 if self.timed else AT_ONCE)
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": str(max(1, cores)), **_interpreting(options)},
        )
        try:
            said, errors = process.communicate(timeout=self.seconds)
            ended = f"exit code {process.returncode}" if process.returncode else None
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children hold the pipes too
            said, errors = process.communicate()
            ended = f"not done after {self.seconds} s"
        lines = said.splitlines()
        if ended:
            lines += [f"FAIL   {self.name:<34} {ended}", *errors.strip().splitlines()[-12:]]
        print(f"\n{self.name} ({time.monotonic() - start:.0f} s)", *lines, sep="\n", flush=True)
        return lines


SECTIONS = (
    Section("product", 240),
    Section("exact", 240),
    Section("variants", 240),
    Section("classifiers", 180),
    Section("parity", 150),
    Section("ranks", 100),
    Section("suite", 120),
    Section("loading", 60, timed=True),
    Section("throughput", 200, timed=True),
    Section("feeding", 100, timed=True),
    Section("recipes", 90, timed=True),
    Section("kernels", 150, timed=True),
)


def main() -> int:
    """Run what the command line asks for; return 1 where a check failed."""
    parser = argparse.ArgumentParser(prog="tests/gpu.sh", description=__doc__)
    parser.add_argument("--section", action="append", choices=[section.name for section in SECTIONS])
    parser.add_argument("--device", default="cuda", help="cpu: shows that the script works")
    parser.add_argument("--quick", action="store_true", help="small forms of all sections")
    given = parser.parse_args()
    chosen = [each for each in SECTIONS if not given.section or each.name in given.section]
    options = ["--device", given.device, *(["--quick"] if given.quick else [])]
    start = time.monotonic()
    lines = [*_together(chosen, options), *_alone(chosen, options)]
    failed = [line for line in lines if line.startswith("FAIL")]
    passed = [line for line in lines if line.startswith("pass")]
    print()
    for line in failed:
        print(line)
    say(
        "FAIL" if failed else "pass",
        "all",
        f"{len(passed)} passed, {len(failed)} failed, {time.monotonic() - start:.0f} s",
    )
    return 1 if failed else 0


def _interpreting(options: list[str]) -> dict[str, str]:
    """Return the variable that lets Triton's kernels run without a GPU: torch imports Triton early."""
    return {"TRITON_INTERPRET": "1"} if "cpu" in options else {}


def _together(sections: Iterable[Section], options: list[str]) -> list[str]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [pool.submit(each.run, options) for each in sections if not each.timed]
        return [line for run in runs for line in run.result()]


def _alone(sections: Iterable[Section], options: list[str]) -> list[str]:
    return [line for each in sections if each.timed for line in each.run(options)]


if __name__ == "__main__":
    sys.exit(main())
