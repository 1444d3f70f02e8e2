"""Where refill and regroup have their unstructured mask from: `source:`, the paper's Figure 6."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.admm import Admm
from distlth.methods.base import MadeFrom, Measurement, Method, Source
from distlth.methods.grasp import Grasp
from distlth.methods.one_shot import OneShot
from distlth.methods.random import Random
from distlth.methods.snip import Snip
from distlth.methods.synflow import Synflow

if TYPE_CHECKING:
    from distlth.prune.mask import Mask

# `source:` -> the method whose mask is made structured; `imp` is the round's own mask.
SOURCES: dict[str, Method] = {
    "one-shot": OneShot(method="one-shot"),
    "random": Random(method="random"),
    "snip": Snip(method="snip"),
    "grasp": Grasp(method="grasp"),
    "synflow": Synflow(method="synflow"),
    "admm": Admm(method="admm"),
}


class Sourced(Method):
    """A structure that is made from an unstructured mask, by default the round's."""

    source: Literal["imp", "one-shot", "random", "snip", "grasp", "synflow", "admm"] = Field(
        "imp",
        description="the unstructured mask to start from: the round's (`imp`), or that of another method, at "
        "its defaults; weights are then those that this method looks at, and where it prunes the "
        "untrained network the ticket trains from the initial ones",
    )

    @property
    def default_label(self) -> str:
        """The method's name, with its source where that is not the round."""
        return self.method if self.source == "imp" else f"{self.method}-{self.source}"

    @property
    def made_from(self) -> MadeFrom:
        """The network that the source prunes."""
        return "round" if self.source == "imp" else SOURCES[self.source].made_from

    @property
    def training(self) -> Method | None:
        """The training that the source needs."""
        return None if self.source == "imp" else SOURCES[self.source].training

    def measurements(self, density: float) -> tuple[Measurement, ...]:
        """Return what the source needs measured."""
        return () if self.source == "imp" else SOURCES[self.source].measurements(density)

    def source_mask(self, source: Source) -> Mask:
        """Return the unstructured mask."""
        return source.mask if self.source == "imp" else SOURCES[self.source].make(source).mask
