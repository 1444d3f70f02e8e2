"""Images per second of this loader, stock FFCV and torchvision on the same photographs, in one run."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, redirect_stderr
from dataclasses import dataclass, replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader

from distlth.bench.photos import photo
from distlth.bench.step import MASK, default_shape
from distlth.bench.step import bench as bench_step
from distlth.cores import num_cores
from distlth.data.dataset import Dataset
from distlth.data.load.loader import TrainLoader
from distlth.data.load.packed import PackedSplit
from distlth.data.load.transform import Colour
from distlth.data.pack.adopt import adopt
from distlth.data.pack.build import BuildOptions, build
from distlth.errors import DataError

QUALITY = 90
ROUNDS = 5
OURS, ADOPTED, STOCK, TORCHVISION = "distlth", "distlth, FFCV's file", "stock ffcv", "torchvision"
STEP, COPIES = "a training step", "copies to the GPU"
# Of a larger data set, so many images are an epoch.
MOST_IMAGES = 2048
COPIES_PER_ROUND = 50

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
Epoch = Callable[[int], Batches]


@dataclass(frozen=True)
class LoaderSpeed:
    """One loader's speed: medians over rounds, with quartiles, and its ratios to stock FFCV's.

    `cores` is how many were busy with it, `cpu_us` their microseconds for an image, `read_mb_s` what came
    from storage in that time (0: all of it was in memory). The last row is a step that takes such images, and
    on a machine with a GPU the row before it is what copies batches there.
    """

    loader: str
    resolution: int
    threads: int
    images_per_s: float
    quartiles: tuple[float, float]
    to_ffcv: float | None
    cpu_us: float | None
    cpu_to_ffcv: float | None
    cores: float | None
    read_mb_s: float | None


@dataclass(frozen=True)
class Sample:
    """What a round cost: images, and seconds of the clock and of cores, and bytes read from storage."""

    images: int
    seconds: float
    cpu_seconds: float
    read_bytes: int

    @property
    def speed(self) -> float:
        """Return images per second of the clock."""
        return self.images / self.seconds

    @property
    def cost(self) -> float:
        """Return seconds of a core for an image."""
        return self.cpu_seconds / self.images


def bench(
    seconds: float = 45.0,
    *,
    data: Path | None = None,
    resolutions: Sequence[int] = (224, 160, 128),
    threads: int = 2,
    batch_size: int = 64,
    num_images: int = 512,
    folder: Path | None = None,
) -> list[LoaderSpeed]:
    """Measure all loaders in turn, `ROUNDS` times, for about `seconds` in all (beyond preparation).

    All do random resized crop, flip and normalisation to float32 of the same images with `threads` threads
    (torchvision: processes): those of the data set `data`, or `num_images` photographs of 500 x 400 pixels,
    as JPEGs of quality 90 in `folder` (a temporary one by default).

    Raises:
        DataError: `data` is no data set, or has fewer images than a batch.
    """
    with ExitStack() as stack:
        if data is not None:
            sources = _Sources(Dataset.load(data), None, None)
        else:
            root = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            sources = _photographs(root, num_images)
        if sources.ours.split("train").count < batch_size:
            raise DataError(f"{sources.ours.path}: fewer than {batch_size} images to train, a batch")
        share = seconds / len(resolutions)
        rows = [_measure(sources, each, threads, batch_size, share) for each in resolutions]
        copies = [_copies_row(resolutions[0], batch_size)] if torch.cuda.is_available() else []
        return [*(row for each in rows for row in each), *copies, _step_row(resolutions[0])]


def conclusion(rows: Sequence[LoaderSpeed]) -> str:
    """Return in a sentence what holds this loader up at the first resolution, and what to change."""
    ours, step = next(row for row in rows if row.loader == OURS), rows[-1]
    assert ours.cores is not None
    has = f"the loader delivers {ours.images_per_s:,.0f} images/s at {ours.resolution} px"
    copies = next((row.images_per_s for row in rows if row.loader == COPIES), math.inf)
    if copies < min(step.images_per_s, ours.images_per_s):
        return (
            f"Copy-bound: {has}, and copies to the GPU reach {copies:,.0f}; find out what shares the GPU's "
            "link with it (nvidia-smi topo -m), or train at a smaller data.resolution."
        )
    if step.images_per_s < ours.images_per_s:
        takes = f"{step.loader} takes {step.images_per_s:,.0f}"
        return f"Compute-bound: {has}, {takes}; nothing about the loader needs to change."
    if ours.read_mb_s and ours.cores < 0.7 * ours.threads:
        waits = f"{has} and waits for storage, which gives {ours.read_mb_s:,.0f} MB/s"
        larger = "or, where it is larger than memory, set data.shuffle: lanes and data.cache: process"
        return f"Storage-bound: {waits}; put the data on a faster or local disk, {larger}."
    if ours.cores < 0.7 * ours.threads:
        busy = f"its {ours.threads} threads found {ours.cores:.1f} cores"
        return f"Starved of cores: {has}, but {busy}; end what else runs here, or ask for more cores."
    free = num_cores() - ours.threads
    cores = f"set data.threads up to {num_cores()}" if free > 0 else "give each rank more cores"
    smaller = "store smaller images (distlth data build --max-resolution)"
    return f"Decode-bound: {has} and keeps {ours.cores:.1f} cores busy; {cores}, or {smaller}."


# --- what is measured ---


@dataclass(frozen=True)
class _Sources:
    """The images: as our packer writes them, as FFCV's writer does, and as single files."""

    ours: Dataset
    ffcv: Dataset | None
    files: Path | None


