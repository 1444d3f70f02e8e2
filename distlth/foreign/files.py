"""Files of other codes, read without running anything that is in them."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from distlth.errors import UserError
from distlth.files import parse_tensors, regular

# What numpy's numbers are pickled with: accuracies are often such.
NUMBERS = [np._core.multiarray.scalar, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))]  # type: ignore[attr-defined]

DIGEST_BYTES = 16
CHUNK = 1 << 24


def read_document(path: Path) -> Any:
    """Return what is in a file that torch.save or safetensors wrote, its tensors on the CPU.

    Raises:
        UserError: it is missing, damaged, or holds objects that only code out of the file could make.
    """
    try:
        os.close(regular(str(path), os.O_RDONLY))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        if path.suffix == ".safetensors":
            return parse_tensors(path.read_bytes())
        with safe_globals(NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zip and what reads objects have errors of their own
        raise UserError(f"{path}: {_reason(path, error)}") from None


def file_digest(path: Path) -> str:
    """Return the BLAKE2b digest (16 bytes, hex) of a file."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with open(path, "rb", opener=regular) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(path: Path, error: Exception) -> str:
    if objects := _objects(path):
        return (
            f"holds objects of {objects}, which only running code out of the file could make; load it where "
            'its code is, and save its tensors alone: torch.save(checkpoint["state_dict"], FILE)'
        )
    words = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
    return f"damaged, or not a file of torch.save or safetensors ({words})"


def _objects(path: Path) -> str:
    """Return the names of the classes that a file would need, empty where that cannot be found out."""
    with suppress(Exception), safe_globals(NUMBERS):
        return ", ".join(sorted(get_unsafe_globals_in_checkpoint(path))[:3])
    return ""
