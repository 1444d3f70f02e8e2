"""Batches of images for training and evaluation, the same for any number of threads, ranks and resumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from distlth.data.dataset import Dataset
from distlth.data.load.finish import finisher
from distlth.data.load.order import Shuffle, epoch_key, epoch_order, lanes_order, mix, part
from distlth.data.load.packed import PackedSplit
from distlth.data.load.reader import Batches, BatchSource, Reader
from distlth.data.load.resident import resident
from distlth.data.load.storage import Cache, Indices
from distlth.data.load.transform import Colour, Crop, Fill, Jitter, Transform
from distlth.errors import DataError

IMAGENET_RATIO = 224 / 256
CPU = torch.device("cpu")

_AUGMENTATION = 0xA0761D6478BD642F  # keeps the random draws of augmentation apart from those of the order


def eval_ratio(crop: Crop) -> float:
    """Return the centre crop's share of the shorter side that goes with a training crop: 224/256, or all."""
    return IMAGENET_RATIO if crop == "random-resized" else 1.0


class _Loader:
    """Reads a split that was opened for several loaders, or opens one of its own."""

    _own: PackedSplit | None = None

    def _open(
        self, dataset: Dataset, split: str, threads: int | None, cache: Cache, packed: PackedSplit | None
    ) -> PackedSplit:
        """Return `packed`, or a split that `close` closes."""
        if packed is not None:
            if (packed.dataset, packed.split) != (dataset, split):
                raise ValueError(f"{packed.split} of {packed.dataset.path} is open, expected {split}")
            return packed
        if threads is None:
            raise ValueError("threads: how many are to decode, where no packed split is given")
        self._own = PackedSplit(dataset, split, threads=threads, cache=cache)
        return self._own

    def close(self) -> None:
        """End the decoding threads, if they are this loader's own. Its open streams then fail."""
        if self._own is not None:
            self._own.close()


class TrainLoader(_Loader):
    """The training batches of one rank.

    Global batch s of an epoch is `order[s * B : (s + 1) * B]` with B = `batch_size`, the *global* batch size,
    and the order `epoch_order` (`shuffle` 'full') or `lanes_order` ('lanes'); rank r takes its `part`, and a
    rank may have an image less than another. What is left over at the end of an epoch is dropped. Images come
    as float32 (batch, 3, resolution, resolution) in channels-last memory, normalised by `mean` and `std` (per
    RGB channel, 0..1; by default the data set's own); labels as int64 (batch,). The same (seed, epoch, step)
    always gives the same bits.

    `resolution`, `crop`, `flip`, `pad`, `fill`, `rotate`, `jitter` are as in `Transform`; with `side`, the
    images of an epoch have the resolution that it returns for the epoch. `packed` is the train split where
    the caller has opened it: then a loader for another seed, resolution or batch size costs next to nothing,
    and `threads` and `cache` do not count. Without it the loader opens the split with these two, and closes
    it. Raises DataError for arguments that do not fit the data set, and, while iterating, for a sample that
    does not decode.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        resolution: int,
        side: Callable[[int], int] | None = None,
        crop: Crop = "random-resized",
        flip: bool = True,
        pad: int | None = None,
        fill: Fill = "mean",
        rotate: float = 0.0,
        jitter: Jitter | None = None,
        seed: int,
        threads: int | None = None,
        cache: Cache = "os",
        device: torch.device = CPU,
        batches_ahead: int = 3,
        mean: Colour | None = None,
        std: Colour | None = None,
        shuffle: Shuffle = "full",
        packed: PackedSplit | None = None,
    ) -> None:
        colours = mean or dataset.mean, std or dataset.std
        transform = Transform(resolution, crop, 1.0, flip, *colours, pad, fill, rotate, jitter or Jitter())
        if batch_size < world_size:
            raise DataError(f"batch size {batch_size} leaves some of {world_size} ranks without an image")
        self._count = dataset.split("train").count
        self.steps_per_epoch = self._count // batch_size
        if self.steps_per_epoch == 0:
            raise DataError(f"batch size {batch_size} is larger than the train split ({self._count} samples)")
        self.batch_size = batch_size
        self._part = part(batch_size, _check_rank(rank, world_size), world_size)
        self._seed = seed
        self._order: tuple[int, Indices] | None = None
        opened = self._open(dataset, "train", threads, cache, packed)
        self._pages = opened.index.pages if shuffle == "lanes" else None
        self._side = side or (lambda _epoch: resolution)
        size = len(self._part)

        def source(resolution: int) -> BatchSource:
            sized = replace(transform, resolution=resolution)
            by_page = self._pages is not None
            return _source(opened, sized, size, device, batches_ahead, whole=True, by_page=by_page)

        self._make_source = source
        self._made: tuple[int, BatchSource] = resolution, source(resolution)

    def batch_indices(self, epoch: int, step: int) -> Indices:
        """Return the sample indices (int64) of this rank's part of global batch `step`, in order."""
        begin = step * self.batch_size
        return self._epoch_order(epoch)[begin + self._part.start : begin + self._part.stop]

    def epoch(self, epoch: int, first_step: int = 0) -> Batches:
        """Return the batches `first_step` .. `steps_per_epoch` - 1 of `epoch`: an iterator with `close`.

        Its thread starts at once; use it in a `with` block, or close it, when it may not be exhausted.
        """
        if not 0 <= first_step <= self.steps_per_epoch:
            raise DataError(f"step {first_step} is not in 0..{self.steps_per_epoch}")
        batches = [self.batch_indices(epoch, step) for step in range(first_step, self.steps_per_epoch)]
        return self._source(epoch).stream(batches, mix(epoch_key(self._seed, epoch) ^ _AUGMENTATION))

    def _source(self, epoch: int) -> BatchSource:
        """Return what makes an epoch's batches; one for another size goes, and its memory with it."""
        side = self._side(epoch)
        if self._made[0] != side:
            self._made = side, self._make_source(side)
        return self._made[1]

    def _epoch_order(self, epoch: int) -> Indices:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._draw_order(epoch))
        return self._order[1]

    def _draw_order(self, epoch: int) -> Indices:
        if self._pages is None:
            return epoch_order(self._count, self._seed, epoch)
        return lanes_order(self._pages, self.batch_size, self._seed, epoch)


