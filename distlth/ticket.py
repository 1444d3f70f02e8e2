"""The values that everybody passes: what a job trains, what it leaves, and how a mask is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from distlth.prune.blocks import Block
from distlth.prune.mask import Mask

Measured = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Ticket:
    """What a job trains: a mask and the weights it starts from.

    `weights` is a whole state dict (BatchNorm buffers included). With `remove_channels` a channel that keeps
    no weight is gone: its bias and its BatchNorm's weight and bias are masked too, so that nothing leaks
    into the next layer and physical removal does not change the network.
    """

    mask: Mask
    weights: Mapping[str, Tensor]
    remove_channels: bool = False


@dataclass(frozen=True)
class Trained:
    """What a trained ticket leaves for the tickets that are made from it.

    `weights` are those of the masked layers alone. `measured` holds what methods asked to have measured on
    the network: measurement -> layer -> tensor.
    """

    mask: Mask
    weights: Mapping[str, Tensor]
    measured: Measured = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Structured:
    """A mask, the dense blocks of each layer that has any, and why other layers could not be grouped.

    `costs` says what an option of the method gave up; it is logged when the mask is made, and not stored.
    """

    mask: Mask
    blocks: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    ungrouped: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, str] = field(default_factory=dict)
