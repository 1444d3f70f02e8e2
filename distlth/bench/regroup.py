"""How long regroup takes on a ResNet-50's layers, and how much magnitude it keeps."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Container, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distlth.prune.columns import budget_pairs, group_sums
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.prune.regroup import group_sizes, regroup_layer

TOTAL = "total"
WEIGHT_KINDS = ("structured", "random")
SPREAD = 0.35
MIN_ROWS = 16


@dataclass(frozen=True)
class RegroupRow:
    """Figures of one layer, or of all of them where `layer` is "total".

    `seconds` is the time in the worker process; for the total it is the wall-clock time of the whole call,
    worker start-up and compilation included. `density` and `regrouped_density` are fractions before and
    after. `retained` and `retained_random` are the shares of `magnitude`, the sum of |weight| that was kept,
    that the blocks keep: for regroup, and for random groups of rows with the `budget` choice of columns.
    """

    layer: str
    shape: tuple[int, ...]
    seconds: float
    density: float
    regrouped_density: float
    retained: float
    retained_random: float
    magnitude: float
    blocks: int
    reason: str | None


def bench(
    *,
    density: float = 0.3,
    weights: str = "structured",
    columns: str = "budget",
    processes: int = 2,
    layers: Container[str] | None = None,
) -> list[RegroupRow]:
    """One row for each of a ResNet-50's 53 convolutions (or of `layers`), regrouped, then the total.

    `weights` "random" are normal draws; "structured" ones also have scales by filter, by input channel and
    of low rank between them, as in trained layers. Layers run largest first in `processes` spawned
    processes with one thread each. Raises ValueError for an unknown kind of weights or a density outside
    (0, 1].
    """
    if weights not in WEIGHT_KINDS:
        raise ValueError(f"unknown weights {weights!r}; known: {', '.join(WEIGHT_KINDS)}")
    tensors = resnet50_weights(structured=weights == "structured")
    tensors = {name: weight for name, weight in tensors.items() if layers is None or name in layers}
    mask = prune_magnitude(tensors, Mask.dense({n: tuple(w.shape) for n, w in tensors.items()}), 1 - density)
    largest_first = sorted(mask, key=lambda name: -mask[name].numel())
    started = time.perf_counter()
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {
            n: pool.submit(_timed, tensors[n].numpy(), mask[n].numpy(), columns) for n in largest_first
        }
        results = {name: futures[name].result() for name in mask}
    wall = time.perf_counter() - started
    rows = [_row(name, tensors[name], mask[name], results[name]) for name in mask]
    return [*rows, _total(rows, wall)]


def resnet50_shapes() -> dict[str, tuple[int, int, int, int]]:
    """The weight shapes of a ResNet-50's convolutions, in module order."""
    shapes = {"conv1": (64, 3, 7, 7)}
    channels = 64
    for stage, (width, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(depth):
            prefix = f"layer{stage}.{block}"
            shapes[f"{prefix}.conv1"] = (width, channels, 1, 1)
            shapes[f"{prefix}.conv2"] = (width, width, 3, 3)
            shapes[f"{prefix}.conv3"] = (4 * width, width, 1, 1)
            if block == 0:
                shapes[f"{prefix}.downsample.0"] = (4 * width, channels, 1, 1)
            channels = 4 * width
    return shapes


def resnet50_weights(*, structured: bool) -> dict[str, Tensor]:
    """Return weights of a ResNet-50's convolutions: normal draws, with scales as in trained layers or not."""
    generator = torch.Generator().manual_seed(0)
    return {name: _weight(shape, structured, generator) for name, shape in resnet50_shapes().items()}


def _weight(shape: tuple[int, int, int, int], structured: bool, generator: torch.Generator) -> Tensor:
    out_channels, in_channels, height, width = shape
    weight = torch.randn(shape, generator=generator)
    if structured:
        by_filter = torch.randn(out_channels, 1, generator=generator)
        by_channel = torch.randn(1, in_channels, generator=generator)
        rank = 6
        left = torch.randn(out_channels, rank, generator=generator)
        right = torch.randn(rank, in_channels, generator=generator)
        scale = SPREAD * (by_filter + by_channel + left @ right / rank**0.5)
        weight *= scale.exp()[:, :, None, None]
    return weight.mul_((2 / (in_channels * height * width)) ** 0.5)


@dataclass(frozen=True)
class _Timed:
    """What a worker process sends back for a layer."""

    seconds: float
    kept: npt.NDArray[np.bool_]
    blocks: int
    reason: str | None


def _timed(weight: npt.NDArray[np.float32], kept: npt.NDArray[np.bool_], columns: str) -> _Timed:
    started = time.perf_counter()
    layer = regroup_layer(
        torch.from_numpy(weight), torch.from_numpy(kept), columns=columns, min_rows=MIN_ROWS
    )
    seconds = time.perf_counter() - started
    return _Timed(seconds, layer.mask.numpy(), len(layer.blocks), layer.reason)


def _row(name: str, weight: Tensor, kept: Tensor, timed: _Timed) -> RegroupRow:
    magnitudes = np.abs(weight.double().numpy()) * kept.numpy()
    total = float(magnitudes.sum()) or 1.0
    return RegroupRow(
        layer=name,
        shape=tuple(kept.shape),
        seconds=timed.seconds,
        density=float(kept.float().mean()),
        regrouped_density=float(timed.kept.mean()),
        retained=float(magnitudes[timed.kept].sum()) / total,
        retained_random=_random_retained(magnitudes.reshape(len(kept), -1)) / total,
        magnitude=float(magnitudes.sum()),
        blocks=timed.blocks,
        reason=timed.reason,
    )


def _random_retained(magnitudes: npt.NDArray[np.float64]) -> float:
    """The magnitude that the best blocks keep, within the budget, on rows grouped at random."""
    kept = magnitudes > 0
    rows = np.random.default_rng(0).permutation(np.flatnonzero(kept.any(axis=1)))
    if len(rows) < MIN_ROWS:
        return float(magnitudes.sum())
    sizes = group_sizes(len(rows), MIN_ROWS)
    groups = np.split(rows, np.cumsum(sizes)[:-1])
    sums = group_sums(magnitudes, groups)
    taken = budget_pairs(sums, group_sums(kept, groups), np.array(sizes), int(kept.sum()))
    return float(sums[taken].sum())


def _total(rows: list[RegroupRow], seconds: float) -> RegroupRow:
    cells = [prod(row.shape) for row in rows]
    magnitude = sum(row.magnitude for row in rows)

    def mean(values: list[float], weights: Sequence[float]) -> float:
        return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)

    by_magnitude = [row.magnitude for row in rows]
    return RegroupRow(
        layer=TOTAL,
        shape=(sum(cells),),
        seconds=seconds,
        density=mean([row.density for row in rows], cells),
        regrouped_density=mean([row.regrouped_density for row in rows], cells),
        retained=mean([row.retained for row in rows], by_magnitude),
        retained_random=mean([row.retained_random for row in rows], by_magnitude),
        magnitude=magnitude,
        blocks=sum(row.blocks for row in rows),
        reason=None,
    )
