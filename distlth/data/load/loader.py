"""Batches of images for training and evaluation, the same for any number of threads, ranks and resumes."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distlth.data.beton import Beton, read_beton
from distlth.data.dataset import Dataset
from distlth.data.load import decode
from distlth.data.load.buffers import Buffers
from distlth.data.load.order import epoch_key, epoch_order, mix
from distlth.data.load.storage import Storage, check_cache, open_storage
from distlth.data.load.stream import Stream
from distlth.errors import DataError

Batch = tuple[Tensor, Tensor]
Batches = Stream[Batch]
Crop = Literal["random-resized", "pad", "none"]
Cache = Literal["os", "process"]
Indices = npt.NDArray[np.int64]

IMAGENET_RATIO = 224 / 256
CPU = torch.device("cpu")

_CROPS = {"random-resized": decode.RANDOM_RESIZED, "pad": decode.PAD, "none": decode.CENTRE}
_CHUNKS_PER_THREAD = 4
_AUGMENTATION = 0xA0761D6478BD642F  # parts the draws of augmentation from those of the order


def eval_ratio(crop: Crop) -> float:
    """The centre crop's share of the shorter side that belongs to a training crop: 224/256, or all."""
    return IMAGENET_RATIO if crop == "random-resized" else 1.0


class TrainLoader:
    """The training batches of one rank.

    Global batch s of an epoch is `epoch_order(...)[s * B : (s + 1) * B]` with B = `batch_size`, the *global*
    batch size; rank r takes the r-th of its `world_size` equal, contiguous parts. What is left over at the
    end of an epoch is dropped. Images come as float32 (batch, 3, resolution, resolution) in channels-last
    memory, normalised by `mean` and `std` (per RGB channel, 0..1; the data set's own unless given); labels
    as int64 (batch,). The same (seed, epoch, step) always gives the same bits.

    `crop`: 'random-resized' as torchvision's RandomResizedCrop; 'pad': the centred square resized to
    `resolution`, then moved by up to resolution/8 pixels each way, over a border of the mean colour; 'none':
    that square alone. `flip` mirrors half of the samples. `threads` decode; torch's own are left alone.
    `cache`: 'os' maps the file, 'process' reads its pages ahead into this process. DataError for arguments
    that do not fit the data set, and, while iterating, for a sample that does not decode.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        resolution: int,
        crop: Crop = "random-resized",
        flip: bool = True,
        seed: int,
        threads: int,
        cache: Cache = "os",
        device: torch.device = CPU,
        batches_ahead: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if crop not in _CROPS:
            raise DataError(f"crop {crop!r} is not known; choose one of {', '.join(map(repr, _CROPS))}")
        if batch_size < 1 or batch_size % world_size:
            raise DataError(f"batch size {batch_size} is not divisible by the world size {world_size}")
        self._count = dataset.split("train").count
        self.steps_per_epoch = self._count // batch_size
        if self.steps_per_epoch == 0:
            raise DataError(f"batch size {batch_size} is larger than the train split ({self._count} samples)")
        self.batch_size = batch_size
        self._rank, self._part = _check_rank(rank, world_size), batch_size // world_size
        self._seed = seed
        self._reader = _Reader(
            dataset,
            split="train",
            batch_size=self._part,
            resolution=resolution,
            crop_kind=_CROPS[crop],
            ratio=1.0,
            flip=flip,
            threads=threads,
            cache=cache,
            device=device,
            ahead=batches_ahead,
            mean=mean,
            std=std,
        )
        self._order: tuple[int, Indices] | None = None

    def batch_indices(self, epoch: int, step: int) -> Indices:
        """The sample indices (int64) of this rank's part of global batch `step`, in order."""
        begin = step * self.batch_size + self._rank * self._part
        return self._epoch_order(epoch)[begin : begin + self._part]

    def epoch(self, epoch: int, first_step: int = 0) -> Batches:
        """The batches `first_step` .. `steps_per_epoch` - 1 of `epoch`: an iterator with `close`.

        Its thread starts at once; use it in a `with` block, or close it, when it may not be exhausted.
        """
        if not 0 <= first_step <= self.steps_per_epoch:
            raise DataError(f"step {first_step} is not in 0..{self.steps_per_epoch}")
        batches = [self.batch_indices(epoch, step) for step in range(first_step, self.steps_per_epoch)]
        return self._reader.stream(batches, mix(epoch_key(self._seed, epoch) ^ _AUGMENTATION))

    def close(self) -> None:
        """End the decoding threads. Streams that are still open fail."""
        self._reader.close()

    def _epoch_order(self, epoch: int) -> Indices:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, epoch_order(self._count, self._seed, epoch))
        return self._order[1]


