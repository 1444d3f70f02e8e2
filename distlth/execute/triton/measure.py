"""Which way of running a convolution is fastest on this device: measured, once for each kind of layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distlth.cores import num_cores
from distlth.execute.triton.conv import GroupedConv2d
from distlth.execute.triton.kernel import blocks_kernel
from distlth.execute.triton.layout import planes
from distlth.execute.triton.op import Launch, kernel_call
from distlth.execute.triton.runs import INTERPRETED
from distlth.prune.blocks import Block

MIN_ROWS = (1, 64, 128)  # blocks as they are, or joined: more products, fewer loads
MANY_PIXELS = 4096
MANY_SUMS = 128 * 128  # they do not fit into the registers of four warps
LAUNCHES = (Launch(128, 4, 3), Launch(256, 8, 3))
SEVERAL_TAPS_LAUNCHES = (Launch(64, 4, 3), Launch(128, 8, 3))
FEW_PIXELS_LAUNCHES = (Launch(32, 2, 4), Launch(64, 4, 3))
CALLS, REPLAYS = 10, 3
LONG = 1e-3  # seconds; a launch takes less than a tenth of it

Call = Callable[[], object]


@dataclass(frozen=True, eq=False)
class Trial:
    """A layer as its network runs it: the shapes of its input and summand, and whether ReLU follows."""

    conv: nn.Conv2d
    input_shape: tuple[int, ...]
    sum_shape: tuple[int, ...] | None
    relu: bool
    tf32: bool

    @property
    def kind(self) -> tuple[object, ...]:
        """Layers of the same kind take the same time, if they keep as many weights."""
        conv = self.conv
        sizes = (tuple(conv.weight.shape), conv.stride, conv.padding, conv.dilation, conv.groups)
        return (*sizes, conv.weight.dtype, self.input_shape, self.sum_shape, self.relu, self.tf32)

    def maps(self) -> tuple[Tensor, Tensor | None]:
        """Return noise as input, and as summand where there is one."""
        like = self.conv.weight
        x = torch.randn(self.input_shape, device=like.device, dtype=like.dtype)
        if self.sum_shape is None:
            return x, None
        return x, torch.randn(self.sum_shape, device=like.device, dtype=like.dtype)


@dataclass(frozen=True, eq=False)
class Measured:
    """Seconds of the dense layer, and of the fastest grouped form, with that one's launch and rows."""

    dense: float
    grouped: float
    launch: Launch
    min_rows: int


def candidates(trial: Trial, blocks: Sequence[Block]) -> dict[int, GroupedConv2d]:
    """Return the grouped forms of a layer that may be fastest, by the least rows of their blocks."""
    forms: dict[int, GroupedConv2d] = {}
    for min_rows in MIN_ROWS:
        form = GroupedConv2d(trial.conv, blocks, min_rows=min_rows, relu=trial.relu, tf32=trial.tf32)
        if all(form.macs != other.macs for other in forms.values()):
            forms[min_rows] = form
    return forms


def launches(trial: Trial, form: GroupedConv2d) -> Sequence[Launch]:
    """Return the launches to try."""
    height, width = form.geometry.output(*trial.input_shape[2:])
    if INTERPRETED:
        return LAUNCHES[:1]
    rows = form.get_buffer("weight").shape[1]
    if trial.input_shape[0] * height * width < MANY_PIXELS:
        return FEW_PIXELS_LAUNCHES
    if not form.geometry.pointwise:
        return SEVERAL_TAPS_LAUNCHES
    return [replace(each, warps=8) if each.pixels * rows >= MANY_SUMS else each for each in LAUNCHES]


def compile_all(trials: Sequence[tuple[Trial, Iterable[GroupedConv2d]]]) -> None:
    """Compile the kernels of all forms and launches on all cores; what does not compile fails later."""
    if INTERPRETED:
        return
    wanted: dict[tuple[object, ...], tuple[Trial, GroupedConv2d, Launch]] = {}
    for trial, forms in trials:
        for form in forms:
            for launch in launches(trial, form):
                tile = tuple(form.get_buffer("weight").shape[1:])
                aligned = [size % 16 == 0 for size in _pixels(trial, form)]
                key = (trial.conv.weight.dtype, trial.tf32, form.geometry.pointwise, tile, *aligned)
                wanted[(*key, *astuple(launch))] = (trial, form, launch)
    with ThreadPoolExecutor(num_cores()) as pool:
        for done in [pool.submit(_compile, *each) for each in wanted.values()]:
            with suppress(Exception):  # measuring it fails in the same way, and leaves it out
                done.result()


