"""Check a job file against its data set and model before anything starts, and size the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from distlth.config.schema import PruneSection, RunConfig
from distlth.data.advice import advice
from distlth.data.dataset import Dataset
from distlth.data.identity import identity
from distlth.data.load.order import part
from distlth.errors import ConfigError
from distlth.methods.channels import Channels
from distlth.models import (
    Anatomy,
    WeightLayer,
    anatomy,
    build,
    check_accepts,
    gates,
    leaks,
    prunable,
    trains_on,
)
from distlth.prune.magnitude import planned_kept
from distlth.prune.mask import Mask
from distlth.slim.program import SlimError
from distlth.slim.trainable import trainable
from distlth.transfer import check_transfer

# float32 copies of every parameter: weight, gradient, mask as a factor, and what the optimizer remembers.
PARAMETER_COPIES = {"sgd": 4, "adamw": 5}

# How many layers an error message names.
NAMED = 3


@dataclass(frozen=True)
class Preflight:
    """The data, the network and the sizes of a run.

    `memory` is an estimate in bytes per rank, without the allocator's overhead.
    """

    dataset: Dataset
    anatomy: Anatomy
    layers: tuple[WeightLayer, ...]
    steps_per_epoch: int
    memory: int
    identity: Mapping[str, Any]  # by which the run recognises its data set
    advice: tuple[str, ...]  # lines about how its images are read
    gates: tuple[str, ...]  # layers whose removed channels become constant factors, if a branch removes any

    @property
    def dense(self) -> Mask:
        """The mask of round 0: all weights of the prunable layers."""
        return Mask.dense(_shapes(self.layers))


def preflight(config: RunConfig) -> Preflight:
    """Load the data set's description, build the model, and return what the run comes to.

    Raises:
        DataError: `data.path` holds no built data set.
        ConfigError: the model is unknown, does not take these images or has nothing to prune; the batch is
            larger than the train split, or too small on a rank; rounds leave next to nothing; a method
            cannot run on this machine, or remove this model's channels; it cannot train slim; or the run of
            `prune.transfer` does not have its tickets.
        RunError: the folder of `prune.transfer` holds no run.
    """
    dataset = Dataset.load(config.data.path)
    steps_per_epoch = config.steps_per_epoch(dataset.split("train").count)
    classes, asked = dataset.num_classes, config.model
    model = build(asked.name, classes, seed=config.seed, stem=asked.stem, blurpool=asked.blurpool)
    body = anatomy(model, config.data.eval_side)
    for side in {*config.data.sides} - {config.data.eval_side}:
        check_accepts(model, side)
    _check_rank_batch(config, model)
    layers = prunable(body, config.prune.scope, config.prune.layers)
    for branch in config.prune.branches:
        branch.check_machine()
        branch.check_model(model)
    if not layers:
        raise ConfigError(_nothing_prunable(config))
    _check_costs(config, body)
    check_transfer(config)
    check_rounds(config.prune, [layer.num_weights for layer in layers])
    removing = [branch.label for branch in config.prune.branches if branch.removes_channels]
    if removing:
        _check_removal(config.model.name, removing, body, layers)
    if config.train.execution == "slim":
        check_slim_training(config, model)
    gated = gates(body.graph, _shapes(layers)) if removing else ()
    data = config.data
    return Preflight(
        dataset=dataset,
        anatomy=body,
        layers=layers,
        steps_per_epoch=steps_per_epoch,
        memory=memory(config, body),
        identity=identity(dataset, data.shuffle),
        advice=tuple(advice(dataset, data.shuffle, data.cache)),
        gates=gated,
    )


def _nothing_prunable(config: RunConfig) -> str:
    """Return why a model has no layer to prune."""
    if config.prune.layers == "conv":
        return (
            f"model.name: {config.model.name} has no prunable convolution; "
            "prune.layers: conv+linear prunes its linear layers, too"
        )
    return f"model.name: {config.model.name} has no prunable convolution and no prunable linear layer"


def _check_costs(config: RunConfig, body: Anatomy) -> None:
    """Raise ConfigError where a branch has a budget that nobody can count in this network."""
    for branch in config.prune.branches:
        if isinstance(branch, Channels) and branch.budget != "weights" and body.graph.unfollowed:
            raise ConfigError(
                f"prune.branches: {branch.label} has budget: {branch.budget}, which cannot be counted in "
                f"{config.model.name} behind {' and '.join(body.graph.unfollowed)}; use budget: weights"
            )


def _check_removal(model: str, branches: Sequence[str], body: Anatomy, layers: Sequence[WeightLayer]) -> None:
    """Raise ConfigError where a removed channel would not stay zero up to the layers that read it."""
    if found := leaks(body.graph, _shapes(layers)):
        named = "; ".join(f"{leak.layer}: {leak.reason}" for leak in found[:NAMED])
        more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise ConfigError(
            f"prune.branches: {' and '.join(branches)} cannot remove channels of {len(found)} layers of "
            f"{model} ({named}{more}); set `bn: keep` to let them leak, or choose another model"
        )


def check_slim_training(config: RunConfig, model: nn.Module) -> None:
    """Raise ConfigError where a network without its removed channels would not train as with them."""
    try:
        programs = {side: _program(model, side) for side in {*config.data.sides, config.data.eval_side}}
    except SlimError as error:
        raise ConfigError(
            f"train.execution: {config.model.name} cannot train slim: {error}; set train.execution: masked"
        ) from None
    if len(set(programs.values())) > 1:  # a slim network is traced at one size
        sizes = ", ".join(map(str, sorted(programs)))
        raise ConfigError(
            f"train.execution: {config.model.name} cannot train slim on images of several sizes ({sizes} "
            "px): it computes in another way for each; set train.execution: masked, or leave out "
            "data.resize and data.eval_resolution"
        )


def _program(model: nn.Module, side: int) -> str:
    """Return the code of the network as it trains slim on images of a size, all channels kept."""
    return str(trainable(model, side, {}).network.code)


def _shapes(layers: Sequence[WeightLayer]) -> dict[str, tuple[int, ...]]:
    return {layer.name: layer.weight_shape for layer in layers}


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


def _check_rank_batch(config: RunConfig, model: nn.Module) -> None:
    workers, size = config.cluster.workers, config.data.sides[-1]
    parts = [len(part(config.train.batch_size, rank, workers)) for rank in range(workers)]
    counts_all_ranks = config.train.sync_batch_norm and workers > 1
    if min(parts) > 1 or counts_all_ranks or trains_on(model, size, min(parts)):
        return
    raise ConfigError(
        f"train.batch_size, cluster.workers: one image of {size} px on {parts.count(1)} of {workers} ranks"
        f" leaves a BatchNorm of {config.model.name} one value a channel; give each rank at least 2 images"
    )


def check_memory(config: RunConfig, body: Anatomy, available: int) -> None:
    """Raise ConfigError where a rank needs more than the `available` bytes of its GPU.

    What passes may still be too much: the estimate leaves out the allocator's overhead.
    """
    needed, workers = memory(config, body), config.cluster.workers
    if needed <= available:
        return
    images = f"{_largest_part(config)} images of {config.data.resolution} px"
    raise ConfigError(
        f"train.batch_size: {images} on each of {workers} ranks need {needed / 2**30:.1f} GiB, a GPU has "
        f"{available / 2**30:.1f} GiB; use more ranks{_more_nodes(config)}, a smaller batch or train.amp"
    )


def _more_nodes(config: RunConfig) -> str:
    """Return what leaves a run with more ranks when it loses nodes, in words."""
    least = config.cluster.min_nodes
    return f" (cluster.min_nodes above {least})" if least == config.cluster.nodes else ""


def memory(config: RunConfig, body: Anatomy) -> int:
    """Return the bytes of parameters with their companions and of the activations of a rank's batch."""
    data, largest = config.data, _largest_part(config)
    # `body` is that of evaluation; what a step keeps grows with the pixels.
    activations = body.activation_bytes * data.resolution**2 // data.eval_side**2 * largest
    if config.train.amp != "off":
        activations //= 2
    return 4 * PARAMETER_COPIES[config.train.optimizer] * body.num_parameters + activations


def _largest_part(config: RunConfig) -> int:
    """Return the most images of a global batch that one rank has."""
    return len(part(config.train.batch_size, 0, config.cluster.workers))
