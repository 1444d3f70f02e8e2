"""Inference of a ticket: dense, masked, slim and grouped, in every runtime, in one process and in turn."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from distlth.bench.convolutions import LayerRow, PaperRow, layer_rows, paper_rows
from distlth.bench.machine import peak_memory, pinned
from distlth.bench.regroup import resnet50_weights
from distlth.bench.runtimes import DENSE, GROUPED, MASKED, RUNTIMES, SLIM, Call, Device, Loaded
from distlth.cores import num_cores
from distlth.errors import UserError
from distlth.export.export import macs, parameters
from distlth.export.source import Source, load_source
from distlth.models import anatomy, build, prunable
from distlth.models.alive import count_alive
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask, weight_name
from distlth.prune.refill import refill
from distlth.run.paths import RunPaths
from distlth.run.timings import NetworkTime
from distlth.slim import slim
from distlth.ticket import Ticket
from distlth.train.masking import Masking, parameter_masks

WARM_UPS = 3
EAGER = "eager"

Key = tuple[str, str]  # network, runtime
Keep: TypeAlias = "Callable[[Sequence[InferRow]], None]"


@dataclass(frozen=True)
class InferRow(NetworkTime):
    """The time of a network in one runtime on pinned cores.

    Each has run `warm_ups` times before it ran `rounds` times. `ticket` is a run's, such as `03/refill`; None
    of the ResNet-50.
    """

    ticket: str | None
    runtime: str
    batch: int
    cores: tuple[int, ...]
    warm_ups: int
    rounds: int


@dataclass(frozen=True, eq=False)
class Case:
    """A masked network to be timed at a resolution on a device; `macs` are those that are not by zeros.

    Its slim form keeps channel counts at multiples of `multiple`.
    """

    masked: nn.Module
    resolution: int
    macs: int
    device: Device
    multiple: int = 1
    ticket: str | None = None

    @property
    def dense(self) -> nn.Module:
        """The same network without zeros among its weights."""
        dense = copy.deepcopy(self.masked)
        with torch.no_grad():
            for parameter in dense.parameters():
                parameter.add_((parameter == 0) * torch.randn_like(parameter) * 0.01)
        return dense


@dataclass(frozen=True, eq=False)
class Timed:
    """A network in a runtime, ready to be timed, and its size; `macs` count its zeros, too."""

    loaded: Loaded
    peak_memory: int | None
    parameters: int
    macs: int


def bench(
    *,
    run: RunPaths | None = None,
    tickets: Sequence[str] = (),
    resolution: int = 224,
    density: float = 0.42,
    multiple: int = 8,
    batches: Sequence[int] | None = None,
    runtimes: Sequence[str] | None = None,
    device: Device = "cpu",
    threads: int | None = None,
    rounds: int = 15,
    layers: bool = False,
    paper: bool = False,
    keep: Keep | None = None,
) -> Sequence[InferRow | LayerRow | PaperRow]:
    """Time finished tickets of `run`, or a ResNet-50 with weights as in trained layers, refilled.

    In each of `rounds` each network runs once in each runtime; the order turns, so that a drift of the
    machine falls on all. One ticket is timed after the other, each in turn with the same dense network, and
    `keep` is called with the ticket's rows. `density` and `multiple` are of the ResNet-50. With `layers` each
    layer is timed by itself, with `paper` the convolutions alone, as the paper does: of one ticket. By
    default all runtimes are timed that are installed, but compile, which takes minutes on a CPU.

    Raises:
        UserError: there is no GPU, or no runtime of those named.
        RunError: a ticket is not there or not finished.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here")
    if run is None:
        cases = iter([_resnet50(resolution, density, multiple, device)])
    else:
        cases = (_case(load_source(run, ticket), device) for ticket in tickets)
    with pinned(threads or num_cores()) as cores:
        if layers or paper:
            return _by_layer(next(cases), (batches or (1,))[0], rounds, paper=paper)
        names = _there(runtimes or [name for name in RUNTIMES if name != "compile"], device, bool(runtimes))
        found: list[InferRow] = []
        dense: dict[int, dict[Key, Timed]] = {}
        for case in cases:
            networks = _networks(case, names)
            for batch in batches or (1, 8):
                rows = _batch(case, networks, dense.setdefault(batch, {}), batch, cores, rounds)
                if keep is not None:
                    keep(rows)
                found += rows
        return found


def _by_layer(case: Case, batch: int, rounds: int, *, paper: bool) -> Sequence[LayerRow | PaperRow]:
    slimmed = slim(case.masked, case.resolution, RUNTIMES[EAGER].sums_on(case.device), case.multiple).network
    forms: dict[str, nn.Module] = {DENSE: case.dense, SLIM: slimmed}
    for form in forms.values():
        form.to(case.device)
    measure = paper_rows if paper else layer_rows
    return measure(forms, case.resolution, batch, torch.device(case.device), rounds)


def _there(names: Sequence[str], device: Device, are_asked_for: bool) -> list[str]:
    if unknown := [name for name in names if name not in RUNTIMES]:
        raise UserError(f"--runtimes {','.join(unknown)}: unknown; known: {', '.join(RUNTIMES)}")
    found = [name for name in names if RUNTIMES[name].is_there(device)]
    if not found or (are_asked_for and len(found) < len(names)):
        missing = ", ".join(name for name in names if name not in found)
        raise UserError(f"--runtimes: {missing}: not installed, or not for {device}")
    return found


