"""What a job file comes to with its data set and model: found, and refused, before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distlth.config.schema import PruneSection, RunConfig
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError
from distlth.models import Anatomy, ConvLayer, anatomy, build, prunable
from distlth.prune.magnitude import planned_kept
from distlth.prune.mask import Mask

# Where hwloc finds the cores. Without it Mt-KaHyPar ends the whole process.
TOPOLOGY = Path("/sys/devices/system/cpu")

# float32 copies of every parameter: the weight, its gradient, its momentum, and its mask as a factor.
PARAMETER_COPIES = 4


@dataclass(frozen=True)
class Preflight:
    """The sizes of a run. `memory` is an estimate in bytes per rank, without the allocator's waste."""

    dataset: Dataset
    anatomy: Anatomy
    layers: tuple[ConvLayer, ...]
    steps_per_epoch: int
    memory: int

    @property
    def data(self) -> dict[str, Any]:
        """What a run records about its data set."""
        return {"digest": self.dataset.digest, "classes": self.dataset.num_classes}

    @property
    def dense(self) -> Mask:
        """The mask of round 0: all weights of the prunable layers."""
        return Mask.dense({layer.name: layer.weight_shape for layer in self.layers})


def preflight(config: RunConfig) -> Preflight:
    """Look at what a run would work on.

    Raises:
        DataError: no built data set where the job file says.
        ConfigError: an unknown model, one that does not take these images or has nothing to prune, a
            batch larger than the train split, or rounds that leave next to nothing.
    """
    dataset = Dataset.load(config.data.path)
    count, batch = dataset.split("train").count, config.train.batch_size
    if batch > count:
        raise ConfigError(
            f"train.batch_size: {batch} is larger than the train split of {config.data.path} ({count} images)"
        )
    model = build(config.model.name, dataset.num_classes, seed=config.seed, stem=config.model.stem)
    body = anatomy(model, config.data.resolution)
    layers = prunable(body, config.prune.scope)
    if any(branch.method == "regroup" for branch in config.prune.branches) and not TOPOLOGY.is_dir():
        raise ConfigError(
            "prune.branches: regroup partitions with Mt-KaHyPar, which reads the machine's cores from "
            f"{TOPOLOGY}; there is none here: mount /sys in this container or chroot"
        )
    if not layers:
        raise ConfigError(f"model.name: {config.model.name} has no prunable convolution")
    check_rounds(config.prune, [layer.num_weights for layer in layers])
    return Preflight(dataset, body, layers, count // batch, _memory(config, body))


def check_rounds(prune: PruneSection, sizes: Sequence[int]) -> None:
    """Check that every round keeps at least as many weights as there are layers, of `sizes` weights each.

    Raises:
        ConfigError: a round does not.
    """
    total = sum(sizes)
    for number, kept in enumerate(planned_kept(total, prune.rate, prune.rounds)):
        if kept < len(sizes):
            rounds = f"at most {number - 1} rounds or " if number > 1 else ""
            raise ConfigError(
                f"prune.rounds: at prune.rate = {prune.rate:g} round {number} of {prune.rounds} keeps "
                f"{kept:,} of {total:,} weights, fewer than there are prunable layers ({len(sizes):,}); "
                f"use {rounds}a lower prune.rate"
            )


def _memory(config: RunConfig, body: Anatomy) -> int:
    """Parameters with their companions, and the activations of a rank's batch."""
    activations = body.activation_bytes * (config.train.batch_size // config.cluster.workers)
    if config.train.amp != "off":
        activations //= 2
    return 4 * PARAMETER_COPIES * body.num_parameters + activations
