"""The optimizer of a job: SGD with momentum, weight decay only where it belongs."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distlth.config.schema import TrainSection

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


def decayed(model: nn.Module, *, norm_and_bias: bool) -> set[str]:
    """Return the names of the parameters that weight decay applies to.

    Those are all but biases and the parameters of normalisations; with `norm_and_bias`, all.
    """
    names = set()
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            exempt = isinstance(module, _NORMS) or name.endswith("bias")
            if norm_and_bias or not exempt:
                names.add(f"{prefix}.{name}" if prefix else name)
    return names


def make_optimizer(
    model: nn.Module, config: TrainSection, decay: Collection[str] | None = None
) -> torch.optim.SGD:
    """Return SGD without momentum yet; its learning rate is set before every step.

    `decay` are the names of the parameters that decay, by default those that `decayed` returns.
    On a GPU it is torch's fused one: fp16's scaler then skips a step on the device, and nothing waits for it.
    """
    names = decayed(model, norm_and_bias=config.decay_norm_and_bias) if decay is None else decay
    parameters = dict(model.named_parameters())
    on_gpu = all(parameter.is_cuda for parameter in parameters.values())
    groups = [
        {"params": [p for n, p in parameters.items() if n in names], "weight_decay": config.weight_decay},
        {"params": [p for n, p in parameters.items() if n not in names], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        foreach=not on_gpu,
        fused=on_gpu,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def momentum_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the momentum buffers by parameter name, without those that no step has made yet."""
    return {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
        if optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
    }


def load_momentum(model: nn.Module, optimizer: torch.optim.Optimizer, momentum: dict[str, Tensor]) -> None:
    """Load the momentum buffers that `momentum_of` returned."""
    for name, parameter in model.named_parameters():
        if name in momentum:
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum[name])
