"""How many calls a second the coordinator answers, and how long a job takes to reach a thousand ranks."""

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

from cluster.runtime.session import LOOPBACK, environment, session_folder

LANE, ATTEMPT = 0, "attempt"


@dataclass(frozen=True)
class CoordinatorRow:
    """`count` calls of one kind at once, from one process beside the coordinator: medians over rounds."""

    call: str
    count: int
    seconds: float
    calls_per_second: float


def bench(*, ranks: int = 1024, rounds: int = 5) -> list[CoordinatorRow]:
    """Call the coordinator of a small run as `ranks` ranks would, all at the same moment."""
    with session_folder() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "cluster.bench.coordinator"],
            input=json.dumps({"ranks": ranks, "rounds": rounds}),
            env=environment(folder),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return [CoordinatorRow(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    """Measure what standard input asks for, and print the rows as JSON."""
    plan = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as name:
        rows = _measure(Path(name), plan["ranks"], plan["rounds"])
        print(json.dumps([asdict(row) for row in rows]))


def _measure(folder: Path, ranks: int, rounds: int) -> list[CoordinatorRow]:
    import ray

    from cluster.runtime.coordinator import Coordinator
    from cluster.runtime.heartbeat import Beat
    from distlth.bench.checkpoint import small_run
    from distlth.run.paths import RunPaths

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address=LOOPBACK
    )
    config, run = small_run(folder), RunPaths(folder / "run")
    coordinator = Coordinator.remote(config, run)  # type: ignore[attr-defined]
    ray.get(coordinator.start.remote())
    ray.get(coordinator.lane_started.remote(LANE, ATTEMPT, []))
    beat = Beat("node", "1 0", 0, True)
    calls: dict[str, Callable[[int, int], Any]] = {
        "next_job": lambda turn, rank: coordinator.next_job.remote(LANE, f"{ATTEMPT} {turn}", 0),
        "beat": lambda turn, rank: coordinator.beat.remote(LANE, ATTEMPT, rank, beat),
        "note": lambda turn, rank: coordinator.note.remote("bench", lane=LANE),
    }
    rows = []
    for call, send in calls.items():
        times = []
        for turn in range(rounds + 1):
            if call == "next_job":  # what the lane took is open again: all ranks of an attempt get the same
                ray.get(coordinator.lane_started.remote(LANE, f"{ATTEMPT} {turn}", []))
            start = time.perf_counter()
            answers = [send(turn, rank) for rank in range(ranks)]
            ray.get(answers)
            times.append(time.perf_counter() - start)
            del answers
        ray.get(coordinator.lane_started.remote(LANE, ATTEMPT, []))
        seconds = statistics.median(times[1:])
        rows.append(CoordinatorRow(call, ranks, seconds, ranks / seconds))
    return rows


if __name__ == "__main__":
    main()
