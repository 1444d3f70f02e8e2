"""The optimizer of a job: SGD with momentum or AdamW, weight decay only where it belongs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, AdamW, Optimizer

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


def make_optimizer(model: nn.Module, config: TrainSection, decay: Collection[str] | None = None) -> Optimizer:
    """Return an optimizer that remembers nothing yet; its learning rate is set before every step.

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
    used = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return AdamW(used, lr=config.lr, betas=config.betas, foreach=not on_gpu, fused=on_gpu)
    return SGD(
        used,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        foreach=not on_gpu,
        fused=on_gpu,
    )


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def memory_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return what an optimizer remembers of past steps, as `KIND/PARAMETER`: nothing before the first step.

    SGD's `momentum_buffer`; AdamW's `exp_avg`, `exp_avg_sq` and `step` (a scalar).
    """
    return {
        f"{kind}/{name}": tensor
        for name, parameter in model.named_parameters()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
        if tensor is not None
    }


def load_memory(model: nn.Module, optimizer: Optimizer, memory: Mapping[str, Tensor]) -> None:
    """Load what `memory_of` returned, on each parameter's device and in its memory format."""
    parameters = dict(model.named_parameters())
    for key, tensor in memory.items():
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        is_like = tensor.shape == parameter.shape
        target = torch.empty_like(parameter) if is_like else parameter.new_empty(tensor.shape)
        optimizer.state[parameter][kind] = target.copy_(tensor)