def _photographs(root: Path, num_images: int) -> _Sources:
    jobs = [("train", number, root) for number in range(num_images)] + [("val", 0, root), ("val", 1, root)]
    with ProcessPoolExecutor(num_cores()) as pool:
        list(pool.map(_write_photo, jobs, chunksize=16))
    options = BuildOptions(write_mode="jpg", jpeg_quality=QUALITY)
    ours = build(root / "images", root / "packed", options)
    files = {split: root / f"{split}.beton" for split in ("train", "val")}
    for split, file in files.items():
        _write_ffcv(root / "images" / split, file)
    return _Sources(ours, adopt(files["train"], files["val"], root / "adopted"), root / "images" / "train")


def _write_photo(job: tuple[str, int, Path]) -> None:
    split, number, root = job
    folder = root / "images" / split / f"class{number % 2}"
    folder.mkdir(parents=True, exist_ok=True)
    photo(number).save(folder / f"{number:05}.jpg", quality=QUALITY)


def _write_ffcv(images: Path, file: Path) -> None:
    """Pack a folder of classes with FFCV's own writer."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=QUALITY), "label": IntField()}
    writer = DatasetWriter(str(file), fields, num_workers=1)
    with redirect_stderr(StringIO()):  # its progress
        writer.from_indexed_dataset(ImageFolder(str(images)))


def _measure(
    sources: _Sources, resolution: int, threads: int, batch_size: int, seconds: float
) -> list[LoaderSpeed]:
    with ExitStack() as stack:

        def ours(dataset: Dataset) -> Epoch:
            packed = stack.enter_context(closing(PackedSplit(dataset, "train", threads=threads)))
            loader = TrainLoader(dataset, batch_size=batch_size, resolution=resolution, seed=0, packed=packed)
            return lambda number: loader.epoch(number)

        epochs: dict[str, Epoch] = {OURS: ours(sources.ours)}
        theirs = sources.ffcv or sources.ours
        colours = theirs.mean, theirs.std
        stock = _stock(theirs.file("train"), *colours, resolution, threads, batch_size)
        if sources.ffcv is not None:
            epochs[ADOPTED] = ours(sources.ffcv)
        epochs[STOCK] = lambda number: stock
        if sources.files is not None:
            torchvision = _torchvision(sources.files, sources.ours, resolution, threads, batch_size)
            epochs[TORCHVISION] = lambda number: torchvision
        for epoch in epochs.values():
            _sample(epoch, 0, 0.0)  # compiles, starts, and fills the caches
        share = seconds / ROUNDS / len(epochs)
        rounds = [
            {name: _sample(epoch, number, share) for name, epoch in epochs.items()}
            for number in range(ROUNDS)
        ]
        return [_row(name, rounds, resolution, threads) for name in epochs]


def _sample(epoch: Epoch, number: int, seconds: float) -> Sample:
    """Return what epochs cost, one at least, for at least `seconds`; of large data sets their beginning."""
    images, cpu, read = 0, _cpu_seconds(), _read_bytes()
    begin = time.perf_counter()
    while images == 0 or time.perf_counter() - begin < seconds:
        images += _first_images(epoch(number))
    return Sample(images, time.perf_counter() - begin, _cpu_seconds() - cpu, _read_bytes() - read)


def _first_images(batches: Batches) -> int:
    """Take the batches of an epoch, or the first of them, and end it; return how many images they had."""
    images = 0
    iterator = iter(batches)
    for _, labels in iterator:
        images += len(labels)
        if images >= MOST_IMAGES:
            break
    getattr(iterator, "close", lambda: None)()
    return images


def _cpu_seconds() -> float:
    """Return the seconds of cores that this process and those it started have taken."""
    children = [each.cpu_times() for each in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(each.user + each.system for each in children)


def _read_bytes() -> int:
    """Return the bytes that this process has had read from storage; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), 0)


