"""Refill: whole channels in place of scattered weights (arXiv 2202.04736, section 3.2)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from distlth.methods.base import Measurement, Source
from distlth.methods.channels import Channels

if TYPE_CHECKING:
    from distlth.ticket import Structured


class Refill(Channels):
    """Whole channels: keep the best, make them dense, empty the others."""

    method: Literal["refill"] = Field(description="whole channels")
    criterion: Literal["remain", "magnitude", "l1", "l2", "saliency"] = Field(
        "magnitude",
        description="the best channels: by number (`remain`) or L1 norm (`magnitude`) of kept weights; on "
        "calibration images by the feature map's `l1` or `l2` norm or |activation x gradient| (`saliency`)",
    )

    @model_validator(mode="after")
    def _criterion_fits_source(self) -> Self:
        if self.made_from == "untrained" and self.looks_at_maps:
            raise ValueError(
                f"criterion: {self.criterion} is measured on a trained network, and source: {self.source} "
                "prunes the untrained one; use remain or magnitude"
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

    def measurements(self, density: float) -> tuple[Measurement, ...]:
        """Return what the source needs, and the channel scores of criteria that look at feature maps."""
        if not self.looks_at_maps:
            return super().measurements(density)
        from distlth.methods.channel_scores import channel_scores

        return (*super().measurements(density), Measurement(self.criterion, channel_scores(self.criterion)))

    def make(self, source: Source) -> Structured:
        """Return the refilled mask."""
        from distlth.prune.refill import best_channels, channel_scores
        from distlth.ticket import Structured

        mask, trained = self.source_mask(source), source.trained
        measured = trained.measured.get(self.criterion)
        scores = channel_scores(self.criterion, mask, trained.weights, measured)
        choose = partial(best_channels, mask, trained.weights, scores)
        return Structured(self.fill(source, mask, choose))
