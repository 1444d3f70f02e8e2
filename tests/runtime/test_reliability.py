"""Hang detection and the bound on deaths without progress, tested without any process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.runtime.coordinator import Coordinator
from cluster.runtime.heartbeat import Beat, HangWatch
from cluster.runtime.schedule import Ask
from cluster.runtime.service import _is_shown
from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.files import append_json
from distlth.run.paths import RunPaths
from distlth.train.pulse import Pulse


class TestHangWatch:
    def watch(self, *ranks: int) -> HangWatch:
        watch = HangWatch(hang_seconds=10)
        for rank in ranks:
            watch.hear(0, rank, self.beat(0), now=0)
        return watch

    def beat(self, steps: int, *, in_steps: bool = True) -> Beat:
        return Beat("node", "1 1.0", steps, in_steps)

    def test_the_silent_rank_is_the_one_that_hangs(self) -> None:
        watch = self.watch(0, 1)
        watch.hear(0, 0, self.beat(0), now=9)
        assert not watch.hung(10)
        assert set(watch.hung(11)) == {(0, 1)}

    def test_where_all_beat_and_none_steps_all_hang(self) -> None:
        watch = self.watch(0, 1)
        for now in range(1, 12):
            watch.hear(0, 0, self.beat(0), now)
            watch.hear(0, 1, self.beat(0), now)
        assert set(watch.hung(11)) == {(0, 0), (0, 1)}

    def test_phases_without_steps_may_be_long(self) -> None:
        watch = self.watch(0)
        for now in range(1, 100):
            watch.hear(0, 0, self.beat(0, in_steps=False), now)
        assert not watch.hung(100)
        watch.hear(0, 0, self.beat(1), now=105)
        assert not watch.hung(109)

    def test_ranks_that_ended_or_restart_do_not_hang(self) -> None:
        watch = self.watch(0, 1)
        watch.forget(0, 1)
        assert set(watch.hung(11)) == {(0, 0)}
        watch.forget(0)
        assert not watch.hung(11)


def test_batches_of_an_evaluation_are_steps_and_hang_detection_pauses_after_it() -> None:
    pulse = Pulse()
    seen = [(batch, pulse.steps, pulse.in_steps) for batch in pulse.watched("ab")]
    assert seen == [("a", 1, True), ("b", 2, True)]
    assert not pulse.in_steps

    def broken() -> Iterator[str]:
        yield "a"
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(pulse.watched(broken()))
    assert not pulse.in_steps


class TestRetries:
    """A finished job or a new checkpoint on disk is progress: only deaths without it are bounded."""

    def deaths(self, quickstart: Path, digits: Dataset, runs: Path, progress: list[bool]) -> str | None:
        overrides = [f"data.path={digits.path}", f"runs={runs}", "cluster.retries=2"]
        config = load_config(quickstart, overrides)
        paths = RunPaths(runs / config.name)

        async def die() -> str | None:
            coordinator = Coordinator.__ray_metadata__.modified_class(config, paths)  # type: ignore[attr-defined]
            coordinator.schedule.start_lane(0, "first")
            coordinator.schedule.offer("00")
            coordinator.schedule.answer(Ask(0, "first", 0))
            for step, moved in enumerate(progress):
                if moved:
                    path = paths.checkpoint("00", step)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                await coordinator.lane_failed(0, "killed")
            error: str | None = coordinator.schedule.lost
            return error

        return asyncio.run(die())

    def test_deaths_with_progress_never_end_a_run(
        self, quickstart: Path, digits: Dataset, tmp_path: Path
    ) -> None:
        assert self.deaths(quickstart, digits, tmp_path, [True] * 10) is None
        assert self.deaths(quickstart, digits, tmp_path / "more", [True, False] * 5) is None

    def test_deaths_without_progress_end_it(self, quickstart: Path, digits: Dataset, tmp_path: Path) -> None:
        error = self.deaths(quickstart, digits, tmp_path, [True, False, False])
        assert error == "lane 0 died 3 times without progress; the last time: killed"


@pytest.mark.parametrize(
    ("kinds", "shown"),
    [
        ([], True),  # nothing depends on the log
        (["run-start", "job-done", "run-done"], True),
        (["run-start", "job-done"], False),
        (["run-start", "run-done", "changed", "run-start", "job-done"], False),
    ],
)
def test_a_run_is_shown_when_its_last_coordinator_came_to_its_end(
    tmp_path: Path, kinds: list[str], shown: bool
) -> None:
    paths = RunPaths(tmp_path)
    for kind in kinds:
        append_json(paths.log, {"event": kind})
    assert _is_shown(paths) == shown
