"""Export: make the slim network, compare it with the masked one, write the file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distlth.export.formats import SUFFIXES, SUMS, WRITERS, Network, check_format, reader
from distlth.export.masked import check_free
from distlth.export.parts import pack_parts
from distlth.export.source import Source, load_source
from distlth.files import replacing
from distlth.models import anatomy
from distlth.models.alive import known_alive
from distlth.run.paths import RunPaths, path_component
from distlth.slim import Slim, Whole, slim
from distlth.slim.program import SlimError

# The largest difference between logits of two networks that are the same, relative to the largest logit.
# Where deep networks themselves round by more, twice their own rounding counts.
TOLERANCE = 1e-5
# ONNX Runtime folds norms into convolutions, which rounds otherwise.
FILE_TOLERANCES = {"torch": TOLERANCE, "safetensors": TOLERANCE, "onnx": 1e-4}
IMAGES = 3  # not the batch size that the program is traced with


@dataclass(frozen=True)
class Size:
    """What a network costs: parameters, multiply-accumulates of one image, bytes of its file."""

    parameters: int
    macs: int
    file_bytes: int


@dataclass(frozen=True)
class Exported:
    """A file that was written: its network before and after, and the largest difference of their logits.

    `difference` is relative to the largest logit, `file_difference` that of the file, None where nothing on
    this machine runs it. `alive_macs` are those of one image that are not by zeros, None where the graph does
    not follow an operator. `removed` channels are gone; `whole` has layers with channels that could be, too.
    """

    path: Path
    ticket: str
    before: Size
    after: Size
    alive_macs: int | None
    removed: int
    whole: Sequence[Whole]
    difference: float
    file_difference: float | None


def export(
    run: RunPaths, ticket: str, *, format: str = "torch", out: Path | None = None, overwrite: bool = False
) -> Exported:
    """Write a finished job's ticket as a slim network, a file of `format` at `out`.

    Raises:
        RunError: there is no such ticket, it is not done, or a file of the run is damaged.
        UserError: the file exists, or the format's libraries are missing.
        SlimError: the network cannot be traced, or the result differs from it; nothing is written.
    """
    check_format(format)
    source = load_source(run, ticket)
    path = out or Path(f"{source.record.config.name}-{path_component(ticket)}{SUFFIXES[format]}")
    check_free(path, overwrite)
    slimmed = slim(source.model, source.resolution, SUMS[format], source.multiple)
    difference = largest_difference(source.model, slimmed.network, source.resolution)
    allowed = _allowed(source, difference, TOLERANCE)
    _check(difference, allowed, "the slim network's logits")
    content = WRITERS[format](slimmed.network, source.resolution, document(source, slimmed, format))
    written = reader(format, content, slimmed.network)
    file_difference = written and largest_difference(source.model, written, source.resolution)
    allowed = _allowed(source, file_difference or 0.0, FILE_TOLERANCES[format])
    _check(file_difference or 0.0, allowed, f"the logits of the {format} file")
    check_free(path, overwrite)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return Exported(
        path=path,
        ticket=ticket,
        before=Size(parameters(source.model), macs(source.model, source.resolution), source.stored_bytes),
        after=Size(parameters(slimmed.network), macs(slimmed.network, source.resolution), len(content)),
        alive_macs=_alive_macs(source),
        removed=sum(slimmed.removed.values()),
        whole=slimmed.whole,
        difference=difference,
        file_difference=file_difference,
    )


def document(source: Source, slimmed: Slim, format: str) -> dict[str, Any]:
    """Return what a file of a slim network says beside its weights.

    A file of weights alone says in `parts` which of the whole network's they are.
    """
    execution = {
        "form": "slim" if any(slimmed.removed.values()) else "masked",
        "removed_channels": sum(slimmed.removed.values()),
        "sums": SUMS[format],
    }
    more = {"parts": pack_parts(slimmed.parts)} if format == "safetensors" else {}
    return {**source.about(), "execution": execution, **more}


def largest_difference(masked: nn.Module, other: Network, resolution: int, images: int = IMAGES) -> float:
    """Return how far the logits of two networks differ at most on random images, over the largest logit."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(images, 3, resolution, resolution, generator=generator)
    with torch.no_grad():
        expected, found = masked.eval()(batch), other(batch)
    largest = float(expected.abs().max()) or 1.0
    return float((expected - found).abs().max()) / largest


def rounding(masked: nn.Module, resolution: int) -> float:
    """Return how far a network's logits are from its own in float64, over the largest logit."""
    exact = copy.deepcopy(masked).double()
    return largest_difference(masked, lambda images: exact(images.double()), resolution)


def _allowed(source: Source, difference: float, tolerance: float) -> float:
    """Return the tolerance, or the rounding of the masked network and as much again where that is more."""
    if difference <= tolerance:
        return tolerance
    return max(tolerance, 2 * rounding(source.model, source.resolution))


def _check(difference: float, tolerance: float, what: str) -> None:
    if not difference <= tolerance:  # NaN, too
        raise SlimError(
            f"{what} differ by {difference:.1e} of the largest logit from those of the masked network, more "
            f"than {tolerance:.0e}; nothing was written"
        )


def parameters(network: nn.Module) -> int:
    """Return the number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, resolution: int) -> int:
    """Return the multiply-accumulates of one image, on shapes alone."""
    ghost = copy.deepcopy(network).to("meta").eval()
    # With gradients, attention runs step by step: torch's fused form of it is one operator, and not counted.
    with FlopCounterMode(display=False) as flops:
        ghost(torch.empty(1, 3, resolution, resolution, device="meta"))
    return int(flops.get_total_flops()) // 2


def _alive_macs(source: Source) -> int | None:
    graph = anatomy(source.model, source.resolution).graph
    alive = known_alive(graph, source.mask.layers, removed=source.job.removes_channels)
    return None if alive is None else alive.macs
