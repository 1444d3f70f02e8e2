"""The loader: what it yields, that it is reproducible, and that errors reach the consumer."""

from __future__ import annotations

import gc
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode, rotate

from distlth.data.beton import read_beton
from distlth.data.dataset import Dataset
from distlth.data.layouts import scan
from distlth.data.load import decode
from distlth.data.load.loader import _AUGMENTATION, EvalLoader, TrainLoader, eval_ratio
from distlth.data.load.order import epoch_key, epoch_order, mix, part
from distlth.data.load.packed import PackedSplit
from distlth.data.load.storage import Cache
from distlth.data.load.stream import Stream
from distlth.data.load.transform import Crop, Jitter
from distlth.data.pack.build import BuildOptions, build
from distlth.errors import DataError
from tests.data.fixtures import VAL_FRACTION, image_folder, small_dataset

RESOLUTION = 24
BATCH = 8
PINNED_ORDER = [6, 5, 7, 4, 2, 1, 3, 0]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three classes of 12 JPEGs, 27 to train and 9 to validate."""
    return small_dataset(tmp_path_factory.mktemp("data"), per_class=12)


@pytest.fixture(scope="module")
def raw_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same images, stored as raw pixels."""
    return small_dataset(tmp_path_factory.mktemp("raw"), write_mode="raw", per_class=12)


def train_loader(
    dataset: Dataset,
    *,
    threads: int = 1,
    rank: int = 0,
    world_size: int = 1,
    crop: Crop = "random-resized",
    flip: bool = True,
    seed: int = 5,
    cache: Cache = "os",
    **augmentation: Any,
) -> TrainLoader:
    return TrainLoader(
        dataset,
        batch_size=BATCH,
        rank=rank,
        world_size=world_size,
        resolution=RESOLUTION,
        crop=crop,
        flip=flip,
        seed=seed,
        threads=threads,
        cache=cache,
        **augmentation,
    )