def _row(name: str, rounds: Sequence[Mapping[str, Sample]], resolution: int, threads: int) -> LoaderSpeed:
    own, stock = [each[name] for each in rounds], [each[STOCK] for each in rounds]
    low, _, high = statistics.quantiles([each.speed for each in own], n=4, method="inclusive")
    pairs = list(zip(own, stock, strict=True))
    return LoaderSpeed(
        loader=name,
        resolution=resolution,
        threads=threads,
        images_per_s=statistics.median(each.speed for each in own),
        quartiles=(low, high),
        to_ffcv=statistics.median(one.speed / other.speed for one, other in pairs),
        cpu_us=1e6 * statistics.median(each.cost for each in own),
        cpu_to_ffcv=statistics.median(other.cost / one.cost for one, other in pairs),
        cores=statistics.median(each.cpu_seconds / each.seconds for each in own),
        read_mb_s=statistics.median(each.read_bytes / each.seconds for each in own) / 1e6,
    )


def _copies_row(resolution: int, batch_size: int) -> LoaderSpeed:
    """Return how fast batches go from pinned memory to the GPU, as uint8 pixels: as the loader sends them."""
    device = torch.device("cuda")
    pixels = torch.zeros((batch_size, resolution, resolution, 3), dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(pixels, device=device)
    speeds = []
    for _ in range(ROUNDS + 1):  # the first round starts the device
        start = time.perf_counter()
        for _ in range(COPIES_PER_ROUND):
            target.copy_(pixels, non_blocking=True)
        torch.cuda.synchronize(device)
        speeds.append(COPIES_PER_ROUND * batch_size / (time.perf_counter() - start))
    low, middle, high = statistics.quantiles(speeds[1:], n=4, method="inclusive")
    return LoaderSpeed(COPIES, resolution, 1, middle, (low, high), *[None] * 5)


def _step_row(resolution: int) -> LoaderSpeed:
    """Return what takes the images: steps of a network, as `bench step` makes them."""
    shape = replace(default_shape(), resolution=resolution)
    (step,) = bench_step(shape=shape, rounds=3, kinds=(MASK,))
    speed, name = step.images_per_second, f"{STEP} of {shape.model} on {shape.device.type}"
    return LoaderSpeed(name, resolution, num_cores(), speed, (speed, speed), *[None] * 5)


# --- the others ---


@cache  # numba reports errors of its own where FFCV's compiled pipelines are dropped
def _stock(file: Path, mean: Colour, std: Colour, resolution: int, threads: int, batch_size: int) -> Any:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    image = [
        RandomResizedCropRGBImageDecoder((resolution, resolution)),
        RandomHorizontalFlip(),
        NormalizeImage(255 * np.array(mean), 255 * np.array(std), np.float32),
        ToTensor(),
        ToTorchImage(convert_back_int16=False),
    ]
    label = [IntDecoder(), ToTensor(), Squeeze()]
    torch_threads = torch.get_num_threads()
    loader = Loader(
        str(file),
        batch_size=batch_size,
        num_workers=threads,
        os_cache=True,
        order=OrderOption.RANDOM,
        pipelines={"image": image, "label": label, "checksum": None},
        drop_last=True,
    )
    torch.set_num_threads(torch_threads)
    return loader


def _torchvision(
    folder: Path, dataset: Dataset, resolution: int, threads: int, batch_size: int
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    from torchvision import datasets, transforms

    steps = [
        transforms.RandomResizedCrop(resolution),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(dataset.mean, dataset.std),
    ]
    images = datasets.ImageFolder(folder, transforms.Compose(steps))
    return DataLoader(
        images, batch_size, shuffle=True, num_workers=threads, drop_last=True, persistent_workers=True
    )
