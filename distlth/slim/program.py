"""A network as a program of ATen operators, traced in eval mode for any batch size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from distlth.errors import UserError

# The batch size that symbolic sizes are taken for where a number is needed.
BATCH = 2
# Operators whose result may share the memory of their first argument.
ALIASING = {"alias", "chunk", "contiguous", "detach", "dropout", "expand", "flatten", "getitem", "permute"}
ALIASING |= {"reshape", "select", "slice", "split", "squeeze", "transpose", "unflatten", "unsqueeze", "view"}


class SlimError(UserError):
    """A network cannot be traced, or a slim one does not compute the same."""


def program(model: nn.Module, resolution: int) -> torch.export.ExportedProgram:
    """Return a network in eval mode, traced for images of `resolution` x `resolution`, any number of them.

    Raises:
        SlimError: the forward pass cannot be traced.
    """
    example = next(model.parameters()).new_zeros(BATCH, 3, resolution, resolution)
    batch = torch.export.Dim("batch")
    was_training = model.training
    try:
        return torch.export.export(model.eval(), (example,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SlimError(f"this network cannot be traced by torch.export: {reason}") from error
    finally:
        model.train(was_training)


def graph_module(exported: torch.export.ExportedProgram) -> fx.GraphModule:
    """Return a program as a module, without in-place writes that matter and without checks of its input."""
    if _writes_are_seen(exported.graph):
        exported = exported.run_decompositions({})
    module = exported.module()
    assert isinstance(module, fx.GraphModule)
    for node in list(module.graph.nodes):
        if node.op == "call_module":  # torch.export's check of input shapes
            module.graph.erase_node(node)
    for node in module.graph.nodes:
        _make_functional(node)
    return module


def operator_name(node: fx.Node) -> str:
    """Return the name of the operator that a node calls, such as `conv2d`; in-place ones without `_`."""
    if node.op != "call_function":
        return node.op
    target: Any = node.target
    name = target._schema.name.partition("::")[2] if hasattr(target, "_schema") else target.__name__
    return str(name).removesuffix("_")


def concrete(value: Any) -> Any:
    """Return an argument with numbers in place of symbolic sizes: those for BATCH images."""
    if isinstance(value, torch.SymInt):
        expression = value.node.expr
        return int(expression.subs(dict.fromkeys(expression.free_symbols, BATCH)))
    if isinstance(value, fx.Node):
        return concrete(value.meta["val"])
    if isinstance(value, list | tuple):
        return [concrete(item) for item in value]
    return value


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's tensor for BATCH images."""
    return tuple(concrete(list(node.meta["val"].shape)))


def constant_of(module: nn.Module, node: Any) -> Tensor | None:
    """Return the parameter or buffer that a node fetches; None for any other node."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found if isinstance(found, Tensor) else None


def _make_functional(node: fx.Node) -> None:
    """Replace an in-place operator, whose write nobody else sees, by one that returns its result."""
    if node.op == "call_function" and _is_in_place(node):
        target: Any = node.target
        packet = getattr(torch.ops.aten, operator_name(node))
        node.target = getattr(packet, target._overloadname)


def _is_in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema and schema.is_mutable)


def _writes_are_seen(graph: fx.Graph) -> bool:
    """Return whether an in-place operator writes into something that is read later."""
    place = {node: index for index, node in enumerate(graph.nodes)}
    return any(
        user is not node and place[user] > place[node]
        for node in graph.nodes
        if node.op == "call_function" and _is_in_place(node)
        for alias in _aliases(node.args[0])
        for user in alias.users
    )


def _aliases(node: Any) -> list[fx.Node]:
    """Return a node and those before it whose memory it may share."""
    found = [node]
    while found[-1].op == "call_function" and (
        operator_name(found[-1]) in ALIASING or _is_in_place(found[-1])
    ):
        found.append(found[-1].args[0])
    return found
