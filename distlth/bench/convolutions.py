"""The layers of a network one by one: how near each is to its roof, and the paper's own measure."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# The input of every layer in the paper's measure (arXiv 2202.04736): its side in pixels.
PAPER_SIDE = 64
MATRIX, STREAM = 1024, 1 << 24
CONVOLUTION, LINEAR = "convolution", "addmm"


@dataclass(frozen=True)
class LayerRow:
    """A convolution or linear layer, timed alone in eager torch at its place in the network.

    `megabytes` are those of weights, input and output, each moved once; `share_of_peak` is that of the
    machine's fastest product of matrices, `share_of_roof` that of what its memory allows at so many
    operations a byte.
    """

    network: str
    layer: str
    batch: int
    milliseconds: float
    gflop: float
    gflop_per_second: float
    share_of_peak: float
    share_of_roof: float
    megabytes: float
    flop_per_byte: float
    machine_gflop_per_second: float
    machine_gigabyte_per_second: float


@dataclass(frozen=True)
class PaperRow:
    """The sum of a network's convolutions alone, each on an input of `side` x `side` pixels."""

    network: str
    batch: int
    side: int
    milliseconds: float
    time_saved: float
    gflop: float
    gflop_saved: float


@dataclass(frozen=True, eq=False)
class Product:
    """One call of a convolution or of a linear layer."""

    layer: str
    operator: Any
    args: tuple[Any, ...]
    output: Tensor

    @property
    def is_convolution(self) -> bool:
        """Whether it is no linear layer."""
        return CONVOLUTION in str(self.operator)

    @property
    def tensors(self) -> list[Tensor]:
        """Input, weight and bias."""
        return [arg for arg in self.args if isinstance(arg, Tensor)]

    @property
    def flop(self) -> int:
        """Operations: a multiplication and an addition for each weight and position."""
        weight = self.args[1] if self.is_convolution else self.args[2]
        per_output = weight[0].numel() if self.is_convolution else weight.shape[0]
        return 2 * self.output.numel() * int(per_output)

    @property
    def bytes(self) -> int:
        """Bytes of weights, input and output."""
        return sum(t.numel() * t.element_size() for t in [*self.tensors, self.output])

    def call(self) -> Tensor:
        """Compute it again."""
        found: Tensor = self.operator(*self.args)
        return found

    def on_input_of(self, side: int) -> Product:
        """Return the same layer on an input of another size."""
        image, *more = self.args
        args = (torch.randn(*image.shape[:2], side, side, device=image.device), *more)
        return Product(self.layer, self.operator, args, self.operator(*args))


class _Recorder(TorchDispatchMode):
    """Notes the calls of convolutions and linear layers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Product] = []
        self._names = {parameter.data_ptr(): name for name, parameter in network.named_parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if str(func).split(".")[1] in (CONVOLUTION, LINEAR):
            weight = args[1] if CONVOLUTION in str(func) else args[2]
            name = self._names.get(weight.data_ptr(), "?").removesuffix(".weight")
            self.found.append(Product(name, func, tuple(args), output))
        return output


def products(network: nn.Module, resolution: int, batch: int, device: torch.device) -> list[Product]:
    """Return the convolutions and linear layers of a network, as one forward pass in eval mode calls them."""
    recorder = _Recorder(network.eval())
    with torch.no_grad(), recorder:
        network(torch.randn(batch, 3, resolution, resolution, device=device))
    return recorder.found


def layer_rows(
    networks: Mapping[str, nn.Module], resolution: int, batch: int, device: torch.device, rounds: int
) -> list[LayerRow]:
    """Time each layer of each network by itself, the networks' layers in turn."""
    found = {name: products(network, resolution, batch, device) for name, network in networks.items()}
    times = _times([(name, each) for name, layers in found.items() for each in layers], device, rounds)
    flops, bandwidth = peaks(device)
    return [
        _layer_row(name, each, batch, statistics.median(times[id(each)]), flops, bandwidth)
        for name, layers in found.items()
        for each in layers
    ]


def _layer_row(
    network: str, product: Product, batch: int, seconds: float, flops: float, bandwidth: float
) -> LayerRow:
    rate, intensity = product.flop / seconds, product.flop / product.bytes
    return LayerRow(
        network=network,
        layer=product.layer,
        batch=batch,
        milliseconds=1e3 * seconds,
        gflop=product.flop / 1e9,
        gflop_per_second=rate / 1e9,
        share_of_peak=rate / flops,
        share_of_roof=rate / min(flops, intensity * bandwidth),
        megabytes=product.bytes / 1e6,
        flop_per_byte=intensity,
        machine_gflop_per_second=flops / 1e9,
        machine_gigabyte_per_second=bandwidth / 1e9,
    )


def paper_rows(
    networks: Mapping[str, nn.Module], resolution: int, batch: int, device: torch.device, rounds: int
) -> list[PaperRow]:
    """Time the convolutions alone on inputs of one size, as the paper does; the first network is dense."""
    sums: dict[str, list[float]] = {name: [0.0] * rounds for name in networks}
    flop = dict.fromkeys(networks, 0)
    for name, network in networks.items():
        for product in products(network, resolution, batch, device):
            if product.is_convolution:  # one at a time: such inputs are large
                layer = product.on_input_of(PAPER_SIDE)
                seconds = _times([(name, layer)], device, rounds)[id(layer)]
                sums[name] = [total + own for total, own in zip(sums[name], seconds, strict=True)]
                flop[name] += layer.flop
    dense = next(iter(networks))
    return [
        PaperRow(
            network=name,
            batch=batch,
            side=PAPER_SIDE,
            milliseconds=1e3 * statistics.median(sums[name]),
            time_saved=1 - statistics.median(sums[name]) / statistics.median(sums[dense]),
            gflop=flop[name] / 1e9,
            gflop_saved=1 - flop[name] / flop[dense],
        )
        for name in networks
    ]


def peaks(device: torch.device) -> tuple[float, float]:
    """Return the most operations a second, in a product of matrices, and bytes a second, in a copy."""
    matrix = torch.randn(MATRIX, MATRIX, device=device)
    source, target = (torch.zeros(STREAM, device=device) for _ in range(2))
    multiply = min(_seconds(lambda: matrix @ matrix, device) for _ in range(7))
    copy = min(_seconds(lambda: target.copy_(source), device) for _ in range(7))
    return 2 * MATRIX**3 / multiply, 2 * 4 * STREAM / copy


def _times(
    layers: Sequence[tuple[str, Product]], device: torch.device, rounds: int
) -> dict[int, list[float]]:
    """Return the seconds of each layer by round; each has run once before."""
    times: dict[int, list[float]] = {id(product): [] for _, product in layers}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for _, product in layers:
                seconds = _seconds(product.call, device)
                if number:
                    times[id(product)].append(seconds)
    return times


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
