"""Data sets as they are downloaded: archives and arrays, written here as their makers wrote them."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distlth.data.layouts import scan
from distlth.data.layouts.base import Sample, Source
from distlth.data.layouts.pickled import read_pickle
from distlth.data.load.loader import EvalLoader
from distlth.data.pack.build import BuildOptions, build
from distlth.data.pack.image import read_image
from distlth.errors import DataError

RNG = np.random.default_rng(0)
CIFAR10 = ("airplane", "automobile", "bird")
CIFAR100 = ("apple", "aquarium_fish", "baby")
SYNSETS = ("n01440764", "n01443537")
VAL_IMAGES = [f"ILSVRC2012_val_{number:08}" for number in range(1, 5)]
# The class of each, as place in SYNSETS.
VAL_CLASSES = (1, 0, 0, 1)
SOLUTION = "ImageId,PredictionString\n" + "".join(
    f"{name},{SYNSETS[label]} 1 2 3 4 {SYNSETS[label]} 5 6 7 8 \n"
    for name, label in sorted(zip(VAL_IMAGES, VAL_CLASSES, strict=True), reverse=True)
)


def pixels(sample: Sample) -> npt.NDArray[np.uint8]:
    return read_image(sample, None).pixels


def of_class(source: Source, samples: tuple[Sample, ...], name: str) -> list[Sample]:
    return [sample for sample in samples if source.classes[sample.label] == name]


def jpeg(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (colour, colour, colour)).save(buffer, "JPEG")
    return buffer.getvalue()


def put_tar(path: Path, files: Mapping[str, bytes], mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def put_all(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


# ------------------------------------------------------------------------------------------------- CIFAR


def python2(value: Any) -> bytes:
    """A pickle as Python 2's cPickle wrote it (protocol 2), as those of CIFAR are."""

    def write(value: Any) -> bytes:
        if isinstance(value, str):
            return b"U" + bytes([len(value)]) + value.encode()
        if isinstance(value, int):
            return b"K" + bytes([value])
        if isinstance(value, list):
            return b"]q\x00(" + b"".join(map(write, value)) + b"e"
        if isinstance(value, dict):
            return b"}q\x01(" + b"".join(write(key) + write(item) for key, item in value.items()) + b"u"
        data: bytes = value.tobytes()
        return (
            b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87R("
            + b"K\x01K"
            + bytes([value.shape[0]])
            + b"M"
            + struct.pack("<H", value.shape[1])
            + b"\x86cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87R"
            + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            + b"\x89T"
            + struct.pack("<i", len(data))
            + data
            + b"tb"
        )

    return b"\x80\x02" + write(value) + b"."


Batches = dict[str, tuple[npt.NDArray[np.uint8], list[int]]]


def batches(names: tuple[str, ...]) -> Batches:
    return {name: (RNG.integers(0, 256, (3, 3072), dtype=np.uint8), [2, 0, 1]) for name in names}


def cifar(kind: str) -> tuple[str, dict[str, bytes], Batches]:
    """The folder's name, the files and what is in them."""
    if kind.startswith("cifar-100"):
        made = batches(("train", "test"))
        if kind.endswith("binary"):
            files = {f"{name}.bin": records(batch, b"\x07") for name, batch in made.items()}
            return kind, {**files, "fine_label_names.txt": "\n".join((*CIFAR100, "")).encode()}, made
        files = {
            name: python2({"fine_labels": labels, "coarse_labels": [7, 7, 7], "data": values})
            for name, (values, labels) in made.items()
        }
        return kind, {**files, "meta": python2({"fine_label_names": list(CIFAR100)})}, made
    made = batches((*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"))
    if kind.endswith("binary"):
        files = {f"{name}.bin": records(batch, b"") for name, batch in made.items()}
        return (
            "cifar-10-batches-bin",
            {**files, "batches.meta.txt": "\n".join((*CIFAR10, "", "")).encode()},
            made,
        )
    files = {
        name: python2({"batch_label": name, "labels": labels, "data": values, "filenames": ["a.png"] * 3})
        for name, (values, labels) in made.items()
    }
    return "cifar-10-batches-py", {**files, "batches.meta": python2({"label_names": list(CIFAR10)})}, made


def records(batch: tuple[npt.NDArray[np.uint8], list[int]], before: bytes) -> bytes:
    return b"".join(before + bytes([label]) + row.tobytes() for row, label in zip(*batch, strict=True))


KINDS = ("cifar-10-binary", "cifar-10-python", "cifar-100-binary", "cifar-100-python")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["archive", "inside", "folder"])
def test_cifar_is_read_in_each_form(tmp_path: Path, kind: str, form: str) -> None:
    folder, files, made = cifar(kind)
    if form == "archive":
        path = put_tar(tmp_path / f"{kind}.tar.gz", {f"{folder}/{k}": v for k, v in files.items()}, "w:gz")
    else:
        path = put_all(tmp_path / folder, files)
        path = tmp_path if form == "inside" else path
    source = scan(path)
    names = CIFAR100 if "100" in kind else CIFAR10
    assert source.classes == names
    assert source.layout.startswith("CIFAR-100 (" if "100" in kind else "CIFAR-10 (")
    test = next(batch for name, batch in made.items() if "test" in name)
    assert (len(source.train), len(source.val)) == (3 * (len(made) - 1), 3)
    for number, label in enumerate(test[1]):
        (sample,) = of_class(source, source.val, names[label])
        assert np.array_equal(pixels(sample), test[0][number].reshape(3, 32, 32).transpose(1, 2, 0))
        assert sample.path.name == str(number)


def counts(source: Source) -> dict[str, int]:
    return {split: len(samples) for split, samples in source.splits.items()}


def places(samples: tuple[Sample, ...]) -> list[tuple[str, str]]:
    """The file, without its endings, and the number of each image."""
    return [(sample.path.parent.name.split(".")[0], sample.path.name) for sample in samples]


def test_val_is_drawn_from_cifar_alike_in_each_form(tmp_path: Path) -> None:
    """As in the paper's 45,000 + 5,000 + 10,000; which images these are depends on the seed alone."""
    drawn = []
    for kind in ("cifar-10-binary", "cifar-10-python"):
        folder, files, _ = cifar(kind)
        archive = {f"{folder}/{name}": data for name, data in files.items()}
        for path in (
            put_all(tmp_path / folder, files),
            put_tar(tmp_path / f"{kind}.tar.gz", archive, "w:gz"),
        ):
            source = scan(path, val_images=3)
            assert counts(source) == {"train": 12, "val": 3, "test": 3}
            assert source.layout.endswith("; val is drawn from train, 3 images")
            assert {name for name, _ in places(source.test)} == {"test_batch"}
            drawn.append(places(source.val))
    assert drawn[1:] == drawn[:-1]
    assert places(scan(tmp_path / folder, val_images=3, seed=5).val) != drawn[0]
    assert places(scan(tmp_path / folder, val_fraction=0.2).val) == drawn[0]


def test_the_pickles_of_this_test_are_what_python_reads_as_such() -> None:
    values, labels = batches(("a",))["a"]
    read = pickle.loads(python2({"labels": labels, "data": values}), encoding="bytes")
    assert read[b"labels"] == labels
    assert np.array_equal(read[b"data"], values)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_that_python_3_has_written_again(tmp_path: Path, protocol: int) -> None:
    folder, files, made = cifar("cifar-100-python")
    for name, (values, labels) in made.items():
        files[name] = pickle.dumps({"fine_labels": labels, "data": values}, protocol)
    source = scan(put_all(tmp_path / folder, files))
    (sample,) = of_class(source, source.val, "baby")
    assert np.array_equal(pixels(sample), made["test"][0][0].reshape(3, 32, 32).transpose(1, 2, 0))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "run"),)

    folder, files, _ = cifar("cifar-100-python")
    for protocol in (0, 2, 4):
        files["train"] = pickle.dumps({"data": Evil(), "fine_labels": Evil()}, protocol)
        with pytest.raises(DataError, match=r"cifar-100-python/train: (its data is no array|a pickle with)"):
            scan(put_all(tmp_path / folder, files))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x02.", b"garbage", b"\x80\x02}q\x01(U\x04da", b"\x80\x02K\x01b.", b"\x80\x02h\x07."]
)
def test_a_damaged_pickle_is_named(data: bytes) -> None:
    with pytest.raises(DataError, match="some/file: not a pickle, or a damaged one"):
        read_pickle(Path("some/file"), data)


