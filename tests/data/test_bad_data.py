"""Data that goes bad while a job trains: reported with file and sample, within a batch, without a hang."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distlth.config.read import load_config
from distlth.config.schema import RunConfig
from distlth.data.beton import FIELD, FIELDS, HEADER, SAMPLE, read_beton
from distlth.data.dataset import Dataset
from distlth.errors import DataError
from distlth.run.paths import RunPaths
from distlth.run.store import open_run
from tests import small_job
from tests.chaos.harness import Chaos, command, events
from tests.small_run import run, small_run
from tests.users import as_ordinary_user


@pytest.fixture
def data(digits: Dataset, tmp_path: Path) -> Dataset:
    """A data set of our own to damage."""
    shutil.copytree(digits.path, tmp_path / "data")
    return Dataset.load(tmp_path / "data")


def config_of(quickstart: Path, data: Dataset, *more: str) -> RunConfig:
    overrides = ["cluster.workers=1", "train.epochs=4", "train.batch_size=160", "data.resolution=8"]
    return load_config(quickstart, [*overrides, "prune.rewind_epoch=1", f"data.path={data.path}", *more])


def train(config: RunConfig, data: Dataset, run: RunPaths, at_first_step: Callable[[], None]) -> None:
    def note(event: str, **_details: Any) -> None:
        if event == "first-step":
            at_first_step()

    small_job.train(config, data, run, note)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace_by_noise(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(os.urandom(path.stat().st_size))
    os.replace(other, path)


@pytest.mark.parametrize("harm", [cut, replace_by_noise, Path.unlink])
@pytest.mark.parametrize(("split", "cache"), [("train", "os"), ("train", "process"), ("val", "os")])
def test_a_file_that_changes_while_it_is_read_is_named(
    quickstart: Path, data: Dataset, tmp_path: Path, harm: Callable[[Path], None], split: str, cache: str
) -> None:
    config = config_of(quickstart, data, f"data.cache={cache}")
    named = rf"{split}\.beton: was cut, replaced or changed while it was read, before sample \d+; put"
    with pytest.raises(DataError, match=named):
        train(config, data, RunPaths(tmp_path / "run"), lambda: harm(data.file(split)))


def touch(path: Path) -> None:
    os.utime(path)


def copy_back(path: Path) -> None:
    shutil.copy(path, path.with_name("other"))
    os.replace(path.with_name("other"), path)


@pytest.mark.parametrize(("cache", "harmless"), [("os", touch), ("process", copy_back)])
def test_a_new_time_of_change_alone_ends_nothing(
    quickstart: Path,
    data: Dataset,
    tmp_path: Path,
    harmless: Callable[[Path], None],
    cache: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config_of(quickstart, data, f"data.cache={cache}", "train.epochs=2")
    train(config, data, RunPaths(tmp_path / "run"), lambda: harmless(data.file("train")))
    assert caplog.messages == [
        f"{data.file('train')}: its time of change is new, its size and index are not:"
        " reading it on, with checksums"
    ]


def test_images_that_change_under_the_same_index_are_named(
    quickstart: Path, data: Dataset, tmp_path: Path
) -> None:
    def change_pixels() -> None:
        path = data.file("train")
        index = read_beton(path, 10)
        with open(path, "r+b") as file:
            file.seek(int(index.offsets.min()))
            file.write(bytes(int((index.offsets + index.lengths).max() - index.offsets.min())))

    with pytest.raises(
        DataError, match=r"train\.beton: was cut, replaced or changed .* before sample \d+; put"
    ):
        train(config_of(quickstart, data), data, RunPaths(tmp_path / "run"), change_pixels)


def test_a_file_that_may_not_be_read_is_named_at_once(open_path: Path, data: Dataset) -> None:
    shutil.copytree(data.path, open_path / "data")
    dataset = Dataset.load(open_path / "data")
    dataset.file("val").chmod(0)
    named = r"val\.beton: cannot be read \(Permission denied\)"
    with as_ordinary_user():
        for read in (Dataset.load, lambda path: read_beton(path / "val.beton", 10)):
            with pytest.raises(DataError, match=named):
                read(open_path / "data")
    dataset.path.chmod(0)
    named = r"data/dataset\.json: cannot be read \(Permission denied\)"
    with as_ordinary_user(), pytest.raises(DataError, match=named):
        Dataset.load(dataset.path)


def test_no_file_that_is_not_a_regular_one_is_opened(data: Dataset) -> None:
    for file in (data.file("train"), data.path / "dataset.json"):
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(DataError, match=rf"{file}: cannot be read \(not a regular file\)"):
            Dataset.load(data.path)


def set_label(path: Path, sample: int, label: int) -> None:
    place = HEADER.itemsize + len(FIELDS) * FIELD.itemsize + sample * SAMPLE.itemsize
    with open(path, "r+b") as file:
        file.seek(place + SAMPLE.fields["label"][1])  # type: ignore[index]
        file.write(label.to_bytes(8, "little"))


def test_a_label_out_of_range_is_named_with_its_sample(
    quickstart: Path, data: Dataset, tmp_path: Path
) -> None:
    set_label(data.file("train"), 29, 10)
    assert read_beton(data.file("train"), 11).labels[29] == 10
    with pytest.raises(DataError, match=r"train\.beton: sample 29: its label is not in 0\.\.9"):
        train(config_of(quickstart, data), data, RunPaths(tmp_path / "run"), lambda: None)


def test_fewer_classes_than_labels_are_named_with_the_sample(
    quickstart: Path, data: Dataset, tmp_path: Path
) -> None:
    fewer = Dataset(data.path, data.classes[:9], data.mean, data.std, data.splits)
    with pytest.raises(DataError, match=r"train\.beton: sample \d+: its label is not in 0\.\.8"):
        train(config_of(quickstart, data), fewer, RunPaths(tmp_path / "run"), lambda: None)


def test_another_number_of_classes_than_the_models_is_refused(
    quickstart: Path, data: Dataset, tmp_path: Path
) -> None:
    config, paths = config_of(quickstart, data), RunPaths(tmp_path / "run")
    open_run(paths, config, {"digest": data.digest, "classes": 10})
    with pytest.raises(Exception, match=r"the files of this run do not fit another data\.classes: 10 -> 12"):
        open_run(paths, config, {"digest": data.digest, "classes": 12}, ["data"])


def test_data_cut_under_a_run_ends_it_with_one_line(data: Dataset, tmp_path: Path) -> None:
    """Each of two ranks finds it at its own batch: neither waits for the other."""
    paths = RunPaths(tmp_path / "runs" / "run")
    arguments = small_run(data, paths.root.parent, "train.epochs=200", "train.eval_every=200")
    with command(arguments, Chaos(tmp_path / "chaos"), ends=(2,)) as process:
        process.launch()
        process.wait_for(lambda: bool(events(paths, "first-step")))
        cut(data.file("train"))
        code, said = process.end()
    assert code == 2, said
    assert said.startswith(f"error: {data.file('train')}: was cut, replaced or changed")
    assert said.count("\n") == 1
    assert events(paths, "failed")
    refused = run(data, paths.root.parent)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "train.beton" in refused.stderr
