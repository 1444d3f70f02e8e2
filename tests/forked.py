"""Ranks as forks of this process: what takes seconds to import is imported once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch._dynamo  # noqa: F401  # DDP and networks on shapes would import it in each rank


def run_ranks(target: Callable[..., None], size: int, *arguments: Any) -> int:
    """Call `target(*arguments, rank)` in a process for each rank; return the highest exit code."""
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=target, args=(*arguments, rank)) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return max(abs(process.exitcode or 0) for process in ranks)