def test_incomplete_cifar_is_named(tmp_path: Path) -> None:
    folder, files, _ = cifar("cifar-10-binary")
    put_all(tmp_path / folder, files)
    (tmp_path / folder / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"cifar-10-batches-bin: CIFAR-10 without data_batch_3\.bin$"):
        scan(tmp_path)
    put_all(tmp_path / folder, {"data_batch_3.bin": b"\x01" * 3072})
    with pytest.raises(DataError, match=r"data_batch_3\.bin: 3,072 bytes are no whole number of records"):
        scan(tmp_path)
    put_all(tmp_path / folder, {"data_batch_3.bin": b"\x09" * 3073})
    with pytest.raises(DataError, match=r"data_batch_3\.bin: image 0 has label 9, of 3 classes"):
        scan(tmp_path)
    other = put_tar(tmp_path / "cifar-100-binary.tar.gz", {"train.bin": b""}, "w:gz")
    with pytest.raises(DataError, match="has both CIFAR-10 and CIFAR-100; give one of"):
        scan(tmp_path)
    with pytest.raises(DataError, match=r"cifar-100-binary\.tar\.gz: lacks test\.bin, fine_label_names\.txt"):
        scan(other)
    other.write_bytes(other.read_bytes()[:40])
    with pytest.raises(DataError, match=r"cifar-100-binary\.tar\.gz: a damaged archive"):
        scan(other)


