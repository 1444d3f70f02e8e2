"""N:M, such as 2:4: N of every M weights that stand side by side (Mishra et al., arXiv 2104.08378)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from distlth.methods.base import Source
from distlth.methods.blocks import check_topology, regroup_layers, structured
from distlth.methods.channels import Removing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from distlth.prune.mask import Mask
    from distlth.ticket import Structured

PATTERN = re.compile(r"([1-9][0-9]?):([1-9][0-9]?)", re.ASCII)


class Nm(Removing):
    """The N largest of every M weights of a row, in the whole layer or inside channels or blocks.

    In whole layers the density is N / M in every round. Inside refilled channels or regrouped blocks, these
    hold M / N times the weights that the round keeps, so that what N:M leaves of them meets the planned
    density. No layer can keep more than N / M: others keep more for it, and the network keeps N / M in rounds
    that are denser than that.
    """

    method: Literal["nm"] = Field(description="N of every M weights")
    pattern: str = Field("2:4", description="N:M, along the columns of each row; a GPU runs 2:4")
    within: Literal["none", "refill", "regroup"] = Field(
        "none",
        description="of which weights: of all, in every round N / M; or of those that `refill` or `regroup` "
        "would keep of M / N times as many weights, in all as many as the round keeps",
    )

    @field_validator("pattern")
    @classmethod
    def _some_of_them(cls, value: str) -> str:
        found = PATTERN.fullmatch(value)
        if not found or int(found[1]) >= int(found[2]):
            raise ValueError(f"expected N:M with N below M, such as 2:4, got {value!r}")
        return value

    @property
    def default_label(self) -> str:
        """`nm`, with what it is inside of."""
        return self.method if self.within == "none" else f"{self.method}-{self.within}"

    @property
    def removes_channels(self) -> bool:
        """Whether removed channels put out exact zeros: those outside refilled ones."""
        return self.within == "refill" and super().removes_channels

    def check_machine(self) -> None:
        """Raise ConfigError where regroup cannot run."""
        if self.within == "regroup":
            check_topology(f"{self.method} within regroup")

    def make(self, source: Source) -> Structured:
        """Return the mask; a layer that cannot be regrouped keeps its mask and says why."""
        from distlth.prune.mask import Mask
        from distlth.prune.n_of_m import n_of_m_within
        from distlth.ticket import Structured

        n, m = map(int, self.pattern.split(":"))
        region = self._region(source, n, m)
        weights = source.trained.weights
        layers = {
            name: cells if name in region.ungrouped else n_of_m_within(cells, weights[name], n, m)
            for name, cells in region.mask.items()
        }
        return Structured(Mask(layers), region.blocks, region.ungrouped)

    def _region(self, source: Source, n: int, m: int) -> Structured:
        """Return the weights that N:M chooses from."""
        from distlth.prune.budgets import proportional
        from distlth.prune.mask import Mask
        from distlth.ticket import Structured

        mask = source.mask
        if self.within == "none":
            return Structured(Mask.dense(mask.shapes))
        sizes = {name: cells.numel() for name, cells in mask.items()}
        kept = {name: mask.kept_in(name) for name in mask}
        budgets = proportional(kept, sizes, min(source.kept * m // n, mask.total))
        if self.within == "refill":
            return Structured(_channels(source, budgets))
        return structured(mask, regroup_layers(source, mask, {}, budgets))


def _channels(source: Source, budgets: Mapping[str, int]) -> Mask:
    """Return the best channels of the round, of as many weights as `budgets` says, layer by layer."""
    from distlth.prune.channel_counts import channel_counts
    from distlth.prune.refill import best_channels, channel_scores
    from distlth.prune.units import fill_units

    def fill(mask: Mask, weights: Mapping[str, Tensor], _: object) -> Mask:
        counts = channel_counts(budgets, mask.shapes, count="exact")
        return best_channels(mask, weights, channel_scores("magnitude", mask, weights), counts)

    return fill_units(fill, source.mask, source.trained.weights, None, source.units)