class EvalLoader:
    """Every sample of a split (or of `indices`) exactly once over all ranks, unaugmented, in a fixed order.

    Rank r takes every `world_size`-th sample from r on, in batches of `batch_size` (*per rank*); the last one
    is smaller, nothing is padded or dropped, and a rank may have a sample less than another. The image is
    the centre square of `ratio` of the shorter side (`eval_ratio(crop)` goes with a training crop), resized
    to `resolution`. Batches, `threads`, `cache` and errors are as in `TrainLoader`.
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
        threads: int,
        cache: Cache = "os",
        device: torch.device = CPU,
        indices: Sequence[int] | Indices | None = None,
        batches_ahead: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch size {batch_size} is not positive")
        if not 0 < ratio <= 1:
            raise DataError(f"ratio {ratio} is not in (0, 1]")
        chosen = _check_indices(indices, dataset.split(split).count)
        self.indices: Indices = chosen[_check_rank(rank, world_size) :: world_size]
        self._batch_size = batch_size
        self._reader = _Reader(
            dataset,
            split=split,
            batch_size=batch_size,
            resolution=resolution,
            crop_kind=decode.CENTRE,
            ratio=ratio,
            flip=False,
            threads=threads,
            cache=cache,
            device=device,
            ahead=batches_ahead,
            mean=mean,
            std=std,
        )

    def __len__(self) -> int:
        return -(-len(self.indices) // self._batch_size)

    def __iter__(self) -> Batches:
        starts = range(0, len(self.indices), self._batch_size)
        return self._reader.stream([self.indices[i : i + self._batch_size] for i in starts], key=0)

    def close(self) -> None:
        """End the decoding threads. Streams that are still open fail."""
        self._reader.close()


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


class _Workspace:
    """What one decoding thread writes into: the image being decoded, and a chunk's pixels."""

    def __init__(self, max_pixels: int, resolution: int) -> None:
        self.scratch = np.empty(3 * (max_pixels + resolution * resolution), np.uint8)
        self._pixels = np.empty((0, resolution, resolution, 3), np.uint8)

    def pixels(self, count: int) -> npt.NDArray[np.uint8]:
        if count > len(self._pixels):
            self._pixels = np.empty((count, *self._pixels.shape[1:]), np.uint8)
        return self._pixels[:count]


class _Reader:
    """Turns lists of sample indices into streams of batches, with a pool of decoding threads."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        split: str,
        batch_size: int,
        resolution: int,
        crop_kind: int,
        ratio: float,
        flip: bool,
        threads: int,
        cache: str,
        device: torch.device,
        ahead: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        check_cache(cache)
        if threads < 1 or resolution < 1:
            raise DataError(f"threads ({threads}) and resolution ({resolution}) must be at least 1")
        self._opened = _stamp(dataset.file(split))
        self._beton: Beton = read_beton(dataset.file(split), dataset.num_classes)
        self._resolution, self._crop_kind, self._ratio, self._flip = resolution, crop_kind, ratio, flip
        self._cache, self._ahead, self._threads = cache, ahead, threads
        colour = np.asarray(dataset.mean if mean is None else mean, np.float64)
        spread = np.maximum(np.asarray(dataset.std if std is None else std, np.float64), 1 / 255)
        self._fill = np.round(colour * 255).astype(np.uint8)
        buffers = Buffers((batch_size, resolution, resolution, 3), keep=ahead + 2)
        self._finisher = _finisher(1 / (255 * spread), -colour / spread, resolution, device, buffers)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="distlth-decode")
        self._workspaces: queue.SimpleQueue[_Workspace] = queue.SimpleQueue()
        for _ in range(threads):
            self._workspaces.put(_Workspace(self._beton.max_pixels, resolution))

    def stream(self, batches: Sequence[Indices], key: int) -> Batches:
        """The batches of the given sample indices, augmented by `key` (64 bits)."""
        return Stream(lambda: self._batches(batches, np.uint64(key)), self._ahead, self._finisher.receive)

    def close(self) -> None:
        # Not cancelled: whoever waits for a cancelled chunk would wait for ever.
        self._pool.shutdown(wait=True)

    def _batches(self, batches: Sequence[Indices], key: np.uint64) -> Iterator[Batch]:
        """Decode the batches in order. While one is finished off, the next has begun if storage allows."""
        pending: deque[_Pending] = deque()
        if batches:
            self._check_unchanged(batches[0])
        with open_storage(self._cache, self._beton, batches) as storage:
            try:
                for number, indices in enumerate(batches):
                    pending.append(self._begin(storage, number, indices, key))
                    if len(pending) > storage.ahead:
                        yield self._finish(pending.popleft())
                while pending:
                    yield self._finish(pending.popleft())
            finally:
                for batch in pending:
                    wait(batch.chunks)

    def _begin(self, storage: Storage, number: int, indices: Indices, key: np.uint64) -> _Pending:
        self._check_unchanged(indices)
        stored, offsets = storage.load(number, indices)
        images = self._finisher.allocate(len(indices))
        size = -(-len(indices) // (self._threads * _CHUNKS_PER_THREAD))
        chunks = []
        for begin in range(0, len(indices), size):
            part = slice(begin, begin + size)
            target = images[part].numpy()
            chunks.append(self._pool.submit(self._decode, stored, offsets[part], indices[part], key, target))
        return _Pending(indices, images, chunks)

    def _check_unchanged(self, indices: Indices) -> None:
        """Look before each batch: what lies behind a mapped file's new end would kill the process."""
        path = self._beton.path
        if _stamp(path) != self._opened:
            raise DataError(
                f"{path}: was cut, replaced or changed while it was read, before sample {indices[0]};"
                " put the file back, or build the data set again"
            )

    def _finish(self, batch: _Pending) -> Batch:
        for chunk in batch.chunks:
            chunk.result()
        return self._finisher.finish(batch.images, torch.from_numpy(self._beton.labels[batch.indices]))

    def _decode(
        self,
        stored: npt.NDArray[np.uint8],
        offsets: Indices,
        indices: Indices,
        key: np.uint64,
        target: npt.NDArray[np.generic],
    ) -> None:
        """Decode one chunk into `target`, in a thread of the pool."""
        workspace = self._workspaces.get()
        try:
            beton = self._beton
            pixels = workspace.pixels(len(indices))
            failed = decode.decode_samples(
                stored,
                offsets,
                beton.lengths[indices],
                beton.modes[indices],
                beton.heights[indices],
                beton.widths[indices],
                indices,
                key,
                self._crop_kind,
                self._flip,
                self._ratio,
                self._fill,
                workspace.scratch,
                pixels,
            )
            if failed >= 0:
                raise DataError(
                    f"{beton.path}: sample {indices[failed]} does not decode;"
                    f" `distlth data check {beton.path.parent}` looks at all of them"
                )
            self._finisher.store(pixels, target)
        finally:
            self._workspaces.put(workspace)


