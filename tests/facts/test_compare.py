"""Two runs beside each other: every kind of difference is found, the first one first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distlth.config.read import parse_config
from distlth.errors import RunError
from distlth.facts.compare import Comparison, Finding, compare_runs, step_difference, tensor_differences
from distlth.files import append_json, load_tensors, save_tensors, write_text
from distlth.prune.mask import Mask
from distlth.run.curves import JobBoard
from distlth.run.paths import JobPaths, RunPaths
from distlth.run.results import JobResult
from distlth.run.store import RunRecord
from distlth.run.tickets import save_structured
from distlth.ticket import Structured
from jobs.cli import main
from tests.tiny_run import make_result

JOBS = ("00", "01", "01/refill")
LAYER = torch.arange(12.0).reshape(3, 4, 1, 1) - 5


def make_run(root: Path) -> RunPaths:
    """The files that a run of three jobs leaves, small."""
    run = RunPaths(root)
    document = {
        "name": "tiny",
        "data": {"path": "data"},
        "model": {"name": "resnet20"},
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.1},
        "prune": {"rounds": 1, "branches": [{"method": "refill"}]},
    }
    file = RunRecord(parse_config(document, "test"), {"torch": "2.0", "ray": "1"}, {"digest": "d"}, 0.0)
    write_text(run.job_file, file.to_yaml())
    for path in run.seed(0).files:
        save_tensors(path, {"conv.weight": LAYER})
    for job in JOBS:
        fill_job(run, job)
    return run


def fill_job(run: RunPaths, job: str) -> None:
    paths = run.job(job)
    kept = (-9 if job == "00" else 0) < LAYER
    save_structured(paths, Structured(Mask({"conv": kept, "last": torch.ones(1, 1, 1, 1).bool()})))
    save_tensors(paths.weights, {"conv.weight": LAYER * kept, "fc.bias": torch.tensor([0.5, float("nan")])})
    board = JobBoard(run, job, first_step=0)
    for epoch in range(2):
        line = {"epoch": epoch, "step": 10 * epoch + 10, "loss": 1.0 / (epoch + 1), "lr": 0.1}
        append_json(paths.metrics, {**line, "images_per_second": 1.0, "data_wait": 0.0, "seconds": 1.0})
        for step in (10 * epoch + 5, 10 * epoch + 10):
            board.train(step, loss=1.0 / step, lr=0.1, images_per_second=1, data_wait=0, density=1)
    board.close()
    make_result(job).save(paths)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunPaths, RunPaths]:
    first = make_run(tmp_path / "a")
    shutil.copytree(first.root, tmp_path / "b")
    return first, RunPaths(tmp_path / "b")


def differing(comparison: Comparison) -> list[tuple[str, str]]:
    return [(found.place, found.what) for found in comparison.findings if found.state == "differs"]


def test_a_copy_is_identical(runs: tuple[RunPaths, RunPaths], capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare_runs(*runs)
    assert {found.state for found in comparison.findings} == {"same"}
    assert comparison.jobs_compared == len(JOBS)
    assert main(["compare", *(str(run.root) for run in runs)]) == 0
    assert "identical in all that both have; 3 jobs compared" in capsys.readouterr().out


def edit_config(run: RunPaths, section: str, key: str, value: object) -> None:
    document = yaml.safe_load(run.job_file.read_text())
    (document if section in document else document["config"])[section][key] = value
    run.job_file.write_text(yaml.safe_dump(document))


def edit_result(paths: JobPaths, **values: float) -> None:
    result = JobResult.load(paths)
    assert result is not None
    replace(result, **values).save(paths)  # type: ignore[arg-type]


def edit_weights(path: Path) -> None:
    """One value, by its last bit."""
    tensors, metadata = load_tensors(path)
    tensors["conv.weight"].view(torch.int32)[2, 1] ^= 1
    save_tensors(path, tensors, metadata)


def edit_metrics(paths: JobPaths) -> None:
    paths.metrics.write_text(paths.metrics.read_text().replace('"loss": 0.5', '"loss": 0.5000000001'))


def edit_mask(paths: JobPaths) -> None:
    kept = LAYER > 1
    save_structured(paths, Structured(Mask({"conv": kept, "last": torch.ones(1, 1, 1, 1).bool()})))


def edit_curve(run: RunPaths, job: str) -> None:
    """The loss of steps 11 to 15 was another one."""
    edit_metrics(run.job(job))
    board = JobBoard(run, job, first_step=10)
    board.train(15, loss=9.0, lr=0.1, images_per_second=1, data_wait=0, density=1)
    board.close()


Edit = Callable[[RunPaths], object]
EDITS: list[tuple[Edit, str, str, str]] = [
    (lambda run: edit_config(run, "train", "lr", 0.2), "run", "config", "train.lr: 0.1 | 0.2"),
    (lambda run: edit_config(run, "data", "digest", "e"), "run", "data", "data.digest: 'd' | 'e'"),
    (lambda run: edit_weights(run.seed(0).init), "run", "init", "conv.weight: 1 of 12 values"),
    (lambda run: edit_weights(run.seed(0).rewind), "run", "rewind", "conv.weight: 1 of 12 values"),
    (lambda run: edit_mask(run.job("01")), "01", "mask", "conv"),
    (lambda run: edit_metrics(run.job("01/refill")), "01/refill", "metrics", "epoch 2 (up to step 20): loss"),
    (lambda run: edit_curve(run, "01"), "01", "metrics", "the loss first differs in steps 11 to 15"),
    (lambda run: edit_weights(run.job("00").weights), "00", "weights", "conv.weight: 1 of 12 values"),
    (lambda run: edit_result(run.job("00"), val_top1=0.8), "00", "accuracy", "val_top1 0.9 | 0.8"),
]


@pytest.mark.parametrize(("edit", "place", "what", "words"), EDITS, ids=[f"{e[1]}-{e[2]}" for e in EDITS])
def test_each_difference_is_found_alone(
    runs: tuple[RunPaths, RunPaths],
    edit: Edit,
    place: str,
    what: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(runs[1])
    comparison = compare_runs(*runs)
    assert differing(comparison) == [(place, what)]
    assert any(words in line for line in comparison.findings[_index(comparison, place, what)].details)
    assert main(["compare", *(str(run.root) for run in runs)]) == 1
    assert f"first difference: {place} {what}: " in capsys.readouterr().out


def _index(comparison: Comparison, place: str, what: str) -> int:
    return [(found.place, found.what) for found in comparison.findings].index((place, what))


def test_the_first_difference_is_the_cause(runs: tuple[RunPaths, RunPaths]) -> None:
    """A run that goes astray in round 1 differs from there on; round 1's metrics come first."""
    second = runs[1]
    edit_weights(second.job("01").weights)
    edit_mask(second.job("01/refill"))
    edit_metrics(second.job("01"))
    first = compare_runs(*runs).first_difference
    assert first is not None
    assert (first.place, first.what) == ("01", "metrics")