class EvalLoader(_Loader):
    """Every sample of a split (or of `indices`) exactly once over all ranks, unaugmented, in a fixed order.

    Rank r takes every `world_size`-th sample from r on, in batches of `batch_size` (*per rank*); the last one
    is smaller, nothing is padded or dropped, and a rank may have a sample less than another. The image is
    the centre square of `ratio` of the shorter side (`eval_ratio(crop)` goes with a training crop), resized
    to `resolution`. Batches, `packed` (of `split`), `threads`, `cache` and errors are as in `TrainLoader`.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        split: str = "val",
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        resolution: int,
        ratio: float = IMAGENET_RATIO,
        threads: int | None = None,
        cache: Cache = "os",
        device: torch.device = CPU,
        indices: Sequence[int] | Indices | None = None,
        batches_ahead: int = 3,
        mean: Colour | None = None,
        std: Colour | None = None,
        packed: PackedSplit | None = None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch size {batch_size} is not positive")
        transform = Transform(resolution, "none", ratio, False, mean or dataset.mean, std or dataset.std)
        chosen = _check_indices(indices, dataset.split(split).count)
        self.indices: Indices = chosen[_check_rank(rank, world_size) :: world_size]
        self._batch_size = batch_size
        opened = self._open(dataset, split, threads, cache, packed)
        whole = indices is None
        self._source = _source(opened, transform, batch_size, device, batches_ahead, whole=whole)

    def __len__(self) -> int:
        return -(-len(self.indices) // self._batch_size)

    def __iter__(self) -> Batches:
        starts = range(0, len(self.indices), self._batch_size)
        return self._source.stream([self.indices[i : i + self._batch_size] for i in starts], key=0)


def _source(
    packed: PackedSplit,
    transform: Transform,
    batch_size: int,
    device: torch.device,
    ahead: int,
    *,
    whole: bool,
    by_page: bool = False,
) -> BatchSource:
    """Return what makes a loader's batches: with `cache: gpu` and a `whole` split, the device."""
    if packed.cache == "gpu" and whole:
        return resident(packed, transform, device)
    finish = finisher(transform, device, batch_size, keep=ahead + 2)
    return Reader(packed, transform, finish, ahead=ahead, by_page=by_page)


def _check_rank(rank: int, world_size: int) -> int:
    if not 0 <= rank < world_size:
        raise DataError(f"rank {rank} is not in 0..{world_size - 1}")
    return rank


def _check_indices(indices: Sequence[int] | Indices | None, count: int) -> Indices:
    if indices is None:
        return np.arange(count, dtype=np.int64)
    chosen = np.asarray(indices, dtype=np.int64)
    if chosen.ndim != 1 or ((chosen < 0) | (chosen >= count)).any():
        raise DataError(f"sample indices must be a list of numbers in 0..{count - 1}")
    return chosen
