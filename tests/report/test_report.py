"""TensorBoard files read back, status from the files of a run, and the pixels of mask pictures."""

import itertools
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing import plugin_event_accumulator  # type: ignore[import-untyped]
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[import-untyped]

from distlth.config.read import parse_config
from distlth.config.schema import RunConfig
from distlth.errors import RunError
from distlth.facts.rows import derive_results
from distlth.facts.status import read_status
from distlth.files import append_json, write_text
from distlth.method import Structured
from distlth.plan import plan
from distlth.prune.mask import Mask
from distlth.prune.regroup import Block
from distlth.report.board import TOP1_CURVE, RunBoard
from distlth.report.pictures import ADDED, DROPPED, EMPTY, KEPT, accuracy_figure, ordered_cells
from distlth.report.summary import write_report
from distlth.run.curves import JobBoard
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult, Progress, save_progress
from distlth.run.store import RunRecord
from distlth.run.tickets import save_structured

NOW = 1_000_000.0
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def config() -> RunConfig:
    document = {
        "name": "tiny",
        "data": {"path": "data"},
        "model": {"name": "resnet20"},
        "train": {"epochs": 4, "batch_size": 8, "lr": 0.1},
        "prune": {"rounds": 2, "branches": [{"method": "refill"}, {"method": "regroup"}]},
    }
    return parse_config(document, "test")


@pytest.fixture
def run(tmp_path: Path, config: RunConfig) -> RunPaths:
    paths = RunPaths(tmp_path / "tiny")
    write_text(paths.job_file, RunRecord(config, {}, {}, NOW).to_yaml())
    return paths


