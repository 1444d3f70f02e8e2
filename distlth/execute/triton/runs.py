"""Where Triton's kernels run: on GPUs, or anywhere in its interpreter."""

from __future__ import annotations

import os

from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def runs(tensor: Tensor) -> bool:
    """Return whether a kernel can work on a tensor."""
    return tensor.is_cuda or INTERPRETED
