"""One optimisation step, and what it works on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from distlth.config.schema import TrainSection
from distlth.data.load.order import part
from distlth.train.masking import Masking
from distlth.train.optim import make_optimizer, set_learning_rate
from distlth.train.penalty import Pull
from distlth.train.world import World


class Passes(Protocol):
    """Forward and backward passes that are made in another way than operator by operator."""

    def __call__(self, images: Tensor, labels: Tensor, scaler: torch.amp.GradScaler) -> Tensor:
        """Leave the gradients of a batch's mean loss in the parameters; return the loss, a scalar tensor."""


@dataclass(frozen=True, eq=False)
class StepState:
    """What the optimisation steps of one rank read and change.

    `replicas` is `model` with its gradients averaged over the ranks, `precision` the context of forward
    passes. What a step draws at random follows from `seed`, the step's number and `rank`. `weight` is the
    factor of this rank's mean loss (see `part_weight`). `passes` replaces the passes of one rank that trains
    alone. `pull` adds its own part to the gradients.
    """

    model: nn.Module
    replicas: nn.Module
    masking: Masking
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: torch.autocast
    config: TrainSection
    seed: int
    rank: int
    weight: float | None
    passes: Passes | None = None
    pull: Pull | None = None

    @classmethod
    def fresh(
        cls,
        model: nn.Module,
        replicas: nn.Module,
        masks: Mapping[str, Tensor],
        config: TrainSection,
        world: World,
        seed: int,
        decay: Collection[str] | None = None,
        passes: Passes | None = None,
    ) -> StepState:
        """Return the state before the first step: masked weights zeroed in place, no momentum yet.

        `decay` are the names of the parameters that decay, by default as `make_optimizer` has it.
        """
        return cls(
            model,
            replicas,
            Masking(model, masks),
            make_optimizer(model, config, decay),
            torch.amp.GradScaler(world.device.type, enabled=config.amp == "fp16"),
            precision(config.amp, world.device),
            config,
            seed,
            world.rank,
            part_weight(config.batch_size, world),
            passes,
        )


def train_step(state: StepState, images: Tensor, labels: Tensor, *, step: int, lr: float) -> Tensor:
    """Take one optimizer step on this rank's part of the global batch; return its mean loss, a scalar tensor.

    `step` counts from the schedule's start, `lr` is its learning rate. Nothing waits for the device.
    """
    _seed_step(state.seed, step, state.rank)
    set_learning_rate(state.optimizer, lr)
    loss = state.passes(images, labels, state.scaler) if state.passes else _passes(state, images, labels)
    state.scaler.unscale_(state.optimizer)
    if state.pull is not None:
        state.pull.add_gradients()
    state.masking.mask_gradients()
    if state.config.clip_norm is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), state.config.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return loss


def _passes(state: StepState, images: Tensor, labels: Tensor) -> Tensor:
    """Leave the gradients of the mean loss in the parameters, averaged over the ranks; return this rank's."""
    with state.precision:
        logits = state.replicas(images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=state.config.label_smoothing)
    state.scaler.scale(loss if state.weight is None else loss * state.weight).backward()
    return loss.detach()


def part_weight(batch_size: int, world: World) -> float | None:
    """Return what makes the mean over ranks, of gradients of means over a part, that over the global batch.

    None where all parts are equal: then it is that already, to the bit.
    """
    if batch_size % world.size == 0:
        return None
    return len(part(batch_size, world.rank, world.size)) * world.size / batch_size


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Make what a step draws at random (dropout) a pure function of seed, step and rank."""
    key = hashlib.blake2b(f"{seed}:{step}:{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(key, "little") >> 1)


def precision(amp: str, device: torch.device) -> torch.autocast:
    """Return the context of forward passes for a `train.amp`."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=amp != "off")
