"""What methods of dense blocks share: the partition, where it can run, and its result over all layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from distlth.errors import ConfigError
from distlth.methods.base import Source
from distlth.methods.sources import Sourced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from distlth.prune.mask import Mask
    from distlth.prune.regroup import LayerRegroup
    from distlth.ticket import Structured

# hwloc reads the cores from here; without it Mt-KaHyPar aborts the whole process.
TOPOLOGY = Path("/sys/devices/system/cpu")

Options = dict[str, int | float | str]


class Blocks(Sourced):
    """Dense blocks of each layer; nothing is kept outside them."""

    min_rows: int = Field(
        16,
        ge=2,
        description="rows that a block should have (b1 of `algorithm3`); `budget` halves it in small layers",
    )

    def check_machine(self) -> None:
        """Raise ConfigError where Mt-KaHyPar would abort."""
        check_topology(self.method)


def check_topology(method: str) -> None:
    """Raise ConfigError where Mt-KaHyPar would abort."""
    if not TOPOLOGY.is_dir():
        raise ConfigError(
            f"prune.branches: {method} partitions with Mt-KaHyPar, which reads the machine's cores from "
            f"{TOPOLOGY}; there is none here: mount /sys in this container or chroot"
        )


def regroup_layers(
    source: Source, mask: Mask, options: Options, budgets: Mapping[str, int] | None = None
) -> dict[str, LayerRegroup]:
    """Return each layer of `mask`, regrouped with these options; `budgets` has the cells of its blocks."""
    layers = [
        (source.trained.weights[name], kept, {**options, **({"budget": budgets[name]} if budgets else {})})
        for name, kept in mask.items()
    ]
    return dict(zip(mask.names, source.run_map(_regroup_layer, layers), strict=True))


def structured(mask: Mask, layers: Mapping[str, LayerRegroup]) -> Structured:
    """Return `mask` with its layers as dense blocks; the reason stands beside one that has none."""
    from distlth.ticket import Structured

    return Structured(
        mask.replace({name: layer.mask for name, layer in layers.items()}),
        {name: layer.blocks for name, layer in layers.items()},
        {name: layer.reason for name, layer in layers.items() if layer.reason is not None},
    )


def _regroup_layer(layer: tuple[Tensor, Tensor, dict[str, object]]) -> LayerRegroup:
    from distlth.prune.regroup import regroup_layer

    weight, kept, options = layer
    return regroup_layer(weight, kept, **options)  # type: ignore[arg-type]
