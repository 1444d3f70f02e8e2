"""Regroup: dense blocks in place of scattered weights (arXiv 2202.04736, section 3.3)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.errors import ConfigError
from distlth.methods.base import Method, Source

if TYPE_CHECKING:
    from torch import Tensor

    from distlth.prune.regroup import LayerRegroup
    from distlth.ticket import Structured

# hwloc reads the cores from here; without it Mt-KaHyPar aborts the whole process.
TOPOLOGY = Path("/sys/devices/system/cpu")


class Regroup(Method):
    """Dense blocks: rows grouped by the columns they share."""

    method: Literal["regroup"] = Field(description="dense blocks")
    columns: Literal["budget", "paper"] = Field(
        "budget",
        description="`budget`: the most magnitude in the layer's number of weights; `paper`: its rule",
    )
    min_rows: int = Field(16, ge=1, description="rows that a block should have; small layers may have half")
    t1: float = Field(1.5, gt=0, description="bound on the weights left outside blocks (`paper`)")

    def check_machine(self) -> None:
        """Raise ConfigError where Mt-KaHyPar would abort."""
        if not TOPOLOGY.is_dir():
            raise ConfigError(
                "prune.branches: regroup partitions with Mt-KaHyPar, which reads the machine's cores from "
                f"{TOPOLOGY}; there is none here: mount /sys in this container or chroot"
            )

    def make(self, source: Source) -> Structured:
        """Return the mask as dense blocks; a layer that cannot be grouped keeps its mask and says why."""
        from distlth.ticket import Structured

        mask = source.mask
        layers = [(self, source.trained.weights[name], kept) for name, kept in mask.items()]
        regrouped = dict(zip(mask.names, source.run_map(_regroup_layer, layers), strict=True))
        return Structured(
            mask.replace({name: layer.mask for name, layer in regrouped.items()}),
            {name: layer.blocks for name, layer in regrouped.items()},
            {name: layer.reason for name, layer in regrouped.items() if layer.reason is not None},
        )


def _regroup_layer(layer: tuple[Regroup, Tensor, Tensor]) -> LayerRegroup:
    from distlth.prune.regroup import regroup_layer

    options, weight, kept = layer
    return regroup_layer(weight, kept, columns=options.columns, min_rows=options.min_rows, t1=options.t1)
