"""Random pruning: weights drawn by chance in each layer (Liu et al., arXiv 2202.02643)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.base import MadeFrom, Method, Source

if TYPE_CHECKING:
    from distlth.ticket import Structured


class Random(Method):
    """Single weights, drawn by chance: the control of unstructured tickets."""

    method: Literal["random"] = Field(description="single weights, drawn in each layer")
    layers: Literal["uniform", "erk"] = Field(
        "erk",
        description="what each layer keeps: `uniform`, one density everywhere; `erk`, more in small layers "
        "(Evci et al., arXiv 1911.11134)",
    )

    @property
    def made_from(self) -> MadeFrom:
        """The dense network, of which only the shapes count."""
        return "dense"

    def make(self, source: Source) -> Structured:
        """Return drawn weights, as many as the round keeps by plan."""
        from distlth.prune.budgets import erk_counts, uniform_counts
        from distlth.prune.draw import generator, random_weights
        from distlth.ticket import Structured

        shapes = source.mask.shapes
        counted = erk_counts if self.layers == "erk" else uniform_counts
        rng = generator(source.seed, source.kept)
        return Structured(random_weights(counted(shapes, source.kept), shapes, rng))
