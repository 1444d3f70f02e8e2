"""Functions that numba compiles to machine code, once for all processes of a kind of machine."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def kernels(source: str) -> Callable[[Kernel], Kernel]:
    """Return a decorator that compiles functions of the file `source`, or loads them from the cache.

    The name of the cache's folder stands for everything that machine code depends on. So machines that share
    a home directory never load each other's code, and processes that race write the same bytes.
    """
    folder = _cache_folder(Path(source).read_bytes() + Path(__file__).read_bytes())
    config: Any = numba.config
    compiler: Any = numba.njit(nogil=True, error_model="numpy", cache=folder is not None)

    def decorate(function: Kernel) -> Kernel:
        if folder is None:
            return compiler(function)  # type: ignore[no-any-return]
        before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
        try:
            return compiler(function)  # type: ignore[no-any-return]
        finally:
            config.CACHE_DIR = before

    return decorate


def _cache_folder(source: bytes) -> Path | None:
    """Return the user's cache for `source` on this kind of machine; None when there is nowhere to write."""
    machine = (
        sys.version,
        numba.__version__,
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
    )
    tag = hashlib.sha256(source + repr(machine).encode()).hexdigest()[:16]
    config: Any = numba.config
    home = config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(home) / "distlth" / f"kernels-{tag}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None
