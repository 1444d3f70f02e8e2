"""TensorBoard files read back, and the files of a report."""

import io
import itertools
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
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
from distlth.files import write_text
from distlth.plan import plan
from distlth.prune.mask import Mask
from distlth.report.board import RunBoard, curve_tag
from distlth.report.console import status_table
from distlth.report.pictures import accuracy_figure
from distlth.report.summary import write_joint_report, write_report
from distlth.run.curves import JobBoard
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.store import RunRecord, load_record
from distlth.run.tickets import save_structured
from distlth.ticket import Structured
from tests.tiny_run import MINIMAL, NOW, TRAIN, make_config, make_result, new_run

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def config() -> RunConfig:
    return make_config()


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    return new_run(tmp_path / "tiny")


@pytest.fixture
def _seconds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files of one folder are ordered by the second in their names: let each be made in its own."""
    clock = itertools.count(int(time.time()))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))


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
    board.evaluation("val", 12, loss=1.5, top1=0.75, top5=0.875)
    board.close()
    folder = run.tensorboard / "jobs" / "03-refill"
    expected = {
        "train/loss": (10, 2.0),
        "train/lr": (10, 0.5),
        "speed/images_per_second": (10, 123.0),
        "speed/data_wait": (10, 0.25),
        "ticket/density": (10, 0.125),
        "val/loss": (12, 1.5),
        "val/top1": (12, 0.75),
        "val/top5": (12, 0.875),
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
    imp = points(run.tensorboard / "accuracy" / "imp", curve_tag("val", "top1"))
    refill = points(run.tensorboard / "accuracy" / "refill", curve_tag("val", "top1"))
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


def test_accuracy_figure_has_a_curve_for_each_method(config: RunConfig) -> None:
    results = [make_result("00"), make_result("01", 0.8, 0.89), make_result("01/refill", 0.79, 0.88)]
    (axes,) = accuracy_figure(derive_results(plan(config), results)).axes
    curves = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert set(curves) == {"imp", "refill"}
    assert np.allclose(curves["imp"].get_xydata(), [(100, 90), (80, 89)])
    left, right = axes.get_xlim()
    assert left > right


def finished(root: Path, seed: int, top1: float) -> RunPaths:
    """A run of a seed whose dense network and first ticket are done."""
    paths = RunPaths(root)
    config = parse_config({**MINIMAL, "name": root.name, "seed": seed}, "test")
    write_text(paths.job_file, RunRecord(config, {}, {}, NOW).to_yaml())
    for job, accuracy in (("00", top1), ("01", top1 + 0.01)):
        save_structured(paths.job(job), Structured(Mask.dense({"conv1": (4, 2, 3, 3)})))
        result = make_result(job, density=0.8 ** int(job), top1=accuracy)
        replace(result, alive=result.kept, macs=100, alive_macs=90).save(paths.job(job))
    return paths


def test_runs_of_one_experiment_are_reported_together(tmp_path: Path) -> None:
    runs = [finished(tmp_path / str(seed) / "run", seed, 0.90 + seed / 100) for seed in range(3)]
    written = write_joint_report(runs, tmp_path / "joint")
    page = written[0].read_text()
    assert "Over 3 seeds winning tickets were found by imp." in page
    assert 'data-method="imp"' in page
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) == []  # it needs no network
    header, *lines = (tmp_path / "joint" / "points.csv").read_text().splitlines()
    assert header.split(",")[:4] == ["method", "round", "is_trunk", "density"]
    dense, ticket = (dict(zip(header.split(","), line.split(","), strict=True)) for line in lines)
    assert float(dense["top1_mean"]) == pytest.approx(0.91)
    assert float(ticket["top1_std"]) == pytest.approx(0.01)
    assert (ticket["seeds"], ticket["wins"]) == ("3", "True")
    rows = (tmp_path / "joint" / "results.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["0", "0", "1", "1", "2", "2"]


def test_each_figure_says_which_split_it_is_of(tmp_path: Path) -> None:
    """Where there is a test split, verdict and curves are of it, whatever val says; one figure everywhere."""
    runs = [finished(tmp_path / str(seed) / "run", seed, 0.90 + seed / 100) for seed in range(3)]
    for seed, run in enumerate(runs):
        for job, top1 in (("00", 0.80), ("01", 0.70 + seed / 100)):
            result = JobResult.load(run.job(job))
            assert result is not None
            tested = replace(result, test_top1=top1, test_top5=0.95, test_loss=1.0, best_epoch=2)
            tested.save(run.job(job))
    written = {path.name: path.read_text() for path in write_joint_report(runs, tmp_path / "joint")[:4]}
    for text in (written["report.html"], written["results.md"]):
        assert "winning tickets were found by no method" in text
        assert "ccuracies are on test, after the best epoch on val of each job" in text
        assert all(word in text for word in ("test top-1", "test top-5", "val top-1", "71.00% ± 1.00"))
    head, _, ticket = written["points.csv"].splitlines()
    row = dict(zip(head.split(","), ticket.split(","), strict=True))
    assert (row["split"], row["wins"]) == ("test", "False")
    assert float(row["top1_mean"]) == pytest.approx(0.71)
    head, *_, last = written["results.csv"].splitlines()
    row = dict(zip(head.split(","), last.split(","), strict=True))
    assert [row[name] for name in ("split", "top1", "val_top1", "best_epoch")] == [
        "test",
        "0.72",
        "0.93",
        "2",
    ]
    status = read_status(runs[2])
    shown = json.loads(status.to_json())
    assert (shown["split"], shown["jobs"][1]["result"]["test_top1"]) == ("test", 0.72)
    lines = io.StringIO()
    Console(file=lines, width=140).print(status_table(status))
    assert "test top-1" in lines.getvalue()
    assert "72.00%" in lines.getvalue()
    board = RunBoard(runs[2])
    board.results(status.results, load_record(runs[2]).config)
    board.close()
    curve = points(runs[2].tensorboard / "accuracy" / "imp", curve_tag("test", "top1"))
    assert [value for _, value in curve] == pytest.approx([0.72, 0.80])


def test_runs_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    first, again = finished(tmp_path / "a", 0, 0.9), finished(tmp_path / "b", 0, 0.9)
    with pytest.raises(RunError, match="a: given twice"):
        write_joint_report([first, RunPaths(tmp_path / "b" / ".." / "a")], tmp_path / "out")
    with pytest.raises(RunError, match="a and b both have seed 0"):
        write_joint_report([first, again], tmp_path / "out")
    other = parse_config({**MINIMAL, "name": "b", "seed": 1, "train": {**TRAIN, "lr": 0.7}}, "test")
    write_text(again.job_file, RunRecord(other, {}, {}, NOW).to_yaml())
    with pytest.raises(RunError, match=r"not one experiment with different seeds: train\.lr: 0\.1 -> 0\.7"):
        write_joint_report([first, again], tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
    assert [path.name for path in written] == [
        *("report.html", "results.md", "results.csv", "points.csv"),
        *("accuracy.png", "masks.png"),
    ]
    assert all(path.read_bytes().startswith(PNG_SIGNATURE) for path in written[4:])
    table = written[1].read_text()
    assert "| 1 | refill | 80.00% | – | – | 88.50% | -1.50 | 99.00% | 10 s |" in table
    assert "- 01/refill: 1 x too few rows: conv1" in table