def collect(batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def same(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def reference(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Epoch 0 from one thread."""
    return collect(train_loader(dataset).epoch(0))


def test_batches_are_channels_last_floats_of_the_promised_shape(dataset: Dataset) -> None:
    loader = train_loader(dataset)
    batches = list(loader.epoch(0))
    assert len(batches) == loader.steps_per_epoch == 27 // BATCH
    for images, labels in batches:
        assert images.shape == (BATCH, 3, RESOLUTION, RESOLUTION)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64


@pytest.mark.parametrize("cache", ["os", "process"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_bits_over_threads_caches_and_passes(
    dataset: Dataset, reference: tuple[Tensor, Tensor], threads: int, cache: Cache
) -> None:
    loader = train_loader(dataset, threads=threads, cache=cache)
    assert same(collect(loader.epoch(0)), reference)
    assert same(collect(loader.epoch(0)), reference)


def test_epochs_and_seeds_differ(dataset: Dataset, reference: tuple[Tensor, Tensor]) -> None:
    assert not same(collect(train_loader(dataset).epoch(1)), reference)
    assert not same(collect(train_loader(dataset, seed=6).epoch(0)), reference)


@pytest.mark.parametrize("cache", ["os", "process"])
def test_an_epoch_entered_midway_is_the_tail_of_the_whole(
    dataset: Dataset, reference: tuple[Tensor, Tensor], cache: Cache
) -> None:
    images, labels = collect(train_loader(dataset, cache=cache).epoch(0, first_step=2))
    assert same((images, labels), (reference[0][2 * BATCH :], reference[1][2 * BATCH :]))


@pytest.mark.parametrize("world_size", [2, 3, 5, 8])
def test_ranks_part_the_same_global_batches(
    dataset: Dataset, reference: tuple[Tensor, Tensor], world_size: int
) -> None:
    ranks = [list(train_loader(dataset, rank=r, world_size=world_size).epoch(0)) for r in range(world_size)]
    together = collect(batch for step in zip(*ranks, strict=True) for batch in step)
    assert same(together, reference)


@given(batch_size=st.integers(1, 2000), world_size=st.integers(1, 130))
def test_parts_are_contiguous_and_differ_by_at_most_one(batch_size: int, world_size: int) -> None:
    parts = [part(batch_size, rank, world_size) for rank in range(world_size)]
    assert [position for each in parts for position in each] == list(range(batch_size))
    sizes = [len(each) for each in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_a_resume_on_three_ranks_after_two_has_the_same_global_batches(dataset: Dataset) -> None:
    two, three = ([train_loader(dataset, rank=r, world_size=n) for r in range(n)] for n in (2, 3))
    for epoch in range(2):
        for step in range(27 // BATCH):
            before, after = (
                np.concatenate([loader.batch_indices(epoch, step) for loader in loaders]).tolist()
                for loaders in (two, three)
            )
            assert before == after


def test_loaders_share_an_opened_split(dataset: Dataset) -> None:
    """Another seed, resolution or crop needs no other threads, and has the bits of a loader of its own."""
    choices: list[tuple[int, int, Crop]] = [(24, 5, "random-resized"), (40, 6, "pad"), (16, 5, "none")]
    before = decoding_threads()
    with closing(PackedSplit(dataset, "train", threads=2)) as packed:
        for resolution, seed, crop in choices:
            per_job: dict[str, Any] = {"resolution": resolution, "seed": seed, "crop": crop}
            shared = TrainLoader(dataset, batch_size=BATCH, **per_job, packed=packed)
            alone = TrainLoader(dataset, batch_size=BATCH, **per_job, threads=1)
            assert same(collect(shared.epoch(1)), collect(alone.epoch(1)))
            shared.close()
            alone.close()
            whole = EvalLoader(dataset, split="train", batch_size=4, resolution=resolution, packed=packed)
            assert len(collect(iter(whole))[1]) == 27
        assert decoding_threads() <= before + 2
        with pytest.raises(ValueError, match=r"train of .* is open, expected val"):
            EvalLoader(dataset, batch_size=4, resolution=24, packed=packed)


def test_loaders_of_one_split_may_run_at_the_same_time(dataset: Dataset) -> None:
    with closing(PackedSplit(dataset, "train", threads=2)) as packed:
        loaders = [
            TrainLoader(dataset, batch_size=BATCH, resolution=resolution, seed=5, packed=packed)
            for resolution in (24, 33)
        ]
        together = list(zip(*(loader.epoch(0) for loader in loaders), strict=True))
        for loader, batches in zip(loaders, zip(*together, strict=True), strict=True):
            assert same(collect(iter(batches)), collect(loader.epoch(0)))


def decoding_threads() -> int:
    return sum(thread.name.startswith("distlth-decode") for thread in threading.enumerate())


def test_batch_indices_name_the_samples_of_a_batch(dataset: Dataset) -> None:
    loader = train_loader(dataset, rank=1, world_size=2)
    labels = read_beton(dataset.file("train"), dataset.num_classes).labels
    for step, (_, batch_labels) in enumerate(loader.epoch(3)):
        indices = loader.batch_indices(3, step)
        assert indices.tolist() == epoch_order(27, 5, 3)[step * BATCH + 4 : step * BATCH + 8].tolist()
        assert batch_labels.tolist() == labels[indices].tolist()


@given(st.integers(1, 2000), st.integers(0, 2**63), st.integers(0, 10_000))
def test_an_order_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(count, seed, epoch)) == list(range(count))


def test_orders_are_pinned() -> None:
    """A stored run must find the same order after an update: these numbers must never change."""
    assert epoch_order(8, seed=1, epoch=2).tolist() == PINNED_ORDER


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_random_crop_lies_inside_with_the_promised_area_and_ratio(
    height: int, width: int, key: int
) -> None:
    top, left, h, w = decode.random_resized_crop(height, width, np.uint64(key))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h > 0
    assert w > 0
    if min(height, width) > 100 and 3 / 4 < width / height < 4 / 3:
        assert 0.07 < h * w / (height * width) <= 1
        assert 0.7 < w / h < 1.43


def test_random_crops_are_spread_as_torchvisions() -> None:
    """Area uniform in 0.08..1 and log ratio uniform, where every draw fits: a wide, tall image."""
    keys = [decode.sample_key(np.uint64(9), index) for index in range(4000)]
    crops = np.array([decode.random_resized_crop(3000, 3000, np.uint64(key)) for key in keys])
    areas = crops[:, 2] * crops[:, 3] / 9e6
    tops = crops[:, 0] / np.maximum(1, 3000 - crops[:, 2])
    small = areas < 0.5
    assert np.quantile(areas[small], 0.5) == pytest.approx(0.29, abs=0.02)
    assert np.log(crops[:, 3] / crops[:, 2])[small].std() == pytest.approx(
        math.log(16 / 9) / 12**0.5, rel=0.1
    )
    assert tops.mean() == pytest.approx(0.5, abs=0.02)


def test_half_of_the_samples_are_exactly_mirrored(dataset: Dataset) -> None:
    flipped, _ = collect(train_loader(dataset, flip=True).epoch(0))
    straight, _ = collect(train_loader(dataset, flip=False).epoch(0))
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, straight, strict=True)]
    unchanged = [torch.equal(a, b) for a, b in zip(flipped, straight, strict=True)]
    assert all(a != b for a, b in zip(mirrored, unchanged, strict=True))
    assert 4 <= sum(mirrored) <= 20


@pytest.mark.parametrize(
    ("reach", "fill", "asked"), [(RESOLUTION // 8, "mean", {}), (5, "black", {"pad": 5, "fill": "black"})]
)
def test_pad_crops_are_shifts_over_a_border_of_one_colour(
    raw_dataset: Dataset, reach: int, fill: str, asked: dict[str, Any]
) -> None:
    padded, _ = collect(train_loader(raw_dataset, crop="pad", flip=False, **asked).epoch(0))
    plain, _ = collect(train_loader(raw_dataset, crop="none", flip=False).epoch(0))
    colour = np.round(np.array(raw_dataset.mean) * 255) / 255 * (fill == "mean")
    border = (torch.tensor(colour) - torch.tensor(raw_dataset.mean)) / torch.tensor(raw_dataset.std)
    shifts = set()
    for moved, image in zip(padded, plain, strict=True):
        framed = border.float().view(3, 1, 1).repeat(1, RESOLUTION + 2 * reach, RESOLUTION + 2 * reach)
        framed[:, reach:-reach, reach:-reach] = image
        windows = {
            (y, x): framed[:, y : y + RESOLUTION, x : x + RESOLUTION]
            for y in range(2 * reach + 1)
            for x in range(2 * reach + 1)
        }
        shifts |= {place for place, window in windows.items() if torch.allclose(moved, window, atol=1e-6)}
    assert len(shifts) > 12  # of 24 samples over 49 places and more
    assert max(abs(place - reach) for shift in shifts for place in shift) == reach


def test_rotations_are_torchvisions_by_an_angle_of_each_sample(raw_dataset: Dataset) -> None:
    loader = train_loader(raw_dataset, crop="none", flip=False, rotate=20, fill="black")
    turned, _ = collect(loader.epoch(1))
    plain, _ = collect(train_loader(raw_dataset, crop="none", flip=False).epoch(1))
    black = (-torch.tensor(raw_dataset.mean) / torch.tensor(raw_dataset.std)).tolist()
    key = np.uint64(mix(epoch_key(5, 1) ^ _AUGMENTATION))
    angles = []
    for number, index in enumerate(i for step in range(3) for i in loader.batch_indices(1, step)):
        draw = decode.uniform(np.uint64(decode.sample_key(key, index)), decode.ROTATE_DRAW)
        angle = 20 * (2 * draw - 1)
        expected = rotate(plain[number], angle, InterpolationMode.NEAREST, fill=black)
        same_pixels = torch.isclose(turned[number], expected, atol=1e-6).all(dim=0)
        assert same_pixels.float().mean() > 0.98  # an edge may round to either of two pixels
        angles.append(angle)
    assert min(angles) < -10 < 10 < max(angles)


def test_augmentation_has_the_same_bits_over_threads_and_resumes(dataset: Dataset) -> None:
    jitter = Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    asked: dict[str, Any] = {"crop": "pad", "pad": 4, "fill": "black", "rotate": 20, "jitter": jitter}
    images, labels = collect(train_loader(dataset, **asked).epoch(2))
    resumed = train_loader(dataset, threads=3, **asked)
    assert same(collect(resumed.epoch(2)), (images, labels))
    assert same(collect(resumed.epoch(2, first_step=2)), (images[2 * BATCH :], labels[2 * BATCH :]))
    assert not torch.equal(collect(resumed.epoch(3))[0], images)
    assert not torch.equal(collect(train_loader(dataset, **{**asked, "jitter": None}).epoch(2))[0], images)


def recoloured(dataset: Dataset, number: int = 0, **jitter: float) -> tuple[Tensor, Tensor, list[float]]:
    """An image of an epoch as it is and with jitter (3 x R x R, 0..255), and its four draws (0..1)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (dataset.mean, dataset.std))
    loaders = [train_loader(dataset, jitter=one) for one in (None, Jitter(**jitter))]
    plain, changed = (255 * (collect(loader.epoch(1))[0][number] * std + mean) for loader in loaders)
    key = decode.sample_key(
        np.uint64(mix(epoch_key(5, 1) ^ _AUGMENTATION)), loaders[0].batch_indices(1, 0)[number]
    )
    draws = [decode.uniform(np.uint64(key), decode.JITTER_DRAW + place) for place in range(4)]
    return plain.round(), changed.round(), draws


@pytest.mark.parametrize(
    ("name", "reach", "adjust"),
    [
        ("brightness", 0.3, functional.adjust_brightness),
        ("contrast", 0.5, functional.adjust_contrast),
        ("saturation", 1.5, functional.adjust_saturation),
    ],
)
def test_colours_change_as_torchvisions_by_a_factor_of_each_sample(
    dataset: Dataset, name: str, reach: float, adjust: Callable[[Tensor, float], Tensor]
) -> None:
    for number in range(4):
        plain, changed, draws = recoloured(dataset, number, **{name: reach})
        low = max(0.0, 1 - reach)
        factor = low + (1 + reach - low) * draws[("brightness", "contrast", "saturation").index(name)]
        expected = adjust(plain.to(torch.uint8), factor).float()
        assert (changed - expected).abs().max() <= 2  # torchvision rounds its greys, and cuts off
        assert not torch.equal(plain, changed)


def test_a_hue_turns_and_leaves_luma_and_greys_as_they_are(dataset: Dataset) -> None:
    plain, changed, draws = recoloured(dataset, hue=0.5)
    turned = torch.polar(torch.ones(()), torch.tensor(math.tau * (draws[3] - 0.5)))
    luma, i, q = torch.einsum("ij,jyx->iyx", torch.tensor(decode.YIQ), plain)
    chroma = torch.complex(i, q) * turned
    expected = torch.stack([luma + a * chroma.real + b * chroma.imag for a, b in decode.RGB])
    assert (changed - expected.clamp(0, 255)).abs().max() <= 0.51
    grey = np.full((2, 2, 3), 77, np.uint8)
    decode._change_colours(grey, (1.0, 1.0, 0.5, 0.3), np.empty((3, 3), np.int64))
    assert (grey == 77).all()


@pytest.mark.parametrize("crop", ["pad", "none", "random-resized"])
def test_a_rotation_leaves_the_other_draws_as_they_are(dataset: Dataset, crop: Crop) -> None:
    """The middle pixel of a square with an odd side stays where it is."""
    with_rotation, without = (
        collect(
            TrainLoader(
                dataset, batch_size=BATCH, resolution=25, crop=crop, seed=5, rotate=degrees, threads=1
            ).epoch(0)
        )[0]
        for degrees in (45, 0)
    )
    assert torch.equal(with_rotation[:, :, 12, 12], without[:, :, 12, 12])
    assert not torch.equal(with_rotation, without)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_evaluation_sees_each_sample_once(dataset: Dataset, world_size: int) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        loader = EvalLoader(
            dataset, batch_size=2, rank=rank, world_size=world_size, resolution=RESOLUTION, threads=1
        )
        _, labels = collect(iter(loader))
        assert len(labels) == len(loader.indices)
        seen += loader.indices.tolist()
    assert sorted(seen) == list(range(9))


def test_evaluation_of_a_subset_keeps_its_order(dataset: Dataset) -> None:
    whole = EvalLoader(dataset, split="train", batch_size=4, resolution=RESOLUTION, threads=2)
    part = EvalLoader(
        dataset, split="train", batch_size=2, resolution=RESOLUTION, threads=2, indices=[20, 3, 11]
    )
    images, _ = collect(iter(whole))
    assert torch.equal(collect(iter(part))[0], images[[20, 3, 11]])


def area_weights(size: int) -> npt.NDArray[np.float64]:
    """RESOLUTION x size: the share of each input pixel in each output pixel, by overlap."""
    edges = np.linspace(0, size, RESOLUTION + 1)
    begin, end = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)
    overlap: npt.NDArray[np.float64] = np.minimum(end, pixel + 1) - np.maximum(begin, pixel)
    return np.maximum(overlap, 0) * (RESOLUTION / size)


def reference_centre(path: Path, ratio: float) -> Tensor:
    """The centred square, averaged by area to RESOLUTION: 3 x R x R in 0..255."""
    image = np.asarray(Image.open(path), np.float64)
    height, width = image.shape[:2]
    side = int(ratio * min(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    weights = area_weights(side)
    square = image[top : top + side, left : left + side]
    return torch.from_numpy(np.einsum("yh,hwc,xw->cyx", weights, square, weights))


@pytest.mark.parametrize("crop", ["random-resized", "none"])
def test_values_agree_with_averaging_by_area(dataset: Dataset, raw_dataset: Dataset, crop: Crop) -> None:
    """Raw pixels to rounding; JPEGs, encoded once more, to about a grey level in the mean."""
    ratio = eval_ratio(crop)
    for source in (raw_dataset, dataset):
        files = [sample.path for sample in scan(source.path.parent / "images", VAL_FRACTION).val]
        loader = EvalLoader(source, batch_size=4, resolution=RESOLUTION, ratio=ratio, threads=1)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (source.mean, source.std))
        for file, image in zip(files, collect(iter(loader))[0], strict=True):
            difference = (255 * (image * std + mean) - reference_centre(file, ratio)).abs()
            if source is raw_dataset:
                assert difference.max() < 0.51
            else:
                assert difference.mean() < 2.5


def copy_of(dataset: Dataset, folder: Path) -> Dataset:
    shutil.copytree(dataset.path, folder)
    return Dataset.load(folder)


@pytest.mark.parametrize("cache", ["os", "process"])
def test_a_damaged_jpeg_is_named_to_the_consumer(dataset: Dataset, tmp_path: Path, cache: Cache) -> None:
    damaged = copy_of(dataset, tmp_path / "damaged")
    beton = read_beton(damaged.file("train"), 3)
    with open(damaged.file("train"), "r+b") as file:
        file.seek(int(beton.offsets[17]) + int(beton.lengths[17]) // 2)
        file.write(b"\xff\xd9" * 50)  # ends the image early
    with pytest.raises(DataError, match=r"train\.beton: sample 17 does not decode"):
        collect(iter(EvalLoader(damaged, split="train", batch_size=4, resolution=16, threads=2, cache=cache)))


def test_a_file_cut_short_is_named(dataset: Dataset, tmp_path: Path) -> None:
    cut = copy_of(dataset, tmp_path / "cut")
    with open(cut.file("train"), "r+b") as file:
        file.truncate(cut.split("train").size // 2)
    with pytest.raises(DataError, match=r"train\.beton: cut short"):
        train_loader(cut)
    with pytest.raises(DataError, match=r"train\.beton: .* bytes, expected"):
        Dataset.load(cut.path)


def test_a_label_out_of_range_is_named(dataset: Dataset) -> None:
    with pytest.raises(DataError, match=r"sample 18: its label is not in 0\.\.1"):
        read_beton(dataset.file("train"), num_classes=2)


def test_arguments_that_do_not_fit_are_named(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="batch size 8 leaves some of 9 ranks without an image"):
        train_loader(dataset, world_size=9)
    with pytest.raises(DataError, match="batch size 64 is larger than the train split"):
        TrainLoader(dataset, batch_size=64, resolution=8, seed=0, threads=1)
    with pytest.raises(DataError, match="crop 'tight' is not known"):
        train_loader(dataset, crop="tight")  # type: ignore[arg-type]
    for asked, words in (
        ({"pad": 25}, "pad 25 is not in 0..24 pixels"),
        ({"fill": "red"}, "fill 'red' is not known"),
        ({"rotate": 181.0}, "rotate 181.0 is not in 0..180 degrees"),
        ({"cache": "gpu", "jitter": Jitter(hue=0.1)}, "cache 'gpu' has no colour jitter; choose cache 'os'"),
    ):
        with pytest.raises(DataError, match=words):
            train_loader(dataset, crop="pad", **asked)


def test_torch_keeps_its_threads(dataset: Dataset) -> None:
    before = torch.get_num_threads()
    collect(train_loader(dataset, threads=before + 2).epoch(0))
    assert torch.get_num_threads() == before


def test_a_batch_that_is_held_is_never_overwritten(dataset: Dataset) -> None:
    loader = train_loader(dataset)
    held = [images[:1] for epoch in range(6) for images, _ in loader.epoch(epoch)]
    copies = [image.clone() for image in held]
    collect(loader.epoch(6))
    assert all(torch.equal(image, copy) for image, copy in zip(held, copies, strict=True))


def batch_threads() -> int:
    return sum(thread.name == "distlth-batches" for thread in threading.enumerate())


def wait_until_no_batch_threads() -> bool:
    deadline = time.monotonic() + 10
    while batch_threads() and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
    return batch_threads() == 0


def test_a_consumer_that_stops_early_leaves_no_thread(dataset: Dataset) -> None:
    loader = train_loader(dataset, batches_ahead=1)  # the rest of the epoch waits for the consumer
    with loader.epoch(0) as batches:
        next(batches)
    assert wait_until_no_batch_threads()
    abandoned = loader.epoch(0)
    next(abandoned)
    assert batch_threads() == 1
    del abandoned
    assert wait_until_no_batch_threads()


def test_an_error_in_the_thread_is_raised_in_its_place() -> None:
    def produce() -> Iterator[int]:
        yield 1
        raise MemoryError("no room")

    stream = Stream(produce, ahead=2)
    assert next(stream) == 1
    with pytest.raises(MemoryError, match="no room"):
        next(stream)
    assert list(stream) == []


def test_a_closed_loader_fails_instead_of_hanging(dataset: Dataset) -> None:
    loader = TrainLoader(dataset, batch_size=1, resolution=RESOLUTION, seed=0, threads=1, batches_ahead=1)
    opened = loader.epoch(0)
    next(opened)
    loader.close()
    with pytest.raises(RuntimeError):
        list(opened)
    with pytest.raises(RuntimeError):
        next(loader.epoch(0))


def test_stock_ffcv_reads_the_files(dataset: Dataset, raw_dataset: Dataset) -> None:
    """Also JPEGs with restart markers, which are near the pixels that they were made of."""
    (images, labels), (expected, raw_labels) = stock_batch(dataset), stock_batch(raw_dataset)
    assert labels == raw_labels == read_beton(dataset.file("train"), 3).labels.tolist()
    assert np.abs(images - expected).mean() < 3


def stock_batch(dataset: Dataset) -> tuple[npt.NDArray[np.int64], list[int]]:
    """All of a train split through FFCV's own loader: centre crops and labels."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    crop = CenterCropRGBImageDecoder((RESOLUTION, RESOLUTION), ratio=1)
    steps = {"image": [crop], "label": [IntDecoder()], "checksum": None}
    shape: dict[str, Any] = {"batch_size": 27, "num_workers": 1, "order": OrderOption.SEQUENTIAL}
    images, labels = next(iter(Loader(str(dataset.file("train")), pipelines=steps, os_cache=False, **shape)))
    return images.astype(np.int64), labels[:, 0].tolist()


def test_images_of_any_size_can_be_a_source(tmp_path: Path) -> None:
    """Very flat and very tall images: the crops' fallback, and upscaling."""
    source = image_folder(tmp_path / "images", classes=2, per_class=2, sizes=(4, 6))
    wide = Image.new("RGB", (300, 5), (10, 200, 30))
    wide.save(source / "class0" / "wide.png")
    wide.rotate(90, expand=True).save(source / "class1" / "tall.png")
    built = build(source, tmp_path / "built", BuildOptions(workers=1, val_fraction=0.3))
    loader = TrainLoader(built, batch_size=4, resolution=RESOLUTION, seed=0, threads=1)
    for epoch in range(3):
        assert torch.isfinite(collect(loader.epoch(epoch))[0]).all()
