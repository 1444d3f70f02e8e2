"""A slim network that trains: step by step what the masked network does in training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from distlth.slim.follow import Sums
from distlth.slim.parts import Part, put_back
from distlth.slim.program import SlimError, operator_name
from distlth.slim.slim import Slim, slim

# BatchNorm needs more than one value a channel.
BATCH = 2


@dataclass(frozen=True, eq=False)
class Trainable:
    """A slim network with BatchNorm and dropout that know training from evaluation.

    Its parameters and buffers have the names of those that they are `parts` of, or are whole.
    """

    network: nn.Module
    parts: Mapping[str, Part]

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the slim network has of a whole one's tensors."""
        names = self.network.state_dict().keys()
        found = {name: tensor for name, tensor in tensors.items() if name in names}
        return {n: self.parts[n].take(t) if n in self.parts else t for n, t in found.items()}

    def put_back(self, whole: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `whole`, a state dict, with `tensors`, of the slim network, in their places."""
        return put_back(tensors, self.parts, whole)


def trainable(
    model: nn.Module, resolution: int, masks: Mapping[str, Tensor], sums: Sums = "zeros"
) -> Trainable:
    """Return a slim network of a model whose parameters train in their `masks` (bool, by name) alone.

    It lacks the channels that the masks make exactly zero, in training as in evaluation, and no others: so
    each gradient and each statistic is the masked network's. `model` is left as it was; its weights do not
    matter. In `sums`, see `slim`.

    Raises:
        SlimError: the network cannot be traced, a masked channel is constant but not zero, or training draws
            at random in another way than by dropout.
    """
    alive = _all_alive(model, masks)
    slimmed = slim(alive, resolution, sums, unused="keep")
    _check_parts(alive, slimmed)
    network, dropouts = _with_modes(model, slimmed)
    if _draws(model, resolution) > dropouts:
        raise SlimError("it drops whole blocks at random in training (stochastic depth)")
    return Trainable(network, slimmed.parts)


def _all_alive(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy in which every entry that a mask leaves is something else than zero."""
    found, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            parameter.uniform_(0.5, 1, generator=generator)
            if name in masks:
                parameter.mul_(masks[name])
    return found


def _check_parts(model: nn.Module, slimmed: Slim) -> None:
    """Raise SlimError unless each parameter is one of the model's, or one part of it."""
    whole = dict(model.named_parameters())
    for name, parameter in slimmed.network.named_parameters():
        part = slimmed.parts.get(name)
        if name not in whole or (part is not None and part.source != name):
            raise SlimError(f"{name.rstrip('_')} serves several layers, or a constant that is not zero")
        if not torch.equal(parameter, part.take(whole[name]) if part else whole[name]):
            raise SlimError(f"a removed channel is constant, not zero, where {name} is added")


def _with_modes(model: nn.Module, slimmed: Slim) -> tuple[nn.Module, int]:
    """Return the network with modules for what training changes, and the number of dropouts."""
    module = slimmed.network
    assert isinstance(module, fx.GraphModule)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    modules: dict[str, nn.Module] = {}
    dropouts = 0
    for node in list(module.graph.nodes):
        if operator_name(node) == "batch_norm" and node.op == "call_function":
            path = _path(node.args[3])
            modules[path] = _norm(model.get_submodule(path), path, state)
            _call(module.graph, node, path)
        elif operator_name(node) == "dropout" and node.op == "call_function" and node.args[1] > 0:
            modules[f"dropout_{dropouts}"] = nn.Dropout(node.args[1])
            module.add_module(f"dropout_{dropouts}", modules[f"dropout_{dropouts}"])
            _call(module.graph, node, f"dropout_{dropouts}")
            dropouts += 1
    module.graph.eliminate_dead_code()
    fetched = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    attributes = {**modules, **{name: tensor for name, tensor in state.items() if name in fetched}}
    return fx.GraphModule(attributes, module.graph, "TrainableSlim"), dropouts


def _path(node: Any) -> str:
    """Return the module whose parameter or buffer a node fetches."""
    return str(node.target).rpartition(".")[0]


def _call(graph: fx.Graph, node: fx.Node, path: str) -> None:
    with graph.inserting_before(node):
        new = graph.call_module(path, (node.args[0],))
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _norm(norm: nn.Module, path: str, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a BatchNorm with the entries that `state` has of its tensors."""
    assert isinstance(norm, _BatchNorm)
    found = copy.deepcopy(norm)
    for kind in (*found._parameters, "running_mean", "running_var"):
        if f"{path}.{kind}" in state:
            setattr(found, kind, state[f"{path}.{kind}"])
    assert found.running_mean is not None
    found.num_features = len(found.running_mean)
    return found


class _CountDraws(TorchDispatchMode):
    """Counts the operators that draw random numbers."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _draws(model: nn.Module, resolution: int) -> int:
    """Return how many operators draw random numbers in a forward pass in training, on shapes alone."""
    ghost = copy.deepcopy(model).to("meta").train()
    counted = _CountDraws()  # type: ignore[no-untyped-call]
    with torch.no_grad(), counted:
        ghost(torch.empty(BATCH, 3, resolution, resolution, device="meta"))
    return counted.count
