"""Convolutions of a traced network, with the additions and ReLUs that can run in the same launch."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval

from distlth.execute.triton.errors import ExecuteError

RELUS = (F.relu, torch.relu, torch.relu_, "relu", "relu_")
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
IN_PLACE = (operator.iadd, "add_")


@dataclass(frozen=True, eq=False)
class Site:
    """A convolution of the network, and the nodes that one launch can stand for: it, a sum, a ReLU."""

    name: str
    conv: nn.Conv2d
    chain: tuple[fx.Node, ...]
    sum: bool
    relu: bool

    @property
    def node(self) -> fx.Node:
        """The convolution."""
        return self.chain[0]

    @property
    def source(self) -> fx.Node:
        """What the convolution reads."""
        found = self.node.args[0]
        assert isinstance(found, fx.Node)
        return found

    @property
    def residual(self) -> fx.Node | None:
        """What is added to the convolution's output."""
        return _summand(self.chain[1], self.node) if self.sum else None

    @property
    def last(self) -> fx.Node:
        """The node whose value the launch computes."""
        return self.chain[-1]


def folded(model: nn.Module) -> fx.GraphModule:
    """Return a traced copy of a network in eval mode, BatchNorms folded into the convolutions before them.

    Raises ExecuteError where torch.fx cannot trace it.
    """
    try:
        traced = fx.symbolic_trace(copy.deepcopy(model).eval())
    except Exception as error:  # whatever the network's forward raises on a proxy
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExecuteError(f"torch.fx cannot trace this network, so it stays as it is: {text}") from None
    calls: dict[Any, int] = {}
    for node in traced.graph.nodes:
        calls[node.target] = calls.get(node.target, 0) + (node.op == "call_module")
    for node in list(traced.graph.nodes):
        norm = module_of(traced, node)
        if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
            before = node.args[0]
            conv = module_of(traced, before)
            alone = len(before.users) == 1 and calls[before.target] == calls[node.target] == 1
            if type(conv) is nn.Conv2d and alone:
                traced.set_submodule(before.target, fuse_conv_bn_eval(conv, norm))
                node.replace_all_uses_with(before)
                traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def sites(traced: fx.GraphModule, images: Tensor) -> list[Site]:
    """Return the convolutions of a folded network in order; each node is in one chain at most.

    Runs the network once on `images`, for the shapes: every node's `meta` has them afterwards.
    """
    with torch.no_grad():
        ShapeProp(traced).propagate(images)
    taken: set[fx.Node] = set()
    found: dict[fx.Node, Site] = {}
    for node in reversed(traced.graph.nodes):  # of the summands the last: the others are there before it
        conv = module_of(traced, node)
        if type(conv) is nn.Conv2d:
            site = _site(traced, node, conv, taken)
            taken.update(site.chain)
            found[node] = site
    return [found[node] for node in traced.graph.nodes if node in found]


def _site(traced: fx.GraphModule, node: fx.Node, conv: nn.Conv2d, taken: set[fx.Node]) -> Site:
    chain, with_sum, relu = [node], False, False
    then = _only_user(node, taken)
    if then is not None and _is(then, SUMS) and _summand(then, node) is not None:
        chain.append(then)
        with_sum = True
        then = _only_user(then, taken)
    if then is not None and (_is(then, RELUS) or isinstance(module_of(traced, then), nn.ReLU)):
        chain.append(then)
        relu = True
    return Site(str(node.target), conv, tuple(chain), with_sum, relu)


def _only_user(node: fx.Node, taken: set[fx.Node]) -> fx.Node | None:
    users = [user for user in node.users if user not in taken]
    return users[0] if len(users) == len(node.users) == 1 else None


def _summand(total: fx.Node, conv: fx.Node) -> fx.Node | None:
    """Return what a sum adds to the convolution's output, if that is a map of the same shape."""
    if len(total.args) != 2 or total.kwargs:
        return None
    (other,) = (arg for arg in total.args if arg is not conv) if total.args.count(conv) == 1 else (None,)
    if not isinstance(other, fx.Node) or shape_of(other) != shape_of(conv):
        return None
    changed = total.target in IN_PLACE and total.args[0] is other
    return None if changed and len(other.users) > 1 else other


def _is(node: fx.Node, targets: tuple[Any, ...]) -> bool:
    return node.op in ("call_function", "call_method") and node.target in targets


def module_of(traced: fx.GraphModule, node: Any) -> nn.Module | None:
    """Return the module that a node calls, if it calls one."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return traced.get_submodule(str(node.target))
    return None


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's value; () for what is no tensor."""
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if meta is not None and hasattr(meta, "shape") else ()


def replace(traced: fx.GraphModule, chosen: Mapping[Site, nn.Module]) -> None:
    """Let modules stand in for chains: called with what the convolution reads, and the other summand."""
    for site, module in chosen.items():
        traced.set_submodule(site.name, module)
        with traced.graph.inserting_before(site.last):
            operands = (site.source, *([site.residual] if site.sum else []))
            node = traced.graph.call_module(site.name, operands)
        node.meta = dict(site.last.meta)
        site.last.replace_all_uses_with(node)
        for old in reversed(site.chain):
            traced.graph.erase_node(old)
    traced.recompile()
