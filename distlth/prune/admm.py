"""What ADMM does between steps of training (Zhang et al., arXiv 1804.03294): projection, dual update."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from distlth.prune.mask import Mask
from distlth.prune.scores import keep_best


def project(values: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
    """Return the nearest weights of which `kept`, over all layers together, are not zero.

    Those are `values` (a float32 CPU tensor a layer) with all but the largest magnitudes set to zero.
    """
    dense = Mask.dense({name: value.shape for name, value in values.items()})
    best = keep_best({name: value.abs() for name, value in values.items()}, dense, kept)
    return {name: value * best[name] for name, value in values.items()}


def dual(values: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
    """Return U = V - Z of V = `values` and its projection Z: what ADMM carries from step to step."""
    return {name: values[name] - near for name, near in project(values, kept).items()}


def target(values: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
    """Return Z - U, to which training is pulled: `values`, all but the largest with the other sign."""
    return {name: 2 * near - values[name] for name, near in project(values, kept).items()}
