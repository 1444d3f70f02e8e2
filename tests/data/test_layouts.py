"""Folders of images as people have them: what is found, what is passed over, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from distlth.data.layouts import scan
from distlth.data.layouts.base import Draw, Sample, Source
from distlth.errors import DataError
from tests.users import as_ordinary_user


def put(root: Path, *names: str) -> Path:
    """Write an image under each name; the layouts do not look inside."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg"):
            Image.new("L", (4, 4), 7).save(path)
        else:
            path.write_text("text")
    return root


def classes(root: Path, *folders: str) -> Path:
    """Two classes, cat and dog, of two images in each of the folders."""
    return put(
        root, *(f"{folder}/{name}/{n}.png" for folder in folders for name in ("cat", "dog") for n in "01")
    )


def names(samples: tuple[Sample, ...], root: Path) -> list[str]:
    return [str(sample.path.relative_to(root)) for sample in samples]


@pytest.mark.parametrize(
    ("train", "val"),
    [("training", "validation"), ("train", "valid"), ("Train", "Val"), ("TRAINING", "Valid")],
)
def test_splits_are_known_by_the_names_that_people_write(tmp_path: Path, train: str, val: str) -> None:
    source = scan(classes(tmp_path, train, val))
    assert source.classes == ("cat", "dog")
    assert {name.split("/")[0] for name in names(source.train, tmp_path)} == {train}
    assert {name.split("/")[0] for name in names(source.val, tmp_path)} == {val}
    assert source.layout == f"{train}/ and {val}/ with class folders"


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "Training", "val"), "both (train and Training|Training and train) are train splits"),
        (("train", "val", "VALID"), "are val splits; keep one"),
        (("train", "dev"), "has dev beside train, but no val; name the validation folder val"),
        (("train", "val_images"), "val_images: is this a split or a class"),
        (("train2017", "val2017"), "train2017: is this a split or a class"),
        (("validation", "more"), "has val but no train folder; if validation is a class, rename it"),
    ],
)
def test_splits_that_are_not_certain_are_refused_by_name(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        scan(classes(tmp_path, *folders))
    assert "\n" not in str(caught.value)


def counts(source: Source) -> dict[str, int]:
    return {split: len(samples) for split, samples in source.splits.items()}


def test_a_test_split_is_read_and_val_is_drawn_from_train(tmp_path: Path) -> None:
    """What is in test stays there; val is a function of the seed and the names."""
    source = scan(classes(tmp_path, "train", "Testing"))
    assert (counts(source), source.layout) == (
        {"train": 2, "val": 2, "test": 4},
        "train/ and Testing/ with class folders; val is drawn from train, 0.1 of each class",
    )
    classes(tmp_path, "val")
    whole = scan(tmp_path)
    assert counts(whole) == dict.fromkeys(("train", "val", "test"), 4)
    assert whole.layout == "train/, val/ and Testing/ with class folders"
    assert whole.test == source.test
    with pytest.raises(DataError, match="has train, val and test; leave out --val-fraction"):
        scan(tmp_path, val_images=2)
    shutil.rmtree(tmp_path / "Testing")
    drawn = scan(tmp_path, val_fraction=0.1)
    assert (drawn.train, drawn.val) == (source.train, source.val)
    assert drawn.test == whole.val
    assert drawn.layout.endswith("0.1 of each class; the val split that was there is test")


@pytest.mark.parametrize("below", ["images", "."])
def test_a_test_split_without_classes_is_passed_over(tmp_path: Path, below: str) -> None:
    source = scan(put(classes(tmp_path, "train", "val"), f"test/{below}/0.png"))
    assert counts(source) == {"train": 4, "val": 4}
    assert str(source.passed) == "passed over 1 folder: 1 test"


def test_val_images_are_shared_out_in_proportion_to_the_classes(tmp_path: Path) -> None:
    assert Draw(images=5000).counts([5000] * 10) == [500] * 10
    assert Draw(images=7).counts([5, 10, 20]) == [1, 2, 4]
    assert Draw(images=4).counts([2, 2, 100]) == [1, 1, 2]
    assert Draw(images=10).counts([2, 3, 9]) == [1, 2, 7]
    for count in (2, 12):
        with pytest.raises(DataError, match=f"^{count} val images; expected 3 to 11 for 3 classes"):
            Draw(images=count).counts([2, 3, 9])
    with pytest.raises(DataError, match="give one of the two"):
        Draw(0.1, images=3)


def test_splits_inside_classes_are_refused(tmp_path: Path) -> None:
    put(tmp_path, *(f"{c}/{s}/{n}.png" for c in ("cat", "dog") for s in ("train", "val") for n in "01"))
    with pytest.raises(DataError, match="cat: has train and val in a class; put the classes into the splits"):
        scan(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    source = scan(put(tmp_path, *(f"{c}/{n}.png" for c in ("train", "tram", "valley") for n in "01")))
    assert source.classes == ("train", "tram", "valley")


def test_what_is_no_part_of_the_data_is_left_out_and_counted(tmp_path: Path) -> None:
    classes(tmp_path, "train", "val", "extras")
    put(tmp_path, "train/cat/.ipynb_checkpoints/0-checkpoint.png", "train/cat/below/@eaDir/0.png")
    put(tmp_path, "__MACOSX/train/cat/._0.png", "val/dog/._0.png", "lost+found/x.png", ".Trash-1000/a.png")
    put(tmp_path, "train/loose.png", "train/cat/a.txt", "train/dog/b.TXT", "README", "val/labels.json")
    os.mkfifo(tmp_path / "train" / "cat" / "pipe.png")
    source = scan(tmp_path)
    assert len(source.train) + len(source.val) == 8
    assert str(source.passed) == (
        "passed over 7 files: 2 .txt, 1 .json, 1 hidden, 1 images outside class folders, 1 no regular files"
        ", 1 without an ending; 6 folders: 1 .Trash-1000, 1 .ipynb_checkpoints, 1 @eaDir, 1 __MACOSX"
        ", 1 extras, 1 lost+found"
    )
    assert source.notes == (f"layout: {source.layout}", str(source.passed))


def test_links_are_followed_once_and_never_back(tmp_path: Path) -> None:
    """A link upwards made 328 images of 8, and mixed the labels."""
    root = classes(tmp_path / "root", ".")
    put(tmp_path, "store/a/2.png", "store/3.png")
    (root / "cat" / "up").symlink_to("..")
    (root / "cat" / "self").symlink_to(".")
    (root / "cat" / "other").symlink_to("../dog")
    (root / "all").symlink_to(".")
    (root / "dog" / "loop").symlink_to("loop")
    (root / "dog" / "more").symlink_to(tmp_path / "store")
    (root / "dog" / "twice").symlink_to(tmp_path / "store" / "a")
    (tmp_path / "store" / "back").symlink_to(root)
    source = scan(root, val_fraction=0.01)
    found = sorted(names(source.train + source.val, root))
    assert found == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "dog/more/3.png", "dog/more/a/2.png"]
    assert "6 links to folders that are read anyway" in str(source.passed)


def test_linked_class_folders_are_read(tmp_path: Path) -> None:
    classes(tmp_path, ".store")
    (tmp_path / "root").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "root" / name).symlink_to(tmp_path / ".store" / name)
    assert len(scan(tmp_path / "root").train) == 2
    (tmp_path / "root" / "kitten").symlink_to("cat")
    with pytest.raises(DataError, match=r"kitten: the same folder as .*cat; remove one of the two"):
        scan(tmp_path / "root")


