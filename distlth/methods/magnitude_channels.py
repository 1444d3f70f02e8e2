"""Magnitude channel pruning: channels by the L1 norm of their filter (Li et al., arXiv 1608.08710)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.base import MadeFrom, Source
from distlth.methods.channels import Removing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from distlth.prune.mask import Mask
    from distlth.ticket import Structured


class MagnitudeChannels(Removing):
    """Whole channels, the same share of each layer, by the L1 norm of their filter in round 0's network."""

    method: Literal["magnitude-channels"] = Field(
        description="whole channels, by the L1 norm of their filter"
    )

    @property
    def made_from(self) -> MadeFrom:
        """The trained dense network."""
        return "dense"

    def make(self, source: Source) -> Structured:
        """Return whole channels, in all as many weights as the round keeps by plan."""
        from distlth.prune.budgets import uniform_counts
        from distlth.prune.channel_counts import channel_counts
        from distlth.prune.refill import best_channels, channel_scores
        from distlth.prune.units import fill_units
        from distlth.ticket import Structured

        def fill(mask: Mask, weights: Mapping[str, Tensor], _: object) -> Mask:
            counts = channel_counts(uniform_counts(mask.shapes, source.kept), mask.shapes, count="exact")
            return best_channels(mask, weights, channel_scores("magnitude", mask, weights), counts)

        return Structured(fill_units(fill, source.mask, source.trained.weights, None, source.units))
