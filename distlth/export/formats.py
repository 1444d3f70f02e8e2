"""The formats of an exported network: torch's programs, safetensors, ONNX. Each returns a file's bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from distlth.errors import UserError
from distlth.files import serialize_tensors
from distlth.slim import Sums
from distlth.slim.program import SlimError, program

# The name of the document with classes, preprocessing and provenance inside a file.
ABOUT = "distlth"
SUFFIXES = {"torch": ".pt2", "safetensors": ".safetensors", "onnx": ".onnx"}
NEEDED = {"onnx": ("onnx", "onnxscript")}

# What is fastest where a file of this format runs; torchvision's own code knows no scattering.
SUMS: Mapping[str, Sums] = {"torch": "scatter", "safetensors": "zeros", "onnx": "zeros"}

# A function from images to logits, as a file of some format computes it.
Network = Callable[[Tensor], Tensor]


def check_format(name: str, needed: Mapping[str, tuple[str, ...]] = NEEDED) -> None:
    """Raise UserError where this machine lacks the libraries of a format."""
    missing = [library for library in needed.get(name, ()) if find_spec(library) is None]
    if missing:
        raise UserError(
            f"format {name} needs {' and '.join(missing)}; install with: pip install 'distlth[export]'"
        )


def torch_program(network: nn.Module, resolution: int, about: Mapping[str, Any]) -> bytes:
    """Return a .pt2 file: a torch.export program for any batch size, which loads without distlth."""
    file = io.BytesIO()
    extra = {f"{ABOUT}.json": json.dumps(about)}
    torch.export.save(program(network, resolution), file, extra_files=extra)
    return file.getvalue()


def safetensors_file(network: nn.Module, _: int, about: Mapping[str, Any]) -> bytes:
    """Return a safetensors file: the weights under their names, and the document in its header."""
    tensors = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    return serialize_tensors(tensors, {ABOUT: json.dumps(about)})


def onnx_model(network: nn.Module, resolution: int, about: Mapping[str, Any]) -> bytes:
    """Return an ONNX model of standard operators for any batch size."""
    exported = torch.onnx.export(
        program(network, resolution),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    if exported is None:
        raise SlimError("torch.onnx made no model of this network")
    model = exported.model_proto
    model.metadata_props.add(key=ABOUT, value=json.dumps(about))
    content: bytes = model.SerializeToString()
    return content


WRITERS: Mapping[str, Callable[[nn.Module, int, Mapping[str, Any]], bytes]] = {
    "torch": torch_program,
    "safetensors": safetensors_file,
    "onnx": onnx_model,
}


def reader(name: str, content: bytes, network: nn.Module) -> Network | None:
    """Return what a file computes, None where nothing here runs it; a file of weights is its network."""
    if name == "torch":
        loaded = torch.export.load(io.BytesIO(content)).module()
        return lambda images: loaded(images)
    if name == "onnx":
        return _onnx_reader(content)
    return network


def _onnx_reader(content: bytes) -> Network | None:
    return onnx_network(onnx_session(content)) if find_spec("onnxruntime") else None


def onnx_session(content: bytes, threads: int = 0) -> Any:
    """Return an ONNX Runtime session of a model on the CPU; as many threads as it likes by default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def onnx_network(session: Any) -> Network:
    """Return what a session computes."""
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
