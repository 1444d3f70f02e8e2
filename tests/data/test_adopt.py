"""FFCV files as FFCV's own writer makes them, taken for a data set without copying."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ffcv.fields import FloatField, IntField, RGBImageField
from ffcv.writer import DatasetWriter

from distlth.data.beton import JPG, RAW, read_beton
from distlth.data.dataset import Dataset
from distlth.data.load.loader import EvalLoader, TrainLoader
from distlth.data.load.native import decode_jpeg
from distlth.data.pack.adopt import adopt
from distlth.data.pack.check import check
from distlth.errors import DataError
from jobs.cli import main
from tests.data.fixtures import picture

COUNT = {"train": 9, "val": 6, "test": 7}


class Pictures:
    """Pictures of three classes, as FFCV's writer reads them."""

    def __init__(self, split: str, labels: int = 3) -> None:
        self._split, self._labels = split, labels

    def __len__(self) -> int:
        return COUNT[self._split]

    def __getitem__(self, index: int) -> tuple[Any, int]:
        seed = 100 * len(self) + index
        return np.asarray(picture(40 + index, 64, seed)), index % self._labels


def write(path: Path, split: str, labels: int = 3, **image: Any) -> Path:
    """Write a file as ffcv-imagenet's script does."""
    fields = {"image": RGBImageField(**image), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Pictures(split, labels))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of three splits, with JPEGs and raw pixels both in the first."""
    folder = tmp_path_factory.mktemp("ffcv")
    half: dict[str, Any] = {"write_mode": "proportion", "compress_probability": 0.5, "jpeg_quality": 90}
    return {
        "train": write(folder / "train_500_0.50_90.ffcv", "train", **half),
        "val": write(folder / "val_500_0.50_90.beton", "val", write_mode="jpg", max_resolution=50),
        "test": write(folder / "test.beton", "test", write_mode="jpg"),
    }


@pytest.fixture
def adopted(files: dict[str, Path], tmp_path: Path) -> Dataset:
    """Copies of the files, adopted."""
    for split, file in files.items():
        shutil.copy(file, tmp_path / f"{split}.ffcv")
    train, val, test = (tmp_path / f"{split}.ffcv" for split in files)
    return adopt(train, val, tmp_path / "data", test=test, workers=2)


def test_an_adopted_data_set_is_one_like_others(adopted: Dataset, tmp_path: Path) -> None:
    """Checked, loaded to the same bits twice, and none of it copied."""
    assert adopted.classes == ("0", "1", "2")
    assert {split: adopted.split(split).count for split in adopted.names} == COUNT
    assert (adopted.split("val").max_width, adopted.split("train").max_width) == (50, 64)
    assert adopted.notes[0].startswith("layout: FFCV files, adopted: ")
    assert check(adopted.path, workers=1).num_samples == 22
    assert sum(file.lstat().st_size for file in adopted.path.iterdir()) < 5000
    index = read_beton(adopted.file("train"), 3)
    assert {*index.modes.tolist()} == {JPG, RAW}
    one, other = (
        [
            images
            for images, _ in TrainLoader(adopted, batch_size=4, resolution=16, seed=1, threads=n).epoch(0)
        ]
        for n in (1, 2)
    )
    assert torch.equal(torch.cat(one), torch.cat(other))


def test_mean_and_deviation_are_those_of_the_pixels_that_are_trained_on(adopted: Dataset) -> None:
    index, stored = read_beton(adopted.file("train"), 3), np.fromfile(adopted.file("train"), np.uint8)
    pixels = []
    for begin, length, mode, height, width in zip(
        index.offsets, index.lengths, index.modes, index.heights, index.widths, strict=True
    ):
        data = np.array(stored[begin : begin + length])
        image = decode_jpeg(data, height, width) if mode == JPG else data
        assert image is not None
        pixels.append(image.reshape(-1, 3))
    every = np.concatenate(pixels).astype(np.float64) / 255
    assert adopted.mean == pytest.approx(every.mean(axis=0))
    assert adopted.std == pytest.approx(every.std(axis=0))


@pytest.mark.parametrize("mode", ["raw", "smart"])
def test_other_modes_are_adopted(files: dict[str, Path], tmp_path: Path, mode: str) -> None:
    train = write(tmp_path / "train.beton", "train", write_mode=mode, smart_threshold=3 * 64 * 44)
    dataset = adopt(train, files["val"], tmp_path / "data", workers=1)
    modes = read_beton(dataset.file("train"), 3).modes
    assert {*modes.tolist()} == ({RAW} if mode == "raw" else {RAW, JPG})
    whole: dict[str, Any] = {"split": "train", "batch_size": 9, "ratio": 1.0}
    with closing(EvalLoader(dataset, resolution=40, threads=1, **whole)) as loader:
        images, labels = next(iter(loader))
    assert labels.tolist() == [0, 1, 2] * 3
    first = torch.from_numpy(Pictures("train")[0][0][:, 12:52].copy()).permute(2, 0, 1) / 255
    found = images[0] * torch.tensor(dataset.std).view(3, 1, 1) + torch.tensor(dataset.mean).view(3, 1, 1)
    assert torch.allclose(found, first, atol=1e-5)


def test_the_command_names_classes_and_refuses_what_it_cannot_use(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("cat\ndog\nbird\n")
    asked = ["data", "adopt", str(files["train"]), str(files["val"]), "--out", str(tmp_path / "data")]
    assert main([*asked, "--classes", str(names), "--workers", "1"]) == 0
    assert "9 + 6 images of 3 classes (train, val)" in capsys.readouterr().out
    assert Dataset.load(tmp_path / "data").classes == ("cat", "dog", "bird")
    assert main(asked) == 2
    assert "exists already; overwrite it" in capsys.readouterr().err
    names.write_text("cat\ndog\n")
    assert main([*asked, "--overwrite", "--classes", str(names)]) == 2
    assert "classes.txt: 2 different names, expected 3" in capsys.readouterr().err
    assert Dataset.load(tmp_path / "data").classes == ("cat", "dog", "bird")
    assert main([*asked[:4], str(files["test"]), *asked[4:], "--overwrite"]) == 0
    assert "9 + 6 + 7 images of 3 classes (train, val, test)" in capsys.readouterr().out


def damage(path: Path, index: int, at: int, data: bytes) -> None:
    beton = read_beton(path, 3)
    with open(path, "r+b") as file:
        file.seek(int(beton.offsets[index]) + at)
        file.write(data)


def test_changes_after_the_adoption_are_found(adopted: Dataset, tmp_path: Path) -> None:
    damage(adopted.file("train"), 4, 30, b"changed")
    with pytest.raises(DataError, match=r"train\.beton: sample 4 has changed"):
        check(adopted.path, workers=1)
    (tmp_path / "val.ffcv").rename(tmp_path / "moved.ffcv")
    with pytest.raises(DataError, match=r"val\.beton: leads to .*val\.ffcv, which is missing; put it back"):
        Dataset.load(adopted.path)


def test_files_that_cannot_be_adopted_are_named(
    adopted: Dataset, files: dict[str, Path], digits: Dataset, tmp_path: Path
) -> None:
    train, val, out = tmp_path / "train.ffcv", tmp_path / "val.ffcv", tmp_path / "new"

    def refused(message: str, *pair: Path) -> None:
        first, second = pair or (train, val)
        with pytest.raises(DataError, match=message):
            adopt(first, second, out, workers=1)
        assert not out.exists()

    damage(adopted.file("val"), 2, 0, b"\0\0\0\0")
    refused(r"val\.ffcv: 1 of 6 images cannot be used: sample 2 \(no JPEG\)")
    shutil.copy(files["val"], val)
    head = read_beton(adopted.file("val"), 3)
    jpeg = val.read_bytes()[head.offsets[1] : head.offsets[1] + head.lengths[1]]
    (size,) = re.finditer(rb"\xff\xc0\0\x11\x08(.{4})", jpeg, re.S)
    damage(adopted.file("val"), 1, size.start(1), b"\0\x09\0\x09")
    refused(r"sample 1 \(9 x 9 pixels, its row says 50 x \d+\)")
    os.truncate(val, val.stat().st_size // 2)
    refused(r"val\.ffcv: cut short")
    refused(r"val\.ffcv: train and val have different labels: 2", train, write(val, "val", labels=2))
    wrong = write(tmp_path / "test.beton", "test", labels=2)
    with pytest.raises(DataError, match=r"test\.beton: train and test have different labels: 2"):
        adopt(train, files["val"], out, test=wrong, workers=1)
    refused(r"train\.beton: was made by `distlth data build`", digits.file("train"), files["val"])
    fields = {"covariate": FloatField(), "label": IntField()}
    DatasetWriter(str(val), fields, num_workers=1).from_indexed_dataset([(0.5, 1)])
    refused(r"val\.ffcv: fields covariate, label; expected image \(RGB\) and label \(a number\) alone")
    fields = {"image": IntField(), "label": IntField()}
    DatasetWriter(str(val), fields, num_workers=1).from_indexed_dataset([(5, 1)])
    refused(r"val\.ffcv: fields image, label; expected image \(RGB\)")
    shutil.copy(files["train"], tmp_path / "alone.beton")
    with pytest.raises(DataError, match=r"alone\.beton: has no checksums; `distlth data adopt TRAIN VAL"):
        read_beton(tmp_path / "alone.beton", 3)
