"""A lane that does not start: its ranks are given up in time, counted, and started again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster.runtime.session import RAY_ENVIRONMENT
from cluster.runtime.start_watch import Started, StartWatch
from distlth.data.dataset import Dataset
from distlth.run.paths import RunPaths
from tests.chaos.harness import Chaos, command, events
from tests.chaos.hook import Fault
from tests.small_run import results, small_run

FIRST, SECOND = Started("node", 7, "a"), Started("node", 8, "b")


class TestStartWatch:
    def test_ranks_that_do_not_meet_in_time_are_overdue(self) -> None:
        watch = StartWatch(10)
        watch.begin(0, now=0)
        watch.begin(1, now=5)
        watch.started(0, [FIRST, SECOND], now=8)
        assert watch.overdue(15) == []
        assert watch.overdue(16) == [1]
        assert watch.overdue(19) == [0, 1]
        assert watch.ranks(0) == (FIRST, SECOND)
        watch.met(0)
        assert watch.overdue(19) == [1]

    def test_the_deaths_of_an_attempt_that_was_given_up_are_no_others(self) -> None:
        watch = StartWatch(10)
        watch.begin(0, now=0)
        watch.started(0, [FIRST], now=1)
        watch.give_up(0)
        assert watch.is_given_up(0)
        watch.started(0, [SECOND], now=12)
        assert not watch.is_given_up(0)

    def test_a_lane_that_starts_nothing_is_overdue_again(self) -> None:
        watch = StartWatch(10)
        watch.begin(0, now=0)
        assert watch.overdue(11) == [0]
        watch.begin(0, now=11)
        assert watch.overdue(20) == []
        assert watch.overdue(22) == [0]


def test_rays_processes_have_time_to_register() -> None:
    """A hundred ranks that import from one file system at once need more than Ray's minute."""
    code = "from ray._raylet import Config; print(Config.worker_register_timeout_seconds())"
    env = {**os.environ, **RAY_ENVIRONMENT}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert int(said.stdout) >= 600


def test_a_rank_that_never_meets_the_others_is_given_up(digits: Dataset, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    more = ("prune.rounds=0", "prune.branches=[]", "cluster.start_seconds=20", "cluster.retries=50")
    with command(small_run(digits, tmp_path, *more), Chaos(tmp_path / "chaos")) as process:
        process.strike(Fault(0, "STOP", "itself", "ranks meet", rank=1))
        process.finish()
    assert process.codes == [0]
    errors = [event["error"] for event in events(paths, "lane-restart")]
    assert "its 2 ranks did not all meet in 20 s (cluster.start_seconds)" in errors
    assert results(paths, ["00"])["00"].world_size == 2
