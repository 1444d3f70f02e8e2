"""What methods of whole channels share: how many each layer keeps, and what becomes of the others."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.base import Method, Source
from distlth.methods.sources import Sourced

if TYPE_CHECKING:
    from distlth.prune.mask import Mask

    # From how many channels each layer keeps to a mask; more channels hold those that fewer do.
    Choose = Callable[[Mapping[str, int]], Mask]

# How finely a budget of another kind is met.
STEPS = 4096


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

    budget: Literal["weights", "alive", "macs"] = Field(
        "weights",
        description="what channels may hold as much of as the unstructured mask does: `weights`; those that "
        "are `alive` (input can be non-zero, output is used), or their `macs`. For these two each layer gets "
        "more channels, in proportion ([more](methods.md#budgets))",
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

    def fill(self, source: Source, mask: Mask, choose: Choose) -> Mask:
        """Return what `choose` makes of as many channels as the unstructured `mask` amounts to.

        `mask` has a row for each channel (see `distlth.prune.units`).
        Counts of `exact` share out the plan's weights, not the mask's, which with `mode: inline` lacks what
        earlier rounds rounded away.
        """
        kept = {name: mask.kept_in(name) for name in mask}
        if self.budget == "weights":
            return choose(self._counts(source, kept, mask, source.kept))
        return self._as_alive(source, mask, kept, choose)

    def _counts(self, source: Source, kept: Mapping[str, int], mask: Mask, total: int) -> dict[str, int]:
        from distlth.prune.channel_counts import channel_counts

        return channel_counts(
            kept,
            mask.shapes,
            count=self.count,
            extra=self.extra,
            multiple=self.multiple,
            total=total,
            rows={name: rows.shape[1] for name, rows in source.units.items()},
        )

    def _as_alive(self, source: Source, mask: Mask, kept: Mapping[str, int], choose: Choose) -> Mask:
        """Return the mask of most weights, in steps of 1/4096 of all, that costs no more than `mask`."""
        from distlth.prune.budgets import proportional

        sizes = {name: cells.numel() for name, cells in mask.items()}

        def filled(step: int) -> Mask:
            total = mask.total * step // STEPS
            return choose(self._counts(source, proportional(kept, sizes, total), mask, total))

        def cost(step: int) -> int:
            return self._cost(source, filled(step), removed=self.removes_channels)

        goal = self._cost(source, mask, removed=False)
        fitting = bisect_right(range(1, STEPS + 1), goal, key=cost)
        return filled(max(1, fitting))

    def _cost(self, source: Source, mask: Mask, *, removed: bool) -> int:
        from distlth.prune.units import from_units

        assert source.count_alive is not None
        whole = from_units(mask, source.mask.shapes, source.units)
        costs = source.count_alive(whole.layers, removed=removed)
        return costs.weights if self.budget == "alive" else costs.macs