def test_members_of_an_archive_are_no_links(tmp_path: Path) -> None:
    """What a link would lead to is not read."""
    folder, files, _ = cifar("cifar-100-binary")
    with tarfile.open(tmp_path / "cifar-100-binary.tar.gz", "w:gz") as tar:
        for name in files:
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    with pytest.raises(DataError, match=r"lacks train\.bin"):
        scan(tmp_path)


# --------------------------------------------------------------------------------------------------- IDX


def idx(values: npt.NDArray[np.uint8]) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def mnist(
    folder: Path, suffix: str = "", times: int = 1
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Write IDX files; return the test images and labels."""
    labels = np.array([1, 0, 2, 1] * times, np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "t10k"):
        images = RNG.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx(values)
            file = folder / f"{split}-{name}-ubyte{suffix}"
            file.write_bytes(gzip.compress(data) if suffix else data)
    return images, labels


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("below", [".", "raw", "FashionMNIST/raw"])
def test_idx_files_are_read_where_torchvision_leaves_them(tmp_path: Path, below: str, suffix: str) -> None:
    images, _ = mnist(tmp_path / below, suffix)
    source = scan(tmp_path)
    assert source.classes == ("0", "1", "2")
    assert source.layout == "IDX files; val is the test split"
    (sample,) = of_class(source, source.val, "2")
    assert np.array_equal(pixels(sample), images[2][:, :, None].repeat(3, axis=2))
    assert [sample.path.name for sample in of_class(source, source.val, "1")] == ["0", "3"]


def test_val_is_drawn_from_idx_files_alike_packed_or_not(tmp_path: Path) -> None:
    found = []
    for suffix in ("", ".gz"):
        mnist(tmp_path / f"idx{suffix}", suffix, times=3)
        source = scan(tmp_path / f"idx{suffix}", val_fraction=0.3)
        assert counts(source) == {"train": 8, "val": 4, "test": 12}
        found.append(places(source.val))
    assert found[0] == found[1]


def test_the_unpacked_file_is_read_where_both_are(tmp_path: Path) -> None:
    mnist(tmp_path)
    for file in list(tmp_path.iterdir()):
        (tmp_path / f"{file.name}.gz").write_bytes(b"not read")
    assert len(scan(tmp_path).train) == 4


def test_idx_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    mnist(tmp_path)
    labels, images = tmp_path / "t10k-labels-idx1-ubyte", tmp_path / "t10k-images-idx3-ubyte"
    for file, data, message in (
        (labels, idx(np.array([0, 1, 2], np.uint8)), "t10k-images.*: 4 images, but 3 labels"),
        (labels, idx(np.array([0, 1, 2, 3], np.uint8)), "t10k-images.*: image 3 has label 3, of 3 classes"),
        (labels, idx(np.zeros((2, 2), np.uint8)), "labels.*: not an IDX file of 1 dimensions"),
        (images, images.read_bytes()[:-1], "images.*: its head says 3,136 values, there are 3,135"),
        (images, images.read_bytes() + b"x", "images.*: its head says 3,136 values, there are more"),
        (images, bytes((0, 0, 8, 3)) + b"\xff" * 12, "images.*: .* values; from 1 to 1,073,741,824 can be"),
    ):
        before = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(DataError, match=message):
            scan(tmp_path)
        file.write_bytes(before)
    labels.unlink()
    with pytest.raises(DataError, match=r"has t.*, but no t10k-labels-idx1-ubyte\[\.gz\]"):
        scan(tmp_path)
    mnist(tmp_path / "other" / "raw")
    with pytest.raises(DataError, match="has IDX files in several folders; give one of"):
        scan(tmp_path)


# ---------------------------------------------------------------------------------------------- ImageNet


def train_tar(path: Path) -> Path:
    """Two class tars of two images; the second lacks the blocks that end a tar."""
    inner = {}
    for label, name in enumerate(SYNSETS):
        images = {f"{name}_{number}.JPEG": jpeg(100 * label + 10 * number) for number in (1, 2)}
        inner[f"{name}.tar"] = put_tar(path.parent / "inner.tar", images).read_bytes()
    last = inner[f"{SYNSETS[1]}.tar"].rstrip(b"\0")
    inner[f"{SYNSETS[1]}.tar"] = last.ljust(-(-len(last) // 512) * 512, b"\0")
    (path.parent / "inner.tar").unlink()
    return put_tar(path, {**inner, "notes.txt": b"x"})


def val_tar(path: Path) -> Path:
    images = {f"{name}.JPEG": jpeg(200 + label) for name, label in zip(VAL_IMAGES, VAL_CLASSES, strict=True)}
    return put_tar(path, images)


def devkit() -> dict[str, bytes]:
    savemat = pytest.importorskip("scipy.io").savemat
    buffer = io.BytesIO()
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    # In ImageNet's own order, which is not that of the names.
    synsets = np.array([(1, SYNSETS[1], "goldfish"), (2, SYNSETS[0], "tench")], kind)
    savemat(buffer, {"synsets": synsets.reshape(-1, 1)})
    truth = "".join(f"{2 - label}\n" for label in VAL_CLASSES)
    return {"data/meta.mat": buffer.getvalue(), "data/ILSVRC2012_validation_ground_truth.txt": truth.encode()}


@pytest.mark.parametrize("truth", ["solution", "labels", "devkit", "unpacked"])
def test_imagenets_tars_are_read_where_they_lie(tmp_path: Path, truth: str) -> None:
    train_tar(tmp_path / "ILSVRC2012_img_train.tar")
    val_tar(tmp_path / "ILSVRC2012_img_val.tar")
    name = "ILSVRC2012_devkit_t12"
    if truth == "solution":
        (tmp_path / "LOC_val_solution.csv").write_text(SOLUTION)
    elif truth == "labels":
        lines = "".join(f"{SYNSETS[label]}\n" for label in VAL_CLASSES)
        (tmp_path / "imagenet_2012_validation_synset_labels.txt").write_text(lines)
    elif truth == "devkit":
        put_tar(tmp_path / f"{name}.tar.gz", {f"{name}/{k}": v for k, v in devkit().items()}, "w:gz")
    else:
        put_all(tmp_path / name, devkit())
    before = sorted(tmp_path.rglob("*"))
    source = scan(tmp_path)
    assert source.classes == SYNSETS
    assert [(sample.path.name, sample.label, pixels(sample)[0, 0, 0]) for sample in source.train] == [
        ("n01440764_1.JPEG", 0, 10),
        ("n01440764_2.JPEG", 0, 20),
        ("n01443537_1.JPEG", 1, 110),
        ("n01443537_2.JPEG", 1, 120),
    ]
    assert [
        (sample.path.stem, pixels(sample)[0, 0, 0]) for sample in of_class(source, source.val, SYNSETS[1])
    ] == [
        (VAL_IMAGES[0], 201),
        (VAL_IMAGES[3], 201),
    ]
    assert str(source.passed) == "passed over 1 file: 1 no class tars"
    assert sorted(tmp_path.rglob("*")) == before


def test_incomplete_tars_are_named(tmp_path: Path) -> None:
    train = train_tar(tmp_path / "ILSVRC2012_img_train.tar")
    lacks = (
        r"has ILSVRC2012_img_train\.tar, but lacks ILSVRC2012_img_val\.tar, and the classes of val: LOC_val"
    )
    with pytest.raises(DataError, match=lacks):
        scan(tmp_path)
    val = val_tar(tmp_path / "ILSVRC2012_img_val.tar")
    solution = tmp_path / "LOC_val_solution.csv"
    solution.write_text(SOLUTION.replace(f"{VAL_IMAGES[2]},", "other,"))
    with pytest.raises(DataError, match=f"has no class for 1 val images: {VAL_IMAGES[2]}$"):
        scan(tmp_path)
    solution.write_text(f"{SOLUTION}other,{SYNSETS[0]} 1 2 3 4\n")
    with pytest.raises(DataError, match=r"names 1 val images that are not there: other$"):
        scan(tmp_path)
    solution.write_text(SOLUTION.replace("n01440764 1", "dog 1"))
    with pytest.raises(DataError, match=r"LOC_val_solution\.csv: line \d has no class such as n01440764"):
        scan(tmp_path)
    solution.write_text(SOLUTION)
    whole = train.read_bytes()
    train.write_bytes(whole[:1400])
    with pytest.raises(DataError, match=r"img_train\.tar: ends within n01440764\.tar; download it again"):
        scan(tmp_path)
    train.write_bytes(whole)
    source = scan(tmp_path)
    val.write_bytes(val.read_bytes()[:600])
    with pytest.raises(OSError, match="the archive ends within this image"):
        source.val[0].open()


def kaggle(root: Path) -> Path:
    tree = root / "ILSVRC" / "Data" / "CLS-LOC"
    for label, name in enumerate(SYNSETS):
        images = {f"{name}_{number}.JPEG": jpeg(100 * label + number) for number in (1, 2)}
        put_all(tree / "train" / name, images)
    put_all(tree / "val", {f"{name}.JPEG": jpeg(200) for name in VAL_IMAGES})
    put_all(tree / "test", {"ILSVRC2012_test_00000001.JPEG": jpeg(1)})
    (root / "LOC_val_solution.csv").write_text(SOLUTION)
    (root / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\n")
    return tree


def test_kaggles_tree_is_read_from_its_root_and_from_inside(tmp_path: Path) -> None:
    tree = kaggle(tmp_path)
    for path in (tmp_path, tmp_path / "ILSVRC", tree):
        source = scan(path)
        assert source.classes == SYNSETS
        assert [sample.path.stem for sample in of_class(source, source.val, SYNSETS[0])] == VAL_IMAGES[1:3]
        assert source.layout == "ILSVRC/Data/CLS-LOC, classes of val from LOC_val_solution.csv"
    (tmp_path / "LOC_val_solution.csv").unlink()
    with pytest.raises(
        DataError, match=r"lie loose and nothing has their classes: LOC_val_solution\.csv, ILSVRC"
    ):
        scan(tmp_path)
    for name, label in zip(VAL_IMAGES, VAL_CLASSES, strict=True):
        (tree / "val" / SYNSETS[label]).mkdir(exist_ok=True)
        (tree / "val" / f"{name}.JPEG").rename(tree / "val" / SYNSETS[label] / f"{name}.JPEG")
    assert len(scan(tmp_path).val) == len(scan(tree).val) == 4


# -------------------------------------------------------------------------------------------- WebDataset


def shard(path: Path, labels: tuple[int, ...], first: int = 0) -> Path:
    files = {}
    for number, label in enumerate(labels, first):
        files[f"{number:04}.jpg"] = jpeg(20 * number)
        files[f"{number:04}.cls"] = f"{label}\n".encode()
        files[f"{number:04}.json"] = b"{}"
    return put_tar(path, files)


@pytest.mark.parametrize("form", ["{0}-{1:06}.tar", "imagenet_{0}_{1:06}.tar", "{0}/{1:06}.tar"])
def test_shards_are_read_where_they_lie(tmp_path: Path, form: str) -> None:
    shard(tmp_path / form.format("train", 0), (3, 11))
    shard(tmp_path / form.format("train", 1), (11, 3), first=2)
    shard(tmp_path / form.format("val", 0), (11, 3), first=5)
    source = scan(tmp_path)
    assert source.classes == ("03", "11")
    assert [pixels(sample)[0, 0, 0] for sample in of_class(source, source.train, "11")] == [20, 40]
    assert [pixels(sample)[0, 0, 0] for sample in of_class(source, source.val, "11")] == [100]
    assert str(source.passed) == "passed over 6 files: 6 in shards beside images and classes"


def test_val_is_drawn_from_shards_without_one(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", (0, 1, 0, 1, 0, 1))
    source = scan(tmp_path, val_fraction=0.4)
    assert (len(source.train), len(source.val)) == (4, 2)
    assert scan(tmp_path, val_fraction=0.4, seed=3).layout == source.layout


def test_shards_of_three_splits(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        shard(tmp_path / f"{split}-0.tar", (0, 1), first=2 * number)
    put_tar(tmp_path / "test-0.tar", {"0.jpg": jpeg(1)})
    source = scan(tmp_path)
    assert counts(source) == {"train": 2, "val": 2}
    assert "1 test shards without classes" in str(source.passed)
    shard(tmp_path / "test-0.tar", (1, 0, 1), first=7)
    source = scan(tmp_path)
    assert counts(source) == {"train": 2, "val": 2, "test": 3}
    assert [pixels(sample)[0, 0, 0] for sample in of_class(source, source.test, "1")] == [140, 180]


def test_shards_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    test = shard(tmp_path / "data-test-0.tar", (0, 1))
    with pytest.raises(DataError, match="has shards of test, but none of train"):
        scan(tmp_path)
    train = shard(tmp_path / "data-train-0.tar", (0, 1))
    with pytest.raises(DataError, match="class 0 has one image, which cannot be split into train and val"):
        scan(tmp_path)
    test.unlink()
    for files, message in (
        ({"a.jpg": jpeg(1), "b.cls": b"1"}, r"images without a class \(\.cls\) beside them: a$"),
        ({"a.jpg": jpeg(1), "a.cls": b"cat"}, r"a\.cls is no number of a class"),
        ({"a.txt": b"1"}, "no images in this shard"),
    ):
        put_tar(train, files)
        with pytest.raises(DataError, match=message):
            scan(tmp_path)
    put_all(tmp_path, {f"{name}/{n}.jpg": jpeg(n) for name in ("cat", "dog") for n in (1, 2)})
    assert scan(tmp_path).classes == ("cat", "dog")


# ----------------------------------------------------------------------------------------------- Parquet


def rows(path: Path, labels: list[int], names: list[str] | None = None, label: str = "label") -> Path:
    """Write a file as Hugging Face's library does, two rows a group."""
    images = [{"bytes": jpeg(30 * number), "path": f"{number}.jpg"} for number in range(len(labels))]
    table = pa.table({"image": images, label: pa.array(labels, pa.int64())})
    features = {label: {"names": names, "_type": "ClassLabel"}}
    if names:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


@pytest.mark.parametrize("folder", [".", "data"])
def test_parquet_files_are_read_in_their_order(tmp_path: Path, folder: str) -> None:
    names = ["tench", "crane", "crane"]
    rows(tmp_path / folder / "train-00000-of-00002.parquet", [2, 0, 1], names)
    rows(tmp_path / folder / "train-00001-of-00002.parquet", [1, 2], names)
    rows(tmp_path / folder / "validation-00000-of-00001.parquet", [0, 2, 1], names)
    rows(tmp_path / folder / "test-00000-of-00001.parquet", [-1], names)
    source = scan(tmp_path)
    assert str(source.passed) == "passed over 1 file: 1 test files without labels"
    assert source.classes == ("crane (1)", "crane (2)", "tench")
    read = [(source.classes[sample.label], int(pixels(sample)[0, 0, 0])) for sample in source.train]
    assert read == [("crane (2)", 0), ("tench", 30), ("crane (1)", 60), ("crane (1)", 0), ("crane (2)", 30)]
    built = build(tmp_path, tmp_path / "built", BuildOptions(workers=2))
    assert built.split("train").class_counts == (2, 2, 1)


def test_parquet_files_without_names_or_val(tmp_path: Path) -> None:
    rows(tmp_path / "train.parquet", [0, 1, 0, 1, 0, 1], label="fine_label")
    source = scan(tmp_path, val_fraction=0.3)
    assert (source.classes, len(source.val)) == (("0", "1"), 2)


def test_parquet_files_of_train_and_test(tmp_path: Path) -> None:
    """As Hugging Face has CIFAR and MNIST: val is drawn from train."""
    rows(tmp_path / "data" / "train-00000-of-00001.parquet", [0, 1, 0, 1, 0, 1])
    rows(tmp_path / "data" / "test-00000-of-00001.parquet", [1, 1, 0])
    built = build(tmp_path, tmp_path / "built", BuildOptions(workers=2, val_fraction=0.3, seed=4))
    assert {split: built.split(split).class_counts for split in built.names} == {
        "train": (2, 2),
        "val": (1, 1),
        "test": (1, 2),
    }
    assert (built.options["val_fraction"], built.options["seed"]) == (0.3, 4)
    assert built.digest == "-".join(built.split(split).digest for split in ("train", "val", "test"))
    with closing(EvalLoader(built, split="test", batch_size=3, resolution=4, threads=1)) as loader:
        assert [labels.tolist() for _, labels in loader] == [[1, 1, 0]]


def test_parquet_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = rows(tmp_path / "train.parquet", [0, 1], label="class")
    with pytest.raises(
        DataError, match=r"train\.parquet: has the columns image, class; expected one of images"
    ):
        scan(tmp_path)
    rows(file, [0, -1])
    with pytest.raises(DataError, match=r"train\.parquet: -1 is no number of a class"):
        scan(tmp_path)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"train\.parquet: not a Parquet file, or a damaged one"):
        scan(tmp_path)


# ---------------------------------------------------------------------------------------- choosing, packing


def test_a_layout_that_is_insisted_on_says_what_it_needs_and_what_is_there(tmp_path: Path) -> None:
    mnist(tmp_path)
    assert scan(tmp_path, layout="idx").layout == scan(tmp_path).layout
    with pytest.raises(
        DataError, match=r"not cifar: cifar-10-batches-bin/ or .*; there is t10k-images-idx3-ub"
    ):
        scan(tmp_path, layout="cifar")
    with pytest.raises(DataError, match=r"nowhere: not idx: .*; there is nothing"):
        scan(tmp_path / "nowhere", layout="idx")
    with pytest.raises(
        DataError, match="layout 'kagle' is not known; choose one of imagenet-tars, imagenet-kaggle"
    ):
        BuildOptions(layout="kagle")


def test_images_of_arrays_and_archives_are_packed(tmp_path: Path) -> None:
    mnist(tmp_path / "idx")
    built = build(tmp_path / "idx", tmp_path / "built", BuildOptions(workers=1, layout="idx"))
    assert built.split("val").class_counts == (1, 2, 1)
    assert built.notes[0] == "layout: IDX files; val is the test split"
    assert (built.split("train").min_height, built.split("train").max_width) == (28, 28)
