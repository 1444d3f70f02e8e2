"""Refill: whole channels in place of scattered weights (arXiv 2202.04736, section 3.2)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from distlth.methods.base import Measurement, Source
from distlth.methods.channels import Channels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from distlth.prune.mask import Mask
    from distlth.ticket import Structured


class Refill(Channels):
    """Whole channels: keep the best, make them dense, empty the others."""

    method: Literal["refill"] = Field(description="whole channels")
    criterion: Literal["remain", "magnitude", "l1", "l2", "saliency"] = Field(
        "magnitude",
        description="the best channels: by number (`remain`) or L1 norm (`magnitude`) of kept weights; on "
        "calibration images by the feature map's `l1` or `l2` norm or |activation x gradient| (`saliency`)",
    )
    coupling: Literal["none", "stream"] = Field(
        "none",
        description="`stream`: all layers that add into one residual stream keep the same channels, best by "
        "the sum of their scores, so that the stream gets narrower; costs magnitude "
        "([more](slim.md#coupling))",
    )

    @model_validator(mode="after")
    def _criterion_fits_source(self) -> Self:
        if self.made_from == "untrained" and self.looks_at_maps:
            raise ValueError(
                f"criterion: {self.criterion} is measured on a trained network, and source: {self.source} "
                "prunes the untrained one; use remain or magnitude"
            )
        return self

    @model_validator(mode="after")
    def _coupling_fits_budget(self) -> Self:
        if self.coupling == "stream" and self.budget != "weights":
            raise ValueError(
                f"coupling: stream counts the layers of a stream as one, whose cost budget: {self.budget} "
                "does not know; use budget: weights"
            )
        return self

    @property
    def default_label(self) -> str:
        """`refill`, or `refill+` where extra channels are kept; with a source of its own, its name too."""
        label = super().default_label
        return label.replace("refill", "refill+") if self.extra > 0 else label

    @property
    def looks_at_maps(self) -> bool:
        """Whether channels are scored by their feature maps."""
        return self.criterion not in ("remain", "magnitude")

    @property
    def needs_streams(self) -> bool:
        """Whether layers that write to one residual stream are coupled."""
        return self.coupling == "stream"

    def measurements(self, density: float) -> tuple[Measurement, ...]:
        """Return what the source needs, and the channel scores of criteria that look at feature maps."""
        if not self.looks_at_maps:
            return super().measurements(density)
        from distlth.methods.channel_scores import channel_scores

        return (*super().measurements(density), Measurement(self.criterion, channel_scores(self.criterion)))

    def make(self, source: Source) -> Structured:
        """Return the refilled mask."""
        from distlth.prune.refill import kept_magnitude
        from distlth.ticket import Structured

        mask, weights = self.source_mask(source), source.trained.weights
        alone = self._refilled(source, mask)
        if self.coupling == "none":
            return Structured(alone)
        coupled = self._refilled(source, mask, source.streams)
        shares = [kept_magnitude(made, mask, weights) for made in (coupled, alone)]
        message = (
            f"{len(source.streams)} streams keep {shares[0]:.1%} of the magnitude; uncoupled {shares[1]:.1%}"
        )
        return Structured(coupled, costs={"coupled": message})

    def _refilled(self, source: Source, mask: Mask, streams: Sequence[Mapping[str, Tensor]] = ()) -> Mask:
        """Return the channels of the unstructured `mask`; layers of a stream count as one layer."""
        from distlth.prune.coupling import fill_coupled
        from distlth.prune.refill import best_channels, channel_scores
        from distlth.prune.units import fill_units

        def fill(mask: Mask, weights: Mapping[str, Tensor], measured: Mapping[str, Tensor] | None) -> Mask:
            scores = channel_scores(self.criterion, mask, weights, measured)
            return self.fill(source, mask, partial(best_channels, mask, weights, scores))

        trained, measured = source.trained, source.trained.measured.get(self.criterion)
        coupled = partial(fill_coupled, fill, streams=streams)
        return fill_units(coupled, mask, trained.weights, measured, source.units)
