"""Inference of a refill ticket: dense, masked and slim, in one process and in turn."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from distlth.bench.regroup import resnet50_weights
from distlth.cores import num_cores
from distlth.export.export import macs, parameters
from distlth.export.formats import SUMS, onnx_model
from distlth.export.source import load_source
from distlth.models import anatomy, build, prunable
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.prune.refill import refill
from distlth.run.paths import RunPaths
from distlth.slim import Sums, slim
from distlth.ticket import Ticket
from distlth.train.masking import Masking, parameter_masks

DENSE, MASKED, SLIM = "dense", "masked", "slim"
RUNTIMES = ("eager", "onnx")
FORMS: Mapping[str, Sums] = {"eager": SUMS["torch"], "onnx": SUMS["onnx"]}
WARM_UPS = 3

Call = Callable[[], object]
Networks = Mapping[tuple[str, str], nn.Module]


@dataclass(frozen=True)
class InferRow:
    """Milliseconds of a batch (median, and the quartiles), in one runtime on `threads` threads.

    `time_saved` is the share of the dense network's time in the same runtime, a median over rounds;
    `macs_saved` the share of its multiply-accumulates: what can be saved at most.
    """

    network: str
    runtime: str
    batch: int
    threads: int
    milliseconds: float
    quartiles: tuple[float, float]
    images_per_second: float
    parameters: int
    macs: int
    time_saved: float
    macs_saved: float


def bench(
    *,
    run: RunPaths | None = None,
    ticket: str = "",
    resolution: int = 224,
    density: float = 0.42,
    multiple: int = 8,
    batches: Sequence[int] = (1, 8),
    runtimes: Sequence[str] = RUNTIMES,
    threads: int | None = None,
    rounds: int = 15,
) -> list[InferRow]:
    """Time a finished ticket of `run`, or a ResNet-50 with weights as in trained layers, refilled.

    In each of `rounds` each network runs once in each runtime; the order turns. `density` and `multiple` are
    of the ResNet-50; `onnx` is left out where ONNX Runtime is not installed.
    """
    threads = threads or num_cores()
    torch.set_num_threads(threads)
    masked, resolution = _ticket(run, ticket, resolution, density, multiple)
    there = [name for name in runtimes if name != "onnx" or find_spec("onnxruntime")]
    networks = _networks(masked, resolution, there)
    found = []
    for batch in batches:
        calls = _calls(networks, torch.randn(batch, 3, resolution, resolution), threads)
        times = _times(calls, rounds)
        found += [_row(key, times, networks, resolution, batch, threads) for key in times]
    return found


def _ticket(
    run: RunPaths | None, ticket: str, resolution: int, density: float, multiple: int
) -> tuple[nn.Module, int]:
    if run is not None:
        source = load_source(run, ticket)
        return source.model, source.resolution
    return _resnet50(resolution, density, multiple), resolution


def _resnet50(resolution: int, density: float, multiple: int) -> nn.Module:
    """Return a refill ticket of a ResNet-50."""
    model = build("resnet50", 1000, seed=0).eval()
    body = anatomy(model, resolution)
    weights = resnet50_weights(structured=True)
    dense = Mask.dense({layer.name: layer.weight_shape for layer in prunable(body, "all")})
    mask = refill(prune_magnitude(weights, dense, 1 - density), weights, multiple=multiple)
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(f"{name}.weight").copy_(weight)
    ticket = Ticket(mask, {}, remove_channels=True)
    Masking(model, parameter_masks(ticket, body, dict(model.named_parameters())))
    return model


def _networks(masked: nn.Module, resolution: int, runtimes: Sequence[str]) -> Networks:
    """Return what is timed, by network and runtime; each runtime has the slim form that is written for it."""
    dense = _dense_like(masked)
    found: dict[tuple[str, str], nn.Module] = {}
    for runtime in runtimes:
        found[DENSE, runtime] = dense
        if runtime == "eager":  # others fold zeros no better
            found[MASKED, runtime] = masked
        found[SLIM, runtime] = slim(masked, resolution, FORMS[runtime]).network
    return found


def _dense_like(masked: nn.Module) -> nn.Module:
    """Return the same network without zeros among its weights."""
    dense = copy.deepcopy(masked)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.add_((parameter == 0) * torch.randn_like(parameter) * 0.01)
    return dense


def _calls(networks: Networks, images: Tensor, threads: int) -> dict[tuple[str, str], Call]:
    return {
        key: _eager(network, images) if key[1] == "eager" else _onnx(network, images, threads)
        for key, network in networks.items()
    }


def _eager(network: nn.Module, images: Tensor) -> Call:
    def call() -> object:
        with torch.inference_mode():
            return network(images)

    return call


def _onnx(network: nn.Module, images: Tensor, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    content = onnx_model(network, images.shape[-1], {})
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images.numpy()})


def _times(calls: Mapping[tuple[str, str], Call], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Return each call's seconds by round; the order turns, so that a drift falls on all."""
    for call in calls.values():
        for _ in range(WARM_UPS):
            call()
    keys = list(calls)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in keys}
    for number in range(rounds):
        turn = number % len(keys)
        for key in keys[turn:] + keys[:turn]:
            start = time.perf_counter()
            calls[key]()
            times[key].append(time.perf_counter() - start)
    return times


def _row(
    key: tuple[str, str],
    times: Mapping[tuple[str, str], list[float]],
    networks: Networks,
    resolution: int,
    batch: int,
    threads: int,
) -> InferRow:
    name, runtime = key
    own, dense = times[key], times[DENSE, runtime]
    low, median, high = statistics.quantiles(own, n=4)
    work, whole = (macs(networks[other, runtime], resolution) for other in (name, DENSE))
    return InferRow(
        network=name,
        runtime=runtime,
        batch=batch,
        threads=threads,
        milliseconds=1e3 * median,
        quartiles=(1e3 * low, 1e3 * high),
        images_per_second=batch / median,
        parameters=parameters(networks[key]),
        macs=work,
        time_saved=1 - statistics.median(mine / other for mine, other in zip(own, dense, strict=True)),
        macs_saved=1 - work / whole,
    )
