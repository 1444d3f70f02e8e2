"""Refill: whole channels in place of scattered weights (arXiv 2202.04736, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.base import Measurement, Method, Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from distlth.prune.mask import Mask
    from distlth.ticket import Structured


class Refill(Method):
    """Whole channels: keep the best, make them dense, empty the others."""

    method: Literal["refill"] = Field(description="whole channels")
    criterion: Literal["remain", "magnitude", "l1", "l2", "saliency"] = Field(
        "magnitude",
        description="the best channels: by number (`remain`) or L1 norm (`magnitude`) of kept weights; on "
        "calibration images by the feature map's `l1` or `l2` norm or |activation x gradient| (`saliency`)",
    )
    count: Literal["ceil", "exact"] = Field(
        "ceil",
        description="channels of a layer: its kept weights in channels, rounded up (`ceil`, the paper's), or "
        "apportioned over the layers so that the network keeps the planned density (`exact`)",
    )
    extra: float = Field(
        0.0, ge=0, le=1, description="share of the missing channels to keep as well (refill+)"
    )
    multiple: int = Field(
        1, ge=1, description="round channel counts to multiples of this, under the same total of weights"
    )
    coupling: Literal["none", "stream"] = Field(
        "none",
        description="`stream`: all layers that add into one residual stream keep the same channels, best by "
        "the sum of their scores, so that the stream gets narrower; costs magnitude "
        "([more](slim.md#coupling))",
    )
    bn: Literal["mask", "keep"] = Field(
        "mask",
        description="`mask`: a removed channel is exactly zero up to the layers that read it, without bias "
        "and norm ([more](removed-channels.md)); `keep`: it leaks, as in the authors' code",
    )

    @property
    def default_label(self) -> str:
        """`refill`, or `refill+` where extra channels are kept."""
        return "refill+" if self.extra > 0 else "refill"

    @property
    def removes_channels(self) -> bool:
        """Whether removed channels put out exact zeros."""
        return self.bn == "mask"

    @property
    def needs_streams(self) -> bool:
        """Whether layers that write to one residual stream are coupled."""
        return self.coupling == "stream"

    def measurements(self) -> tuple[Measurement, ...]:
        """Return the channel scores of criteria that look at feature maps."""
        if self.criterion in ("remain", "magnitude"):
            return ()
        from distlth.methods.channel_scores import channel_scores

        return (Measurement(self.criterion, channel_scores(self.criterion)),)

    def make(self, source: Source) -> Structured:
        """Return the refilled mask."""
        from distlth.prune.refill import kept_magnitude
        from distlth.ticket import Structured

        if self.coupling == "none":
            return Structured(self._refilled(source))
        alone, coupled = self._refilled(source), self._refilled(source, source.streams)
        shares = [kept_magnitude(mask, source.mask, source.trained.weights) for mask in (coupled, alone)]
        message = (
            f"{len(source.streams)} streams keep {shares[0]:.1%} of the magnitude; uncoupled {shares[1]:.1%}"
        )
        return Structured(coupled, costs={"coupled": message})

    def _refilled(self, source: Source, streams: Sequence[Mapping[str, Tensor]] = ()) -> Mask:
        from distlth.prune.refill import refill

        trained = source.trained
        return refill(
            source.mask,
            trained.weights,
            criterion=self.criterion,
            count=self.count,
            extra=self.extra,
            multiple=self.multiple,
            # The plan's, not the mask's, which inline lacks what earlier rounds rounded away.
            total=source.kept,
            activations=trained.measured.get(self.criterion),
            streams=streams,
        )
