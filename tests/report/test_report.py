"""TensorBoard files read back, and the files of a report."""

import csv
import io
import itertools
import json
import re
import statistics
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
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[import-untyped]

from distlth.config.read import parse_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset, Split
from distlth.errors import RunError
from distlth.facts.axes import DENSITY, SHARES, TimeAxes, time_axes
from distlth.facts.published import beside, published, published_document
from distlth.facts.rows import derive_results, read_results
from distlth.facts.status import read_status
from distlth.facts.summary import read_summary
from distlth.facts.times import read_times
from distlth.files import write_text
from distlth.plan import plan
from distlth.prune.mask import Mask
from distlth.report.board import RunBoard, curve_tag
from distlth.report.console import status_table
from distlth.report.pictures import accuracy_figure
from distlth.report.summary import write_joint_report, write_report
from distlth.report.text import percent
from distlth.run.curves import JobBoard
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.store import RunRecord, load_record
from distlth.run.tickets import save_structured
from distlth.ticket import Structured
from tests.report.finished import NODE, finished, finished_seeds, measure
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
    board = RunBoard(run)
    board.catch_up(results, config)
    board.close()
    figures = read(run.tensorboard / "accuracy").Images("accuracy/figure")
    assert [figure.step for figure in figures] == [1, 2, 3]
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


