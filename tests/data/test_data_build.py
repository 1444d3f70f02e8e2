"""Building a packed data set: sources, conversion, broken images, interruption, and the check afterwards."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import ffcv.fields.rgb_image
import numpy as np
import pytest
from PIL import Image

from distlth.data.beton import IMAGE, SAMPLE, head, read_beton
from distlth.data.dataset import MANIFEST, Dataset
from distlth.data.layouts import scan
from distlth.data.layouts.base import Sample
from distlth.data.load.native import decode_jpeg
from distlth.data.pack.build import BuildOptions, build
from distlth.data.pack.check import check
from distlth.data.pack.encode import Encoding, encode_jpeg
from distlth.data.pack.image import Pixels, read_image
from distlth.data.pack.pages import shuffled
from distlth.data.pack.writer import PAGE_SIZE
from distlth.errors import DataError
from jobs.cli import main
from tests.data.fixtures import image_folder, picture, small_dataset, small_pages
from tests.users import as_ordinary_user

ONE_WORKER = BuildOptions(workers=1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight JPEGs."""
    return image_folder(tmp_path_factory.mktemp("source") / "images")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(tmp_path_factory.mktemp("data"))


def grey(path: Path, value: int = 100, size: tuple[int, int] = (20, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


# Sources


def test_a_split_is_stratified_and_seeded(tmp_path: Path) -> None:
    for label, count in enumerate((10, 40, 2)):
        for number in range(count):
            grey(tmp_path / f"class{label}" / f"{number}.png")
    source = scan(tmp_path, val_fraction=0.2, seed=1)
    assert Counter(sample.label for sample in source.val) == {0: 2, 1: 8, 2: 1}
    assert Counter(sample.label for sample in source.train) == {0: 8, 1: 32, 2: 1}
    assert not {sample.path for sample in source.train} & {sample.path for sample in source.val}
    assert scan(tmp_path, val_fraction=0.2, seed=1) == source
    assert scan(tmp_path, val_fraction=0.2, seed=2).val != source.val


def test_an_imagenet_tree(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for name in ("n02", "n01"):
            for number in range(count):
                grey(tmp_path / split / name / f"{name}_{number}.JPEG")
    (tmp_path / "train" / "n01" / "notes.txt").write_text("not an image")
    grey(tmp_path / "train" / "n01" / ".hidden.png")
    source = scan(tmp_path)
    assert source.classes == ("n01", "n02")
    assert [sample.label for sample in source.train] == [0, 0, 0, 1, 1, 1]
    assert [sample.path.name for sample in source.val] == [f"n0{c}_{n}.JPEG" for c in (1, 2) for n in (0, 1)]


def test_a_tiny_imagenet_tree(tmp_path: Path) -> None:
    for name in ("n01", "n02"):
        grey(tmp_path / "train" / name / "images" / f"{name}_0.JPEG")
    for number in range(3):
        grey(tmp_path / "val" / "images" / f"val_{number}.JPEG")
    lines = [f"val_{number}.JPEG\tn0{2 - number % 2}\t0\t0\t63\t63" for number in range(3)]
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    source = scan(tmp_path)
    assert [(sample.path.name, sample.label) for sample in source.val] == [
        ("val_1.JPEG", 0),
        ("val_0.JPEG", 1),
        ("val_2.JPEG", 1),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no images in class folders"),
        (["loose.png"], "no images in class folders"),
        (["a/1.png", "a/2.png"], "only one class folder"),
        (["a/1.png", "a/2.png", "b/1.png"], "class b has one image"),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"],
            "only in val: c; only in train: b",
        ),
        (["train/a/1.png", "train/b/1.png", "val/1.png"], "images lie loose"),
        (
            [
                f"{s}/{c}/{n}.png"
                for s in ("train", "val", "test")
                for c in "abc"
                for n in "12"
                if s + c != "testb"
            ],
            "train and test have different classes; only in train: b",
        ),
        (["val/a/1.png", "val/b/1.png"], "val but no train"),
    ],
)
def test_what_is_wrong_with_a_source_is_one_line(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        grey(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        scan(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        scan(tmp_path / "nowhere")


# Conversion


def pixels_of(path: Path, max_side: int | None) -> Pixels:
    return read_image(Sample(path, 0), max_side).pixels


def test_all_kinds_of_pixels_become_rgb(tmp_path: Path) -> None:
    picture(12, 10, 0).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    picture(12, 10, 0).convert("L").save(tmp_path / "grey.jpg", quality=95)
    picture(12, 10, 0).convert("RGBA").save(tmp_path / "alpha.png")
    picture(12, 10, 0).convert("P").save(tmp_path / "palette.png")
    deep = np.arange(120, dtype=np.uint16).reshape(12, 10) * 500
    Image.fromarray(deep).save(tmp_path / "deep.png")
    original = np.asarray(picture(12, 10, 0)).astype(int)
    for name, tolerance in (("cmyk.jpg", 40), ("alpha.png", 0), ("palette.png", 40)):
        pixels = pixels_of(tmp_path / name, None)
        assert pixels.shape == (12, 10, 3)
        assert np.abs(pixels - original).mean() <= tolerance
    for name in ("grey.jpg", "deep.png"):
        pixels = pixels_of(tmp_path / name, None)
        assert (pixels == pixels[:, :, :1]).all()
    assert (pixels_of(tmp_path / "deep.png", None)[:, :, 0] == deep >> 8).all()


def test_the_longer_side_is_reduced(tmp_path: Path) -> None:
    picture(40, 100, 0).save(tmp_path / "wide.png")
    assert pixels_of(tmp_path / "wide.png", 50).shape == (20, 50, 3)
    assert pixels_of(tmp_path / "wide.png", 200).shape == (40, 100, 3)


# Building


def test_what_a_build_records(images: Path, tmp_path: Path) -> None:
    options = BuildOptions(workers=2, write_mode="raw", val_fraction=0.25)
    built = build(images, tmp_path / "built", options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built"]
    assert sorted(path.name for path in built.path.iterdir()) == [MANIFEST, "train.beton", "val.beton"]
    assert Dataset.load(built.path) == built
    assert built.classes == ("class0", "class1", "class2")
    assert built.split("train").class_counts == (6, 6, 6)
    train = [np.asarray(Image.open(sample.path)) for sample in scan(images, 0.25).train]
    pixels = np.concatenate([image.reshape(-1, 3) for image in train]) / 255
    assert built.mean == pytest.approx(pixels.mean(axis=0), abs=1e-12)
    assert built.std == pytest.approx(pixels.std(axis=0), abs=1e-9)
    assert built.split("train").max_height == max(image.shape[0] for image in train)
    assert built.split("train").min_width == min(image.shape[1] for image in train)
    beton = read_beton(built.file("train"), 3)
    stored = np.fromfile(built.file("train"), np.uint8)
    for index, image in enumerate(train):
        begin = beton.offsets[index]
        assert (stored[begin : begin + image.size] == image.reshape(-1)).all()


@pytest.mark.parametrize("write_mode", ["raw", "jpg"])
def test_no_byte_depends_on_workers(images: Path, tmp_path: Path, write_mode: str) -> None:
    built = [
        build(images, tmp_path / str(n), BuildOptions(workers=n, write_mode=write_mode))  # type: ignore[arg-type]
        for n in (1, 3)
    ]
    assert built[0].to_json().replace('"workers": 1', '"workers": 3') == built[1].to_json()
    for split in ("train", "val"):
        assert filecmp.cmp(built[0].file(split), built[1].file(split), shallow=False)
        rows = np.fromfile(built[0].file(split), np.uint8, offset=len(head(0, 0)))
        rows = rows[: built[0].split(split).count * SAMPLE.itemsize].reshape(-1, SAMPLE.itemsize)
        assert not rows[:, IMAGE.itemsize : -2 * 8].any()  # between the image and the numbers lies nothing


def test_pages_of_train_are_a_random_sample_of_the_classes(tmp_path: Path) -> None:
    """A page of a file in the order of its classes has one or two; val is evaluated in order, and stays."""
    source = image_folder(tmp_path / "images", classes=4, per_class=24, sizes=(40, 60))
    options = BuildOptions(workers=2, write_mode="raw", val_fraction=0.25)
    with small_pages() as page_size:
        built = build(source, tmp_path / "built", options)
    train, val = (read_beton(built.file(split), 4) for split in ("train", "val"))
    pages = train.offsets // page_size
    assert (pages == (train.offsets + train.lengths - 1) // page_size).all()
    counts = [Counter(train.labels[pages == page].tolist()) for page in np.unique(pages)]
    assert len(counts) > 6
    assert min(map(len, counts[:-1])) >= 3
    assert (np.diff(val.offsets) > 0).all()
    assert check(built.path).num_samples == 96


@dataclass(frozen=True)
class InGroup(Sample):
    """A sample of which ten are read at once."""

    @property
    def block(self) -> int:
        return int(self.path.name) // 10


def test_what_is_read_as_a_whole_is_packed_as_a_whole() -> None:
    alone, grouped = (
        shuffled([kind(Path(str(number)), 0) for number in range(100)]) for kind in (Sample, InGroup)
    )
    assert sorted(alone) == sorted(grouped) == list(range(100))
    assert len({*alone[:10] // 10}) > 4
    groups = grouped.reshape(10, 10)
    assert (groups // 10 == groups[:, :1] // 10).all()
    assert (np.diff(groups[:, 0]) < 0).any()
    assert (np.diff(groups) < 0).any()


# Restart markers

DRI = 0xDD  # "define restart interval"


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The marker segments of a JPEG up to its scan: marker, content."""
    place = 2
    while data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        yield data[place + 1], data[place + 4 : place + 2 + length]
        place += 2 + length


@pytest.mark.parametrize(("width", "interval"), [(1, 1), (64, 4), (375, 8), (400, 5), (500, 8), (368, 23)])
def test_restart_markers_divide_each_row_and_change_no_pixel(width: int, interval: int) -> None:
    image = picture(50, width, width)
    marked = encode_jpeg(np.asarray(image), 90)
    assert (DRI, interval.to_bytes(2, "big")) in segments(marked.tobytes())
    assert marked.tobytes().count(b"\xff\xd0") >= 1
    plain = ffcv.fields.rgb_image.encode_jpeg(np.asarray(image), 90)
    assert DRI not in dict(segments(plain.tobytes()))
    pixels, expected = (decode_jpeg(data, 50, width) for data in (marked, plain))
    assert pixels is not None
    assert expected is not None
    assert np.array_equal(pixels, expected)


def test_content_digests_tell_data_sets_apart(images: Path, tmp_path: Path) -> None:
    changed = tmp_path / "images"
    shutil.copytree(images, changed)
    name = scan(images).train[0].path.relative_to(images)
    picture(50, 50, 99).save(changed / name)
    first, second = (
        build(path, tmp_path / f"built{i}", ONE_WORKER) for i, path in enumerate((images, changed))
    )
    assert first.split("train").digest != second.split("train").digest
    assert first.split("val").digest == second.split("val").digest


def break_some(images: Path, folder: Path) -> list[Path]:
    """A copy of `images` with a truncated, an empty and a mislabelled file in its train split."""
    shutil.copytree(images, folder)
    truncated, empty, text = (
        folder / sample.path.relative_to(images)
        for sample in (scan(images).train[0], scan(images).train[9], scan(images).val[0])
    )
    truncated.write_bytes(truncated.read_bytes()[:-200])
    empty.write_bytes(b"")
    text.write_text("not an image")
    return [truncated, empty, text]


def test_broken_images_stop_the_build_with_a_list(images: Path, tmp_path: Path) -> None:
    broken = break_some(images, tmp_path / "images")
    with pytest.raises(DataError, match="3 of 24 images cannot be used") as caught:
        build(tmp_path / "images", tmp_path / "built", BuildOptions(workers=2))
    assert all(str(path) in str(caught.value) for path in broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_broken_images_can_be_left_out(images: Path, tmp_path: Path) -> None:
    broken = break_some(images, tmp_path / "images")
    options = BuildOptions(workers=2, skip_broken=True, val_fraction=0.3)
    built = build(tmp_path / "images", tmp_path / "built", options)
    assert {path for path, _ in built.skipped} == {str(path) for path in broken}
    assert built.split("train").count + built.split("val").count == 21
    assert check(built.path).num_samples == 21
    good = [sample for sample in scan(tmp_path / "images", 0.3).train if sample.path not in broken]
    assert read_beton(built.file("train"), 3).labels.tolist() == [sample.label for sample in good]


def test_a_class_without_usable_images_is_named(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "images")
    for path in (tmp_path / "images" / "class1").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no usable image of class class1 in the train split"):
        build(tmp_path / "images", tmp_path / "built", BuildOptions(workers=1, skip_broken=True))


def test_an_existing_folder_is_refused_unless_a_data_set_is_overwritten(images: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(DataError, match="exists already"):
        build(images, other, ONE_WORKER, overwrite=True)
    out = tmp_path / "built"
    first = build(images, out, ONE_WORKER)
    with pytest.raises(DataError, match="exists already"):
        build(images, out, ONE_WORKER)
    second = build(images, out, BuildOptions(workers=1, jpeg_quality=50, write_mode="jpg"), overwrite=True)
    assert first.digest != second.digest == Dataset.load(out).digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "other"]


@pytest.mark.parametrize(
    "options", [{"write_mode": "png"}, {"jpeg_quality": 0}, {"max_resolution": 0}, {"workers": -1}]
)
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(DataError):
        BuildOptions(**options)  # type: ignore[arg-type]


BUILD_SLOWLY = """
import os, sys, time
import distlth.data.pack.writer as writer
from distlth.data.pack.build import BuildOptions, build
read = writer.read_image
def slow(*arguments):
    os.write(1, b"reading\\n")  # whole: what print writes unbuffered mixes with the other worker's
    time.sleep(0.2)
    return read(*arguments)
writer.read_image = slow
build(sys.argv[1], sys.argv[2], BuildOptions(workers=2))
"""


def start_slow_build(images: Path, out: Path) -> subprocess.Popen[str]:
    """Start a build in a process of its own; return when it is reading."""
    command = [sys.executable, "-c", BUILD_SLOWLY, str(images), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    return process


def children(parent: int) -> list[int]:
    """The worker processes of `parent`: not multiprocessing's tracker, which runs another command line."""
    command = Path(f"/proc/{parent}/cmdline").read_bytes()
    return [
        int(stat.parent.name)
        for stat in Path("/proc").glob("[0-9]*/stat")
        if parent_of(stat) == parent and stat.with_name("cmdline").read_bytes() == command
    ]


def parent_of(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:  # it ended meanwhile
        return 0


def test_a_killed_build_leaves_nothing_finished_and_the_next_one_cleans_up(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "built"
    process = start_slow_build(images, out)
    with pytest.raises(DataError, match="another build of it is running"):
        build(images, out, ONE_WORKER)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(DataError, match="no such data set"):
        Dataset.load(out)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "workers outlive their build"
        time.sleep(0.05)
    build(images, out, ONE_WORKER)
    assert [path.name for path in tmp_path.iterdir()] == ["built"]


def test_a_killed_worker_stops_the_build(images: Path, tmp_path: Path) -> None:
    process = start_slow_build(images, tmp_path / "built")
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "a worker process was killed by signal 9" in errors
    assert list(tmp_path.iterdir()) == []


def test_no_file_system_lock_is_needed(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS without a lock daemon, and some FUSE file systems, have none."""

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for name in ("flock", "lockf", "fcntl"):
        monkeypatch.setattr(fcntl, name, refuse)
    build(images, tmp_path / "built", ONE_WORKER)
    assert [path.name for path in tmp_path.iterdir()] == ["built"]


def test_a_build_that_stood_still_leaves_the_place_to_the_next(images: Path, tmp_path: Path) -> None:
    """Stopped for so long that its lock was stale: it neither finishes nor disturbs the one that follows."""
    out, lock = tmp_path / "built", tmp_path / ".built.lock"
    process = start_slow_build(images, out)
    for stopped in (process.pid, *children(process.pid)):
        os.kill(stopped, signal.SIGSTOP)
    os.utime(lock, (0, 0))
    built = build(images, out, ONE_WORKER)
    for stopped in (*children(process.pid), process.pid):
        os.kill(stopped, signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "DataError" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["built"]
    assert check(out).dataset == built


def test_an_image_that_our_decoder_reads_in_another_way_stops_the_build(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A progressive JPEG stands for a mistake in encoder or decoder: none that we write is one."""
    encode = Encoding.encode

    def progressive(encoding: Encoding, pixels: Pixels) -> tuple[int, Pixels]:
        mode, stored = encode(encoding, pixels)
        if pixels.shape[:2] == odd:
            stored = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].reshape(-1)
        return mode, np.asarray(stored, np.uint8)

    sample = scan(images).train[3]
    odd = np.asarray(Image.open(sample.path)).shape[:2]
    monkeypatch.setattr(Encoding, "encode", progressive)
    words = (
        f"{sample.path}: stored as a JPEG of {odd[1]} x {odd[0]} pixels, it does not decode as libjpeg does"
    )
    with pytest.raises(DataError, match=re.escape(words)):
        build(images, tmp_path / "built", BuildOptions(workers=2, write_mode="jpg"))
    assert not (tmp_path / "built").exists()


# What looks wrong


def deep(path: Path, values: np.ndarray) -> None:
    """Write 16-bit pixels; PIL writes no colours of that depth."""
    cv2.imwrite(str(path), values.astype(np.uint16))


def test_values_of_less_than_16_bits_are_scaled_alike_in_all_images(tmp_path: Path) -> None:
    """Values of 8 bits in PNGs of 16 came out black."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (4, 2, 6, 5, 3))
    pixels[0, 0, 0, 0] = 255
    for number, (colour, grey_level) in enumerate(pixels):
        for name in ("a", "b"):
            (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
        deep(tmp_path / "images" / "a" / f"{number}.png", colour[..., ::-1])
        deep(tmp_path / "images" / "b" / f"{number}.tif", grey_level[..., 0])
    built = build(tmp_path / "images", tmp_path / "built", BuildOptions(workers=2, write_mode="raw"))
    beton, stored = read_beton(built.file("train"), 2), np.fromfile(built.file("train"), np.uint8)
    found = [stored[begin : begin + 90].reshape(6, 5, 3) for begin in beton.offsets]
    source = scan(tmp_path / "images")
    for sample, image in zip(source.train, found, strict=True):
        number = int(sample.path.stem)
        expected = pixels[number, 0] if sample.label == 0 else pixels[number, 1, ..., :1]
        assert (image == expected).all()
    assert built.notes[1:] == (
        "warning: the images with 16 bits a value use 8 of them at most; values were scaled by that",
    )


def test_true_16_bit_colours_keep_their_upper_8_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (6, 5, 3))
    deep(tmp_path / "deep.png", values)
    assert (pixels_of(tmp_path / "deep.png", None) == values[..., ::-1] >> 8).all()


def test_images_of_one_colour_and_images_that_come_twice_are_warned_of(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image_folder(tmp_path / split, classes=2, per_class=3)
    for number in range(3):
        (tmp_path / "val" / "class1" / f"00{number}.jpg").unlink()
    grey(tmp_path / "train" / "class1" / "black.png", 0)
    grey(tmp_path / "val" / "class1" / "white.png", 255)
    shutil.copy(tmp_path / "train" / "class0" / "000.jpg", tmp_path / "train" / "class1" / "same.jpg")
    for name in ("class0/001.jpg", "class1/white.png"):
        (tmp_path / "test" / name).parent.mkdir(parents=True)
        shutil.copy(tmp_path / "val" / name, tmp_path / "test" / name)
    first = build(tmp_path, tmp_path / "built", ONE_WORKER).notes[-5:]
    assert [note.partition(": ")[2].partition(":")[0] for note in first] == [
        "3 images are of one colour",
        "3 images of val are also in train",
        "1 image of test is also in train",
        "2 images of test are also in val",
        "3 images are in more than one class",
    ]
    assert f"{tmp_path / 'train' / 'class1' / 'black.png'}" in first[0]


# The command


def test_what_a_build_says_fits_any_terminal(images: Path, tmp_path: Path) -> None:
    source, said = tmp_path / "images", io.TextIOWrapper(io.BytesIO(), "ascii")
    shutil.copytree(images, source)
    odd = os.fsencode(source / "class0") + b"/ol\xe9.png"
    Path(os.fsdecode(odd)).write_text("no image")
    (source / "notes.txt").write_text("")
    with contextlib.redirect_stdout(said):
        arguments = ["data", "build", str(source), "--out", str(tmp_path / "gebäude"), "--skip-broken"]
        assert main([*arguments, "--workers", "1"]) == 0
    said.seek(0)
    *_, first, left_out, layout, passed = said.read().splitlines()
    assert first == f"{tmp_path}/geb\\xe4ude: 21 + 3 images of 3 classes (train, val)"
    assert left_out == f"left out {source}/class0/ol\\xe9.png: not an image of a kind that Pillow reads"
    assert layout == "layout: class folders; val is drawn from train, 0.1 of each class"
    assert passed == "passed over 1 file: 1 .txt"


@pytest.mark.parametrize("place", ["locked", "locked/below", "file/below", "x" * 300])
def test_a_target_that_cannot_be_written_is_one_line(
    images: Path, open_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, open_path / "images")
    (open_path / "locked").mkdir(mode=0o500)
    (open_path / "file").touch()
    with as_ordinary_user():
        code = main(["data", "build", str(open_path / "images"), "--out", str(open_path / place / "out")])
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: {open_path / place}")
    assert sorted(path.name for path in open_path.iterdir()) == ["file", "images", "locked"]


@pytest.mark.parametrize("room", [20 << 10, 1 << 20])  # ends among the images, or behind them
def test_a_target_that_is_full_is_one_line(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], room: int
) -> None:
    """The limit on a file's size stands for a full disk: it, too, ends a write, after a part of it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE_SIZE + room, before[1]))
    try:
        code = main(["data", "build", str(images), "--out", str(tmp_path / "built"), "--workers", "1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: {tmp_path / 'built'}: cannot be built ([Errno 27] File too large")
    assert list(tmp_path.iterdir()) == []


# Loading and checking


def test_unfinished_and_damaged_folders_are_told_apart(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(dataset.path, folder)
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        Dataset.load(folder)
    (folder / MANIFEST).write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(DataError, match="format 99"):
        Dataset.load(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(DataError, match="not a finished data set"):
        Dataset.load(folder)


def test_a_sound_data_set_passes_its_check(dataset: Dataset) -> None:
    report = check(dataset.path, workers=2)
    assert report.num_samples == 24


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_changed_bit_is_found_and_named(dataset: Dataset, tmp_path: Path, split: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(dataset.path, folder)
    beton = read_beton(folder / f"{split}.beton", 3)
    with open(folder / f"{split}.beton", "r+b") as file:
        place = int(beton.offsets[4] + beton.lengths[4] // 2)
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(DataError, match=rf"{split}\.beton: sample 4 has changed"):
        check(folder)


def test_exchanged_splits_are_found(dataset: Dataset, tmp_path: Path) -> None:
    """The file is sound, but not the one that was built."""
    folder, other = tmp_path / "copy", small_dataset(tmp_path, write_mode="jpg", per_class=8, sizes=(40, 90))
    assert other.digest == dataset.digest
    shutil.copytree(dataset.path, folder)
    manifest = folder / MANIFEST
    digest = dataset.split("val").digest
    manifest.write_text(manifest.read_text().replace(digest, digest[::-1]))
    with pytest.raises(DataError, match=r"val\.beton: not the samples of dataset\.json"):
        check(folder)
