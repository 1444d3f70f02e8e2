"""Run a program on shapes alone: its graph of channels, and the wires of each operator's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from distlth.models.graph import Graph, Node
from distlth.models.trace import Tracer
from distlth.slim.program import BATCH, constant_of


@dataclass(frozen=True, eq=False)
class Traced:
    """A program's graph; for each of its nodes the labels of the result, and the graph's nodes of it.

    Nodes whose result is no tensor have no labels. `tensors` are the parameters and buffers by name.
    """

    graph: Graph
    labels: Mapping[fx.Node, Tensor]
    nodes: Mapping[fx.Node, Sequence[Node]]
    tensors: Mapping[str, Tensor]


def traced(module: fx.GraphModule, resolution: int) -> Traced:
    """Trace a program for images of `resolution` x `resolution`."""
    tensors = _tensors(module)
    ghosts = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    dtype = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), None)
    tracer = Tracer(ghosts, {}, BATCH)
    runner = _Runner(module, ghosts, tracer)
    with torch.no_grad(), tracer:
        returned = runner.run(torch.empty(BATCH, 3, resolution, resolution, dtype=dtype, device="meta"))
    outputs = [output for output in torch.utils._pytree.tree_leaves(returned) if isinstance(output, Tensor)]
    return Traced(tracer.graph(outputs), runner.labels, runner.nodes, tensors)


def _tensors(module: fx.GraphModule) -> dict[str, Tensor]:
    fetched = {str(node.target): constant_of(module, node) for node in module.graph.find_nodes(op="get_attr")}
    return {name: tensor for name, tensor in fetched.items() if tensor is not None}


class _Runner(fx.Interpreter):
    """Runs a program node by node on the meta device, and notes what the tracer makes of each."""

    def __init__(self, module: fx.GraphModule, ghosts: Mapping[str, Tensor], tracer: Tracer) -> None:
        super().__init__(module)
        self._ghosts, self._tracer = ghosts, tracer
        self.labels: dict[fx.Node, Tensor] = {}
        self.nodes: dict[fx.Node, Sequence[Node]] = {}

    def fetch_attr(self, target: str) -> Any:
        return self._ghosts[target]

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        there = {"device": "meta"} if "device" in kwargs else {}
        return super().call_function(target, args, {**kwargs, **there})

    def run_node(self, n: fx.Node) -> Any:
        first = len(self._tracer.nodes)
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.labels[n] = self._tracer.labels(result)
        self.nodes[n] = self._tracer.nodes[first:]
        return result