def _case(source: Source, device: Device) -> Case:
    graph = anatomy(source.model, source.resolution).graph
    left = count_alive(graph, source.mask.layers, removed=source.job.removes_channels).macs
    return Case(source.model, source.resolution, left, device, source.multiple, source.job.id)


def _resnet50(resolution: int, density: float, multiple: int, device: Device) -> Case:
    """Return a refill ticket of a ResNet-50."""
    model = build("resnet50", 1000, seed=0).eval()
    body = anatomy(model, resolution)
    weights = resnet50_weights(structured=True)
    dense = Mask.dense({layer.name: layer.weight_shape for layer in prunable(body, "all")})
    mask = refill(prune_magnitude(weights, dense, 1 - density), weights, multiple=multiple)
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(weight_name(name)).copy_(weight)
    ticket = Ticket(mask, {}, remove_channels=True)
    Masking(model, parameter_masks(ticket, body, dict(model.named_parameters())))
    return Case(model, resolution, count_alive(body.graph, mask.layers).macs, device, multiple)


def _networks(case: Case, names: Sequence[str]) -> dict[Key, nn.Module]:
    """Return what is timed, by network and runtime."""
    dense = case.dense
    found: dict[Key, nn.Module] = {}
    for name in names:
        slimmed = slim(
            case.masked, case.resolution, RUNTIMES[name].sums_on(case.device), case.multiple
        ).network
        forms = {DENSE: dense, MASKED: case.masked, SLIM: slimmed, GROUPED: case.masked}
        found |= {(network, name): forms[network] for network in RUNTIMES[name].networks}
    return found


def _batch(
    case: Case,
    networks: Mapping[Key, nn.Module],
    dense: dict[Key, Timed],
    batch: int,
    cores: tuple[int, ...],
    rounds: int,
) -> list[InferRow]:
    """Time a case; `dense` holds the dense network in each runtime, from the first case on."""
    images = torch.randn(batch, 3, case.resolution, case.resolution, device=case.device)
    timed: dict[Key, Timed] = {}
    for key, network in networks.items():
        timed[key] = dense.get(key) or _load(key, network, images, len(cores))
        if key[0] == DENSE:
            dense[key] = timed[key]
    times = _times({key: each.loaded.call for key, each in timed.items()}, rounds)
    fastest = min(dense, key=lambda key: statistics.median(times[key]), default=None)
    return [_row(case, key, timed[key], batch, cores, times, fastest) for key in timed]


def _load(key: Key, network: nn.Module, images: torch.Tensor, threads: int) -> Timed:
    """Load a copy of a network into its runtime and run it once; on a GPU, channels last."""
    if images.is_cuda:
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)

    def load() -> Loaded:
        found = RUNTIMES[key[1]].load(copy.deepcopy(network).to(images.device), images, threads)
        found.call()
        return found

    side = images.shape[-1]
    if not images.is_cuda:
        loaded, peak = peak_memory(load)
        return Timed(loaded, peak, parameters(network), macs(network, side))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loaded = load()
    peak = torch.cuda.max_memory_allocated() - before
    return Timed(loaded, peak, parameters(network), macs(network, side))


def _times(calls: Mapping[Key, Call], rounds: int) -> dict[Key, list[float]]:
    """Return each call's seconds by round; the order turns, so that a drift falls on all."""
    for call in calls.values():
        for _ in range(WARM_UPS):
            call()
    keys = list(calls)
    times: dict[Key, list[float]] = {key: [] for key in keys}
    for number in range(rounds):
        turn = number % len(keys)
        for key in keys[turn:] + keys[:turn]:
            start = time.perf_counter()
            calls[key]()
            times[key].append(time.perf_counter() - start)
    return times


def _row(
    case: Case,
    key: Key,
    timed: Timed,
    batch: int,
    cores: tuple[int, ...],
    times: Mapping[Key, Sequence[float]],
    fastest: Key | None,
) -> InferRow:
    low, median, high = statistics.quantiles(times[key], n=4)
    work = case.macs if key[0] == GROUPED else timed.macs
    return InferRow(
        ticket=case.ticket,
        network=key[0],
        runtime=key[1],
        batch=batch,
        cores=cores,
        warm_ups=WARM_UPS,
        rounds=len(times[key]),
        milliseconds=1e3 * median,
        quartiles=(1e3 * low, 1e3 * high),
        images_per_second=batch / median,
        peak_memory=timed.peak_memory,
        parameters=timed.parameters,
        macs=work,
        file_bytes=timed.loaded.file_bytes,
        saved_of_own=_saved(times, key, (DENSE, key[1])),
        saved_of_eager=_saved(times, key, (DENSE, EAGER)),
        saved_of_fastest=_saved(times, key, fastest),
        macs_saved=1 - work / macs(case.masked, case.resolution),
    )


def _saved(times: Mapping[Key, Sequence[float]], key: Key, other: Key | None) -> float | None:
    """Return the share of another network's time that one saves, a median over rounds."""
    if other is None or other not in times:
        return None
    return 1 - statistics.median(own / base for own, base in zip(times[key], times[other], strict=True))
