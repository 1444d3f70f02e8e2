"""One-shot magnitude pruning: the trained dense network, pruned once (Han et al., arXiv 1506.02626)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.base import MadeFrom, Method, Source

if TYPE_CHECKING:
    from distlth.ticket import Structured


class OneShot(Method):
    """Single weights: round 0's trained network, pruned by magnitude straight to the round's density."""

    method: Literal["one-shot"] = Field(
        description="single weights, by magnitude in the trained dense network"
    )

    @property
    def made_from(self) -> MadeFrom:
        """The trained dense network."""
        return "dense"

    def make(self, source: Source) -> Structured:
        """Return the largest weights over all layers together, as many as the round keeps by plan."""
        from distlth.prune.scores import keep_best
        from distlth.ticket import Structured

        magnitudes = {name: weight.abs() for name, weight in source.trained.weights.items()}
        return Structured(keep_best(magnitudes, source.mask, source.kept))
