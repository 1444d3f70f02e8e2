"""A shared file system that shows files of other nodes late: what they wrote is found all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.runtime.coordinator import Coordinator
from cluster.runtime.schedule import Ask
from distlth import files
from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.errors import RunError
from distlth.files import append_json, await_file, read_json_lines, save_tensors
from distlth.prune.mask import Mask
from distlth.run.paths import RunPaths, newest_checkpoint
from distlth.run.results import JobResult
from distlth.run.store import load_record, open_run
from distlth.run.tickets import load_structured, load_trained, save_measured, save_structured
from distlth.ticket import Structured
from distlth.train.checkpoint import JobState, newest_state
from tests.chaos.stale_view import StaleView
from tests.tiny_run import make_config, make_result


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "run")


@pytest.fixture
def view(run: RunPaths) -> Iterator[StaleView]:
    """This process sees a run as a client of a network file system; its memory never fades."""
    run.root.mkdir()
    view = StaleView(run.root, seconds=float("inf"))
    view.install()
    try:
        yield view
    finally:
        view.remove()


def state(step: int) -> JobState:
    return JobState("01", step, "mask", {"a": torch.ones(2)}, {}, {}, torch.zeros(1, 4))


def test_the_view_is_stale_until_the_folder_is_listed(run: RunPaths, view: StaleView) -> None:
    path = run.root / "folder" / "file"
    assert not path.exists()
    with view.elsewhere():
        path.parent.mkdir()
        path.touch()
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        path.read_text()
    list(run.root.iterdir())
    assert path.parent.exists()
    assert path.exists()


def test_what_another_node_wrote_is_found(run: RunPaths, view: StaleView) -> None:
    paths, mask = run.job("01"), Mask({"a": torch.ones(2, 2, dtype=torch.bool)})
    assert JobResult.load(paths) is None
    assert load_structured(paths) is None
    assert newest_state(run.checkpoints("01")) is None
    assert newest_checkpoint(run.checkpoints("01")) is None
    assert read_json_lines(run.log) == []
    for file in (*paths.files, *run.seed(0).files, run.job_file):
        assert not file.exists()
    with view.elsewhere():
        open_run(run, make_config(), {"digest": "0", "classes": 10})
        save_structured(paths, Structured(mask, ungrouped={"a": "small"}))
        save_measured(paths.activations, {"l1": {"a": torch.ones(2)}})
        save_tensors(paths.weights, {"a.weight": torch.ones(2, 2)})
        make_result("01").save(paths)
        state(5).save(run.checkpoint("01", 5))
        append_json(run.log, {"event": "run-start"})
    assert JobResult.load(paths) == make_result("01")
    structured = load_structured(paths)
    assert structured is not None
    assert structured.ungrouped == {"a": "small"}
    assert set(load_trained(paths).measured) == {"l1"}
    newest = newest_state(run.checkpoints("01"))
    assert newest is not None
    assert newest.step == 5
    assert len(read_json_lines(run.log)) == 1
    assert load_record(run).config == make_config()
    assert view.misled > 0


def test_a_file_that_must_be_there_is_waited_for(
    run: RunPaths, view: StaleView, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run.seed(0).rewind

    def arrives(_: float) -> None:
        with view.elsewhere():
            path.parent.mkdir(parents=True)
            path.touch()

    monkeypatch.setattr("distlth.files.time.sleep", arrives)
    assert await_file(path) == path
    with pytest.raises(RunError, match=r"init\.safetensors: no such file"):
        await_file(run.seed(0).init, 0)


class TestCoordinator:
    """The coordinator and the ranks are on different nodes."""

    @pytest.fixture(autouse=True)
    def no_patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the results here promise is not on disk."""
        monkeypatch.setattr(files, "APPEAR_SECONDS", 0.0)

    def coordinator(self, quickstart: Path, digits: Dataset, run: RunPaths) -> Any:
        config = load_config(quickstart, [f"data.path={digits.path}", "cluster.retries=0"])
        made = Coordinator.__ray_metadata__.modified_class(config, run)  # type: ignore[attr-defined]
        made.schedule.start_lane(0, "first")
        made.schedule.offer("00")
        made.schedule.answer(Ask(0, "first", 0))
        made.started.set()
        return made

    def test_it_takes_a_result_at_its_word_and_then_removes_the_checkpoints(
        self, quickstart: Path, digits: Dataset, run: RunPaths, view: StaleView
    ) -> None:
        async def told() -> set[str]:
            coordinator = self.coordinator(quickstart, digits, run)
            assert newest_checkpoint(run.checkpoints("00")) is None
            with view.elsewhere():
                state(5).save(run.checkpoint("00", 5))
            await coordinator.job_done(make_result("00"))
            await asyncio.gather(*coordinator.background, return_exceptions=True)
            return set(coordinator.results)

        assert asyncio.run(told()) == {"00"}
        with view.elsewhere():
            assert not run.checkpoints("00").exists()

    def test_a_result_of_ranks_that_died_is_found_when_the_lane_restarts(
        self, quickstart: Path, digits: Dataset, run: RunPaths, view: StaleView
    ) -> None:
        async def restart() -> tuple[set[str], str | None]:
            coordinator = self.coordinator(quickstart, digits, run)
            with view.elsewhere():
                make_result("00").save(run.job("00"))
            await coordinator.lane_started(0, "second", [])
            return set(coordinator.results), coordinator.schedule.answer(Ask(0, "second", 0))

        assert asyncio.run(restart()) == ({"00"}, None)

    def test_a_checkpoint_of_ranks_that_died_is_progress(
        self, quickstart: Path, digits: Dataset, run: RunPaths, view: StaleView
    ) -> None:
        async def die() -> list[str | None]:
            coordinator = self.coordinator(quickstart, digits, run)
            coordinator.schedule._retries = 1
            errors = []
            for step in (1, 2, 3):
                with view.elsewhere():
                    state(step).save(run.checkpoint("00", step))
                await coordinator.lane_failed(0, "killed")
                errors.append(coordinator.schedule.lost)
            return errors

        assert asyncio.run(die()) == [None, None, None]