@pytest.mark.parametrize(
    ("section", "key", "value", "what"),
    [
        ("cluster", "lanes", 2, "settings"),
        ("data", "path", "elsewhere", "settings"),
        ("versions", "torch", "2.1", "versions"),
        ("cluster", "workers", 2, "world size"),
    ],
)
def test_how_it_was_run_is_told_and_does_not_count(
    runs: tuple[RunPaths, RunPaths], section: str, key: str, value: object, what: str
) -> None:
    edit_config(runs[1], section, key, value)
    comparison = compare_runs(*runs)
    assert differing(comparison) == [("run", what)]
    assert comparison.first_difference is None


def test_an_unfinished_run_is_compared_as_far_as_it_is(runs: tuple[RunPaths, RunPaths]) -> None:
    second = runs[1]
    shutil.rmtree(second.job("01/refill").root)
    second.job("01").result.unlink()
    second.job("01").weights.unlink()
    comparison = compare_runs(*runs)
    assert comparison.first_difference is None
    assert comparison.jobs_compared == 1
    missing = Finding("01", "weights", "missing", ("only in the first",))
    assert missing in comparison.findings
    edit_metrics(second.job("01"))
    assert differing(compare_runs(*runs)) == [("01", "metrics")]


def test_json_has_everything(runs: tuple[RunPaths, RunPaths], capsys: pytest.CaptureFixture[str]) -> None:
    edit_mask(runs[1].job("01"))
    assert main(["compare", "--json", *(str(run.root) for run in runs)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["identical"] is False
    assert document["first_difference"]["place"] == "01"
    assert len(document["findings"]) == 7 + 4 * len(JOBS)


def test_what_is_no_run_or_damaged_is_an_error(
    runs: tuple[RunPaths, RunPaths], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs[0].root), str(tmp_path / "none")]) == 2
    assert "no such run directory" in capsys.readouterr().err
    weights = runs[1].job("01").weights
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(RunError, match=f"{weights}: damaged"):
        compare_runs(*runs)


@given(st.lists(st.floats(width=32), min_size=1, max_size=8), st.lists(st.floats(width=32), max_size=8))
def test_tensors_are_the_same_when_their_bits_are(first: list[float], second: list[float]) -> None:
    tensors = [{"a": torch.tensor(values)} for values in (first, second)]
    same = tensors[0]["a"].numpy().tobytes() == tensors[1]["a"].numpy().tobytes()
    assert (tensor_differences(*tensors) == []) == same
    assert tensor_differences(tensors[0], tensors[0]) == []


def test_tensors_of_other_kinds_are_named() -> None:
    first = {"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.tensor([0.0])}
    second = {"a": torch.zeros(2).half(), "d": torch.zeros(2), "c": torch.tensor([-0.0])}
    assert tensor_differences(first, second) == [
        "b: only in the first",
        "d: only in the second",
        "a: (2,) float32 | (2,) float16",
        "c: 1 of 1 values, by up to 0",
    ]


def test_a_step_is_told_by_the_points_that_both_have() -> None:
    nan = float("nan")
    assert step_difference({5: nan, 10: 1.0}, {5: nan, 10: 1.0, 15: 2.0}) == []
    assert step_difference({5: 1.0, 7: 3.0, 10: 1.0}, {5: 1.0, 10: 2.0}) == [
        "the loss first differs in steps 6 to 10"
    ]