@pytest.fixture
def _seconds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files of one folder are ordered by the second in their names: let each be made in its own."""
    clock = itertools.count(int(time.time()))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))


def make_result(job: str = "00", density: float = 1.0, top1: float = 0.9, seconds: float = 10.0) -> JobResult:
    number, _, branch = job.partition("/")
    return JobResult(
        job=job,
        round=int(number),
        method=branch or "imp",
        density=density,
        kept=round(1000 * density),
        total=1000,
        top1=top1,
        top5=0.99,
        eval_loss=0.3,
        train_loss=0.2,
        epochs=4,
        steps=40,
        seconds=seconds,
        world_size=1,
        mask_digest="m",
        weights_digest="w",
        finished=NOW,
    )


def make_progress(job: str, age: float = 1.0) -> Progress:
    return Progress(
        job=job,
        epoch=2,
        epochs=4,
        step=10,
        steps=40,
        loss=math.nan,
        images_per_second=100.0,
        seconds_left=30.0,
        time=NOW - age,
    )


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0}).Reload()


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def train_points(board: JobBoard, steps: range, loss: float) -> None:
    for step in steps:
        board.train(step, loss=loss, lr=0.1, images_per_second=500.0, data_wait=0.25, density=0.5)


def test_job_curves_are_read_back(run: RunPaths) -> None:
    board = JobBoard(run, "03/refill", first_step=0)
    board.train(10, loss=2.0, lr=0.5, images_per_second=123.0, data_wait=0.25, density=0.125)
    board.evaluation(12, loss=1.5, top1=0.75, top5=0.875)
    board.close()
    folder = run.tensorboard / "jobs" / "03-refill"
    expected = {
        "train/loss": (10, 2.0),
        "train/lr": (10, 0.5),
        "speed/images_per_second": (10, 123.0),
        "speed/data_wait": (10, 0.25),
        "ticket/density": (10, 0.125),
        "eval/loss": (12, 1.5),
        "eval/top1": (12, 0.75),
        "eval/top5": (12, 0.875),
    }
    assert {tag: points(folder, tag) for tag in expected} == {tag: [point] for tag, point in expected.items()}


def test_flushed_points_survive_without_close(run: RunPaths) -> None:
    board = JobBoard(run, "00", first_step=0)
    train_points(board, range(1, 4), loss=1.0)
    board.flush()
    assert len(points(run.tensorboard / "jobs" / "00", "train/loss")) == 3
    board.close()


@pytest.mark.usefixtures("_seconds_apart")
@pytest.mark.parametrize("resumed_at", [0, 4])
def test_resumed_job_doubles_no_point(run: RunPaths, resumed_at: int) -> None:
    first = JobBoard(run, "01", first_step=0)
    train_points(first, range(1, 8), loss=1.0)
    first.close()
    second = JobBoard(run, "01", first_step=resumed_at)
    train_points(second, range(resumed_at + 1, 10), loss=2.0)
    second.close()
    expected = [(step, 1.0 if step <= resumed_at else 2.0) for step in range(1, 10)]
    assert points(run.tensorboard / "jobs" / "01", "train/loss") == expected


@pytest.mark.usefixtures("_seconds_apart")
def test_results_shown_again_do_not_double(run: RunPaths, config: RunConfig) -> None:
    results = [make_result("00"), make_result("01", 0.8, 0.89), make_result("01/refill", 0.79, 0.88)]
    for shown in (results[:2], results):
        board = RunBoard(run)
        board.config(config.to_yaml())
        board.results(shown[:1], config)
        board.results(shown, config)
        board.results(shown[:1], config)
        board.close()
    imp = points(run.tensorboard / "accuracy" / "imp", TOP1_CURVE)
    refill = points(run.tensorboard / "accuracy" / "refill", TOP1_CURVE)
    assert [step for step, _ in imp + refill] == [800, 1000, 790]
    assert np.allclose([value for _, value in imp + refill], [0.89, 0.9, 0.88])
    figures = read(run.tensorboard / "accuracy").Images("accuracy/figure")
    assert [figure.step for figure in figures] == [1, 3]
    assert figures[-1].encoded_image_string.startswith(PNG_SIGNATURE)
    pages = plugin_event_accumulator.EventAccumulator(str(run.tensorboard / "config")).Reload()
    (text,) = pages.Tensors("config")
    assert b"name: resnet20" in text.tensor_proto.string_val[0]


def test_each_job_has_its_hyperparameters_once(run: RunPaths, config: RunConfig) -> None:
    for _ in range(2):
        board = RunBoard(run)
        board.results([make_result("01/refill", 0.5)], config)
        board.close()
    folder = run.tensorboard / "jobs" / "01-refill"
    assert len(list(folder.iterdir())) == 1
    metadata = read(folder).SummaryMetadata("_hparams_/session_start_info")
    session = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info
    assert session.group_name == "01/refill"
    assert session.hparams["density"].number_value == 0.5
    assert session.hparams["method"].string_value == "refill"
    assert session.hparams["train.lr"].number_value == 0.1


def test_masks_are_shown_once(run: RunPaths, config: RunConfig) -> None:
    jobs = {job.id: job for job in plan(config)}
    dense = Mask.dense({"conv1": (8, 2, 3, 3), "conv2": (8, 8, 1, 1)})
    half = dense.replace({"conv1": torch.arange(8).lt(4)[:, None, None, None].expand(8, 2, 3, 3)})
    for _ in range(2):
        board = RunBoard(run)
        board.mask(jobs["01"], half, dense, {})
        board.mask(jobs["01/refill"], half, dense, {})
        board.close()
    masks = run.tensorboard / "masks"
    assert points(masks / "refill", "layer_density_by_round/conv1") == [(1, 0.5)]
    assert points(masks / "imp", "layer_density_by_round/conv2") == [(1, 1.0)]
    assert read(masks / "imp").Tags()["images"] == []
    assert sorted(read(masks / "refill").Tags()["images"]) == ["masks/conv1", "masks/conv2"]
    assert len(read(masks / "refill").Images("masks/conv1")) == 1


def test_ordered_cells_show_planted_blocks_as_rectangles() -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(12), rng.permutation(20)
    blocks = [
        Block(np.sort(rows[:5]).astype(np.int64), np.sort(columns[:8]).astype(np.int64)),
        Block(np.sort(rows[5:9]).astype(np.int64), np.sort(columns[8:14]).astype(np.int64)),
    ]
    after = torch.zeros(12, 20, dtype=torch.bool)
    for block in blocks:
        after[np.ix_(block.rows, block.columns)] = True
    _, cells = ordered_cells(None, after.reshape(12, 5, 2, 2), blocks)
    expected = np.full((12, 20), EMPTY)
    expected[:5, :8] = KEPT
    expected[5:9, 8:14] = KEPT
    assert (cells == expected).all()


def test_ordered_cells_say_what_became_of_each_weight() -> None:
    before = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    after = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    first, second = ordered_cells(before, after, ())
    assert first.tolist() == [[KEPT, KEPT, EMPTY], [DROPPED, EMPTY, EMPTY], [EMPTY, EMPTY, DROPPED]]
    assert second.tolist() == [[KEPT, KEPT, ADDED], [EMPTY] * 3, [EMPTY] * 3]


def test_accuracy_figure_has_a_curve_for_each_method(config: RunConfig) -> None:
    results = [make_result("00"), make_result("01", 0.8, 0.89), make_result("01/refill", 0.79, 0.88)]
    (axes,) = accuracy_figure(derive_results(plan(config), results)).axes
    curves = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert set(curves) == {"imp", "refill"}
    assert np.allclose(curves["imp"].get_xydata(), [(100, 90), (80, 89)])
    left, right = axes.get_xlim()
    assert left > right


def test_report_is_written(run: RunPaths) -> None:
    with pytest.raises(RunError, match="no job of this run is done"):
        write_report(run)
    dense = Mask.dense({"conv1": (4, 2, 3, 3)})
    tickets = {"00": 0.9, "01": 0.89, "01/refill": 0.885}
    for job, top1 in tickets.items():
        reasons = {"conv1": "too few rows"} if job == "01/refill" else {}
        save_structured(run.job(job), Structured(dense, {}, reasons))
        make_result(job, density=0.8 ** int(job[:2]), top1=top1).save(run.job(job))
    written = write_report(run)
    assert [path.name for path in written] == ["results.md", "accuracy.png", "masks.png"]
    assert all(path.read_bytes().startswith(PNG_SIGNATURE) for path in written[1:])
    assert "| 1 | refill | 80.00% | 88.50% | -1.50 | 99.00% | 10 s |" in written[0].read_text()
    assert "- 01/refill: conv1 (too few rows)" in written[0].read_text()


def put_event(run: RunPaths, event: str, age: float = 1.0, **details: object) -> None:
    append_json(run.log, {"time": NOW - age, "event": event, **details})


@pytest.mark.parametrize(
    ("ages", "event", "event_age", "state"),
    [
        ({"01": 1.0}, "first-step", 1.0, "running"),
        ({"01": 500.0}, "first-step", 500.0, "stopped"),
        ({}, "run-start", 5.0, "running"),
        ({}, "run-start", 500.0, "stopped"),
        ({"01": 1.0}, "failed", 1.0, "failed"),
    ],
)
def test_state_of_a_run(
    run: RunPaths, ages: Mapping[str, float], event: str, event_age: float, state: str
) -> None:
    make_result("00").save(run.job("00"))
    for job, age in ages.items():
        save_progress(run.job(job), make_progress(job, age))
    put_event(run, event, event_age)
    status = read_status(run, now=NOW)
    assert (status.state, status.done, len(status.jobs)) == (state, 1, 7)
    expected = "running" if state == "running" else "stopped"
    assert {job.id: job.state for job in status.jobs if job.progress} == dict.fromkeys(ages, expected)


def test_a_run_whose_jobs_are_all_done_is_done(run: RunPaths, config: RunConfig) -> None:
    for job in plan(config):
        make_result(job.id).save(run.job(job.id))
    status = read_status(run, now=NOW)
    assert (status.state, status.done, status.seconds_left) == ("done", 7, 0.0)


def test_time_left_is_the_current_job_and_those_to_come(run: RunPaths) -> None:
    assert read_status(run, now=NOW).seconds_left is None
    make_result("00", seconds=12.0).save(run.job("00"))
    save_progress(run.job("01"), make_progress("01"))
    assert read_status(run, now=NOW).seconds_left == pytest.approx(30.0 + 5 * 12.0)


def test_half_written_files_do_not_hide_a_run(run: RunPaths) -> None:
    make_result("00").save(run.job("00"))
    for torn in (run.job("01").progress, run.job("02").result):
        torn.parent.mkdir(parents=True, exist_ok=True)
    run.job("01").progress.write_text('{"job": "01", "epo')
    run.job("02").result.write_text('{"job": "02"}')
    put_event(run, "job-done", job="00")
    with open(run.log, "a") as log:
        log.write('{"time": 17, "event": "fai')
    status = read_status(run, now=NOW)
    assert (status.state, status.done) == ("running", 1)
    assert status.last_event is not None
    assert status.last_event["event"] == "job-done"


def test_json_is_strict(run: RunPaths) -> None:
    make_result("00").save(run.job("00"))
    save_progress(run.job("01"), make_progress("01"))
    put_event(run, "something-new", job="01")
    document = json.loads(read_status(run, now=NOW).to_json(), parse_constant=pytest.fail)
    assert (document["state"], document["jobs_done"], document["jobs_total"]) == ("running", 1, 7)
    assert document["jobs"][1]["progress"]["loss"] is None
    assert document["last_event"]["event"] == "something-new"


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, run: RunPaths) -> None:
    for folder, reason in ((tmp_path / "absent", "no such run directory"), (tmp_path, "not a run directory")):
        with pytest.raises(RunError, match=reason):
            read_status(RunPaths(folder))
    run.job_file.write_text("config: [")
    with pytest.raises(RunError, match="damaged"):
        read_status(run)
