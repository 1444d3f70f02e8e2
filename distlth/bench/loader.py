"""Images per second of this loader, stock FFCV and torchvision on the same images, in one run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from distlth.data.dataset import Dataset
from distlth.data.load.loader import TrainLoader
from distlth.data.pack.build import BuildOptions, build

HEIGHT, WIDTH = 400, 500
QUALITY = 90
ROUNDS = 5
OURS, STOCK, TORCHVISION = "distlth", "stock ffcv", "torchvision"

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
Epoch = Callable[[int], Batches]


@dataclass(frozen=True)
class LoaderSpeed:
    """One loader's result: the median over rounds, and its ratio to stock FFCV's."""

    loader: str
    resolution: int
    threads: int
    images_per_s: float
    ratio_to_ffcv: float
    rounds: tuple[float, ...]


def bench(
    seconds: float = 30.0,
    *,
    resolution: int = 224,
    threads: int = 2,
    batch_size: int = 64,
    num_images: int = 512,
    folder: Path | None = None,
) -> list[LoaderSpeed]:
    """Measure all loaders in turn, `ROUNDS` times, for about `seconds` in all (beyond preparation).

    All do random resized crop, flip and normalisation to float32 of the same 500 x 400 JPEGs of quality 90,
    made up in `folder` (a temporary one by default), with `threads` threads (torchvision: processes).
    """
    with ExitStack() as stack:
        root = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        dataset = _dataset(root, num_images)
        ours = stack.enter_context(closing(_ours(dataset, resolution, threads, batch_size)))
        stock = _stock(dataset, resolution, threads, batch_size)
        torchvision = _torchvision(root / "images" / "train", dataset, resolution, threads, batch_size)
        epochs: dict[str, Epoch] = {
            OURS: lambda number: ours.epoch(number),
            STOCK: lambda number: iter(stock),
            TORCHVISION: lambda number: iter(torchvision),
        }
        for epoch in epochs.values():
            _speed(epoch, 0, 0.0)  # compiles, starts, and fills the caches
        share = seconds / ROUNDS / len(epochs)
        rounds = [
            {name: _speed(epoch, number, share) for name, epoch in epochs.items()} for number in range(ROUNDS)
        ]
        return [_row(name, rounds, resolution, threads) for name in epochs]


def _speed(epoch: Epoch, number: int, seconds: float) -> float:
    """Images per second over whole epochs, at least one, for at least `seconds`."""
    images = 0
    begin = time.perf_counter()
    while images == 0 or time.perf_counter() - begin < seconds:
        images += sum(len(labels) for _, labels in epoch(number))
    return images / (time.perf_counter() - begin)


def _row(name: str, rounds: list[dict[str, float]], resolution: int, threads: int) -> LoaderSpeed:
    return LoaderSpeed(
        loader=name,
        resolution=resolution,
        threads=threads,
        images_per_s=statistics.median(result[name] for result in rounds),
        ratio_to_ffcv=statistics.median(result[name] / result[STOCK] for result in rounds),
        rounds=tuple(result[name] for result in rounds),
    )


def _dataset(root: Path, num_images: int) -> Dataset:
    for split, count in (("train", num_images), ("val", 2)):
        for number in range(count):
            folder = root / "images" / split / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            synthetic_photo(number).save(folder / f"{number:05}.jpg", quality=QUALITY)
    options = BuildOptions(write_mode="jpg", jpeg_quality=QUALITY)
    return build(root / "images", root / "packed", options)


def synthetic_photo(seed: int) -> Image.Image:
    """A 500 x 400 image with a photograph's spectrum: amplitudes fall as 1 / frequency^1.25."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None, :])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.normal(size=(3, HEIGHT, WIDTH))) / frequency**1.25
    spectrum[:, 0, 0] = 0.0
    fields = np.fft.irfft2(spectrum, (HEIGHT, WIDTH))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    channels = 128 + 45 * fields[:1] + 15 * fields
    return Image.fromarray(np.clip(channels, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _ours(dataset: Dataset, resolution: int, threads: int, batch_size: int) -> TrainLoader:
    return TrainLoader(dataset, batch_size=batch_size, resolution=resolution, seed=0, threads=threads)


def _stock(dataset: Dataset, resolution: int, threads: int, batch_size: int) -> Any:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    mean, std = 255 * np.array(dataset.mean), 255 * np.array(dataset.std)
    image = [
        RandomResizedCropRGBImageDecoder((resolution, resolution)),
        RandomHorizontalFlip(),
        NormalizeImage(mean, std, np.float32),
        ToTensor(),
        ToTorchImage(convert_back_int16=False),
    ]
    torch_threads = torch.get_num_threads()
    loader = Loader(
        str(dataset.file("train")),
        batch_size=batch_size,
        num_workers=threads,
        os_cache=True,
        order=OrderOption.RANDOM,
        pipelines={"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()], "checksum": None},
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