def _stamp(path: Path) -> tuple[int, int] | None:
    """By which a file is told from another one in its place: bytes and time of change; None for no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class _Pending:
    """A batch whose chunks are being decoded into `images`."""

    indices: Indices
    images: Tensor
    chunks: list[Future[None]]


class _Finisher(Protocol):
    """What becomes of decoded pixels (uint8, n x R x R x 3) until they are the images of a batch."""

    def allocate(self, count: int) -> Tensor:
        """Host memory for the images of a batch."""

    def store(self, pixels: npt.NDArray[np.uint8], target: npt.NDArray[np.generic]) -> None:
        """Put a chunk's pixels into its part of that memory, in a decoding thread."""

    def finish(self, images: Tensor, labels: Tensor) -> Batch:
        """The batch, in the thread that prepares batches."""

    def receive(self, batch: Batch) -> Batch:
        """The batch, in the consumer's thread."""


def _finisher(
    scale: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64],
    resolution: int,
    device: torch.device,
    buffers: Buffers,
) -> _Finisher:
    if device.type == "cuda":
        return _OnGpu(scale, bias, resolution, device)
    if device.type == "cpu":
        return _OnCpu(scale, bias, resolution, buffers)
    raise DataError(f"cannot load images to device {device}; choose cpu or cuda")


class _OnCpu:
    """Normalises in the decoding threads, while a chunk's pixels are still in the processor's cache."""

    def __init__(
        self, scale: npt.NDArray[np.float64], bias: npt.NDArray[np.float64], resolution: int, buffers: Buffers
    ) -> None:
        self._buffers = buffers
        self._scale = np.tile(scale, resolution).astype(np.float32)
        self._bias = np.tile(bias, resolution).astype(np.float32)

    def allocate(self, count: int) -> Tensor:
        return self._buffers.take(count)

    def store(self, pixels: npt.NDArray[np.uint8], target: npt.NDArray[np.generic]) -> None:
        decode.normalise(pixels.reshape(-1), self._scale, self._bias, target.reshape(-1))

    def finish(self, images: Tensor, labels: Tensor) -> Batch:
        return images.permute(0, 3, 1, 2), labels

    def receive(self, batch: Batch) -> Batch:
        return batch


class _OnGpu:
    """Copies uint8 pixels to the GPU on a stream of its own and normalises them there."""

    def __init__(
        self,
        scale: npt.NDArray[np.float64],
        bias: npt.NDArray[np.float64],
        resolution: int,
        device: torch.device,
    ) -> None:
        self._resolution, self._device = resolution, device
        self._scale = torch.tensor(scale, dtype=torch.float32, device=device)
        self._bias = torch.tensor(bias, dtype=torch.float32, device=device)
        self._stream = torch.cuda.Stream(device)

    def allocate(self, count: int) -> Tensor:
        shape = (count, self._resolution, self._resolution, 3)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)

    def store(self, pixels: npt.NDArray[np.uint8], target: npt.NDArray[np.generic]) -> None:
        target[...] = pixels

    def finish(self, images: Tensor, labels: Tensor) -> Batch:
        with torch.cuda.stream(self._stream):
            pixels = images.to(self._device, non_blocking=True)
            normalised = pixels.float().mul_(self._scale).add_(self._bias)
            labels = labels.pin_memory().to(self._device, non_blocking=True)
        self._stream.synchronize()
        return normalised.permute(0, 3, 1, 2), labels

    def receive(self, batch: Batch) -> Batch:
        # The allocator must not reuse this memory on the copying stream while the consumer computes with it.
        for tensor in batch:
            tensor.record_stream(torch.cuda.current_stream(self._device))
        return batch
