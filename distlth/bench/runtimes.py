"""The runtimes that inference is timed in: one entry of RUNTIMES each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from distlth.export.formats import SUMS, onnx_model, onnx_session
from distlth.slim import Sums

DENSE, MASKED, SLIM, GROUPED = "dense", "masked", "slim", "grouped"

Call = Callable[[], object]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Loaded:
    """A network in a runtime: a call that computes one batch, and the bytes of what it is loaded from."""

    call: Call
    file_bytes: int


@dataclass(frozen=True)
class Runtime:
    """A way to compute a network.

    `load` takes the network, a batch of images on its device and the number of threads. `networks` are those
    that are worth timing, `sums` the slim form that is made for it on a CPU. `needs` are libraries, `devices`
    what it runs on here.
    """

    load: Callable[[nn.Module, Tensor, int], Loaded]
    networks: Sequence[str] = (DENSE, SLIM)
    sums: Sums = "zeros"
    needs: Sequence[str] = ()
    devices: Sequence[Device] = ("cpu", "cuda")

    def sums_on(self, device: Device) -> Sums:
        """Return the slim form for a device: a GPU waits for the small kernels that scattered sums take."""
        return self.sums if device == "cpu" else "zeros"

    def is_there(self, device: Device) -> bool:
        """Return whether it can be timed on this machine."""
        return device in self.devices and all(find_spec(name) is not None for name in self.needs)


def stored_bytes(network: nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def _inference(network: Callable[[Tensor], Any], images: Tensor) -> Call:
    def call() -> object:
        with torch.inference_mode():
            found = network(images)
            if images.is_cuda:
                torch.cuda.synchronize()
            return found

    return call


def _eager(network: nn.Module, images: Tensor, _: int) -> Loaded:
    return Loaded(_inference(network, images), stored_bytes(network))


def _compiled(network: nn.Module, images: Tensor, _: int) -> Loaded:
    compiled = cast(nn.Module, torch.compile(network, dynamic=False))
    return Loaded(_inference(compiled, images), stored_bytes(network))


def _onnx(network: nn.Module, images: Tensor, threads: int) -> Loaded:
    content = onnx_model(network, images.shape[-1], {})
    session = onnx_session(content, threads)
    return Loaded(lambda: session.run(None, {"images": images.numpy()}), len(content))


def _openvino(network: nn.Module, images: Tensor, threads: int) -> Loaded:
    openvino: Any = import_module("openvino")
    content = onnx_model(network, images.shape[-1], {})
    core = openvino.Core()
    model = core.read_model(content)
    model.reshape(list(images.shape))
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", options)
    return Loaded(lambda: compiled(images.numpy()), len(content))


def _blocks(network: nn.Module, images: Tensor, threads: int) -> Loaded:
    if images.is_cuda:
        from distlth.execute.triton import grouped as on_gpu

        return Loaded(_inference(on_gpu(network, images).network, images), stored_bytes(network))
    from distlth.execute import grouped

    made = grouped(network, images.shape[-1], threads=threads)
    return Loaded(_inference(made.network, images), stored_bytes(network))


RUNTIMES: Mapping[str, Runtime] = {
    "eager": Runtime(_eager, (DENSE, MASKED, SLIM), SUMS["torch"]),
    "compile": Runtime(_compiled),
    "onnx": Runtime(_onnx, sums=SUMS["onnx"], needs=("onnxruntime", "onnxscript"), devices=("cpu",)),
    "openvino": Runtime(_openvino, needs=("openvino", "onnxscript"), devices=("cpu",)),
    "distlth": Runtime(_blocks, (GROUPED,)),
}
