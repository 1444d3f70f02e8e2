"""The form in which a job trains: its whole network with masks, or the slim one without its dead channels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distlth.config.schema import RunConfig, TrainSection
from distlth.models import build
from distlth.slim.trainable import Trainable, trainable
from distlth.ticket import Ticket
from distlth.train.all_reduce import SparseAllReduce
from distlth.train.executable import Executable, Prepared, prepare
from distlth.train.masking import parameter_masks
from distlth.train.optim import decayed
from distlth.train.step import StepState
from distlth.train.world import World

# The parameter that stands for all weights that a slim network lacks, and that decay all the same.
IDLE = "idle"


class Form(Protocol):
    """A network that trains a ticket. Checkpoints have its tensors, results those of the whole network."""

    @property
    def model(self) -> nn.Module:
        """The network that trains."""

    @property
    def gradients(self) -> SparseAllReduce | None:
        """What averages its gradients over the ranks, where DDP does not do it by itself."""

    def start(self) -> None:
        """Load the ticket's weights."""

    def fresh_state(self, config: TrainSection, world: World, seed: int) -> StepState:
        """Return what the job's steps work on, from the network's weights of now."""

    def whole(self) -> dict[str, Tensor]:
        """Return the whole network's state dict."""


class Masked:
    """The whole network, whose masked entries stay zero."""

    def __init__(self, executable: Executable, ticket: Ticket) -> None:
        self._executable, self._ticket = executable, ticket

    @property
    def model(self) -> nn.Module:
        """The whole network."""
        return self._executable.model

    @property
    def gradients(self) -> SparseAllReduce | None:
        """What averages its gradients over the ranks, where DDP does not do it by itself."""
        return self._executable.gradients

    def start(self) -> None:
        """Load the ticket's weights."""
        self.model.load_state_dict(dict(self._ticket.weights))

    def fresh_state(self, config: TrainSection, world: World, seed: int) -> StepState:
        """Return the state before the first step."""
        masks = parameter_masks(self._ticket, self._executable.anatomy, dict(self.model.named_parameters()))
        made = self._executable
        return StepState.fresh(self.model, made.replicas, masks, config, world, seed, passes=made.graphs)

    def whole(self) -> dict[str, Tensor]:
        """Return the network's state dict."""
        return dict(self.model.state_dict())


class Slimmed:
    """The slim network of a ticket that removes channels.

    What it lacks reads zeros or adds to nothing, and its gradients are zero. So in masked training each such
    weight would be its first value times a factor that weight decay makes smaller, the same for all: the
    parameter IDLE, which the optimizer treats as one of them. Statistics of zeros go to zero likewise.
    """

    def __init__(
        self,
        momenta: Mapping[str, float],
        ticket: Ticket,
        masks: Mapping[str, Tensor],
        slimmed: Trainable,
        prepared: Prepared,
        decay: Collection[str],
    ) -> None:
        self._ticket, self._masks, self._decayed = ticket, masks, set(decay)
        self._slimmed, self._prepared = slimmed, prepared
        self._momenta = momenta

    @property
    def model(self) -> nn.Module:
        """The slim network, with the parameter IDLE."""
        return self._slimmed.network

    @property
    def gradients(self) -> SparseAllReduce | None:
        """What averages its gradients over the ranks, where DDP does not do it by itself."""
        return self._prepared.gradients

    def start(self) -> None:
        """Load the slim network's part of the ticket's weights."""
        taken = {**self._slimmed.take(self._ticket.weights), IDLE: torch.ones(())}
        self.model.load_state_dict({**self.model.state_dict(), **taken})

    def fresh_state(self, config: TrainSection, world: World, seed: int) -> StepState:
        """Return the state before the first step."""
        left = self._slimmed.take(self._masks)
        masks = {name: mask for name, mask in left.items() if not bool(mask.all())}
        names = self._decayed | {IDLE}
        made = self._prepared
        state = StepState.fresh(self.model, made.replicas, masks, config, world, seed, names, made.graphs)
        idle = self.model.get_parameter(IDLE)

        def no_gradient(*_: Any) -> None:
            idle.grad = torch.zeros_like(idle)

        state.optimizer.register_step_pre_hook(no_gradient)
        return state

    def whole(self) -> dict[str, Tensor]:
        """Return the state dict that the whole network would have now."""
        device = self.model.get_parameter(IDLE).device
        start = {name: tensor.to(device) for name, tensor in self._ticket.weights.items()}
        return self._slimmed.put_back({**start, **self._idle(start)}, self.model.state_dict())

    def _idle(self, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the steps have made of weights and statistics that the slim network lacks."""
        found = {name: start[name] * mask.to(start[name]) for name, mask in self._masks.items()}
        factor = self.model.get_parameter(IDLE).detach()
        found |= {n: found.get(n, start[n]) * factor for n in self._decayed}
        for layer, momentum in self._momenta.items():
            for kind in ("running_mean", "running_var"):
                if (name := f"{layer}.{kind}") in start:
                    found[name] = start[name] * (1 - momentum) ** self._batches(layer, start)
        return found

    def _batches(self, layer: str, start: Mapping[str, Tensor]) -> int:
        """Return the batches that a BatchNorm has counted since the job's start."""
        name = f"{layer}.num_batches_tracked"
        now = dict(self.model.named_buffers()).get(name)
        return 0 if now is None else int(now) - int(start[name])


def slimmed(
    config: RunConfig, world: World, executable: Executable, ticket: Ticket, num_classes: int
) -> Slimmed:
    """Return the slim form of a ticket, ready on this rank's device. Collective.

    Raises:
        SlimError: the network has no slim form that trains; `preflight` has said so before.
    """
    whole, resolution = executable.model, config.data.resolution
    asked, seed = config.model, executable.seed
    blank = build(asked.name, num_classes, seed=seed, stem=asked.stem, blurpool=asked.blurpool)
    masks = parameter_masks(ticket, executable.anatomy, dict(blank.named_parameters()))
    found = trainable(blank, resolution, masks)
    found.network.register_parameter(IDLE, nn.Parameter(torch.ones(()), requires_grad=False))
    prepared = prepare(config, world, found.network, executable.loader)
    found = replace(found, network=prepared.model)
    decay = decayed(whole, norm_and_bias=config.train.decay_norm_and_bias)
    return Slimmed(_momenta(whole), ticket, masks, found, prepared, decay)


def _momenta(model: nn.Module) -> dict[str, float]:
    """Return the share of each batch in the running statistics, by BatchNorm."""
    norms = ((name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm))
    return {name: float(norm.momentum or 0.0) for name, norm in norms}
