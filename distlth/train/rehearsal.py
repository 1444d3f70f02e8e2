"""One step before any job: it settles DDP's gradient buckets, and finds what the device cannot do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from distlth.config.schema import RunConfig
from distlth.errors import ConfigError
from distlth.train.step import precision

REFUSAL = re.compile(r"(\S+) does not have a deterministic implementation")


def rehearse(config: RunConfig, replicas: nn.Module, model: nn.Module, images: Tensor) -> None:
    """Run one step's forward and backward pass on `images`, and leave no trace of it. Collective.

    DDP lays its gradient buckets out anew after the first backward pass it ever sees, and with more than two
    ranks the layout decides the order of sums. Past this, every step of every job has the same layout,
    whether its lane is fresh or has restarted.

    Raises:
        ConfigError: `train.deterministic` is asked for, and an operator of the network has no deterministic
            kernel on this device; or `train.compile` is, and torch cannot compile here.
    """
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    model.train()
    with untouched(model, images.device), _refusals_named(config, images.device):
        with precision(config.train.amp, images.device):
            loss = functional.cross_entropy(
                replicas(images), labels, label_smoothing=config.train.label_smoothing
            )
        loss.backward()


@contextmanager
def untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore buffers and random numbers, and drop the gradients."""
    buffers = [buffer.clone() for buffer in model.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    model.zero_grad(set_to_none=True)
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)


@contextmanager
def _refusals_named(config: RunConfig, device: torch.device) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if refusal := REFUSAL.search(str(error)):
            raise ConfigError(
                f"train.deterministic: torch has no deterministic {refusal[1]} on {device.type}, which model "
                f"{config.model.name!r} needs; set train.deterministic: false, or take another model"
            ) from error
        if config.train.compile and isinstance(error, torch._dynamo.exc.BackendCompilerFailed):
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"train.compile: torch cannot compile model {config.model.name!r} on {device.type} here "
                f"({reason}); install a C++ compiler (g++) where the ranks run, or set train.compile: false"
            ) from error
        raise
