"""An exported file, read back: what it says and what it computes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distlth.errors import RunError, UserError
from distlth.export.formats import ABOUT, Network, check_format, onnx_network, onnx_session
from distlth.export.parts import unpack_parts
from distlth.files import load_tensors, regular
from distlth.models import build
from distlth.slim import put_back

# What runs a file of a format.
NEEDED = {"onnx": ("onnxruntime",)}
HEAD_BYTES = 9


@dataclass(frozen=True, eq=False)
class Saved:
    """An exported file: its document (see docs/deploy.md) and its network, from images to logits."""

    path: Path
    about: Mapping[str, Any]
    network: Network


def load_saved(path: Path) -> Saved:
    """Read a file that `distlth export` wrote, of any format.

    Raises:
        UserError: it is missing, no such file, damaged, or what runs it is not installed.
    """
    name = _format(path)
    check_format(name, NEEDED)
    try:
        about, network = READERS[name](path)
    except UserError:
        raise
    except Exception as error:  # each library has errors of its own for what it cannot read
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _not_exported(path, f"{name}: {reason}") from None
    return Saved(path, about, network)


def _format(path: Path) -> str:
    """Return the format that a file begins like."""
    try:
        with open(path, "rb", opener=regular) as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if head.startswith(b"PK"):
        return "torch"
    if head.endswith(b"{") and len(head) == HEAD_BYTES:
        return "safetensors"
    return "onnx"


def _not_exported(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: not a file that `distlth export` wrote ({reason})")


def _document(path: Path, text: str | None) -> dict[str, Any]:
    if not text:
        raise _not_exported(path, "it says nothing of a ticket")
    about: dict[str, Any] = json.loads(text)
    return about


def _torch(path: Path) -> tuple[Mapping[str, Any], Network]:
    files = {f"{ABOUT}.json": ""}
    with _quiet(logging.getLogger("torch.export")):
        module = torch.export.load(path, extra_files=files).module()
    return _document(path, files[f"{ABOUT}.json"]), lambda images: module(images)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep a logger from writing what the error says, too."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _onnx(path: Path) -> tuple[Mapping[str, Any], Network]:
    session = onnx_session(path.read_bytes())
    return _document(path, session.get_modelmeta().custom_metadata_map.get(ABOUT)), onnx_network(session)


def _safetensors(path: Path) -> tuple[Mapping[str, Any], Network]:
    """Return the whole network with the weights in their places and zeros everywhere else."""
    try:
        tensors, metadata = load_tensors(path)
    except RunError as error:
        raise _not_exported(path, str(error).removeprefix(f"{path}: ")) from None
    about = _document(path, metadata.get(ABOUT))
    return about, _whole(about, tensors).eval()


def _whole(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    model, parts = about["model"], unpack_parts(about["parts"])
    blurpool = model.get("blurpool", False)  # older files do not say
    network = build(model["name"], model["num_classes"], seed=0, stem=model["stem"], blurpool=blurpool)
    for part in parts.values():
        _give_bias(network, part.source)
    blank = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    network.load_state_dict(put_back(tensors, parts, blank))
    return network


def _give_bias(network: nn.Module, name: str) -> None:
    """Give a layer a bias of zeros where that has none: constants were folded into one."""
    path, _, kind = name.rpartition(".")
    layer = network.get_submodule(path)
    if kind == "bias" and getattr(layer, "bias", None) is None:
        layer.bias = nn.Parameter(torch.zeros(len(layer.weight)))  # type: ignore[arg-type]


READERS: Mapping[str, Callable[[Path], tuple[Mapping[str, Any], Network]]] = {
    "torch": _torch,
    "safetensors": _safetensors,
    "onnx": _onnx,
}
