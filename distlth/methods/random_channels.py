"""Random channels: as many as refill keeps, drawn by chance; the control of refilled tickets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.base import Source
from distlth.methods.channels import Channels

if TYPE_CHECKING:
    from distlth.prune.mask import Mask
    from distlth.ticket import Structured


class RandomChannels(Channels):
    """Whole channels, drawn by chance: as many in each layer as `refill` with the same options keeps."""

    method: Literal["random-channels"] = Field(description="whole channels, drawn")

    def make(self, source: Source) -> Structured:
        """Return the mask of drawn channels."""
        from distlth.prune.draw import generator, random_channels
        from distlth.prune.units import fill_units
        from distlth.ticket import Structured

        seed = source.seed, source.kept

        def fill(mask: Mask, *_: object) -> Mask:
            shapes = mask.shapes
            return self.fill(source, mask, lambda counts: random_channels(counts, shapes, generator(*seed)))

        return Structured(fill_units(fill, self.source_mask(source), {}, None, source.units))
