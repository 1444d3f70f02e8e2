"""Regroup: dense blocks in place of scattered weights (arXiv 2202.04736, section 3.3)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

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
    columns: Literal["budget", "algorithm3", "prefix"] = Field(
        "budget",
        description="`budget`: the most magnitude in the layer's number of weights; `algorithm3`: the rule "
        "of the paper's text; `prefix`: a rule that comes from its code, but is neither that nor the text's",
    )
    min_rows: int = Field(
        16,
        ge=2,
        description="rows that a block should have (b1 of `algorithm3`); `budget` halves it in small layers",
    )
    t1: float = Field(
        1.5,
        gt=0,
        allow_inf_nan=False,
        description="`prefix` alone: bound on the weights left outside blocks; Algorithm 3's t1 is `groups`",
    )
    groups: int = Field(8, ge=1, description="`algorithm3` alone: groups of rows in each partition (t1)")
    min_kept: int = Field(
        8, ge=1, description="`algorithm3` alone: kept weights in a column that a group takes (t2)"
    )
    min_columns: int = Field(8, ge=1, description="`algorithm3` alone: columns that a block should have (b2)")

    @field_validator("columns", mode="before")
    @classmethod
    def _paper_is_prefix(cls, value: object) -> object:
        if value == "paper":
            raise ValueError("'paper' is called prefix now: it is not the paper's rule, which is algorithm3")
        return value

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
    from distlth.prune.algorithm3 import Thresholds
    from distlth.prune.regroup import regroup_layer

    options, weight, kept = layer
    return regroup_layer(
        weight,
        kept,
        columns=options.columns,
        min_rows=options.min_rows,
        t1=options.t1,
        thresholds=Thresholds(options.groups, options.min_kept, options.min_rows, options.min_columns),
    )