def _pixels(trial: Trial, form: GroupedConv2d) -> tuple[int, int]:
    images, _, height, width = trial.input_shape
    out_height, out_width = form.geometry.output(height, width)
    return images * height * width, images * out_height * out_width


def _compile(trial: Trial, form: GroupedConv2d, launch: Launch) -> None:
    like = trial.conv.weight.new_empty(1)  # only shapes, dtypes and alignment count
    images, _, height, width = trial.input_shape
    x = like.expand(trial.input_shape)
    out = like.expand(images, trial.conv.out_channels, *form.geometry.output(height, width))
    arguments, options = kernel_call(
        x,
        out,
        out,
        form.tables(),
        form.geometry,
        has_residual=trial.sum_shape is not None,
        relu=trial.relu,
        tf32=trial.tf32,
        launch=launch,
    )
    blocks_kernel.warmup(*arguments, grid=(1,), **options)


def measure(trial: Trial, forms: Mapping[int, GroupedConv2d]) -> Measured:
    """Return the times of a layer's dense form and of its fastest grouped one, infinite if none ran."""
    x, summand = trial.maps()
    dense = min(dense_seconds(trial, x, summand))
    x, summand = planes(x), None if summand is None else planes(summand)
    found: list[tuple[float, Launch, int]] = []
    for min_rows, form in forms.items():
        for launch in launches(trial, form):
            form.launch = launch
            with suppress(Exception):  # too large for this device
                found.append((seconds(partial(form, x, summand), x.device), launch, min_rows))
    best = min(found, key=lambda each: each[0], default=(float("inf"), Launch(), 1))
    return Measured(dense, *best)


def dense_seconds(trial: Trial, x: Tensor, summand: Tensor | None) -> list[float]:
    """Return the seconds of the dense layer with its sum and ReLU, in both layouts that cuDNN knows."""
    conv = trial.conv

    def call(weight: Tensor, x: Tensor, summand: Tensor | None = None) -> Tensor:
        out = F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        out = out if summand is None else out.add_(summand)
        return out.relu_() if trial.relu else out

    found = []
    with cudnn(tf32=trial.tf32):
        for layout in (torch.channels_last, torch.contiguous_format):
            maps = (conv.weight, x) if summand is None else (conv.weight, x, summand)
            given = [each.contiguous(memory_format=layout) for each in maps]
            found.append(seconds(partial(call, *given), x.device))
    return found


@contextmanager
def cudnn(*, tf32: bool) -> Iterator[None]:
    """Let cuDNN choose its fastest kernels, with or without TF32, in the block."""
    backend = torch.backends.cudnn
    before = backend.allow_tf32, backend.benchmark
    backend.allow_tf32, backend.benchmark = tf32, True
    try:
        yield
    finally:
        backend.allow_tf32, backend.benchmark = before


def seconds(call: Call, device: torch.device) -> float:
    """Return the seconds of one call, the median of a few.

    On a GPU, calls that are short beside their launch are replayed as a CUDA graph of many.
    """
    with torch.no_grad():
        if device.type != "cuda":
            return _clocked(call)
        call()
        estimate = _elapsed(call)
        if estimate > LONG:
            return median(_elapsed(call) for _ in range(REPLAYS))
        graph = captured(call, CALLS)
        return median(_elapsed(graph.replay) for _ in range(REPLAYS)) / CALLS


def _clocked(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _elapsed(call: Call) -> float:
    """Return the seconds that a call takes on the GPU, which is idle before and after."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


def captured(call: Call, calls: int = 1) -> torch.cuda.CUDAGraph:
    """Return a CUDA graph of `calls` calls, after one that warms up."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        for _ in range(calls):
            call()
    return graph


def conversion_seconds(shape: Sequence[int], like: Tensor) -> float:
    """Return the seconds to store maps of a shape in the other layout."""
    maps = torch.empty(tuple(shape), device=like.device, dtype=like.dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)
    return seconds(lambda: planes(maps), like.device)
