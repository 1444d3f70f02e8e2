"""What methods of whole channels share: how many each layer keeps, and what becomes of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.base import Method
from distlth.methods.sources import Sourced

if TYPE_CHECKING:
    from distlth.prune.mask import Mask


class Removing(Method):
    """A method that empties whole channels."""

    bn: Literal["mask", "keep"] = Field(
        "mask",
        description="`mask`: a removed channel is exactly zero up to the layers that read it, without bias "
        "and norm ([more](removed-channels.md)); `keep`: it leaks, as in the authors' code",
    )

    @property
    def removes_channels(self) -> bool:
        """Whether removed channels put out exact zeros."""
        return self.bn == "mask"


class Channels(Sourced, Removing):
    """As many whole channels of each layer as an unstructured mask amounts to; the others are empty."""

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

    def counts(self, mask: Mask, total: int) -> dict[str, int]:
        """Return how many channels each layer keeps, from the weights that it keeps in `mask`.

        `total` is what `exact` shares out: the plan's, not the mask's, which with `mode: inline` lacks what
        earlier rounds rounded away.
        """
        from distlth.prune.channel_counts import channel_counts

        kept = {name: mask.kept_in(name) for name in mask}
        return channel_counts(
            kept, mask.shapes, count=self.count, extra=self.extra, multiple=self.multiple, total=total
        )
