"""The parts of a slim network's tensors as text, for the document of a file that has weights alone."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch

from distlth.slim import Part


def pack_parts(parts: Mapping[str, Part]) -> dict[str, Any]:
    """Return a JSON document; cells as bits, compressed: rows are alike, so that little is left of them."""
    return {
        name: [part.source, list(part.shape), list(part.cells.shape), _packed(part)]
        for name, part in parts.items()
    }


def unpack_parts(document: Mapping[str, Any]) -> dict[str, Part]:
    """Return the parts that `pack_parts` wrote."""
    return {name: _part(*entry) for name, entry in document.items()}


def _packed(part: Part) -> str:
    return base64.b64encode(zlib.compress(np.packbits(part.cells.numpy()).tobytes())).decode()


def _part(source: str, shape: list[int], sizes: list[int], packed: str) -> Part:
    stored = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8)
    bits = np.unpackbits(stored, count=prod(sizes)).astype(bool).reshape(sizes)
    return Part(source, torch.from_numpy(bits), tuple(shape))