def test_a_folder_that_cannot_be_read_is_named(open_path: Path) -> None:
    put(classes(open_path, "."), "cat/locked/2.png")
    (open_path / "cat" / "locked").chmod(0)
    with (
        as_ordinary_user(),
        pytest.raises(DataError, match=r"cat/locked: cannot be read \(Permission denied\)"),
    ):
        scan(open_path)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    put(classes(tmp_path, "."))
    for folder in (b"cat", b"caf\xe9"):
        os.makedirs(os.fsencode(tmp_path) + b"/" + folder, exist_ok=True)
        shutil.copy(
            os.fsencode(tmp_path / "cat" / "0.png"), os.fsencode(tmp_path) + b"/" + folder + b"/ol\xe9.png"
        )
    with pytest.raises(DataError, match=r"caf\\xe9: the name of this class is not UTF-8; rename it"):
        scan(tmp_path)
    shutil.rmtree(os.fsencode(tmp_path) + b"/caf\xe9")
    assert len(scan(tmp_path).train) == 3


def test_tiny_imagenets_annotations_are_checked(tmp_path: Path) -> None:
    put(tmp_path, *(f"train/{c}/images/{n}.png" for c in ("n1", "n2") for n in "01"))
    put(tmp_path, *(f"val/images/{n}.png" for n in "012"), "train/n1/n1_boxes.txt", "test/images/0.png")
    lines = tmp_path / "val" / "val_annotations.txt"
    lines.write_text("0.png\tn1\n1.png\tn2\n")
    source = scan(tmp_path)
    assert (source.layout, len(source.val)) == ("Tiny-ImageNet", 2)
    assert str(source.passed) == (
        "passed over 2 files: 1 .txt, 1 images that val_annotations.txt does not name; 1 folder: 1 test"
    )
    assert counts(scan(tmp_path, val_fraction=0.5)) == {"train": 2, "val": 2, "test": 2}
    lines.write_text("0.png\tn1\n1.png\tn2\n0.png\tn2\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt: line 3 names 0\.png again"):
        scan(tmp_path)
    lines.write_bytes(b"0.png\tn\xff\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt: not UTF-8 text"):
        scan(tmp_path)


def test_classes_that_differ_in_case_alone_are_warned_of(tmp_path: Path) -> None:
    source = scan(put(tmp_path, *(f"{c}/{n}.png" for c in ("Cat", "cat") for n in "01")))
    assert source.notes[-1] == "warning: classes Cat and cat differ in upper and lower case alone"