def test_runs_of_one_experiment_are_reported_together(tmp_path: Path) -> None:
    runs = [finished(tmp_path / str(seed) / "run", seed, 0.90 + seed / 100) for seed in range(3)]
    written = write_joint_report(runs, tmp_path / "joint")
    page = written[0].read_text()
    assert "Over 3 seeds winning tickets were found by imp, refill." in page
    assert "<td>100.0% (60.0%)</td>" in page  # refill keeps the same channels with each seed
    assert 'data-method="imp"' in page
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) == []  # it needs no network
    header, *lines = (tmp_path / "joint" / "points.csv").read_text().splitlines()
    assert header.split(",")[:4] == ["method", "round", "is_trunk", "density"]
    dense, ticket, refill = (dict(zip(header.split(","), line.split(","), strict=True)) for line in lines)
    assert float(dense["top1_mean"]) == pytest.approx(0.91)
    assert float(ticket["top1_std"]) == pytest.approx(0.01)
    assert (ticket["seeds"], ticket["wins"], refill["wins"]) == ("3", "True", "True")
    rows = (tmp_path / "joint" / "results.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == [*"000111222"]


def test_each_figure_says_which_split_it_is_of(tmp_path: Path) -> None:
    """Where there is a test split, verdict and curves are of it, whatever val says; one figure everywhere."""
    runs = [finished(tmp_path / str(seed) / "run", seed, 0.90 + seed / 100) for seed in range(3)]
    for seed, run in enumerate(runs):
        for job, top1 in (("00", 0.80), ("01", 0.70 + seed / 100), ("01/refill", 0.7)):
            result = JobResult.load(run.job(job))
            assert result is not None
            tested = replace(result, test_top1=top1, test_top5=0.95, test_loss=1.0, best_epoch=2)
            tested.save(run.job(job))
    written = {path.name: path.read_text() for path in write_joint_report(runs, tmp_path / "joint")[:4]}
    for text in (written["report.html"], written["results.md"]):
        assert "winning tickets were found by no method" in text
        assert "ccuracies are on test, after the best epoch on val of each job" in text
        assert all(word in text for word in ("test top-1", "test top-5", "val top-1", "71.00% ± 1.00"))
    head, _, ticket, _ = written["points.csv"].splitlines()
    row = dict(zip(head.split(","), ticket.split(","), strict=True))
    assert (row["split"], row["wins"]) == ("test", "False")
    assert float(row["top1_mean"]) == pytest.approx(0.71)
    head, *_, last, _ = written["results.csv"].splitlines()
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
    assert "distlth bench infer RUN --all" in written[0].read_text()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run of three seeds and its report; tickets are measured on two machines, one was trained on GPUs."""
    run = finished_seeds(tmp_path_factory.mktemp("measured") / "run", {0: 0.90, 1: 0.91, 2: 0.92})
    measure(run, "01/refill", saved=0.4)
    measure(run, "seed1/01/refill", saved=0.6)
    measure(run, "01", 0.1, replace(NODE, host="node2"))
    result = JobResult.load(run.job("01"))
    assert result is not None
    replace(result, device="H100", world_size=2).save(run.job("01"))
    board = RunBoard(run)
    board.results(list(read_status(run).results), load_record(run).config)
    board.close()
    write_report(run)
    return run


def test_page_tables_status_and_tensorboard_have_the_same_numbers(measured: RunPaths) -> None:
    jobs = json.loads(read_status(measured).to_json())["jobs"]
    done = {job["id"]: job["result"] for job in jobs if job["result"]}
    report = measured.report
    rows = {row["job"]: row for row in rows_of(report.results_csv)}
    assert list(rows) == list(done)
    for job, result in done.items():
        for name in ("density", "val_top1", "seconds"):
            assert float(rows[job][name]) == result[name]
        assert (rows[job]["top1"], float(rows[job]["top5"])) == (rows[job]["val_top1"], result["val_top5"])
    page, table = report.page.read_text(), report.results_table.read_text()
    points_of = rows_of(report.points_csv)
    assert [(point["method"], point["round"]) for point in points_of] == [
        *(("imp", "0"), ("imp", "1"), ("refill", "1"))
    ]
    axes = [*SHARES, *(axis for each in measured_axes(measured) for axis in each.axes)]
    for point in points_of:
        own = [
            result
            for result in done.values()
            if (result["method"], str(result["round"])) == (point["method"], point["round"])
        ]
        mean = statistics.fmean(result["val_top1"] for result in own)
        assert float(point["top1_mean"]) == pytest.approx(mean)
        for text in (page, table):
            assert f"{mean:.2%} ± {100 * float(point['top1_std']):.2f}" in text
        curves = measured.tensorboard / "accuracy" / point["method"]
        for axis in axes:
            value = point[axis.name] if axis.kind == "saved" else point[COLUMN_OF[axis.name]]
            if value:
                left = float(value) if axis.kind == "left" else 1 - float(value)
                drawn = dict(points(curves, curve_tag("val", "top1", axis.name)))
                assert drawn[round(1000 * left)] == pytest.approx(mean)
                assert percent(float(value), 1 if axis.kind == "saved" else 2) in page


COLUMN_OF = {"density": "density", "alive": "alive_density", "macs": "macs_share"}


def measured_axes(run: RunPaths) -> tuple[TimeAxes, ...]:
    results = read_results(run)
    done = {result.job: result for result in read_status(run).results}
    return time_axes(results, read_times(run, done))


def test_time_is_an_axis_only_of_one_machine(measured: RunPaths) -> None:
    """Seeds that are not measured are left out of the mean, and named; another machine has its own axis."""
    first, second = measured_axes(measured)
    assert [(each.setting.host, len(each.times)) for each in (first, second)] == [("node1", 2), ("node2", 1)]
    dense, ticket, refill = read_results(measured).points
    assert first.against_fastest is not None
    assert first.against_eager is not None
    assert [first.against_fastest.value(each) for each in (dense, ticket, refill)] == [0.0, None, 0.5]
    assert first.against_eager.value(dense) == 0.5  # by the faster runtime alone
    assert first.against_eager.value(refill) == pytest.approx(0.75)
    assert second.against_fastest is not None
    assert [second.against_fastest.value(each) for each in (ticket, refill)] == [pytest.approx(0.1), None]
    assert len(list(measured.report.root.glob("accuracy-time-*.png"))) == 4
    page = measured.report.page.read_text()
    assert "4 tickets are not measured" in page
    assert "5 tickets are not measured" in page
    assert [row["host"] for row in rows_of(measured.report.times_csv)] == ["node2", "node1", "node1"]
    assert float(rows_of(measured.report.times_csv)[1]["milliseconds"]) == pytest.approx(6.0)


def test_tensorboard_lays_its_curves_out(measured: RunPaths) -> None:
    pages = plugin_event_accumulator.EventAccumulator(str(measured.tensorboard / "layout")).Reload()
    (event,) = pages.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    accuracy, training = layout.category
    tags = [chart.multiline.tag[0] for chart in accuracy.chart]
    drawn = read(measured.tensorboard / "accuracy" / "refill").Tags()["scalars"]
    assert len(tags) == 7
    assert all(any(re.match(tag, name) for name in drawn) for tag in tags[:5])
    assert len(training.chart) == 2


def test_cost_is_told_by_device(measured: RunPaths) -> None:
    page = measured.report.page.read_text()
    assert "8 core-hours · 2 GPU-hours" in page
    assert "<td>2 GPU-hours</td>" in page


DATA_SET_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.parametrize(
    ("model", "images", "is_shown"),
    [("resnet18", 60_000, True), ("resnet20", 60_000, False), ("resnet18", 59_999, False)],
)
def test_the_papers_figures_stand_beside_the_same_experiment_alone(
    tmp_path: Path, model: str, images: int, is_shown: bool
) -> None:
    folder = make_manifest(tmp_path / "data", images)
    sections = {"data": {"path": str(folder)}, "model": {"name": model, "stem": "cifar"}}
    run = finished(tmp_path / "run", 0, 0.94, **sections)
    record = load_record(run)
    write_text(run.job_file, replace(record, data=Dataset.load(folder).identity).to_yaml())
    found = published(load_record(run))
    assert (found is not None) is is_shown
    assert read_summary(run).printed == found
    if found is not None:
        write_report(run)
        assert "Beside the paper" in run.report.page.read_text()
        first = found.curve("refill")[0]
        assert (first.round, first.density_is_printed, first.top1) == (1, True, 0.9414)
        assert first.density == pytest.approx(0.8029)
        (refill,) = [each for each in beside(read_results(run), found) if each.method == "refill"]
        assert refill.difference == pytest.approx(0.94 - 0.9414)
        assert "train.epochs 160 (here 4)" in found.differences(record.config)
        (axes,) = accuracy_figure(read_results(run), DENSITY, found).axes
        assert "refill, paper" in [str(line.get_label()) for line in axes.lines]
        assert "| 1 | refill | 75.00% | 80.29% | 94.00% ± 0.00 | 1 | 94.14% | -0.14 |" in (
            run.report.results_table.read_text()
        )


def make_manifest(folder: Path, images: int) -> Path:
    """A data set of ten classes whose files are empty."""
    folder.mkdir()
    splits = {"train": images - 10_000, "val": 10_000}
    sides = dict.fromkeys(("min_height", "max_height", "min_width", "max_width"), 32)
    made = {name: Split(count, name, 0, (count - 9, *[1] * 9), **sides) for name, count in splits.items()}
    for name in made:
        (folder / f"{name}.beton").touch()
    data_set = Dataset(folder, DATA_SET_CLASSES, (0.5,) * 3, (0.2,) * 3, made)
    (folder / "dataset.json").write_text(data_set.to_json())
    return folder


def test_the_printed_figures_can_be_read() -> None:
    """Each has its rounds, and lies within what its network can reach."""
    document = published_document()
    assert len(document["experiments"]) == 4
    for experiment in document["experiments"]:
        for method in experiment["methods"].values():
            assert len(method["rounds"]) == len(method["top1"]) == len(method.get("density", method["top1"]))
            assert all(50 < top1 < 100 for top1 in method["top1"])
