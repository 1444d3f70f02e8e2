"""The cost of a training step, masked and not, against a bare loop and torch's own pruning, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from distlth.config.schema import TrainSection
from distlth.models import Stem, anatomy, build
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask, weight_name
from distlth.ticket import Ticket
from distlth.train.cuda_graph import CudaGraphs
from distlth.train.masking import parameter_masks
from distlth.train.step import StepState, train_step
from distlth.train.world import World

Amp = Literal["off", "bf16", "fp16"]
Step = Callable[[], None]

BARE, NO_MASK, MASK, TORCH_PRUNE = "bare loop", "no mask", "mask", "torch's prune"
COMPILED, CAPTURED = "mask, compiled", "mask, CUDA graph"
KINDS = (BARE, NO_MASK, MASK, TORCH_PRUNE)
ON_GPU = (*KINDS, CAPTURED, COMPILED)


@dataclass(frozen=True)
class StepRow:
    """Median milliseconds of a step, and its ratios to two others: medians over rounds."""

    name: str
    milliseconds: float
    images_per_second: float
    to_bare_loop: float | None
    to_no_mask: float | None


@dataclass(frozen=True)
class Shape:
    """What trains: a network, its images and their precision, on a device."""

    model: str
    resolution: int
    batch: int
    amp: Amp
    device: torch.device
    stem: Stem = "imagenet"
    blurpool: bool = False

    def network(self) -> nn.Module:
        """Return the network on its device, the same each time."""
        model = build(self.model, 1000, seed=0, stem=self.stem, blurpool=self.blurpool)
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def images(self) -> tuple[Tensor, Tensor]:
        """Return a batch of noise and its labels, on the device."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, 3, self.resolution, self.resolution, generator=generator)
        labels = torch.randint(0, 1000, (self.batch,), generator=generator)
        images = images.contiguous(memory_format=torch.channels_last)
        return images.to(self.device), labels.to(self.device)


def default_shape() -> Shape:
    """Return what is measured where nothing else is asked for: more on a GPU than on a CPU."""
    if torch.cuda.is_available():
        return Shape("resnet50", 224, 256, "bf16", torch.device("cuda"))
    return Shape("resnet18", 64, 16, "off", torch.device("cpu"))


def bench(
    *,
    shape: Shape | None = None,
    resolution: int | None = None,
    density: float = 0.3,
    rounds: int = 30,
    steps_per_round: int | None = None,
    kinds: Sequence[str] = (),
) -> list[StepRow]:
    """Time the steps of several copies of a network that train on the same images, in turn.

    In each of `rounds`, each copy makes `steps_per_round` steps (default: 1 on a CPU, 5 on a GPU, where the
    clock is read when all are done); the order turns, so that a drift of the machine's speed falls on all.
    `kinds` are what is timed: by default all, but on a CPU no torch.compile and no CUDA graph.
    """
    shape = shape or default_shape()
    shape = replace(shape, resolution=resolution or shape.resolution)
    on_gpu = shape.device.type == "cuda"
    steps = {kind: _step(kind, shape, density) for kind in kinds or (ON_GPU if on_gpu else KINDS)}
    times = time_steps(steps, rounds, steps_per_round or (5 if on_gpu else 1), shape.device)
    return [_row(name, times, shape.batch) for name in steps]


def _step(kind: str, shape: Shape, density: float) -> Step:
    if kind == BARE:
        return _bare(shape, shape.network())
    if kind == TORCH_PRUNE:
        return _torch_prune(shape, density)
    return _ours(shape, None if kind == NO_MASK else density, kind)


def time_steps(
    steps: Mapping[str, Step], rounds: int, steps_per_round: int, device: torch.device
) -> dict[str, list[float]]:
    """Return each kind's seconds per step, by round; what compiles or allocates has happened before."""
    for step in steps.values():
        for _ in range(3):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(_time(steps[name], steps_per_round, device))
    return times


def _time(step: Step, count: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    _wait(device)
    return (time.perf_counter() - start) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _row(name: str, times: Mapping[str, list[float]], batch: int) -> StepRow:
    median = statistics.median(times[name])
    return StepRow(
        name, 1e3 * median, batch / median, _ratio(times, name, BARE), _ratio(times, name, NO_MASK)
    )


def _ratio(times: Mapping[str, list[float]], name: str, base: str) -> float | None:
    if base not in times:
        return None
    return statistics.median(own / other for own, other in zip(times[name], times[base], strict=True))


def _section(shape: Shape) -> TrainSection:
    return TrainSection(epochs=1, batch_size=shape.batch, lr=0.01, amp=shape.amp)


def _ours(shape: Shape, density: float | None, kind: str = MASK) -> Step:
    """Return the step that jobs take."""
    model = shape.network()
    masks = _masks(model, shape.resolution, density)
    replicas = cast(nn.Module, torch.compile(model, dynamic=False)) if kind == COMPILED else model
    world, section = World(0, 1, shape.device), _section(shape)
    images, labels = shape.images()
    graphs = CudaGraphs(model, model, section) if kind == CAPTURED else None
    if graphs is not None:
        graphs.capture(images)
    state = StepState.fresh(model, replicas, masks, section, world, seed=0, passes=graphs)
    numbers = iter(range(10**9))
    return lambda: _discard(train_step(state, images, labels, step=next(numbers), lr=0.01))


def _bare(shape: Shape, model: nn.Module) -> Step:
    """Return the step that one would write by hand, without masks."""
    on_gpu = shape.device.type == "cuda"
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, foreach=not on_gpu, fused=on_gpu
    )
    scaler = torch.amp.GradScaler(shape.device.type, enabled=shape.amp == "fp16")
    dtype = torch.float16 if shape.amp == "fp16" else torch.bfloat16
    images, labels = shape.images()

    def step() -> None:
        with torch.autocast(shape.device.type, dtype=dtype, enabled=shape.amp != "off"):
            loss = functional.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def _torch_prune(shape: Shape, density: float) -> Step:
    """Return a bare loop's step on a network that `torch.nn.utils.prune` masks in every forward pass."""
    model = shape.network()
    masks = _masks(model, shape.resolution, density)
    for name, mask in masks.items():
        layer, _, parameter = name.rpartition(".")
        prune.custom_from_mask(model.get_submodule(layer), parameter, mask.to(shape.device))
    return _bare(shape, model)


def _discard(_: Tensor) -> None:
    """Leave a loss on the device, where nothing waits for it."""


def _masks(model: nn.Module, resolution: int, density: float | None) -> dict[str, Tensor]:
    if density is None:
        return {}
    body = anatomy(model, resolution)
    dense = Mask.dense({conv.name: conv.weight_shape for conv in body.convs})
    weights = {name: model.get_parameter(weight_name(name)).detach().cpu().contiguous() for name in dense}
    ticket = Ticket(prune_magnitude(weights, dense, 1 - density), {})
    return parameter_masks(ticket, body, dict(model.named_parameters()))
