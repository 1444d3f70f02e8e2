"""Benchmark of the coordinator: calls answered per second, and the time until a job has reached all ranks."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from cluster.runtime.coordinator import Coordinator
from cluster.runtime.heartbeat import Beat
from cluster.runtime.session import LOOPBACK, environment, session_folder
from distlth.bench.small import small_run
from distlth.run.paths import RunPaths

LANE = 0


@dataclass(frozen=True)
class CoordinatorRow:
    """`count` calls of one kind, sent at once by one process beside the coordinator: medians over rounds."""

    call: str
    count: int
    seconds: float
    calls_per_second: float


def bench(*, ranks: int = 1024, rounds: int = 5) -> list[CoordinatorRow]:
    """Call the coordinator of a small run as `ranks` ranks would that all call at the same moment."""
    with session_folder() as folder:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "cluster.bench.coordinator"],
            input=json.dumps({"ranks": ranks, "rounds": rounds}),
            env=environment(folder),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return [CoordinatorRow(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    """Measure what standard input asks for; print the rows as JSON."""
    plan = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as name:
        rows = _measure(Path(name), plan["ranks"], plan["rounds"])
        print(json.dumps([asdict(row) for row in rows]))


def _measure(folder: Path, ranks: int, rounds: int) -> list[CoordinatorRow]:
    """Return the rows of a coordinator that is started here."""
    coordinator = _start_coordinator(folder)
    beat = Beat("node", "1 0", 0, True)
    calls: dict[str, Callable[[str, int], Any]] = {
        "next_job": lambda attempt, rank: coordinator.next_job.remote(LANE, attempt, 0),
        "beat": lambda attempt, rank: coordinator.beat.remote(LANE, attempt, rank, beat),
        "note": lambda attempt, rank: coordinator.note.remote("bench", lane=LANE),
    }
    rows = []
    for name, call in calls.items():
        times = [_time_round(coordinator, call, f"{name} {turn}", ranks) for turn in range(rounds + 1)]
        seconds = statistics.median(times[1:])  # the first one warms up
        rows.append(CoordinatorRow(name, ranks, seconds, ranks / seconds))
    return rows


def _start_coordinator(folder: Path) -> Any:
    """Start Ray and the coordinator of a small run; return the actor's handle."""
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address=LOOPBACK
    )
    coordinator = Coordinator.remote(small_run(folder), RunPaths(folder / "run"))  # type: ignore[attr-defined]
    ray.get(coordinator.start.remote())
    return coordinator


def _time_round(coordinator: Any, call: Callable[[str, int], Any], attempt: str, ranks: int) -> float:
    """Return the seconds until a call of each rank of a new attempt is answered, all sent at once."""
    ray.get(coordinator.lane_started.remote(LANE, attempt, []))
    start = time.perf_counter()
    answers = [call(attempt, rank) for rank in range(ranks)]
    ray.get(answers)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
